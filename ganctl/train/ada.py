"""Adaptive discriminator augmentation: how strong it is follows how far D overfits (Karras et al. 2020, 2006.06676)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How p is steered (sec. 3)."""

    target: float = 0.6
    """r_t that is aimed at."""
    every: int = 4
    """Minibatches between two adjustments."""
    kimg: float = 500
    """Thousands of real images in which p goes from 0 to 1."""


@dataclass(frozen=True)
class Ada:
    """The controller's state: plain numbers, so that `Ada(**vars(ada))` after a restart goes on as it was."""

    p: float = 0.0
    """Strength of the augmentations, in [0, 1]."""
    signs: float = 0.0
    """Sum of r_t over the minibatches since the last adjustment …"""
    batches: int = 0
    """… and their number."""


def step(ada: Ada, r_t: float, images: int, pace: Pace) -> Ada:
    """The state after a minibatch of `images` real images, over all ranks, whose r_t = E[sign(D(x))]  (eq. 1).

    x are the augmented real images that D was trained with. Every few minibatches p moves by a fixed amount, up where
    their mean r_t is above the target (D overfits), else down.
    """
    signs, batches = ada.signs + r_t, ada.batches + 1
    if batches < pace.every:
        return Ada(ada.p, signs, batches)
    mean = signs / batches
    direction = (mean > pace.target) - (mean < pace.target)
    p = ada.p + direction * images * batches / (pace.kimg * 1000)
    return Ada(min(max(p, 0.0), 1.0))


def r_v(train: float, validation: float, generated: float) -> float:
    """The other heuristic: (E[D_train] - E[D_validation]) / (E[D_train] - E[D_generated])  (eq. 1); reported only.

    0: no overfitting, 1: the validation set looks generated. NaN where D tells nothing apart.
    """
    return (train - validation) / (train - generated) if train != generated else float("nan")
