"""`ganctl fid`: the Fréchet distance between two sets of images, stamped with everything it depends on."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, UsageError, quoted
from ganctl.io.files import cache_root
from ganctl.io.outputs import check_writable
from ganctl.io.progress import SILENT, Reporter
from ganctl.workflows.operands import Operand, operand, same, subset

if TYPE_CHECKING:
    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.features import Extractor
    from ganctl.metrics.statistics import Seen, Stats

MODES = ("legacy_tensorflow", "legacy_pytorch", "clean")
DIMS = (64, 192, 768, 2048)
MODEL_IMAGES = 50_000
FEW = 10_000
CACHE_VERSION = 1


@config
class FidRequest:
    real: str
    fake: str | None = None
    """None only with save_stats."""
    metrics: str = "fid"
    mode: Literal["legacy_tensorflow", "legacy_pytorch", "clean"] | None = None
    """Inception's protocol; None is legacy_tensorflow."""
    num: int | None = None
    """Images a model draws (50000), or with none, how many of each folder are used (all)."""
    seed: int = 0
    mirror: bool = False
    """Each real image counts a second time, mirrored."""
    resolution: int | None = None
    """Every image is cropped and resized to N x N first."""
    batch_size: int = 64
    workers: int = 4
    dims: int | None = None
    save_stats: str | None = None
    cache: bool = True
    skip_bad: bool = False
    device: str = "auto"
    overwrite: bool = False


@config
class FidReport:
    scores: dict[str, float]
    """Metric → distance."""
    saved: str | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Plan:
    metrics: list["Metric"]
    real: Operand
    fake: Operand | None


@dataclass
class Work:
    """One run's settings and what it found out on the way."""

    request: FidRequest
    metrics: list["Metric"]
    reporter: Reporter
    extractors: list["Extractor"] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    read: int = 0

    def warn(self, what: str, why: str, hint: str = "") -> None:
        self.warnings.append(f"{what}: {why}")
        self.reporter.warn(what, why, hint)


def prepare(request: FidRequest, reporter: Reporter = SILENT) -> Plan:
    """The cheap checks: options, paths, statistics files. Raises UsageError."""
    from ganctl.metrics.catalog import parse_metrics

    metrics = parse_metrics(request.metrics)
    if any(m.training for m in metrics):
        name = next(m.id for m in metrics if m.training)
        raise UsageError(
            f"cannot use --metrics {name}", "that id fixes a protocol of training", "pass --metrics fid -n N"
        )
    _check_options(request, metrics)
    real = operand(request.real, reporter)
    fake = operand(request.fake, reporter) if request.fake is not None else None
    if request.mirror and real.kind != "images":
        raise UsageError("cannot use --mirror", f"{quoted(real.ref)} is no folder or archive of images")
    if request.save_stats:
        if real.kind == "stats":
            raise UsageError("cannot use --save-stats", f"{quoted(real.ref)} holds statistics already")
        check_writable(Path(request.save_stats))
    sides = [side for side in (real, fake) if side]
    if request.num and all(side.kind != "model" for side in sides):
        real, fake = subset(real, request.num, request.seed), fake and subset(fake, request.num, request.seed)
    for side in sides:
        _check_stats(side, request, metrics)
    return Plan(metrics, real, fake)


def _check_options(request: FidRequest, metrics: Sequence["Metric"]) -> None:
    limits = {"num": (2, 10_000_000), "resolution": (1, 4096), "batch_size": (1, 100_000), "workers": (0, 256)}
    for name, (low, high) in limits.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            option = "-n" if name == "num" else f"--{name.replace('_', '-')}"
            why = (
                "a distance needs at least 2 images"
                if (name, value < low) == ("num", True)
                else f"{low} to {high} works"
            )
            raise UsageError(f"cannot use {option} {value}", why)
    if not 0 <= request.seed < 2**32:
        raise UsageError(f"cannot use --seed {request.seed}", "seeds are 0 to 4294967295")
    if request.mode not in (None, *MODES):
        raise UsageError(f"unknown mode {quoted(request.mode)}", f"known: {', '.join(MODES)}")
    if request.dims not in (None, *DIMS):
        raise UsageError(f"cannot use --dims {request.dims}", f"Inception has features of {', '.join(map(str, DIMS))}")
    if not all(m.inception for m in metrics) and (request.mode or request.dims):
        option = "--mode" if request.mode else "--dims"
        name = next(m.id for m in metrics if not m.inception)
        raise UsageError(f"cannot use {option} with {name}", "it belongs to Inception's protocols, and so to fid")
    if request.fake is None and not request.save_stats:
        hint = "pass a second one, or keep the statistics of this one with --save-stats FILE.npz"
        raise UsageError("a distance needs two sides", "FAKE is missing", hint)
    if request.save_stats:
        if len(metrics) > 1:
            raise UsageError("cannot use --save-stats with two metrics", "a file holds statistics of one network")
        if Path(request.save_stats).suffix.lower() != ".npz":
            raise UsageError(f"cannot write statistics to {quoted(request.save_stats)}", "the name must end in .npz")


