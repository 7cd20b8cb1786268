"""`ganctl fid`: scores of images, each stamped with everything it depends on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, UsageError, quoted
from ganctl.io.outputs import check_writable, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import MAX_SEED
from ganctl.workflows.fid_measure import DIMS, MODES, Measured, Plan, Work, forget, measure, open_weights
from ganctl.workflows.fid_report import (
    Side,
    check_pair,
    few_warning,
    one_stamp,
    pair_stamp,
    pair_warnings,
    protocol,
    side_warnings,
)
from ganctl.workflows.fid_sampler import ask, how
from ganctl.workflows.operands import Operand, operand, subset
from ganctl.workflows.styles import Style

if TYPE_CHECKING:
    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.score import Score
    from ganctl.metrics.statistics import Stats


@config
class FidRequest:
    real: str
    fake: str | None = None
    """None with save_stats, or where every metric looks at one side alone, which `real` is then."""
    metrics: str = "fid"
    mode: Literal["legacy_tensorflow", "legacy_pytorch", "clean"] | None = None
    """Inception's protocol; None is legacy_tensorflow."""
    num: int | None = None
    """Images a model draws (the metric's number), or with no model, how many of each side are used (all)."""
    seed: int = 0
    classes: str | None = None
    """Of a conditional model: its images are of these classes, drawn by the seeds; None: of all."""
    trunc: float | None = None
    """Truncation ψ of a style-based model's images; None: 1.0, whatever its card says."""
    mirror: bool = False
    """Each real image counts a second time, mirrored."""
    resolution: int | None = None
    """Every image is cropped and resized to N x N first."""
    batch_size: int = 64
    workers: int = 4
    dims: int | None = None
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    save_stats: str | None = None
    report: str | None = None
    """A page with the scores and the pictures behind them."""
    cache: bool = True
    skip_bad: bool = False
    fail_fast: bool = False
    device: str = "auto"
    dtype: str = "auto"
    """Number format of Inception: auto, fp32, fp16 or bf16; auto is fp32."""
    overwrite: bool = False

    @property
    def drawn(self) -> dict[str, Any]:
        """How a model draws, as records have it; what is not given is left out."""
        given = {"class": self.classes, "trunc": self.trunc}
        return {name: value for name, value in given.items() if value is not None}


@config
class FidReport:
    scores: dict[str, float]
    """Name → value."""
    saved: str | None = None
    report: str | None = None
    skipped: int = 0


def prepare(request: FidRequest, reporter: Reporter = SILENT) -> Plan:
    """The cheap checks: options, paths, statistics files. Raises UsageError."""
    from ganctl.metrics.catalog import METRICS, parse_metrics

    metrics = parse_metrics(request.metrics)
    if any(m.training for m in metrics):
        fixed = next(m for m in metrics if m.training)
        free = (m for m in METRICS.values() if not m.training)
        same = next(m.id for m in free if (m.kind, m.features) == (fixed.kind, fixed.features))
        why = "that id fixes a protocol of training"
        raise UsageError(f"cannot use --metrics {fixed.id}", why, f"pass --metrics {same} -n {fixed.n}")
    _check_options(request, metrics)
    real, fake = _operands(request, metrics, reporter)
    if request.num and all(side.kind != "model" for side in (real, fake) if side):
        real, fake = real and subset(real, request.num, request.seed), fake and subset(fake, request.num, request.seed)
    plan = Plan(metrics, real, fake, request.num or max(m.n for m in metrics))
    if request.mirror and (not real or real.kind != "images"):
        raise UsageError("cannot use --mirror", f"{quoted(request.real)} is no folder or archive of real images")
    if request.save_stats:
        if not real or real.kind == "stats":
            why = f"{quoted(real.ref)} holds statistics already" if real else "no metric looks at real images"
            raise UsageError("cannot use --save-stats", why)
        check_writable(Path(request.save_stats))
    if request.report:
        check_writable(Path(request.report))
    _check_drawn(request, plan)
    for name in (m.id for m in metrics if m.sampler_only):
        if not fake or fake.kind != "model":
            raise UsageError(f"cannot use --metrics {name}", "it asks a generator, not images", "pass a model as FAKE")
    for side in plan.sides:
        _check_stats(side, request, plan)
        if side.kind == "model" and request.seed + plan.n - 1 > MAX_SEED:
            why = f"{plan.n} images from it on need seeds beyond {MAX_SEED}"
            raise UsageError(f"cannot use --seed {request.seed}", why)
    return plan


