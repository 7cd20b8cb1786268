"""WAE: Tolstikhin, Bousquet, Gelly & Schölkopf, Wasserstein Auto-Encoders, 2018. arXiv:1711.01558."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.nn.layers import halvings, mlp, normal_prior
from ganctl.nn.norm import BatchNorm, from_all_ranks, whole_batch
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image

TRAIN = {"batch": 100}

COST = 0.05
"""Of the squared error beside the penalty: not in the paper, but in the authors' code."""
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the inverse multiquadratics that are added up (the authors' code; the paper has the one of scale 1)."""
CONVS = 4
"""Of the encoder."""


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's (sec. 4)."""
    channels: Count = 1
    """1 grey, 3 colour."""
    z_dim: Count = 8
    """Sec. 4: 8 on MNIST, 64 on CelebA."""
    width: Count = 128
    """Of the encoder's first convolution, doubled at each halving; the decoder begins with eight times it."""
    penalty: Literal["mmd", "gan"] = "mmd"
    """What brings the codes to the prior: maximum mean discrepancy (alg. 2), or a discriminator of codes (alg. 1)."""
    kernel: Literal["imq", "rbf"] = "imq"
    """Of mmd: inverse multiquadratics C / (C + ‖a - b‖²), or Gaussians of the median heuristic (sec. 4)."""
    d_hidden: Widths = (512, 512, 512, 512)
    """Of the discriminator of codes (appendix)."""
    weight: Weight = 10.0
    """λ (sec. 4, on MNIST)."""
    lr: Rate = 1e-3
    """Appendix, on MNIST. Deviation: it does not fall after 30 and 50 epochs."""
    dlr: Rate = 5e-4
    """Of the discriminator."""
    beta1: Moment = 0.5
    """Adam's first moment."""


class WAE(nn.Module):
    """A deterministic convolutional encoder Q and decoder G (appendix). Satisfies Sampler, Autoencoder.

    Images are in [-1, 1] outside; inside, a pixel is in [0, 1].
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        n, base = halvings(cfg.resolution)
        layers: list[nn.Module] = []
        before, side = cfg.channels, cfg.resolution
        for i in range(CONVS):
            width = cfg.width * 2**i
            # Deviation: a padding of 1 everywhere; the code's makes 4 of 7 pixels where this makes 3.
            layers += [nn.Conv2d(before, width, 4, 2, 1), BatchNorm(width), nn.ReLU()]
            before, side = width, side // 2
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side**2, cfg.z_dim))
        width = cfg.width * 8
        layers = [nn.Linear(cfg.z_dim, width * base**2), nn.Unflatten(1, (width, base, base)), nn.ReLU()]
        for _ in range(n):
            half = max(width // 2, 1)
            layers += [nn.ConvTranspose2d(width, half, 4, 2, 1), BatchNorm(half), nn.ReLU()]
            width = half
        # Deviation: 3 × 3, where the code has 4 × 4: the last convolution enlarges nothing.
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, cfg.channels, 3, 1, 1), nn.Sigmoid())

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]:
        return self.encoder((x + 1) / 2)

    def pixels(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        """In [0, 1]."""
        return self.decoder(z)

    def decode(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return 2 * self.pixels(z) - 1

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.decode(z)


class Discriminator(nn.Module):
    """A perceptron from a code to one logit: of wae-gan alone."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.main = nn.Sequential(*mlp([cfg.z_dim, *cfg.d_hidden, 1], nn.ReLU()))

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, " n"]:
        return self.main(z).squeeze(1)


@dataclass
class Nets:
    AE: WAE
    D: nn.Module
    """Empty where the penalty is mmd."""


def build(cfg: Config) -> Nets:
    """Raises UsageError for sides that the encoder's convolutions use up, or that cannot be halved."""
    if cfg.resolution < 2**CONVS:
        what = f"cannot build wae for {cfg.resolution} px"
        raise UsageError(what, f"it halves the side {CONVS} times", f"choose at least {2**CONVS} px")
    return Nets(WAE(cfg), Discriminator(cfg) if cfg.penalty == "gan" else nn.Module())


def squared_distances(a: Float[Tensor, "n z"], b: Float[Tensor, "m z"]) -> Float[Tensor, "n m"]:
    """‖aᵢ - bⱼ‖²."""
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


def median_heuristic(qp: Float[Tensor, "n n"], qq: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """σ² of the Gaussian kernel: the (n² - n) / 2 largest of both kinds of distances, added (the authors' code)."""
    rank = (len(qq) ** 2 - len(qq)) // 2
    return sum(d.flatten().sort(descending=True).values[rank - 1] for d in (qp, qq))  # type: ignore[return-value]


def mmd(q: Float[Tensor, "n z"], p: Float[Tensor, "n z"], kernel: str, base: float) -> Float[Tensor, ""]:
    """Σ k(pᵢ, pⱼ) / n(n - 1) + Σ k(qᵢ, qⱼ) / n(n - 1), i ≠ j, - 2 Σ k(pᵢ, qⱼ) / n²  (alg. 2).

    `base` is C of the inverse multiquadratic of scale 1: the expected squared distance of two draws of the prior,
    2 z σ² of a Gaussian (sec. 4). The RBF kernel takes its width from the batch.
    """
    qq, pp, qp = squared_distances(q, q), squared_distances(p, p), squared_distances(q, p)
    n = len(q)
    if kernel == "rbf":
        width = 2 * median_heuristic(qp, qq)
        kernels = [[(-d / width).exp() for d in (qq, pp, qp)]]
    else:
        kernels = [[base * s / (base * s + d) for d in (qq, pp, qp)] for s in SCALES]
    others = 1 - torch.eye(n, device=q.device)
    parts = [((a + b) * others).sum() / (n * (n - 1)) - 2 * c.sum() / n**2 for a, b, c in kernels]
    return torch.stack(parts).sum()


def ae_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """c(x, G(Q(x))) + λ D_Z(Q_Z, P_Z), c = ‖x - y‖²  (eq. 4; alg. 1, 2).

    The discrepancy is estimated within each micro-batch, of all ranks.
    """
    z = n.AE.encode(b.x)
    terms = {"rec": COST * ((b.x + 1) / 2 - n.AE.pixels(z)).square().sum() / len(b.x)}
    if cfg.penalty == "gan":
        return {**terms, "G_z": cfg.weight * non_saturating_g(n.D(z))}
    codes, drawn = whole_batch(z.float()), from_all_ranks(p.normal(len(z), n.AE.z_dim))
    return {**terms, "mmd": cfg.weight * mmd(codes, drawn, cfg.kernel, 2.0 * n.AE.z_dim)}


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-λ E log D(z) - λ E log(1 - D(Q(x)))  (alg. 1)."""
    with torch.no_grad():
        codes = n.AE.encode(b.x)
    return {"D_z": cfg.weight * log_loss_d(n.D(p.normal(len(codes), n.AE.z_dim)), n.D(codes))}


def phases(cfg: Config) -> list[Phase]:
    ae = Phase("AE", ("AE",), lambda n, b, p: ae_loss(n, b, p, cfg))
    return [Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)), ae] if cfg.penalty == "gan" else [ae]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    found: dict[str, Optimizer] = {"AE": Adam(cfg.lr, cfg.beta1)}
    return {**found, "D": Adam(cfg.dlr, cfg.beta1)} if cfg.penalty == "gan" else found
