"""VAE: Kingma & Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.nn.layers import mlp, normal_prior, pixels
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Rate, Widths
from ganctl.spec import Image

TRAIN = {"batch": 100}


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's (sec. 5)."""
    channels: Count = 1
    """1 grey, 3 colour."""
    z_dim: Count = 20
    """Fig. 2 tries 3 to 200."""
    hidden: Widths = (500,)
    """Hidden units of encoder and decoder (sec. 5)."""
    lr: Rate = 1e-3
    """Deviation: Adam in place of Adagrad, and no weight decay (sec. 5)."""


class VAE(nn.Module):
    """Gaussian encoder q(z|x) and Bernoulli decoder p(x|z), perceptrons (appendix C). Satisfies Sampler, Autoencoder.

    Images are in [-1, 1] outside; inside, a pixel is a Bernoulli mean in [0, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        n = pixels(cfg.channels, cfg.resolution)
        # Deviation: ReLU in place of tanh hidden units (appendix C).
        self.encoder = nn.Sequential(*mlp([n, *cfg.hidden, 2 * cfg.z_dim], nn.ReLU()))
        self.decoder = nn.Sequential(*mlp([cfg.z_dim, *reversed(cfg.hidden), n], nn.ReLU()))

    def posterior(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n z"], Float[Tensor, "n z"]]:
        """Mean and log variance of q(z|x)  (eq. 9)."""
        mean, logvar = self.encoder((x.flatten(1) + 1) / 2).chunk(2, dim=1)
        return mean, logvar

    def logits(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        """Bernoulli logits of p(x|z)  (appendix C.1)."""
        assert self.x.size
        return self.decoder(z).unflatten(1, (self.x.channels, *self.x.size))

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]:
        return self.posterior(x)[0]

    def decode(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return 2 * self.logits(z).sigmoid() - 1

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.decode(z)


@dataclass
class Nets:
    AE: VAE


def build(cfg: Config) -> Nets:
    return Nets(VAE(cfg))


def loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-L(θ, φ; x) = -E log p(x|z) + KL(q(z|x) ‖ p(z))  (eq. 3, KL by appendix B), z = μ + σ ε  (eq. 10)."""
    mean, logvar = n.AE.posterior(b.x)
    z = mean + (logvar / 2).exp() * p.normal(len(b.x), n.AE.z_dim)
    target = (b.x + 1) / 2
    nll = F.binary_cross_entropy_with_logits(n.AE.logits(z), target, reduction="sum") / len(b.x)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum() / len(b.x)
    return {"nll": nll, "kl": kl}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("AE", ("AE",), loss)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"AE": Adam(cfg.lr)}