def _check_drawn(request: FidRequest, plan: Plan) -> None:
    Style(request.trunc).check()
    for option in request.drawn:
        if all(side.kind != "model" for side in plan.sides):
            raise UsageError(f"cannot use --{option}", "it is about the images a model draws, and no side is a model")
        if name := next((m.id for m in plan.metrics if m.sampler_only), None):
            raise UsageError(f"cannot use --{option} with --metrics {name}", "it is about all that a model draws")


def _operands(
    request: FidRequest, metrics: "Sequence[Metric]", reporter: Reporter
) -> tuple[Operand | None, Operand | None]:
    """REAL and FAKE. One side alone is FAKE to a metric of generated images, and REAL to --save-stats."""
    compared = any(m.two_sided for m in metrics)
    if request.fake is None:
        one = operand(request.real, reporter)
        return (one, None) if compared or request.save_stats else (None, one)
    real = operand(request.real, reporter) if compared or request.save_stats else None
    if real is None:
        what = f"{quoted(request.real)} is not looked at"
        reporter.warn(what, f"{request.metrics} is about generated images alone", "leave it out")
    return real, operand(request.fake, reporter)


def _check_options(request: FidRequest, metrics: "Sequence[Metric]") -> None:
    limits = {
        "num": (2, 10_000_000),
        "resolution": (1, 4096),
        "batch_size": (1, 100_000),
        "workers": (0, 256),
        "kid_subsets": (1, 100_000),
        "kid_subset_size": (2, 1_000_000),
    }
    for name, (low, high) in limits.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            option = "-n" if name == "num" else f"--{name.replace('_', '-')}"
            few = (name, value < low) == ("num", True)
            why = "a distance needs at least 2 images" if few else f"{low} to {high} works"
            raise UsageError(f"cannot use {option} {value}", why)
    if not 0 <= request.seed <= MAX_SEED:
        raise UsageError(f"cannot use --seed {request.seed}", f"seeds are 0 to {MAX_SEED}")
    if request.mode not in (None, *MODES):
        raise UsageError(f"unknown mode {quoted(request.mode)}", f"known: {', '.join(MODES)}")
    if request.dims not in (None, *DIMS):
        raise UsageError(f"cannot use --dims {request.dims}", f"Inception has features of {', '.join(map(str, DIMS))}")
    _check_inception_options(request, metrics)
    if request.fake is None and not request.save_stats and any(m.two_sided for m in metrics):
        hint = "pass a second one, or keep the statistics of this one with --save-stats FILE.npz"
        raise UsageError("a distance needs two sides", "FAKE is missing", hint)
    if request.save_stats:
        if len({m.features for m in metrics if not m.sampler_only}) != 1:
            raise UsageError("cannot use --save-stats with these metrics", "a file holds statistics of one network")
        if Path(request.save_stats).suffix.lower() != ".npz":
            raise UsageError(f"cannot write statistics to {quoted(request.save_stats)}", "the name must end in .npz")
    if request.report and request.save_stats and request.fake is None:
        hint = "leave out --report, or pass FAKE"
        raise UsageError(f"cannot write a report to {quoted(request.report)}", "FAKE is missing", hint)
    if request.report and Path(request.report).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write a report to {quoted(request.report)}", "the name must end in .html")


def _check_inception_options(request: FidRequest, metrics: "Sequence[Metric]") -> None:
    half = request.dtype not in ("auto", "fp32")
    given = {"--mode": request.mode, "--dims": request.dims, f"--dtype {request.dtype}": half}
    other = next((m.id for m in metrics if not m.inception), None)
    for option, value in given.items():
        if value and other:
            raise UsageError(f"cannot use {option} with {other}", "it belongs to Inception's protocols, and so to fid")
    for metric in metrics:
        if metric.kind == "is" and request.dims not in (None, DIMS[-1]):
            raise UsageError(f"cannot use --dims {request.dims} with is", "class logits come from the last features")