def _check_stats(side: Operand, request: FidRequest, metrics: Sequence["Metric"]) -> None:
    if side.stats is None:
        return
    from ganctl.metrics.statistics import check_fit

    for metric in metrics:
        if metric.inception:
            mode, dims = request.mode or MODES[0], request.dims or DIMS[-1]
            check_fit(side.stats, source=side.ref, features=metric.features, mode=mode, dims=dims)
        elif side.stats.features != metric.features:
            made = side.stats.features or "a network they do not name"
            raise UsageError(f"cannot use statistics {quoted(side.ref)}", f"they are of {made}, not {metric.features}")


def run(request: FidRequest, reporter: Reporter = SILENT) -> FidReport:
    """Scores every metric asked for.

    Raises UsageError, WeightsError (the network is not at hand, with the command to pull it), GanctlError (unreadable
    images), or PartialError when some were skipped as asked for and the scores are of the others.
    """
    plan = prepare(request, reporter)
    work = Work(request, plan.metrics, reporter)
    if any(side.kind != "stats" for side in (plan.real, plan.fake) if side):
        work.extractors = open_extractors(request, plan.metrics, reporter)
    if request.save_stats and _saved(work, plan.real) and plan.fake is None:
        work.reporter.result({"path": request.save_stats, "status": "exists"})
        return FidReport(scores={}, saved=request.save_stats)
    real = measure(work, plan.real, real=True)
    fake = measure(work, plan.fake, real=False) if plan.fake else None
    if work.bad and not request.skip_bad:
        raise GanctlError(
            f"{len(work.bad)} of {work.read} images are unreadable",
            f"the first: {work.bad[0]}",
            "remove them, or score the others with --skip-bad",
        )
    if request.save_stats:
        _save(work, plan.real, real[0], say=fake is None)
    scores = {}
    for k, metric in enumerate(plan.metrics):
        if fake and plan.fake:
            scores[metric.id] = _score(work, metric, (plan.real, real[k]), (plan.fake, fake[k]))
    if work.bad:
        what = f"{len(work.bad)} of {work.read} images were skipped"
        raise PartialError(what, f"the first: {work.bad[0]}", "the value is that of the others")
    return FidReport(scores=scores, saved=request.save_stats)


def open_extractors(request: FidRequest, metrics: Sequence["Metric"], reporter: Reporter) -> list["Extractor"]:
    """One network per metric, on its device. The device is looked at first: it is the cheaper to miss."""
    from ganctl.load import pick_device
    from ganctl.metrics.features import open_extractor

    device = pick_device(request.device)
    mode, dims = request.mode or MODES[0], request.dims or DIMS[-1]
    return [open_extractor(m, mode=mode, dims=dims, device=device, reporter=reporter) for m in metrics]


def measure(work: Work, side: Operand, *, real: bool) -> list["Stats"]:
    """Statistics of one side, one per metric. Empty when unreadable images forbid a score."""
    if side.stats is not None:
        return [side.stats] * len(work.metrics)
    if side.kind == "model":
        return _measure_model(work, side, "real images" if real else "fake images")
    keys = [_cache_file(work, side, k) for k in range(len(work.extractors))] if real and work.request.cache else []
    kept = [_cached(path) for path in keys]
    found = [stats for stats in kept if stats is not None]
    if keys and len(found) == len(keys):
        work.read += len(side.images)
        return found
    made = _measure_files(work, side, real=real)
    for path, stats in zip(keys, made, strict=False):
        if not stats.seen.skipped:
            from ganctl.metrics.statistics import write_stats

            with contextlib.suppress(GanctlError):  # a cache that cannot be written costs time, nothing else
                write_stats(path, stats)
    return made


def _measure_files(work: Work, side: Operand, *, real: bool) -> list["Stats"]:
    from ganctl.metrics.features import gather
    from ganctl.metrics.sources import Watch, file_work

    request, watch, stage = work.request, Watch(), "real images" if real else "fake images"
    mirror = request.mirror and real
    blocked = bool(work.bad) and not request.skip_bad
    moments = gather(
        side.images,
        file_work(
            work.extractors,
            watch,
            resolution=request.resolution,
            mirror=mirror,
            skip_bad=request.skip_bad,
            only_check=blocked,
        ),
        work.extractors,
        batch_size=request.batch_size,
        workers=request.workers,
        done=lambda n: work.reporter.progress(stage, n, len(side.images)),
    )
    work.read += len(side.images)
    for label, error in sorted(watch.bad, key=lambda b: b[0]):
        work.bad.append(f"{quoted(label)}: {error.why}")
        work.reporter.result({"input": label, "status": "failed", "error": error.message})
    if blocked or (watch.bad and not request.skip_bad):
        return []
    if len(side.images) - len(watch.bad) < 2:
        left = len(side.images) - len(watch.bad)
        raise UsageError(f"cannot score {quoted(side.ref)}", f"{left} of its {len(side.images)} images can be read")
    stamp = {"seen": watch.seen(), "resolution": request.resolution, "mirror": mirror}
    return [e.stats(m, **stamp) for e, m in zip(work.extractors, moments, strict=True)]


