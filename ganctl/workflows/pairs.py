"""`ganctl fid --pairs`: scores of images against their originals, pair by pair, and their means."""

import math
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import DeviceError, GanctlError, PartialError, UsageError, did_you_mean, quoted
from ganctl.io.idx import IdxImage
from ganctl.io.images import BadImage, Picture, read_image, to_channels
from ganctl.io.listing import ImageRef
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import MAX_SEED
from ganctl.io.threads import ordered
from ganctl.workflows.enlarging import Enlarge, is_enlarger, open_enlarger, reduced
from ganctl.workflows.operands import Operand, operand, same

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ganctl.nn.features.lpips import LPIPS

Ref = ImageRef | IdxImage
PIXELS = ("psnr", "ssim", "ms-ssim")
"""Metrics of pixels, which may be of luma; LPIPS always sees RGB."""
LIMITS = {"num": (1, 10_000_000), "border": (0, 4096), "workers": (0, 256), "seed": (0, MAX_SEED)}
CHANNELS = {1: "grey", 3: "rgb", 4: "rgba"}
ONE_SIZE = "compare results with originals of the same size"


@config
class PairsRequest:
    real: str
    fake: str | None = None
    metrics: str = "psnr,ssim"
    channels: Literal["rgb", "y"] = "rgb"
    """What psnr, ssim and ms-ssim are of: RGB, or BT.601 luma as in super-resolution papers."""
    border: int = 0
    """Pixels shaved off at each side first."""
    num: int | None = None
    """Pairs drawn by the seed; None is all."""
    seed: int = 0
    workers: int = 4
    skip_bad: bool = False
    fail_fast: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class Pair:
    name: str
    """What both sides' names have in common."""
    real: Ref
    fake: Ref | None
    """None: made of the original by the plan's enlarger."""


@dataclass(frozen=True)
class Plan:
    metrics: list[str]
    real: Operand
    fake: Operand
    pairs: list[Pair]
    rule: str
    """How the names of both sides were matched, in words; empty where they are equal."""

    @property
    def made(self) -> bool:
        """Whether FAKE is a model of super-resolution, which makes its images of the originals."""
        return self.fake.kind == "model"


@dataclass(frozen=True)
class Outcome:
    """What became of one pair."""

    pair: Pair
    scores: dict[str, float] = field(default_factory=dict)
    """Metric → value; psnr is math.inf where both images are equal."""
    identical: bool = False
    """Whether the pixels compared are equal."""
    size: str = ""
    channels: tuple[str, str] = ("rgb", "rgb")
    notes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    faults: tuple[tuple[str, str, str], ...] = ()
    """(file or pair, reason, hint) where there is no score."""


@config
class PairsReport:
    scores: dict[str, float]
    """Metric → mean; of psnr over the pairs that differ, math.inf where none does."""
    pairs: list[Outcome]
    """Every pair that was scored, in name order."""
    skipped: int = 0


def prepare(request: PairsRequest, reporter: Reporter = SILENT) -> Plan:
    """The cheap checks: options, paths, which image belongs to which. Raises UsageError."""
    metrics = _metrics(request.metrics)
    for name, (low, high) in LIMITS.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            option = "-n" if name == "num" else f"--{name}"
            raise UsageError(f"cannot use {option} {value}", f"{low} to {high} works")
    if request.channels not in ("rgb", "y"):
        raise UsageError(f"unknown channels {quoted(request.channels)}", "known: rgb, y")
    if request.channels == "y" and not set(metrics) & set(PIXELS):
        raise UsageError(f"cannot use --channels y with {metrics[0]}", f"it belongs to {', '.join(PIXELS)}")
    if request.fake is None:
        raise UsageError("pairs need two sides", "FAKE is missing", "pass the folder of images to score second")
    real, fake = _side(request.real, reporter), _side(request.fake, reporter, enlarger=True)
    if fake.kind == "model":
        pairs, rule = [Pair(key, ref, None) for key, ref in sorted(_keyed(real, "cannot pair them").items())], ""
    else:
        pairs, rule = match(real, fake)
    if request.num is not None and request.num < len(pairs):
        chosen = random.Random(request.seed).sample(range(len(pairs)), request.num)
        pairs = [pairs[i] for i in sorted(chosen)]
    return Plan(metrics, real, fake, pairs, rule)


