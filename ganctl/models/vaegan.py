"""VAE-GAN: Larsen, Sønderby, Larochelle & Winther, Autoencoding beyond pixels using a learned similarity metric, 2016. arXiv:1512.09300."""  # noqa: E501

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.nn.layers import halvings, normal_prior
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Batch, Optimizer, Phase, Progress, RMSprop, Terms
from ganctl.ranges import Count, Rate
from ganctl.spec import Image

TRAIN = {"batch": 64}


@config
class Config:
    resolution: Count = 64
    """Side of the images (sec. 4)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 128
    """Dimension of z (the authors' code)."""
    width: Count = 64
    """Of the encoder's first convolution, doubled at each halving (table 1); the others follow."""
    enc_units: Count = 2048
    """The encoder's hidden units before z (table 1)."""
    dis_units: Count = 512
    """The discriminator's before the logit (table 1)."""
    recon_weight: Rate = 1e-2
    """γ: how much the decoder is to reconstruct rather than to fool the discriminator (eq. 9)."""
    lr: Rate = 3e-4
    """RMSProp of all three (sec. 4)."""


def conv_block(before: int, after: int, *, up: bool = False) -> list[nn.Module]:
    """5 × 5, half or twice the side, batch norm, ReLU (table 1)."""
    if up:
        conv: nn.Module = nn.ConvTranspose2d(before, after, 5, 2, 2, output_padding=1, bias=False)
    else:
        conv = nn.Conv2d(before, after, 5, 2, 2, bias=False)
    return [conv, BatchNorm(after), nn.ReLU()]


def fc_block(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), BatchNorm(after), nn.ReLU()]


class VAE(nn.Module):
    """Enc, q(z|x), and Dec, p(x|z) (table 1). Satisfies Sampler, Autoencoder. Images are in [-1, 1]."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        n, base = halvings(cfg.resolution)
        widths = [cfg.width * 2**i for i in range(n)]
        layers: list[nn.Module] = []
        for before, after in zip([cfg.channels, *widths], widths, strict=False):
            layers += conv_block(before, after)
        top = widths[-1]
        layers += [nn.Flatten(), *fc_block(top * base**2, cfg.enc_units), nn.Linear(cfg.enc_units, 2 * cfg.z_dim)]
        self.Enc = nn.Sequential(*layers)
        layers = [*fc_block(cfg.z_dim, top * base**2), nn.Unflatten(1, (top, base, base))]
        # Table 1: 256, 128, 32 after 256: the last is half the encoder's first.
        ups = [*reversed(widths[1:]), max(cfg.width // 2, 1)]
        for before, after in zip([top, *ups], ups, strict=False):
            layers += conv_block(before, after, up=True)
        self.Dec = nn.Sequential(*layers, nn.Conv2d(ups[-1], cfg.channels, 5, 1, 2), nn.Tanh())

    def posterior(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n z"], Float[Tensor, "n z"]]:
        """Mean and log variance of q(z|x)."""
        mean, logvar = self.Enc(x).chunk(2, dim=1)
        return mean, logvar

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]:
        return self.posterior(x)[0]

    def decode(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.Dec(z)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.decode(z)


class Discriminator(nn.Module):
    """Dis (table 1): one logit, and the layer l by which images are compared."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, base = halvings(cfg.resolution)
        first = max(cfg.width // 2, 1)
        widths = [cfg.width * min(2 ** (i + 1), 4) for i in range(n)]
        layers: list[nn.Module] = [nn.Conv2d(cfg.channels, first, 5, 1, 2), nn.ReLU()]
        for before, after in zip([first, *widths[:-1]], widths, strict=True):
            layers += conv_block(before, after)
        # The authors' code: l is the last convolution, before its norm.
        self.to_l, self.norm = nn.Sequential(*layers[:-2]), nn.Sequential(*layers[-2:])
        top = widths[-1] * base**2
        self.head = nn.Sequential(nn.Flatten(), *fc_block(top, cfg.dis_units), nn.Linear(cfg.dis_units, 1))

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Dis_l(x)."""
        return self.to_l(x)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.head(self.norm(self.features(x))).squeeze(1)


@dataclass
class Nets:
    AE: VAE
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(VAE(cfg), Discriminator(cfg))


def drawn(n: Nets, x: Tensor, p: Progress) -> tuple[Tensor, Tensor, Tensor]:
    """z of q(z|x) by the reparametrisation, and the mean and the log variance that made it."""
    mean, logvar = n.AE.posterior(x)
    return mean + (logvar / 2).exp() * p.normal(len(x), n.AE.z_dim), mean, logvar


def judged(n: Nets, real: Tensor, reconstructed: Tensor, sampled: Tensor) -> tuple[Tensor, ...]:
    """Of all three in one batch, so that batch norm tells none from another (the authors' code)."""
    return n.D(torch.cat([real, reconstructed, sampled])).split(len(real))


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-log Dis(x) - log(1 - Dis(x̃)) - log(1 - Dis(x_p)), x̃ = Dec(Enc(x)), x_p = Dec(z)  (alg. 1, L_GAN negated)."""
    with torch.no_grad():
        reconstructed = n.AE.decode(drawn(n, b.x, p)[0])
        sampled = n.AE.decode(p.normal(len(b.x), n.AE.z_dim))
    real, first, second = judged(n, b.x, reconstructed, sampled)
    fakes = F.softplus(first).mean() + F.softplus(second).mean()
    return {"D_real": F.softplus(-real).mean(), "D_fake": fakes}


def scaled(z: Tensor, factor: float) -> Tensor:
    """z itself; its gradient comes back times `factor`."""
    return z.detach() + factor * (z - z.detach())


def ae_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """Enc: L_prior + L_llike. Dec: γ L_llike - L_GAN  (alg. 1; L_llike of Dis_l, eq. 7, up to a constant).

    One sum: what flows from γ L_llike into Enc is divided by γ again, and nothing flows there from the adversarial
    terms. Deviation: these are -log Dis(x̃) - log Dis(x_p), which do not vanish where Dis is sure.
    """
    z, mean, logvar = drawn(n, b.x, p)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum() / len(b.x)
    reconstructed = n.AE.decode(scaled(z, 1 / cfg.recon_weight))
    made, real = n.D.features(torch.cat([reconstructed, b.x])).chunk(2)
    llike = (made - real).square().sum() / 2 / len(b.x)
    _, first, second = judged(n, b.x, n.AE.decode(z.detach()), n.AE.decode(p.normal(*z.shape)))
    adversarial = F.softplus(-first).mean() + F.softplus(-second).mean()
    return {"kl": kl, "AE_llike": cfg.recon_weight * llike, "G_loss": adversarial}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("D", ("D",), d_loss), Phase("AE", ("AE",), lambda n, b, p: ae_loss(n, b, p, cfg))]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"AE": RMSprop(cfg.lr), "D": RMSprop(cfg.lr)}
