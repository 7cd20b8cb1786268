"""What goes wrong in a training, from the numbers of its log, in words and with the option that helps.

The failures are the lectures' (decks 1 and 3: vanishing gradients, mode collapse, divergence) and those of small data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

Row = Mapping[str, object]
"""A line of log.jsonl."""

LATEST = 5
"""Ticks that count as now."""
CERTAIN = 0.99
"""Area under the ROC curve from which D is right about nearly every pair of a real and a generated image."""
CHANCE = 0.45
VANISHED = 0.02
"""Of G's gradient at the beginning."""
UNIFORM = 0.5
"""Variety, as a share of the training images', below which modes are missing."""
REPEATED = 0.2
"""Share of images that nearly repeat another one; 0.01 of the training images do."""
GROWN = 30.0
"""Times its size in the first quarter of the log, from which a loss runs away."""
OVERFITTED_RV, OVERFITTED_SIGN = 0.5, 0.9
"""r_v and r_t (Karras et al. 2020, 2006.06676, sec. 3.1): adaptive augmentation aims at a D_sign of 0.6."""
SETTLED = 0.2
"""Share of the run before which a G that shows little variety has only not learned it yet."""


BETTER_TOLD = {"winning": {"vanishing"}, "certain": {"vanishing", "winning"}}
"""What says less than another finding does."""


@dataclass(frozen=True)
class Finding:
    kind: str
    words: str
    hint: str


def diagnose(rows: Sequence[Row], *, kimg: float, loss: str | None = None, aug: str = "none") -> list[Finding]:
    """What the log of a run tells, the most pressing first; nothing where nothing looks wrong.

    `kimg` is the run's length, `loss` the name of its loss where it has one, `aug` its augmentation.
    """
    found = [
        _diverging(rows),
        _vanishing(rows, loss),
        _winning(rows, loss),
        _losing(rows, loss),
        _collapsed(rows, kimg),
        _memorised(rows),
        _overfitting(rows, aug),
    ]
    kinds = {f.kind for f in found if f}
    return [f for f in found if f and not kinds & BETTER_TOLD.get(f.kind, set())]


def values(rows: Sequence[Row], name: str) -> list[float]:
    return [float(v) for row in rows if isinstance(v := row.get(name), int | float)]


def _diverging(rows: Sequence[Row]) -> Finding | None:
    for name in ("D_loss", "G_loss"):
        sizes = [abs(v) for v in values(rows, name)]
        if len(sizes) < 4 * LATEST:
            continue
        before, now = median(sizes[: len(sizes) // 4]), min(sizes[-LATEST:])
        if now > GROWN * max(before, 1.0):
            words = f"training diverges: {name} is {now:.3g}, {now / before:.0f} times what it was"
            return Finding("diverging", words, "go on from an earlier snapshot with a lower --glr and --dlr")
    return None


def _vanishing(rows: Sequence[Row], loss: str | None) -> Finding | None:
    sizes, areas = values(rows, "G_grad"), values(rows, "D_auc")[-LATEST:]
    if len(sizes) < 2 * LATEST or len(areas) < LATEST:
        return None
    before, now = max(sizes[:LATEST]), median(sizes[-LATEST:])
    if now > VANISHED * before or fmean(areas) < CERTAIN:
        return None
    words = f"G's gradient has vanished: {now:.1e}, it was {before:.1e}, while D tells every image apart"
    if loss == "minimax":
        return Finding("vanishing", words, "pass --loss non_saturating")
    return Finding("vanishing", words, "pass --set instance_noise=0.1, or a lower --dlr")


def _winning(rows: Sequence[Row], loss: str | None) -> Finding | None:
    areas = values(rows, "D_auc")[-LATEST:]
    # A critic is meant to be as good as it can be.
    if loss == "wasserstein" or len(areas) < LATEST or fmean(areas) < CERTAIN:
        return None
    words = f"D wins: it tells generated images from real ones almost always (AUC {fmean(areas):.3f})"
    return Finding("winning", words, "pass a lower --dlr, or --set instance_noise=0.1")


def _losing(rows: Sequence[Row], loss: str | None) -> Finding | None:
    areas = values(rows, "D_auc")[-LATEST:]
    if len(areas) < LATEST or fmean(areas) > CHANCE:
        return None
    words = f"D loses: it does worse than guessing (AUC {fmean(areas):.2f}), and G learns nothing from it"
    return Finding("losing", words, "pass a higher --dlr, or more steps of D with --set n_critic=2")


def _collapsed(rows: Sequence[Row], kimg: float) -> Finding | None:
    settled = [row for row in rows if isinstance(k := row.get("kimg"), int | float) and k >= SETTLED * kimg]
    hint = "pass --set minibatch_std=4, --loss relativistic with --set 'penalties={r1: 10}', or a lower --glr"
    variety, repeats = values(settled, "variety")[-2:], values(settled, "repeats")[-2:]
    if len(variety) == 2 and max(variety) < UNIFORM:
        words = f"modes are missing: generated images are {variety[-1]:.0%} as varied as the training images"
        return Finding("collapse", words, hint)
    if len(repeats) == 2 and min(repeats) > REPEATED:
        words = f"modes are missing: {repeats[-1]:.0%} of the generated images nearly repeat another one"
        return Finding("collapse", words, hint)
    missing = values(settled, "missing")[-2:]
    if len(missing) == 2 and min(missing) > REPEATED:
        words = f"modes are missing: kinds that make up {missing[-1]:.0%} of the training images are not generated"
        return Finding("collapse", words, hint)
    return None


def _memorised(rows: Sequence[Row]) -> Finding | None:
    copies = values(rows, "copies")[-1:]
    if not copies or copies[0] < REPEATED:
        return None
    words = f"G repeats training images: {copies[0]:.0%} of its images all but equal one of them"
    return Finding("memorised", words, "give it more images, or pass --mirror and --aug ada")


def _overfitting(rows: Sequence[Row], aug: str) -> Finding | None:
    r_v, signs = values(rows, "r_v")[-LATEST:], values(rows, "D_sign")[-LATEST:]
    hint = "give it more images" if aug == "ada" else "pass --aug ada, or give it more images"
    if len(r_v) == LATEST and fmean(r_v) > OVERFITTED_RV:
        words = f"D learns the images by heart: those held out look generated to it (r_v {fmean(r_v):.2f})"
        return Finding("overfitting", words, hint)
    if len(signs) == LATEST and fmean(signs) > OVERFITTED_SIGN:
        words = f"D is sure of nearly every training image (D_sign {fmean(signs):.2f}): it may know them by heart"
        return Finding("certain", words, f"hold some out with --set holdout=200 to see; {hint}")
    return None