def _metrics(names: str) -> list[str]:
    from ganctl.metrics.catalog import METRICS, PAIRED

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = f"known: {', '.join(PAIRED)}"
    for name in wanted:
        if name in METRICS:
            raise UsageError(f"cannot use --metrics {name} with --pairs", "it compares sets of images", known)
        if name not in PAIRED:
            raise UsageError(f"unknown metric {quoted(name)}", known, did_you_mean(name, PAIRED))
    if not wanted:
        raise UsageError("cannot use --metrics ''", "no metric is named", known)
    return list(dict.fromkeys("lpips-alex" if name == "lpips" else name for name in wanted))


def _side(ref: str, reporter: Reporter, *, enlarger: bool = False) -> Operand:
    if enlarger and is_enlarger(ref):
        return Operand(ref, "model")
    side = operand(ref, reporter, least=1)
    if side.kind == "stats" or (side.kind == "model" and not enlarger):
        why = "it holds statistics, no images" if side.kind == "stats" else "it is a model"
        hint = "pass a folder, a zip, IDX images, or one image on each side"
        raise UsageError(f"cannot pair {quoted(ref)}", why, hint)
    return side


def match(real: Operand, fake: Operand) -> tuple[list[Pair], str]:
    """Every image of one side with its partner on the other, in name order, and the rule that was followed.

    Partners have the same relative path without extension, in the same case. Where no two are the same, a folder all
    names of a side begin with is left out, then an ending all of them have (`001_HR` and `001_SR_4`), if that pairs
    every image. Two single files are one pair. Raises UsageError naming images without a partner: none is left out.
    """
    if _single(real) and _single(fake):
        return [Pair(_key(real.images[0]), real.images[0], fake.images[0])], ""
    where = f"cannot pair {quoted(real.ref)} with {quoted(fake.ref)}"
    a, b = (_keyed(side, where) for side in (real, fake))
    if a.keys() == b.keys():
        return [Pair(key, a[key], b[key]) for key in sorted(a)], ""
    if not a.keys() & b.keys():
        for cut_a, cut_b, rule in _rules(a, b):
            cut = {_cut(key, *cut_a): key for key in a}, {_cut(key, *cut_b): key for key in b}
            if cut[0].keys() == cut[1].keys() and "" not in cut[0]:
                return [Pair(key, a[cut[0][key]], b[cut[1][key]]) for key in sorted(cut[0])], rule
    alone = []
    for side, mine, other in ((real, a, b), (fake, b, a)):
        if left := [mine[key].name for key in mine if key not in other]:
            alone.append(
                f"{len(left)} of {len(mine)} images of {quoted(side.ref)} have no partner, the first {quoted(left[0])}"
            )
    raise UsageError(where, "\n".join(alone), "both sides need the same names, whatever their extensions")


def _single(side: Operand) -> bool:
    """Whether a side is one image file, whose name says nothing about its partner."""
    path = Path(os.path.expanduser(side.ref))  # noqa: PTH111 (as operands.py has it)
    return len(side.images) == 1 and isinstance(side.images[0], ImageRef) and side.images[0].path == path


def _key(ref: Ref) -> str:
    return str(PurePosixPath(ref.name).with_suffix(""))


def _keyed(side: Operand, where: str) -> dict[str, Ref]:
    keyed: dict[str, Ref] = {}
    for ref in side.images:
        key = _key(ref)
        if key in keyed:
            both = f"{quoted(keyed[key].name)} and {quoted(ref.name)}"
            raise UsageError(where, f"{both} of {quoted(side.ref)} differ only in their extension", "keep one of them")
        keyed[key] = ref
    return keyed


def _rules(a: Mapping[str, Ref], b: Mapping[str, Ref]) -> Iterator[tuple[tuple[str, str], tuple[str, str], str]]:
    """What to cut off at both ends of each side's names, and how to say it."""
    heads = [_start([f"{PurePosixPath(key).parent}/" for key in keys]) for keys in (a, b)]
    heads = ["" if head == "./" else head[: head.rfind("/") + 1] for head in heads]
    tails = [_start([key[::-1] for key in keys])[::-1] for keys in (a, b)]
    # Of 080_HR and 180_HR, the 80 is part of what the sides have in common, as 080_SR and 180_SR tell.
    shared = _start(tails).rstrip("_-. ")
    tails = [tail[len(shared) :] for tail in tails]
    yield (heads[0], ""), (heads[1], ""), f"by name below {_quoted(heads)}"
    below = f" below {_quoted(heads)}" if any(heads) else ""
    yield (heads[0], tails[0]), (heads[1], tails[1]), f"by name{below} without the ending {_quoted(tails)}"