def _measure_model(work: Work, side: Operand, stage: str) -> list["Stats"]:
    from ganctl.load import load
    from ganctl.metrics.features import gather
    from ganctl.metrics.sources import Watch, prepared, sampled

    request, watch = work.request, Watch()
    n = request.num or MODEL_IMAGES
    model = load(side.ref, device=request.device, reporter=work.reporter)

    def prepare_one(pixels: Any) -> list:
        watch.count(pixels)
        return prepared(pixels, work.extractors, resolution=request.resolution)

    moments = gather(
        sampled(model, n, request.seed, request.batch_size),
        prepare_one,
        work.extractors,
        batch_size=request.batch_size,
        workers=request.workers,
        done=lambda done: work.reporter.progress(stage, done, n),
    )
    work.read += n
    stamp = {"seen": watch.seen(), "resolution": request.resolution}
    return [e.stats(m, **stamp) for e, m in zip(work.extractors, moments, strict=True)]


def _cache_file(work: Work, side: Operand, k: int) -> Path:
    e = work.extractors[k]
    parts = [CACHE_VERSION, e.features, e.mode, e.dims, e.weights_sha256, side.digest()]
    parts += [work.request.mirror, work.request.resolution]
    return cache_root() / "stats" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.npz"


def _cached(path: Path) -> "Stats | None":
    from ganctl.metrics.statistics import read_stats

    try:
        return read_stats(path)
    except UsageError:  # absent, or damaged: it is made again
        return None


def _save_request(work: Work, side: Operand) -> dict[str, Any]:
    """What saved statistics depend on; kept inside them."""
    request, e = work.request, work.extractors[0]
    drawn = {"n": request.num or MODEL_IMAGES, "seed": request.seed} if side.kind == "model" else {}
    return {
        "ganctl": __version__,
        "verb": "fid",
        "source": side.digest() if side.kind == "images" else side.ref,
        "features": e.features,
        "mode": e.mode,
        "dims": e.dims,
        "weights_sha256": e.weights_sha256,
        "mirror": request.mirror,
        "resolution": request.resolution,
        **drawn,
    }


def _saved(work: Work, side: Operand) -> bool:
    """Whether the file is there already. Raises UsageError when it is another request's."""
    from ganctl.io.outputs import status_of

    path = Path(work.request.save_stats or "")
    return status_of(path, _save_request(work, side), work.request.overwrite) == "exists"


def _save(work: Work, side: Operand, stats: "Stats", *, say: bool) -> None:
    from ganctl.metrics.statistics import write_stats

    path = Path(work.request.save_stats or "")
    exists = _saved(work, side)
    if not exists:
        write_stats(path, stats, _save_request(work, side))
    if say:
        found = _side_warnings(work, side, stats)
        status = "exists" if exists else "written"
        work.reporter.result({"path": str(path), "status": status, **_stamp(stats), "n": stats.n, "warnings": found})


def _score(work: Work, metric: "Metric", real: tuple[Operand, "Stats"], fake: tuple[Operand, "Stats"]) -> float:
    """One distance, checked, printed and stamped."""
    from ganctl.metrics.fid import frechet_distance

    (real_side, a), (fake_side, b) = real, fake
    _check_pair(real_side, a, fake_side, b)
    work.warnings.clear()
    _pair_warnings(work, metric, real, fake)
    protocol = [metric.id, metric.features, a.mode or b.mode or "protocol unrecorded", f"{a.dims} dimensions"]
    work.reporter.note(", ".join([*protocol, f"{_count(a)} real, {_count(b)} fake images"]))
    value = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    counts = {"n_real": a.n, "n_fake": b.n}
    sizes = {"real": _top(a.seen.sizes), "fake": _top(b.seen.sizes)}
    work.reporter.result(
        {
            "metric": metric.id,
            metric.id: value,
            **_stamp(a if a.features else b),
            "features": metric.features,
            **counts,
            "sizes": sizes,
            "real": real_side.ref,
            "fake": fake_side.ref,
            "read": work.read,
            "used": work.read - len(work.bad),
            "skipped": len(work.bad),
            "mirror": work.request.mirror,
            "resolution": work.request.resolution,
            "seed": work.request.seed,
            "warnings": list(work.warnings),
            "ganctl": __version__,
        }
    )
    return value


