"""AE: Hinton & Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.nn.layers import mlp, normal_prior, pixels
from ganctl.nn.norm import rank_mean
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Rate, Widths
from ganctl.spec import Image

TRAIN = {"batch": 100}

FORGET = 0.01
"""Share of the codes' moments that each batch replaces."""


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's."""
    channels: Count = 1
    """1 grey, 3 colour."""
    z_dim: Count = 30
    """The code: 784-1000-500-250-30 on digits; 2 for pictures of the code space (fig. 3)."""
    hidden: Widths = (1000, 500, 250)
    """Hidden units of the encoder, and from last to first of the decoder."""
    lr: Rate = 1e-3
    """Deviation: Adam from random weights; the paper pretrains each layer as an RBM, then uses conjugate gradients."""


class AE(nn.Module):
    """Encoder and decoder, perceptrons; the code's units are linear. Satisfies Sampler, Autoencoder.

    The paper draws nothing. Samples here decode a Gaussian fitted to the codes (Ghosh et al. 2020, arXiv:1903.12436,
    sec. 4), whose moments training keeps. Images are in [-1, 1] outside; inside, a pixel is in [0, 1].
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim = cfg.z_dim
        n = pixels(cfg.channels, cfg.resolution)
        # Deviation: ReLU in place of logistic hidden units, which need the pretraining.
        self.encoder = nn.Sequential(*mlp([n, *cfg.hidden, cfg.z_dim], nn.ReLU()))
        self.decoder = nn.Sequential(*mlp([cfg.z_dim, *reversed(cfg.hidden), n], nn.ReLU()))
        self.register_buffer("mean", torch.zeros(cfg.z_dim))
        self.register_buffer("covariance", torch.eye(cfg.z_dim))

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]:
        return self.encoder((x.flatten(1) + 1) / 2)

    def logits(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        """Of the pixels, each taken for a probability."""
        assert self.x.size
        return self.decoder(z).unflatten(1, (self.x.channels, *self.x.size))

    def decode(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return 2 * self.logits(z).sigmoid() - 1

    @torch.no_grad()
    def observe(self, z: Float[Tensor, "n z"]) -> None:
        """Moves the moments towards those of a batch of codes, of all ranks; in float32 under autocast too."""
        with torch.autocast(z.device.type, enabled=False):
            self.mean.lerp_(rank_mean(z.float().mean(0)), FORGET)
            centred = z.float() - self.mean
            self.covariance.lerp_(rank_mean(centred.T @ centred / len(z)), FORGET)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        """N(mean, covariance) of the codes."""
        values, vectors = torch.linalg.eigh(self.covariance.cpu().double())
        root = vectors * values.clamp(min=0).sqrt()
        draws = normal_prior(seeds, self.z_dim).double()
        # Row by row: a product of all rows at once is rounded by their number.
        rows = [(root * draw).sum(1) + self.mean.cpu() for draw in draws]
        return torch.stack(rows).float()

    def sample(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]:
        return self.decode(z)


@dataclass
class Nets:
    AE: AE


def build(cfg: Config) -> Nets:
    return Nets(AE(cfg))


def loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """-Σᵢ pᵢ log p̂ᵢ - Σᵢ (1 - pᵢ) log(1 - p̂ᵢ), over the pixels i (the cross-entropy of note 16)."""
    z = n.AE.encode(b.x)
    n.AE.observe(z)
    target = (b.x + 1) / 2
    return {"nll": F.binary_cross_entropy_with_logits(n.AE.logits(z), target, reduction="sum") / len(b.x)}


def phases(cfg: Config) -> list[Phase]:
    return [Phase("AE", ("AE",), loss)]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"AE": Adam(cfg.lr)}