def _start(texts: Sequence[str]) -> str:
    """What all of them begin with: as much as the first and the last in order do."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))]


def _quoted(parts: Sequence[str]) -> str:
    return " and ".join(quoted(part) for part in parts if part)


def _cut(key: str, head: str, tail: str) -> str:
    return key[len(head) : len(key) - len(tail)]


def run(request: PairsRequest, reporter: Reporter = SILENT) -> PairsReport:
    """Scores every pair by every metric.

    Raises UsageError, WeightsError (LPIPS is not at hand, with the command to pull it), GanctlError (pairs without a
    score: unreadable, of two sizes, too small), or PartialError when those were skipped as asked for and the scores
    are of the others.
    """
    report, faults = measure(request, reporter)
    if report.skipped:
        what = f"{report.skipped} of {report.skipped + len(report.pairs)} pairs were skipped"
        raise PartialError(what, f"the first: {_said(faults[0])}", "the values are those of the others")
    return report


def measure(request: PairsRequest, reporter: Reporter = SILENT) -> tuple[PairsReport, list[tuple[str, str, str]]]:
    """As `run`, but gives the report where pairs were skipped too, with the reasons."""
    warnings: list[str] = []
    reporter = _remembering(reporter, warnings)
    plan = prepare(request, reporter)
    outcomes, digests = _outcomes(request, plan, reporter)
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    scored = [outcome for outcome in outcomes if not outcome.faults]
    skipped = len(outcomes) - len(scored)
    if faults and not request.skip_bad:
        hint = f"{faults[0][2]}, or score the other pairs with --skip-bad"
        raise GanctlError(
            f"{skipped} of {len(outcomes)} pairs cannot be scored", f"the first: {_said(faults[0])}", hint
        )
    if not scored:
        where = f"cannot score {quoted(plan.fake.ref)} against {quoted(plan.real.ref)}"
        raise UsageError(
            where, f"none of the {skipped} pairs can be scored, the first: {_said(faults[0])}", faults[0][2]
        )
    _warn(plan, scored, reporter.warn, luma=request.channels == "y")
    sizes = Counter(outcome.size for outcome in scored)
    common = {
        "n": len(scored),
        "identical": sum(outcome.identical for outcome in scored),
        "border": request.border,
        "real": plan.real.ref,
        "fake": plan.fake.ref,
        "pairing": plan.rule or ("made smaller by a bicubic kernel, and enlarged" if plan.made else "by name"),
        "sizes": dict(sizes.most_common(5)),
        "read": len(outcomes),
        "used": len(scored),
        "skipped": skipped,
        "seed": request.seed,
        "warnings": list(warnings),
        "ganctl": __version__,
    }
    scores = {}
    for metric in plan.metrics:
        summary = summarise(metric, [(outcome.pair.name, outcome.scores[metric]) for outcome in scored])
        scores[metric] = math.inf if summary[metric] is None else summary[metric]
        if metric in PIXELS:
            network, channels = {}, request.channels
        else:
            network, channels = {"features": metric, "weights_sha256": digests[metric]}, "rgb"
        said = "luma" if channels == "y" else "rgb"
        reporter.note(f"{metric}, {said}, border {request.border}, {_count(len(scored), 'pair')}")
        reporter.result({"metric": metric, **summary, "channels": channels, **network, **common})
    return PairsReport(scores=scores, pairs=scored, skipped=skipped), faults


def summarise(metric: str, values: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Mean, population std, min, max and the worst pair's name of one metric over (name, value) pairs.

    PSNR is infinite where both images are equal. Such pairs are left out of all four numbers, which are None (there is
    no infinity in JSON) where no other pair is left; how many there are is stamped as `identical`.
    """
    import numpy as np

    finite = [(value, name) for name, value in values if math.isfinite(value)]
    if not finite:
        return {metric: None, "std": None, "min": None, "max": None, "worst": None}
    array = np.array([value for value, _ in finite])
    # Similarities are best when high, LPIPS is a distance.
    worst = min(finite) if metric in PIXELS else max(finite)
    numbers = {metric: array.mean(), "std": array.std(), "min": array.min(), "max": array.max()}
    return {**{key: float(value) for key, value in numbers.items()}, "worst": worst[1]}


