"""AAE: Makhzani, Shlens, Jaitly, Goodfellow & Frey, Adversarial Autoencoders, 2016. arXiv:1511.05644."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import log_loss_d, non_saturating_g
from ganctl.nn.layers import class_given, mlp, pixels
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image, Label

TRAIN = {"batch": 100}

FEW_LABELS = True
"""`data.labels`: classes may be known of some images only."""


@config
class Config:
    resolution: Count = 28
    """Side of the images: MNIST's."""
    channels: Count = 1
    """1 grey, 3 colour."""
    z_dim: Count = 8
    """The code (appendix A.1: 8 on MNIST); 2 for pictures of the code space (fig. 2, 4)."""
    hidden: Widths = (1000, 1000)
    """Rectifier layers of the encoder, the decoder and the discriminators (appendix A)."""
    prior: Literal["gaussian", "mixture", "swiss_roll"] = "gaussian"
    """What codes are to be like: N(0, prior_std²); in two dimensions Gaussians in a circle or a spiral (fig. 2, 4)."""
    prior_std: Rate = 5.0
    """Appendix A.1: 5 on MNIST. The mixture and the spiral have their own size."""
    classes: Count | None = None
    """Of the images; None uses none."""
    classes_in: Literal["code", "prior"] = "code"
    """Where classes stand: in the code, as its part y beside the style z (sec. 5), or in the prior, of which D gives
    each class a part of its own (sec. 2.3)."""
    adversarial: Weight = 10.0
    """Weight of the encoder's adversarial losses beside half an image's squared error; the paper has two updates."""
    lr: Rate = 3e-4
    """Deviation: Adam in place of SGD with momentum 0.9 (appendix A)."""
    dlr: Rate = 3e-4
    """The same for the discriminators."""
    beta1: Moment = 0.5
    """Adam's first moment."""

    def __post_init__(self) -> None:
        if self.prior != "gaussian" and self.z_dim != 2:
            raise ValueError(f"z_dim must be 2 for the prior {self.prior}")


# The priors: the paper draws them (fig. 2, 4) and gives no numbers.
RADIUS, ALONG, ACROSS = 4.0, 1.0, 0.35
"""Of the mixture: how far its centres are from the origin; each Gaussian's deviation along the radius and across it."""
TURNS, REACH, THICKNESS = 1.5, 6.0, 0.15
"""Of the spiral: its turns, its outer radius, its deviation."""
COMPONENTS = 10
"""Of the mixture without classes (fig. 2b)."""


def mixture(
    normal: Float[Tensor, "n 2"], part: Float[Tensor, " n"], c: Int[Tensor, " n"] | None, k: int
) -> Float[Tensor, "n 2"]:
    """k Gaussians around a circle, long along the radius; `c` chooses, or `part` of U[0, 1) where it is None."""
    index = (part * k).long() if c is None else c
    angle = 2 * math.pi * index / k
    along = RADIUS + ALONG * normal[:, 0]
    across = ACROSS * normal[:, 1]
    return torch.stack([along * angle.cos() - across * angle.sin(), along * angle.sin() + across * angle.cos()], dim=1)


def swiss_roll(
    normal: Float[Tensor, "n 2"], part: Float[Tensor, " n"], c: Int[Tensor, " n"] | None, k: int
) -> Float[Tensor, "n 2"]:
    """A spiral from the origin, as dense everywhere; the c-th of its k parts, in their order (sec. 2.3)."""
    part = part if c is None else (c + part) / k
    # The length of an Archimedean spiral grows with the square of its angle.
    turned = part.sqrt()
    angle, radius = 2 * math.pi * TURNS * turned, REACH * turned
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) + THICKNESS * normal


class AAE(nn.Module):
    """A deterministic encoder, q(z|x) of sec. 2, and a decoder. Satisfies Sampler, Autoencoder.

    Images are in [-1, 1] outside; inside, a pixel is in [0, 1]. Where classes are a part of the code it is a
    ConditionalSampler too: `encode` gives the style, `logits` the class, and the decoder takes both (fig. 8).
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.z_dim, self.p_z, self.std = cfg.z_dim, cfg.prior, cfg.prior_std
        self.k = cfg.classes or COMPONENTS
        self.c = Label(cfg.classes) if cfg.classes and cfg.classes_in == "code" else None
        n, y = pixels(cfg.channels, cfg.resolution), self.c.n if self.c else 0
        self.encoder = nn.Sequential(*mlp([n, *cfg.hidden, cfg.z_dim + y], nn.ReLU()))
        self.decoder = nn.Sequential(*mlp([cfg.z_dim + y, *reversed(cfg.hidden), n], nn.ReLU()), nn.Sigmoid())

    def codes(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n z"], Float[Tensor, "n y"]]:
        """z, and the logits of q(y|x): none where classes are no part of the code."""
        z, y = self.encoder((x.flatten(1) + 1) / 2).tensor_split([self.z_dim], dim=1)
        return z, y

    def pixels(self, z: Float[Tensor, "n z"], y: Float[Tensor, "n y"]) -> Float[Tensor, "n c h w"]:
        """In [0, 1], of a style and the probabilities of the classes."""
        assert self.x.size
        return self.decoder(torch.cat([z, y], 1)).unflatten(1, (self.x.channels, *self.x.size))

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]:
        return self.codes(x)[0]

    def logits(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n y"]:
        """Of the classes, q(y|x)."""
        return self.codes(x)[1]

    def decode(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n c h w"]:
        y = z.new_zeros(z.shape[0], 0) if self.c is None else one_hot(class_given(c, self.c.n), self.c.n, z)
        return 2 * self.pixels(z, y) - 1

    def p(
        self, normal: Float[Tensor, "n z"], part: Float[Tensor, " n"], c: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n z"]:
        """Draws of p(z), or of p(z|c) where the prior has parts, made of draws from N(0, I) and U[0, 1)."""
        if self.p_z == "gaussian":
            return self.std * normal
        return (mixture if self.p_z == "mixture" else swiss_roll)(normal, part, c, self.k)

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        normal = torch.stack([torch.randn(self.z_dim, generator=g) for g in generators])
        part = torch.cat([torch.rand(1, generator=g) for g in generators])
        return self.p(normal, part)

    def sample(self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n c h w"]:
        return self.decode(z, c)


def one_hot(c: Int[Tensor, " n"], k: int, like: Tensor) -> Float[Tensor, "n k"]:
    return F.one_hot(c, k).to(like.dtype)


class Discriminator(nn.Module):
    """A perceptron from a code, and what comes with it, to one logit (appendix A)."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.main = nn.Sequential(*mlp([inputs, *hidden, 1], nn.ReLU()))

    def forward(self, code: Float[Tensor, "n i"]) -> Float[Tensor, " n"]:
        return self.main(code).squeeze(1)


