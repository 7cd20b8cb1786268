"""What a run may ask of any D that judges an image by one logit: a loss, labels, penalties (lecture deck 1)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from ganctl.losses import adversarial
from ganctl.losses.regularizers import balanced_consistency, gradient_norms, interpolated, logits_and_penalty
from ganctl.phase import Progress, Terms

Loss = Literal[
    "minimax", "non_saturating", "least_squares", "wasserstein", "hinge", "relativistic", "relativistic_average"
]
LABELLED = ("minimax", "non_saturating", "least_squares")
"""Losses that compare a logit with a label."""
RELATIVE = {"relativistic": adversarial.relativistic, "relativistic_average": adversarial.relativistic_average}
"""Losses that compare the logits of real and of generated images: one function, its arguments swapped for G."""
PENALTIES = ("r1", "r2", "gp", "gp_one_sided", "gp_zero", "clip")
LABELS = (0.0, 1.0)
"""Of generated and of real images."""

Judge = Callable[[Tensor], Tensor]
"""D, of images [N, C, H, W] (a class is closed over): logits [N]."""


def d_terms(
    loss: Loss, D: Judge, real: Tensor, fake: Tensor, p: Progress, labels: tuple[float, float] = LABELS
) -> Terms:
    """D's loss and what the run asks beside it.

    Images pass `p.augment`; real and generated ones are batches of their own. `labels`: the family's, of generated
    and of real images, where the loss has labels.
    """
    x, y = p.augment(real), p.augment(fake)
    on_real, on_fake = D(x), D(y)
    p.told_apart(on_real, on_fake)
    if loss != "wasserstein":
        # Where D doubts, the sign turns: at half-way between the labels, or between the two images.
        doubt = on_fake if loss in RELATIVE else sum(labels) / 2 if loss == "least_squares" else 0.0
        p.judged(on_real - doubt)
    if loss in LABELLED:
        compare = squared if loss == "least_squares" else cross_entropy
        a, b = p.asked.fake_labels or (labels[0], labels[0]), p.asked.real_labels or (labels[1], labels[1])
        term = compare(on_real, drawn(b, on_real, p)) + compare(on_fake, drawn(a, on_fake, p))
    elif loss in RELATIVE:
        term = RELATIVE[loss](on_real, on_fake)
    else:
        term = (adversarial.hinge_d if loss == "hinge" else adversarial.wasserstein_d)(on_real, on_fake)
    terms = {"D_loss": term, **penalties(lambda images: D(p.augment(images)), real, fake, p)}
    return terms | balanced_consistency(D, p, (x, on_real), (y, on_fake))


def g_terms(loss: Loss, D: Judge, real: Tensor, fake: Tensor, p: Progress, label: float = LABELS[1]) -> Terms:
    """G's loss. `label`: what the family's G wants D to say, where the loss has labels."""
    on_fake = D(p.augment(fake))
    if loss in RELATIVE:
        return {"G_loss": RELATIVE[loss](on_fake, D(p.augment(real)))}
    if loss == "least_squares":
        wanted = label if p.asked.g_label is None else p.asked.g_label
        return {"G_loss": adversarial.least_squares_g(on_fake, wanted)}
    if loss in adversarial.LOG_LOSS_G:
        return {"G_loss": adversarial.LOG_LOSS_G[loss](on_fake)}
    return {"G_loss": adversarial.wasserstein_g(on_fake)}


def drawn(labels: tuple[float, float], like: Tensor, p: Progress) -> Tensor | float:
    """A label for each image, U[low, high): a constant where they are one number."""
    low, high = labels
    return low if low == high else low + (high - low) * p.uniform(len(like))


def cross_entropy(logits: Tensor, label: Tensor | float) -> Tensor:
    """-t log D - (1 - t) log(1 - D), t the label: beyond 1 too, as the noisy labels of lecture deck 1 are."""
    return (label * F.softplus(-logits) + (1 - label) * F.softplus(logits)).mean()


def squared(logits: Tensor, label: Tensor | float) -> Tensor:
    """½ (D - t)²  (Mao et al. 2017, eq. 2)."""
    return 0.5 * (logits - label).square().mean()


def penalties(D: Judge, real: Tensor, fake: Tensor, p: Progress) -> Terms:
    """The run's penalties on D's gradient, weighted; none in the steps between lazy ones. No gradient reaches G.

    gp: (‖∇D(x̂)‖ - 1)² between real and generated images  (Gulrajani et al. 2017, eq. 3);
    gp_one_sided: max(0, ‖∇D(x̂)‖ - 1)²  (the same, sec. 4; Petzka et al. 2018, arXiv:1709.08894, eq. 8);
    gp_zero: ‖∇D(x̂)‖²  (Thanh-Tung et al. 2019, arXiv:1902.03984, eq. 9);
    r1, r2: ½ ‖∇D‖² of real and of generated images  (Mescheder et al. 2018, eq. 9 and 10).
    """
    asked = p.asked
    if p.step % asked.penalty_every:
        return {}
    terms: Terms = {}
    for name, weight in asked.penalties.items():
        if name in ("r1", "r2"):
            _, square = logits_and_penalty(D, real if name == "r1" else fake)
            value = 0.5 * square.mean()
        elif name != "clip":
            norms = gradient_norms(D, interpolated(real, fake, p.uniform(len(real))))
            center = 0.0 if name == "gp_zero" else 1.0
            above = norms - center
            value = (F.relu(above) if name == "gp_one_sided" else above).square().mean()
        else:
            continue
        terms[f"D_{name}"] = weight * asked.penalty_every * value
    return terms


assert set(LABELLED) | set(RELATIVE) | {"wasserstein", "hinge"} == set(get_args(Loss))