def _outcomes(request: PairsRequest, plan: Plan, reporter: Reporter) -> tuple[list[Outcome], dict[str, str]]:
    """What became of every pair, and the digests of the networks that took part."""
    nets, digests, device = {}, {}, None
    # Weights first: a missing one is found before the minutes that images may take.
    for metric in plan.metrics:
        if metric not in PIXELS:
            from ganctl.load import pick_device
            from ganctl.metrics.perceptual import open_lpips

            device = device or pick_device(request.device)
            nets[metric], digests[metric] = open_lpips(
                metric.removeprefix("lpips-"),  # type: ignore[arg-type]
                device=device,
                reporter=reporter,
            )
    enlarger = open_enlarger(plan.fake.ref, request.device, reporter) if plan.made else None
    scorer = Scorer(request, plan.metrics, nets, device, enlarger)
    outcomes: list[Outcome] = []
    # Closed on the way out, so that an error does not wait for pairs that nobody asks for any more. Images never leave
    # their thread, so no more are in memory than threads.
    with closing(ordered(scorer, plan.pairs, request.workers)) as found:
        for outcome in found:
            outcomes.append(outcome)
            for label, why, hint in outcome.faults:
                reporter.result({"input": label, "status": "failed", "error": why})
                if request.fail_fast:
                    said = _said((label, why, hint))
                    raise GanctlError("stopped at the first pair that cannot be scored", said, hint)
            reporter.progress("pairs", len(outcomes), len(plan.pairs))
    return outcomes, digests


class Scorer:
    """What a thread does with one pair. Networks compute in one thread at a time."""

    def __init__(
        self,
        request: PairsRequest,
        metrics: list[str],
        nets: "dict[str, LPIPS]",
        device: "torch.device | None",
        enlarger: tuple[int, Enlarge] | None = None,
    ) -> None:
        self.request, self.metrics, self.nets, self.device, self.enlarger = request, metrics, nets, device, enlarger
        self.blocked = False
        """Whether there will be no score: what is left is then only read, to name every image at fault."""
        self.device_free = threading.Lock()

    def __call__(self, pair: Pair) -> Outcome:
        outcome = self.outcome(pair)
        self.blocked |= bool(outcome.faults) and not self.request.skip_bad
        return outcome

    def outcome(self, pair: Pair) -> Outcome:
        pictures, faults = [], []
        for ref in filter(None, (pair.real, pair.fake)):
            try:
                idx = isinstance(ref, IdxImage)
                pictures.append(Picture(ref.pixels) if idx else read_image(ref.read(), name=ref.label))
            except BadImage as e:
                faults.append((ref.label, e.why, "remove it and its partner"))
        if faults:
            return Outcome(pair, faults=tuple(faults))
        if pair.fake is None:
            return self.made(pair, pictures[0])
        real, fake = pictures
        sizes = [f"{p.pixels.shape[1]}x{p.pixels.shape[0]}" for p in pictures]
        if sizes[0] != sizes[1]:
            return Outcome(pair, faults=((_label(pair), f"it is {sizes[1]}, its original {sizes[0]}", ONE_SIZE),))
        seen = {
            "size": sizes[0],
            "channels": tuple(CHANNELS[p.pixels.shape[2]] for p in pictures),
            "notes": (real.notes, fake.notes),
        }
        if self.blocked:
            return Outcome(pair, **seen)
        try:
            scores, identical = self.scores(to_channels(real.pixels, 3), to_channels(fake.pixels, 3))
        except ValueError as e:
            return Outcome(pair, faults=((_label(pair), str(e), "leave out the metric or the border"),))
        return Outcome(pair, scores, identical, **seen)

    def made(self, pair: Pair, original: Picture) -> Outcome:
        """What the enlarger makes of an original that was made smaller, against it."""
        assert self.enlarger
        factor, enlarge = self.enlarger
        try:
            real, low = reduced(to_channels(original.pixels, 3), factor)
            if self.blocked:
                return Outcome(pair)
            with self.device_free:
                fake = enlarge(low)
            scores, identical = self.scores(real, fake)
        except ValueError as e:
            return Outcome(pair, faults=((_label(pair), str(e), "leave it out"),))
        size, channels = f"{real.shape[1]}x{real.shape[0]}", CHANNELS[original.pixels.shape[2]]
        return Outcome(pair, scores, identical, size, (channels, "rgb"), (original.notes, ()))

    def scores(self, real: "np.ndarray", fake: "np.ndarray") -> tuple[dict[str, float], bool]:
        """Every metric of two RGB images, and whether they are equal. Raises ValueError: too small for one."""
        import numpy as np

        from ganctl.metrics.psnr import luma, psnr, shave
        from ganctl.metrics.ssim import ms_ssim, ssim

        functions: dict[str, Callable[..., float]] = {"psnr": psnr, "ssim": ssim, "ms-ssim": ms_ssim}
        real, fake = (shave(x, self.request.border) for x in (real, fake))
        x, y = (luma(real), luma(fake)) if self.request.channels == "y" else (real, fake)
        scores = {m: functions[m](x, y) if m in functions else self.lpips(m, real, fake) for m in self.metrics}
        return scores, np.array_equal(x, y)

    def lpips(self, metric: str, real: "np.ndarray", fake: "np.ndarray") -> float:
        import torch

        from ganctl.io.images import from_pixels
        from ganctl.nn.precision import inference

        device = self.device or torch.device("cpu")
        try:
            with self.device_free, inference(device):
                x, y = (from_pixels(image[None], (-1, 1)).to(device) for image in (real, fake))
                value = self.nets[metric].distance(x, y).item()
        except torch.OutOfMemoryError as e:
            size = f"{real.shape[1]}x{real.shape[0]}"
            raise DeviceError("out of memory", f"a pair of {size} does not fit on {device}", "try --device cpu") from e
        if not math.isfinite(value):
            raise ValueError(f"{metric} is not finite")
        return value


