"""What `ganctl fid` says about a score: which sides may be compared, the warnings, the protocol line, the stamp."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ganctl.errors import UsageError, quoted
from ganctl.workflows.fid_measure import MODES
from ganctl.workflows.operands import Operand, same

if TYPE_CHECKING:
    import numpy as np

    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.statistics import Stats

FEW = 10_000
BIAS = {
    "fd": "biased upwards",
    "kid": "unbiased, with a wide spread",
    "is": "biased downwards",
    "pr": "dependent on the number of images",
    "dc": "dependent on the number of images",
    "c2st": "that of a classifier which sees few examples",
}
"""Kind of metric → what few images do to it."""
Warn = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Side:
    """One measured side."""

    operand: Operand
    stats: "Stats"

    @property
    def name(self) -> str:
        return quoted(self.operand.ref)


def check_pair(real: Side, fake: Side) -> None:
    """Statistics may come from files: both sides must be of one network, one protocol, one treatment."""
    a, b = real.stats, fake.stats
    where = f"cannot compare {real.name} with {fake.name}"
    facts = {
        "mode": "mode",
        "features": "network",
        "weights_sha256": "weights",
        "resolution": "--resolution",
        "dtype": "--dtype",
    }
    for name, word in facts.items():
        values = getattr(a, name), getattr(b, name)
        recorded = a.mode and b.mode if name in ("resolution", "dtype") else None not in values
        if recorded and values[0] != values[1]:
            shown = [str(v)[:20] if v is not None else "none" for v in values]
            raise UsageError(
                where, f"their {word} differ: {shown[0]} and {shown[1]}", "make both with the same options"
            )
    if a.dims != b.dims:
        raise UsageError(where, f"they have {a.dims} and {b.dims} dimensions", "make both with the same --dims")


def protocol(metric: "Metric", real: "Stats | None", fake: "Stats | None" = None) -> str:
    """One line: what was measured, by what, of how many."""
    sides = [stats for stats in (real, fake) if stats]
    mode = next((stats.mode for stats in sides if stats.mode), "protocol unrecorded")
    half = [stats.dtype for stats in sides[:1] if stats.dtype != "fp32"]
    counts = [f"{_count(stats)} {name}" for stats, name in ((real, "real"), (fake, "fake")) if stats]
    parts = [metric.id, metric.features, mode, *half, f"{sides[0].dims} dimensions", f"{', '.join(counts)} images"]
    return ", ".join(parts)


def one_stamp(stats: "Stats") -> dict[str, Any]:
    return {
        "mode": stats.mode,
        "dims": stats.dims,
        "features": stats.features,
        "weights_sha256": stats.weights_sha256,
        "dtype": stats.dtype,
    }


def pair_stamp(metric: "Metric", real: Side | None, fake: Side) -> dict[str, Any]:
    """Everything a value depends on that is known of its sides."""
    sides = {"real": real, "fake": fake}
    known = next((side.stats for side in (real, fake) if side and side.stats.features), fake.stats)
    return {
        **one_stamp(known),
        "features": metric.features,
        **{f"n_{name}": side.stats.n if side else None for name, side in sides.items()},
        "sizes": {name: _top(side.stats.seen.sizes) for name, side in sides.items() if side},
        **{name: side.operand.ref if side else None for name, side in sides.items()},
    }


def pair_warnings(real: Side | None, fake: Side, warn: Warn) -> None:
    """What makes a value mean less than it seems to."""
    import numpy as np

    for side in (real, fake) if real else (fake,):
        side_warnings(side, warn)
    if real is None:
        return
    a, b = real.stats, fake.stats
    if same(real.operand, fake.operand):
        warn("REAL and FAKE are the same", f"both are {real.name}", "the distance is zero by definition")
    elif (a.mu == b.mu).all() and (a.sigma == b.sigma).all():
        why = f"{real.name} and {fake.name} have the same statistics"
        warn("REAL and FAKE hold the same images", why, "the distance is zero by definition")
    elif shared := np.intersect1d(_digests(a), _digests(b)).size:
        why = f"{shared} of {fake.name} are in {real.name} too, pixel for pixel; copies flatter every score"
        warn("REAL and FAKE share images", why, "take them out of one side")
    formats = _main(a.seen.formats), _main(b.seen.formats)
    if all(formats) and "jpeg" in formats and formats[0] != formats[1]:
        why = f"REAL is mostly {formats[0]}, FAKE mostly {formats[1]}; the distance sees JPEG's losses"
        warn("the two sides are stored differently", why, "store both without loss")
    sizes = _main(a.seen.sizes), _main(b.seen.sizes)
    if all(sizes) and sizes[0] != sizes[1] and not (a.resolution and b.resolution):
        why = f"REAL is mostly {sizes[0]}, FAKE mostly {sizes[1]}; each is resized on its own"
        warn("the two sides have different sizes", why, "bring both to one size with --resolution N")


def few_warning(metrics: Sequence["Metric"], counts: Sequence[int | None], warn: Warn) -> None:
    """Says once, for all metrics together, what few images do to them."""
    few = [n for n in counts if n is not None and n < FEW]
    biased = [m for m in metrics if m.kind in BIAS]
    if not few or not biased:
        return
    what = f"{biased[0].id} from {min(few)} images"
    why = f"below {FEW} the value is {BIAS[biased[0].kind]}, and only comparable at equal numbers"
    if len(biased) > 1:
        what = f"scores from {min(few)} images"
        effects = {text: [m.id for m in biased if BIAS[m.kind] == text] for text in map(BIAS.__getitem__, BIAS)}
        clauses = [f"{' and '.join(ids)} {'are' if ids[1:] else 'is'} {text}" for text, ids in effects.items() if ids]
        why = f"below {FEW}, {'; '.join(clauses)}: all are only comparable at equal numbers"
    published = any(m.inception and m.kind in ("fd", "kid", "is") for m in biased)
    warn(what, why, "published numbers use 50000" if published else f"use {FEW} or more of each")


def side_warnings(side: Side, warn: Warn) -> None:
    """What is odd about one side."""
    stats, seen, name = side.stats, side.stats.seen, side.name
    if stats.features is None:
        from ganctl.metrics.foreign import mode_in_name

        said = mode_in_name(side.operand.ref)
        warn(
            f"{name} records no protocol",
            "it is taken to match this run's network and mode" + (f"; its name says {said}" if said else ""),
            "make it again with: ganctl fid IMAGES --save-stats FILE.npz",
        )
    own_size = stats.mode.rpartition("x")[0] if stats.features and stats.mode and stats.mode not in MODES else ""
    rule = "each is resized by the protocol, whatever its proportions"
    if own_size:
        rule = f"each is resized to the {own_size} that {stats.features} reads"
    if not stats.resolution:
        if len(seen.sizes) > 1:
            shown = ", ".join(f"{n} of {size}" for size, n in _top(seen.sizes, 3).items())
            hint = "bring them to one size with --resolution N"
            warn(f"{name} has images of {len(seen.sizes)} sizes", f"{shown}; {rule}", hint)
        elif own_size and seen.sizes and own_size not in seen.sizes:
            warn(f"{name} is resized", f"its images are {_main(seen.sizes)}; {rule}", "")
    wanted = "grey" if stats.mode and stats.mode.endswith("x1") else "rgb"
    how = {"grey": "repeated to RGB", "rgb": "turned to luma", "rgba": "laid over white"}
    converted = [f"{n} {k} {_images(n)} {how[k]}" for k, n in sorted(seen.channels.items()) if k in how and k != wanted]
    if converted:
        warn(f"{name} was converted to {wanted}", ", ".join(converted), "")
    for note, n in sorted(seen.notes.items()):
        warn(f"{name} has odd images", f"{n} {_images(n)} read by this rule: {note}", "")


def _digests(stats: "Stats") -> "np.ndarray | tuple[()]":
    return () if stats.digests is None else stats.digests


def _images(n: int) -> str:
    return "image was" if n == 1 else "images were"


def _top(counts: dict[str, int], most: int = 5) -> dict[str, int]:
    """The most frequent few; the others under 'other'."""
    rows = sorted(counts.items(), key=lambda kv: -kv[1])
    rest = sum(n for _, n in rows[most:])
    return dict(rows[:most]) | ({"other": rest} if rest else {})


def _count(stats: "Stats") -> str:
    return "an unrecorded number of" if stats.n is None else str(stats.n)


def _main(counts: dict[str, int]) -> str:
    return max(counts, key=counts.__getitem__) if counts else ""