class Discriminators(nn.Module):
    """D of the styles z, and of the classes y where they are a part of the code (fig. 8)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        told = cfg.classes + 1 if cfg.classes and cfg.classes_in == "prior" else 0
        self.z = Discriminator(cfg.z_dim + told, cfg.hidden)
        self.y = Discriminator(cfg.classes, cfg.hidden) if cfg.classes and cfg.classes_in == "code" else None


@dataclass
class Nets:
    AE: AAE
    D: Discriminators


def build(cfg: Config) -> Nets:
    """Raises UsageError for classes that a Gaussian prior has no parts for."""
    if cfg.classes and cfg.classes_in == "prior" and cfg.prior == "gaussian":
        what = "cannot give each class a part of the prior"
        raise UsageError(what, "a Gaussian has none", "--set prior=mixture or prior=swiss_roll, and z_dim=2")
    return Nets(AAE(cfg), Discriminators(cfg))


def judged(n: Nets, b: Batch, z: Tensor, cfg: Config) -> tuple[Tensor, Tensor | None]:
    """The codes that D is shown, and the class of each: `classes` is the class of an image of which none is known.

    `z` are the codes of b.x. Where classes are known of few images, b.y are those, and b.cy their classes; each batch
    has as many of both.
    """
    if cfg.classes is None or cfg.classes_in == "code":
        return z, None
    if b.y is None or b.cy is None:
        return z, b.c
    return torch.cat([z, n.AE.encode(b.y)]), torch.cat([torch.full_like(b.cy, cfg.classes), b.cy])


def drawn(n: Nets, p: Progress, count: int, c: Tensor | None, cfg: Config) -> Tensor:
    """As many of the prior, each of its class; of an unknown one, from the whole prior (sec. 2.3)."""
    normal, part = p.normal(count, cfg.z_dim), p.uniform(count)
    whole = n.AE.p(normal, part)
    if c is None or cfg.classes is None:
        return whole
    known = n.AE.p(normal, part, c.clamp(max=cfg.classes - 1))
    return torch.where((c < cfg.classes)[:, None], known, whole)


def told(z: Tensor, c: Tensor | None, cfg: Config) -> Tensor:
    """A code and, where D is told the class, a one-hot vector with one more place for an unknown one (fig. 3)."""
    return z if c is None or cfg.classes is None else torch.cat([z, one_hot(c, cfg.classes + 1, z)], 1)


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """-E log D(p(z)) - E log(1 - D(q(z)))  (sec. 2), and the same of y with p(y) uniform over the classes (sec. 5)."""
    with torch.no_grad():
        codes, logits = n.AE.codes(b.x)
        z, c = judged(n, b, codes, cfg)
    terms = {"D_z": log_loss_d(n.D.z(told(drawn(n, p, len(z), c, cfg), c, cfg)), n.D.z(told(z, c, cfg)))}
    if n.D.y is None or cfg.classes is None:
        return terms
    y = logits.softmax(1)
    real = one_hot((p.uniform(len(y)) * cfg.classes).long(), cfg.classes, y)
    return {**terms, "D_y": log_loss_d(n.D.y(real), n.D.y(y))}


def ae_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """½ ‖x - x̂‖² - λ E log D(q(z)), and with classes in the code - λ E log D(q(y)) - E log q(c|x) of labelled images.

    Deviation: one update of the sum in the place of the reconstruction, regularisation and classification phases.
    """
    z, y = n.AE.codes(b.x)
    made = n.AE.pixels(z, y.softmax(1))
    terms = {"rec": ((b.x + 1) / 2 - made).square().sum() / 2 / len(b.x)}
    shown, c = judged(n, b, z, cfg)
    terms["G_z"] = cfg.adversarial * non_saturating_g(n.D.z(told(shown, c, cfg)))
    if n.D.y is None:
        return terms
    labels = b.c if b.y is None else b.cy
    assert labels is not None
    terms["G_y"] = cfg.adversarial * non_saturating_g(n.D.y(y.softmax(1)))
    terms["classes"] = cfg.adversarial * F.cross_entropy(y if b.y is None else n.AE.logits(b.y), labels)
    return terms


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("AE", ("AE",), lambda n, b, p: ae_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"AE": Adam(cfg.lr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}