def _check_stats(side: Operand, request: FidRequest, plan: Plan) -> None:
    if side.stats is None:
        return
    from ganctl.metrics.statistics import check_fit

    dtype = "fp32" if request.dtype == "auto" else request.dtype
    for metric in (m for m in plan.metrics if not m.sampler_only):
        if metric.inception:
            mode, dims = request.mode or MODES[0], request.dims or DIMS[-1]
            check_fit(side.stats, source=side.ref, features=metric.features, mode=mode, dims=dims, dtype=dtype)
        elif side.stats.features != metric.features:
            made = side.stats.features or "a network they do not name"
            hint = f"make them with: ganctl fid IMAGES --metrics {metric.id} --save-stats FILE.npz"
            raise UsageError(
                f"cannot use statistics {quoted(side.ref)}", f"they are of {made}, not {metric.features}", hint
            )
        if side.stats.feats is None and (metric.keeps_features or (metric.kind == "is" and side is plan.fake)):
            hint = f"make them again with: ganctl fid IMAGES --metrics {metric.id} --save-stats FILE.npz"
            raise UsageError(
                f"cannot take {metric.id} of statistics {quoted(side.ref)}",
                "they are moments alone, and it needs the features",
                hint,
            )


def run(request: FidRequest, reporter: Reporter = SILENT) -> FidReport:
    """Scores every metric asked for; in a job of several processes, each reads its share of the images.

    Raises UsageError, WeightsError (the network is not at hand, with the command to pull it), GanctlError (unreadable
    images), or PartialError when some were skipped as asked for and the scores are of the others.
    """
    from ganctl.load import pick_device
    from ganctl.train import distributed

    warnings: list[str] = []
    reporter = _remembering(reporter, warnings)
    plan = prepare(request, reporter)
    # Looked at before any weights.
    with distributed.job(pick_device(request.device), "gloo") as device:
        work = Work(request, plan, reporter, device)
        report = _run(work, warnings)
    forget(work)
    if work.bad:
        what = f"{len(work.bad)} of {work.read} images were skipped"
        raise PartialError(what, f"the first: {work.bad[0]}", "the value is that of the others")
    return report


def _run(work: Work, warnings: list[str]) -> FidReport:
    from ganctl.train import distributed

    request, plan = work.request, work.plan
    open_weights(work)
    if request.report:
        from ganctl.workflows.fid_page import page_status

        page_status(work)
    if request.save_stats and distributed.told(not distributed.rank() and _saved(work)) and plan.fake is None:
        work.reporter.result({"path": request.save_stats, "status": "exists"})
        return FidReport(scores={}, saved=request.save_stats)
    real = measure(work, plan.real, real=True) if plan.real else {}
    fake = measure(work, plan.fake, real=False) if plan.fake and plan.networks and not work.stopped else {}
    if distributed.rank():  # what there is to say, the first process says
        return FidReport(scores={})
    if work.stopped:
        raise GanctlError("stopped at the first unreadable image", work.bad[0], "remove it, or pass --skip-bad")
    if work.blocked:
        what = f"{len(work.bad)} of {work.read} images are unreadable"
        raise GanctlError(what, f"the first: {work.bad[0]}", "remove them, or score the others with --skip-bad")
    if request.save_stats:
        (network,) = plan.networks
        _save(work, real[network].stats, warnings, say=plan.fake is None)
    stamps: list[dict[str, Any]] = []
    if plan.fake:
        counts = [side.stats.n for side in [*real.values(), *fake.values()]]
        few_warning(plan.metrics, counts, work.reporter.warn)
    early = tuple(warnings)
    for metric in plan.metrics if plan.fake else ():
        warnings[:] = early
        stamps += _score(work, metric, real.get(metric.features), fake.get(metric.features), warnings)
    if request.report:
        from ganctl.workflows.fid_page import write_page

        work.reporter.result({"path": request.report, "status": write_page(work, real, fake, stamps)})
    scores = {stamp["metric"]: stamp[stamp["metric"]] for stamp in stamps}
    return FidReport(scores=scores, saved=request.save_stats, report=request.report, skipped=len(work.bad))


