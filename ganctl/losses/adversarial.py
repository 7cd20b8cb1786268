"""Adversarial losses, of logits: D(x) = sigmoid(logit) where a paper speaks of probabilities."""

import torch.nn.functional as F
from torch import Tensor

from ganctl.nn.norm import rank_mean


def log_loss_d(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z)))  (Goodfellow et al. 2014, eq. 1, negated)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_g(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z)))  (Goodfellow et al. 2014, eq. 1): its gradient vanishes where D is sure."""
    return -F.softplus(fake).mean()


def non_saturating_g(fake: Tensor) -> Tensor:
    """-E log D(G(z))  (Goodfellow et al. 2014, end of sec. 3): the same fixed point, a stronger gradient."""
    return F.softplus(-fake).mean()


LOG_LOSS_G = {"minimax": minimax_g, "non_saturating": non_saturating_g}


def least_squares_d(real: Tensor, fake: Tensor, a: float, b: float) -> Tensor:
    """½ E (D(x) - b)² + ½ E (D(G(z)) - a)²  (Mao et al. 2017, eq. 2)."""
    return 0.5 * (real - b).square().mean() + 0.5 * (fake - a).square().mean()


def least_squares_g(fake: Tensor, c: float) -> Tensor:
    """½ E (D(G(z)) - c)²  (Mao et al. 2017, eq. 2)."""
    return 0.5 * (fake - c).square().mean()


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """-(E f(x) - E f(G(z))): minus the estimate of the Wasserstein-1 distance  (Arjovsky et al. 2017, eq. 3)."""
    return fake.mean() - real.mean()


def wasserstein_g(fake: Tensor) -> Tensor:
    """-E f(G(z))  (Arjovsky et al. 2017, alg. 1, line 10)."""
    return -fake.mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))  (Lim & Ye 2017; Miyato et al. 2018, eq. 16); G's is Wasserstein's."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """-E log sigmoid(D(a) - D(b)) over pairs: D takes real images for a, generated ones for b; G the other way round.

    RpGAN (Jolicoeur-Martineau 2020; Huang et al. 2024, eq. 2).
    """
    return F.softplus(worse - better).mean()


def relativistic_average(better: Tensor, worse: Tensor) -> Tensor:
    """-E log σ(D(a) - E D(b)) - E log(1 - σ(D(b) - E D(a))), means over the whole batch: each is judged against the
    other's average. D takes real images for a, generated ones for b; G the other way round.

    RaGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734; Wang et al. 2018, arXiv:1809.00219, eq. 1 and 2).
    """
    a, b = rank_mean(better.mean()), rank_mean(worse.mean())
    return F.softplus(b - better).mean() + F.softplus(worse - a).mean()
