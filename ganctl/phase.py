"""One update of training: which networks move, by which loss, how often, how far."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Terms = dict[str, Tensor]
"""Scalar terms; their sum is minimised and each is logged under its name."""

Nets = Any
"""A dataclass of networks (plain attributes: n.G, n.D). The first field is the network users get; its EMA is kept."""


@dataclass
class Batch:
    """x: images [N,C,H,W] in the model's range. y: the other image of a pair, same layout. c: class indices [N].

    cy: those of y, where it is an image of another class. Where classes are known of few images (`data.labels`), y are
    some of those, cy their classes, and there is no c. Of other unpaired images it is the number of y on its side.
    """

    x: Tensor
    y: Tensor | None = None
    c: Tensor | None = None
    cy: Tensor | None = None


def area(real: Tensor, fake: Tensor) -> Tensor:
    """The area under the ROC curve of logits [N] and [M], as the share of pairs in the right order; a tie counts ½."""
    gap = real[:, None] - fake[None]
    return ((gap > 0).float() + (gap == 0).float() / 2).mean()


def as_they_are(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Asked:
    """What a run asks of D beside its family's loss."""

    real_labels: tuple[float, float] | None = None
    """Labels of real images are drawn from here; None: the family's …"""
    fake_labels: tuple[float, float] | None = None
    """… of generated ones …"""
    g_label: float | None = None
    """… and the one that G wants D to give."""
    penalties: Mapping[str, float] = field(default_factory=dict)
    """Weights by name (`losses.objective.PENALTIES`) …"""
    penalty_every: int = 1
    """… computed every k-th step, weight × k."""


@dataclass
class Progress:
    """Where training stands, and its only source of randomness.

    Draws are made for the whole batch of all ranks from one CPU generator and each rank keeps its rows, so two ranks
    see what one process of twice the batch sees, and a resumed run draws what an undisturbed one would have drawn.
    A rank's rows lie `world` apart: samples that lie n / k apart of one rank, as in the groups of `minibatch_std`, lie
    so in the whole batch too.
    """

    nimg: int
    """Real images drawn so far, over all ranks."""
    step: int
    rng: torch.Generator
    device: torch.device
    rank: int = 0
    world: int = 1
    augment: Callable[[Tensor], Tensor] = as_they_are
    """What every image passes before D sees it (`train.aug`), real or generated; gradients pass it too."""
    vary: Callable[[Tensor], Tensor] | None = None
    """What may be done to an image without a change of D's logit, where that is asked of D (`train.aug: bcr`)."""
    asked: Asked = Asked()
    verdicts: list[Tensor] = field(default_factory=list)
    """Means of the signs of D's logits of real images, since the loop last took them …"""
    answers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """… and its logits of both kinds."""

    def judged(self, logits: Tensor) -> Tensor:
        """D's logits of real images, unchanged: their signs are logged as D_sign and steer adaptive augmentation."""
        self.verdicts.append(logits.detach().float().sign().mean())
        return logits

    def told_apart(self, real: Tensor, fake: Tensor) -> None:
        """D's logits of a batch of each kind: the area under their ROC curve is logged as D_auc, ½ by guessing."""
        self.answers.append((real.detach().float(), fake.detach().float()))

    def normal(self, n: int, *shape: int) -> Tensor:
        """N(0, 1), [n, *shape]."""
        return self._rows(torch.randn(n * self.world, *shape, generator=self.rng))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """U[0, 1), [n, *shape]."""
        return self._rows(torch.rand(n * self.world, *shape, generator=self.rng))

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.rank :: self.world].contiguous().to(self.device)


@dataclass(frozen=True)
class Phase:
    name: str
    updates: tuple[str, ...]
    """Members of Nets whose parameters move."""
    loss: Callable[[Nets, Batch, Progress], Terms]
    every: int = 1
    """Lazy regularisation (StyleGAN2, sec. 3.1): run every k-th step, gradient × k."""
    repeat: int = 1
    """Times a step, each on a fresh batch: n_critic (WGAN, alg. 1), k (GAN, alg. 1)."""
    after: Callable[[Nets], None] | None = None
    """Runs after the update: weight clipping (WGAN, alg. 1, line 7)."""
    start: int = 0
    """Images seen before the phase begins (AnimeGAN, sec. 3.3: a generator first learns alone)."""


Number = float | Callable[[int, int], float]
"""A constant, or what it is after so many of a run's images: number(nimg, total).

A function of these two alone, so that a resumed run goes on with it; of the first alone where a longer run is to be the
shorter one continued.
"""


@dataclass(frozen=True)
class Adam:
    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: float = 1e-8

    def lazy(self, every: int | None) -> "Adam":
        """Corrected for k + 1 updates in the place of k, where a penalty is applied every k-th step.

        λ' = c λ, β' = βᶜ, c = k / (k + 1)  (StyleGAN2, appendix B).
        """
        c = every / (every + 1) if every else 1.0

        def made(number: Number, change: Callable[[float], float]) -> Number:
            return (lambda nimg, total: change(number(nimg, total))) if callable(number) else change(number)

        beta1, beta2 = (made(beta, lambda b: b**c) for beta in (self.beta1, self.beta2))
        return Adam(made(self.lr, lambda lr: lr * c), beta1, beta2, self.eps)


@dataclass(frozen=True)
class RMSprop:
    lr: Number
    alpha: float = 0.99


@dataclass(frozen=True)
class SGD:
    lr: Number
    momentum: float = 0.0


Optimizer = Adam | RMSprop | SGD


def falling(start: float, constant: float) -> Callable[[int, int], float]:
    """`start` for the share `constant` of the run, then linearly to 0 at its end: an Adam's rate."""

    def number(nimg: int, total: int) -> float:
        left = max(0.0, 1 - nimg / total)
        return start * min(1.0, left / (1 - constant)) if constant < 1 else start

    return number


def half_cosine(start: float, end: float, done: float) -> float:
    """From `start` to `end` as `done` goes from 0 to 1, flat at both; `end` beyond."""
    return start + (end - start) * (1 - math.cos(math.pi * min(done, 1.0))) / 2