def _remembering(reporter: Reporter, warnings: list[str]) -> Reporter:
    """A reporter whose warnings are kept for the stamp too."""

    def warn(what: str, why: str = "", hint: str = "") -> None:
        warnings.append(f"{what}: {why}" if why else what)
        reporter.warn(what, why, hint)

    return replace(reporter, warn=warn)


def _save_request(work: Work) -> dict[str, Any]:
    """What saved statistics depend on; kept inside them."""
    request, side = work.request, work.plan.real
    assert side is not None
    (e,) = work.extractors.values()
    if side.kind == "model":
        model = {"model": shown_name(side.ref), "revision": work.models[side.ref].revision}
        source = {**model, "n": work.plan.n, "seed": request.seed, **request.drawn}
    else:
        source = {"source": side.digest()}
    return {
        "ganctl": __version__,
        "verb": "fid",
        **source,
        **e.protocol,
        "dims": e.dims,
        "feats": work.plan.keeps(e.features),
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
        assert work.plan.real is not None
        side_warnings(Side(work.plan.real, stats), work.reporter.warn)
        work.reporter.note(protocol(work.plan.metrics[0], stats))
        made = {"n": stats.n, "skipped": stats.seen.skipped, "warnings": list(warnings)}
        work.reporter.result({"path": str(path), "status": status, **one_stamp(stats), **made, "ganctl": __version__})


def _score(
    work: Work, metric: "Metric", real: Measured | None, fake: Measured | None, warnings: list[str]
) -> list[dict[str, Any]]:
    """The numbers of one metric, checked, stamped and printed: the stamps."""
    from ganctl.metrics.score import Score

    plan, facts = work.plan, {}
    assert plan.fake is not None
    if metric.sampler_only:
        one, facts = ask(work, metric)
        found = [one]
        work.reporter.note(how(work, metric))
    else:
        assert fake is not None
        sides = Side(plan.real, real.stats) if plan.real and real else None, Side(plan.fake, fake.stats)
        if metric.two_sided:
            assert sides[0] is not None
            found = _compare(work, metric, sides[0], sides[1])
        else:
            assert fake.inception_score is not None
            found = [Score(metric.id, *fake.inception_score)]
        first = sides[0] if metric.two_sided else None
        pair_warnings(first, sides[1], work.reporter.warn)
        work.reporter.note(protocol(metric, first.stats if first else None, fake.stats))
        facts = pair_stamp(metric, first, sides[1])
    revisions = {ref: model.revision for ref, model in work.models.items()}
    run = {
        "revision_real": revisions.get(plan.real.ref) if plan.real else None,
        "revision_fake": revisions.get(plan.fake.ref),
        "read": work.read,
        "used": work.read - len(work.bad),
        "skipped": len(work.bad),
        "mirror": work.request.mirror,
        "resolution": work.request.resolution,
        "seed": work.request.seed,
        **work.request.drawn,
        "warnings": list(warnings),
        "ganctl": __version__,
    }
    stamps = []
    for score in found:
        spread = {} if score.spread is None else {"std": score.spread}
        stamps.append({"metric": score.name, score.name: score.value, **spread, **facts, **run})
        work.reporter.result(stamps[-1])
    return stamps


def _compare(work: Work, metric: "Metric", real: Side, fake: Side) -> "list[Score]":
    """Raises UsageError for sides of different protocols, or that allow no score."""
    from ganctl.metrics.score import compare

    check_pair(real, fake)
    request = work.request
    settings = {"kid_subsets": request.kid_subsets, "kid_subset_size": request.kid_subset_size}
    try:
        return compare(metric, real.stats, fake.stats, **settings)
    except ValueError as e:
        what = f"cannot compare {real.name} with {fake.name} by {metric.id}"
        raise UsageError(what, str(e)) from e