def _label(pair: Pair) -> str:
    return (pair.fake or pair.real).label


def _said(fault: tuple[str, str, str]) -> str:
    return f"{quoted(fault[0])}: {fault[1]}"


def _remembering(reporter: Reporter, warnings: list[str]) -> Reporter:
    """A reporter whose warnings are kept for the stamp too."""

    def warn(what: str, why: str = "", hint: str = "") -> None:
        warnings.append(f"{what}: {why}" if why else what)
        reporter.warn(what, why, hint)

    return replace(reporter, warn=warn)


def _warn(plan: Plan, scored: Sequence[Outcome], warn: Callable[[str, str, str], None], *, luma: bool) -> None:
    """What is odd about the sides and their pairs."""
    identical = sum(outcome.identical for outcome in scored)
    if same(plan.real, plan.fake):
        warn("REAL and FAKE are the same", f"both are {quoted(plan.real.ref)}", "every score is perfect by definition")
    elif identical:
        why = "their psnr is infinite, and its mean is that of the others" if "psnr" in plan.metrics else ""
        warn(f"{identical} of {len(scored)} pairs are identical", why, "")
    if plan.rule:
        first = scored[0].pair
        why = f"such as {quoted(first.real.name)} with {quoted((first.fake or first.real).name)}"
        warn(f"images were paired {plan.rule}", why, "")
    how = {"grey": "repeated to RGB", "rgba": "laid over white"}
    # Repeated, grey 0..255 becomes luma 16..235, and an error 1.3 dB smaller: BasicSR's way, not MATLAB's.
    hint = "programs that score grey as it is find a lower psnr" if luma else ""
    for k, side in enumerate((plan.real, plan.fake)):
        channels = Counter(outcome.channels[k] for outcome in scored)
        told = [f"{_count(n, 'image')} {how[name]}" for name, n in sorted(channels.items()) if name in how]
        if told:
            warn(f"{quoted(side.ref)} was converted to rgb", ", ".join(told), hint if channels["grey"] else "")
        notes = Counter(note for outcome in scored for note in outcome.notes[k])
        for note, n in sorted(notes.items()):
            warn(f"{quoted(side.ref)} has odd images", f"{_count(n, 'image')} read by this rule: {note}", "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