def _stamp(stats: "Stats") -> dict[str, Any]:
    return {
        "mode": stats.mode,
        "dims": stats.dims,
        "features": stats.features,
        "weights_sha256": stats.weights_sha256,
    }


def _top(counts: dict[str, int], most: int = 5) -> dict[str, int]:
    """The most frequent few; the others under 'other'."""
    rows = sorted(counts.items(), key=lambda kv: -kv[1])
    rest = sum(n for _, n in rows[most:])
    return dict(rows[:most]) | ({"other": rest} if rest else {})


def _check_pair(real: Operand, a: "Stats", fake: Operand, b: "Stats") -> None:
    """Statistics may come from files: both sides must be of one network, one protocol, one treatment."""
    facts = {"mode": "mode", "features": "network", "weights_sha256": "weights", "resolution": "--resolution"}
    for name, word in facts.items():
        values = getattr(a, name), getattr(b, name)
        recorded = None not in values or (name == "resolution" and a.mode and b.mode)
        if recorded and values[0] != values[1]:
            shown = [str(v)[:12] if v is not None else "none" for v in values]
            raise UsageError(
                f"cannot compare {quoted(real.ref)} with {quoted(fake.ref)}",
                f"their {word} differ: {shown[0]} and {shown[1]}",
                "make both with the same options",
            )
    if a.dims != b.dims:
        why = f"they have {a.dims} and {b.dims} dimensions"
        raise UsageError(f"cannot compare {quoted(real.ref)} with {quoted(fake.ref)}", why)


def _pair_warnings(work: Work, metric: "Metric", real: tuple[Operand, "Stats"], fake: tuple[Operand, "Stats"]) -> None:
    (real_side, a), (fake_side, b) = real, fake
    if same(real_side, fake_side):
        work.warn(
            "REAL and FAKE are the same", f"both are {quoted(real_side.ref)}", "the distance is zero by definition"
        )
    few = [n for n in (a.n, b.n) if n is not None and n < FEW]
    if few:
        work.warn(
            f"{metric.id} from {min(few)} images",
            f"below {FEW} the value is biased upwards, and only comparable at equal numbers",
            "published numbers use 50000",
        )
    for side, stats in (real, fake):
        _side_warnings(work, side, stats)
    formats = [max(s.seen.formats, key=s.seen.formats.__getitem__) if s.seen.formats else "" for s in (a, b)]
    if formats[0] and formats[1] and ("jpeg" in formats) and formats[0] != formats[1]:
        why = f"REAL is mostly {formats[0]}, FAKE mostly {formats[1]}; the distance sees JPEG's losses"
        work.warn("the two sides are stored differently", why, "store both without loss")
    sizes = [_main_size(s.seen) for s in (a, b)]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1] and not work.request.resolution:
        work.warn(
            "the two sides have different sizes",
            f"REAL is mostly {sizes[0]}, FAKE mostly {sizes[1]}; each is resized on its own",
            "bring both to one size with --resolution N",
        )


def _side_warnings(work: Work, side: Operand, stats: "Stats") -> list[str]:
    """What is odd about one side; the warnings so far."""
    seen, name = stats.seen, quoted(side.ref)
    if stats.features is None:
        work.warn(f"{name} records no protocol", "it is taken to match this run's network and mode")
    rule = "each is resized by the protocol, whatever its proportions"
    if stats.features and stats.mode and stats.mode not in MODES:
        rule = f"each is resized to what {stats.features} reads ({stats.mode})"
        odd = {k: n for k, n in seen.sizes.items() if k != stats.mode.rpartition("x")[0]}
        if odd and len(seen.sizes) == 1:
            work.warn(f"{name} is resized", f"its images are {next(iter(odd))}; {rule}")
    if len(seen.sizes) > 1 and not stats.resolution:
        work.warn(f"{name} has images of {len(seen.sizes)} sizes", rule, "bring them to one size with --resolution N")
    wanted = "grey" if stats.mode and stats.mode.endswith("x1") else "rgb"
    converted = {k: n for k, n in seen.channels.items() if k != wanted}
    if converted:
        how = {"grey": "repeated to RGB", "rgb": "turned to luma", "rgba": "laid over white"}
        why = ", ".join(f"{n} {k} images were {how[k]}" for k, n in sorted(converted.items()) if k in how)
        work.warn(f"{name} was converted to {wanted}", why)
    for note, n in sorted(seen.notes.items()):
        work.warn(f"{n} images of {name} are odd", note)
    return list(work.warnings)


def _count(stats: "Stats") -> str:
    return "an unrecorded number of" if stats.n is None else str(stats.n)


def _main_size(seen: "Seen") -> str:
    return max(seen.sizes, key=seen.sizes.__getitem__) if seen.sizes else ""
