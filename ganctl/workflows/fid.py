"""`ganctl fid`: the Fréchet distance between two sets of images, stamped with everything it depends on."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, UsageError, quoted
from ganctl.io.files import cache_root
from ganctl.io.outputs import check_writable, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import MAX_SEED
from ganctl.workflows.fid_report import MODES, Side, distance, pair_stamp, pair_warnings, protocol, side_warnings, stamp
from ganctl.workflows.operands import Operand, operand, subset

if TYPE_CHECKING:
    from ganctl.load import Model
    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.features import Extractor
    from ganctl.metrics.statistics import Stats

DIMS = (64, 192, 768, 2048)
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
    """Images a model draws (the metric's number), or with no model, how many of each side are used (all)."""
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
    fail_fast: bool = False
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
    n: int
    """Images that a model draws."""

    @property
    def sides(self) -> list[Operand]:
        return [side for side in (self.real, self.fake) if side]


@dataclass
class Work:
    """One run's settings and what it found out on the way."""

    request: FidRequest
    plan: Plan
    reporter: Reporter
    extractors: list["Extractor"] = field(default_factory=list)
    models: dict[str, "Model"] = field(default_factory=dict)
    """Reference → model."""
    bad: list[str] = field(default_factory=list)
    """Unreadable images, with the reason."""
    read: int = 0

    @property
    def blocked(self) -> bool:
        """Whether unreadable images forbid a score already."""
        return bool(self.bad) and not self.request.skip_bad


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
    if request.num and all(side.kind != "model" for side in (real, fake) if side):
        real, fake = subset(real, request.num, request.seed), fake and subset(fake, request.num, request.seed)
    plan = Plan(metrics, real, fake, request.num or max(m.n for m in metrics))
    for side in plan.sides:
        _check_stats(side, request, metrics)
        if side.kind == "model" and request.seed + plan.n - 1 > MAX_SEED:
            why = f"{plan.n} images from it on need seeds beyond {MAX_SEED}"
            raise UsageError(f"cannot use --seed {request.seed}", why)
    return plan


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
    if not 0 <= request.seed <= MAX_SEED:
        raise UsageError(f"cannot use --seed {request.seed}", f"seeds are 0 to {MAX_SEED}")
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
            hint = f"make them with: ganctl fid IMAGES --metrics {metric.id} --save-stats FILE.npz"
            raise UsageError(
                f"cannot use statistics {quoted(side.ref)}", f"they are of {made}, not {metric.features}", hint
            )


def run(request: FidRequest, reporter: Reporter = SILENT) -> FidReport:
    """Scores every metric asked for.

    Raises UsageError, WeightsError (the network is not at hand, with the command to pull it), GanctlError (unreadable
    images), or PartialError when some were skipped as asked for and the scores are of the others.
    """
    warnings: list[str] = []
    reporter = _remembering(reporter, warnings)
    plan = prepare(request, reporter)
    work = Work(request, plan, reporter)
    # Weights first: a missing one is found before the hour that images may take.
    open_weights(work)
    if request.save_stats and _saved(work) and plan.fake is None:
        reporter.result({"path": request.save_stats, "status": "exists"})
        return FidReport(scores={}, saved=request.save_stats)
    real = measure(work, plan.real, real=True)
    fake = measure(work, plan.fake, real=False) if plan.fake else None
    if work.blocked:
        raise GanctlError(
            f"{len(work.bad)} of {work.read} images are unreadable",
            f"the first: {work.bad[0]}",
            "remove them, or score the others with --skip-bad",
        )
    if request.save_stats:
        _save(work, real[0], warnings, say=fake is None)
    scores = {}
    early = tuple(warnings)
    for k, metric in enumerate(plan.metrics):
        if fake and plan.fake:
            warnings[:] = early
            scores[metric.id] = _score(work, metric, Side(plan.real, real[k]), Side(plan.fake, fake[k]), warnings)
    if work.bad:
        what = f"{len(work.bad)} of {work.read} images were skipped"
        raise PartialError(what, f"the first: {work.bad[0]}", "the value is that of the others")
    return FidReport(scores=scores, saved=request.save_stats, skipped=len(work.bad))


def _remembering(reporter: Reporter, warnings: list[str]) -> Reporter:
    """A reporter whose warnings are kept for the stamp too."""

    def warn(what: str, why: str = "", hint: str = "") -> None:
        warnings.append(f"{what}: {why}" if why else what)
        reporter.warn(what, why, hint)

    return replace(reporter, warn=warn)


def open_weights(work: Work) -> None:
    """The feature networks and the models of both sides, on their device, which is looked at before any weights."""
    from ganctl.load import load, pick_device

    request, plan = work.request, work.plan
    device = pick_device(request.device)
    for side in plan.sides:
        if side.kind == "model" and side.ref not in work.models:
            from ganctl.metrics.sources import check_sampler

            work.models[side.ref] = load(side.ref, device=request.device, reporter=work.reporter)
            check_sampler(work.models[side.ref])
    if any(side.kind != "stats" for side in plan.sides):
        from ganctl.metrics.features import open_extractor

        mode, dims = request.mode or MODES[0], request.dims or DIMS[-1]
        work.extractors = [
            open_extractor(m, mode=mode, dims=dims, device=device, reporter=work.reporter) for m in plan.metrics
        ]


def measure(work: Work, side: Operand, *, real: bool) -> list["Stats"]:
    """Statistics of one side, one per metric. Empty when unreadable images forbid a score."""
    if side.stats is not None:
        return [side.stats] * len(work.plan.metrics)
    if side.kind == "model":
        return [] if work.blocked else _measure_model(work, side, "real images" if real else "fake images")
    keys = [_cache_file(work, side, k) for k in range(len(work.extractors))] if real and work.request.cache else []
    found = [stats for e, path in zip(work.extractors, keys, strict=False) if (stats := _cached(path, e))]
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
    blocked = work.blocked
    settings = {"resolution": request.resolution, "mirror": mirror, "skip_bad": request.skip_bad}
    moments = gather(
        _until_bad(side.images, watch) if request.fail_fast else side.images,
        file_work(work.extractors, watch, **settings, only_check=blocked),
        work.extractors,
        batch_size=request.batch_size,
        workers=request.workers,
        done=lambda n: work.reporter.progress(stage, n, len(side.images)),
    )
    work.read += len(side.images)
    for label, error in sorted(watch.bad, key=lambda b: b[0]):
        work.bad.append(f"{quoted(label)}: {error.why}")
        work.reporter.result({"input": label, "status": "failed", "error": error.why})
        if request.fail_fast:
            raise GanctlError("stopped at the first unreadable image", work.bad[0], "remove it, or pass --skip-bad")
    if blocked or work.blocked:
        return []
    if (left := len(side.images) - len(watch.bad)) < 2:
        why = f"{left} of its {len(side.images)} images can be read, a distance needs at least 2"
        raise UsageError(f"cannot score {quoted(side.ref)}", why)
    made = {"seen": watch.seen(), "resolution": request.resolution, "mirror": mirror}
    return [e.stats(m, **made) for e, m in zip(work.extractors, moments, strict=True)]


def _until_bad(images: Sequence[Any], watch: Any) -> Iterator[Any]:
    for image in images:
        if watch.bad:
            return
        yield image


def _measure_model(work: Work, side: Operand, stage: str) -> list["Stats"]:
    from ganctl.metrics.features import gather
    from ganctl.metrics.sources import Watch, prepared, sampled

    request, watch, n = work.request, Watch(), work.plan.n

    def prepare_one(pixels: Any) -> list:
        watch.count(pixels)
        return prepared(pixels, work.extractors, resolution=request.resolution)

    moments = gather(
        sampled(work.models[side.ref], n, request.seed, request.batch_size),
        prepare_one,
        work.extractors,
        batch_size=request.batch_size,
        workers=request.workers,
        done=lambda done: work.reporter.progress(stage, done, n),
    )
    work.read += n
    made = {"seen": watch.seen(), "resolution": request.resolution}
    return [e.stats(m, **made) for e, m in zip(work.extractors, moments, strict=True)]


def _cache_file(work: Work, side: Operand, k: int) -> Path:
    e = work.extractors[k]
    parts = [CACHE_VERSION, e.features, e.mode, e.dims, e.weights_sha256, side.digest()]
    parts += [work.request.mirror, work.request.resolution]
    return cache_root() / "stats" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.npz"


def _cached(path: Path, e: "Extractor") -> "Stats | None":
    from ganctl.metrics.statistics import check_fit, read_stats

    try:
        stats = read_stats(path)
        check_fit(stats, source=str(path), features=e.features, mode=e.mode, dims=e.dims)
    except UsageError:  # absent, or damaged: it is made again
        return None
    return stats


def _save_request(work: Work) -> dict[str, Any]:
    """What saved statistics depend on; kept inside them."""
    request, side, e = work.request, work.plan.real, work.extractors[0]
    if side.kind == "model":
        model = {"model": shown_name(side.ref), "revision": work.models[side.ref].revision}
        source = {**model, "n": work.plan.n, "seed": request.seed}
    else:
        source = {"source": side.digest()}
    return {
        "ganctl": __version__,
        "verb": "fid",
        **source,
        "features": e.features,
        "mode": e.mode,
        "dims": e.dims,
        "weights_sha256": e.weights_sha256,
        "mirror": request.mirror,
        "resolution": request.resolution,
    }


def _saved(work: Work) -> bool:
    """Whether the file is there already. Raises UsageError when it is another request's."""
    path = Path(work.request.save_stats or "")
    return status_of(path, _save_request(work), work.request.overwrite) == "exists"


def _save(work: Work, stats: "Stats", warnings: list[str], *, say: bool) -> None:
    from ganctl.metrics.statistics import write_stats

    path = Path(work.request.save_stats or "")
    status = "exists" if _saved(work) else "written"
    if status == "written":
        write_stats(path, stats, _save_request(work))
    if say:
        side_warnings(Side(work.plan.real, stats), work.reporter.warn)
        work.reporter.note(protocol(work.plan.metrics[0], stats))
        made = {"n": stats.n, "skipped": stats.seen.skipped, "warnings": list(warnings)}
        work.reporter.result({"path": str(path), "status": status, **stamp(stats), **made, "ganctl": __version__})


def _score(work: Work, metric: "Metric", real: Side, fake: Side, warnings: list[str]) -> float:
    """One distance, checked, printed and stamped."""
    value = distance(real, fake)
    pair_warnings(metric, real, fake, work.reporter.warn)
    work.reporter.note(protocol(metric, real.stats, fake.stats))
    revisions = {ref: model.revision for ref, model in work.models.items()}
    work.reporter.result(
        {
            "metric": metric.id,
            metric.id: value,
            **pair_stamp(metric, real, fake),
            "revision_real": revisions.get(real.operand.ref),
            "revision_fake": revisions.get(fake.operand.ref),
            "read": work.read,
            "used": work.read - len(work.bad),
            "skipped": len(work.bad),
            "mirror": work.request.mirror,
            "resolution": work.request.resolution,
            "seed": work.request.seed,
            "warnings": list(warnings),
            "ganctl": __version__,
        }
    )
    return value
