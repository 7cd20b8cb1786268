"""The measuring in `ganctl fid`: from two operands to what is kept of each under each network."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.errors import GanctlError, UsageError, quoted
from ganctl.io.files import cache_root
from ganctl.io.progress import Reporter
from ganctl.workflows.operands import Operand
from ganctl.workflows.styles import Style, pick_classes

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ganctl.load import Model
    from ganctl.metrics.blocks import Block
    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.features import Extractor
    from ganctl.metrics.statistics import Stats
    from ganctl.nn.features.lpips import LPIPS
    from ganctl.workflows.fid import FidRequest

CACHE_VERSION = 2
MODES = ("legacy_tensorflow", "legacy_pytorch", "clean")
DIMS = (64, 192, 768, 2048)


@dataclass(frozen=True)
class Plan:
    metrics: "list[Metric]"
    real: Operand | None
    """None where every metric looks at generated images alone."""
    fake: Operand | None
    """None only where statistics are saved and nothing is compared."""
    n: int
    """Images that a model draws."""

    @property
    def sides(self) -> list[Operand]:
        return [side for side in (self.real, self.fake) if side]

    @property
    def networks(self) -> list[str]:
        """The zoo entries whose features are taken."""
        return list(dict.fromkeys(m.features for m in self.metrics if not m.sampler_only))

    def keeps(self, network: str) -> bool:
        """Whether a metric needs every feature of that network."""
        return any(m.keeps_features and m.features == network for m in self.metrics)


@dataclass(frozen=True)
class Measured:
    """One side under one network."""

    stats: "Stats"
    positions: "np.ndarray | None" = None
    """Which image each row of stats.feats is of; None where every image was read: then the rows are theirs in turn."""
    inception_score: tuple[float, float] | None = None


@dataclass
class Work:
    """One run's settings and what it found out on the way."""

    request: "FidRequest"
    plan: Plan
    reporter: Reporter
    device: "torch.device"
    extractors: "dict[str, Extractor]" = field(default_factory=dict)
    """Network → extractor."""
    lpips: "tuple[LPIPS, str] | None" = None
    """With the digest of its weights; for path lengths."""
    equivariance: dict[str, float] = field(default_factory=dict)
    """Kind → dB, once it is measured."""
    models: "dict[str, Model]" = field(default_factory=dict)
    """Reference → model."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """How models draw: the truncation and classes of `sampled`."""
    bad: list[str] = field(default_factory=list)
    """Unreadable images, with the reason."""
    read: int = 0
    blocked: bool = False
    """Whether unreadable images forbid a score already; the same in every process of a job."""
    stopped: bool = False
    """Whether the first of them ends the run."""
    spent: list[Path] = field(default_factory=list)
    """Blocks on the disk that are of no use once the scores are there."""


def open_weights(work: Work) -> None:
    """The models of both sides and the feature networks: a missing one is found before the hour that images may take.

    Raises UsageError (no sampler, one whose pictures cannot be moved), WeightsError.
    """
    from ganctl.load import load
    from ganctl.metrics.features import open_extractor
    from ganctl.nn.precision import computes_in

    request, plan = work.request, work.plan
    for side in plan.sides:
        if side.kind == "model" and side.ref not in work.models:
            from ganctl.metrics.sources import check_sampler

            work.models[side.ref] = load(side.ref, device=str(work.device), reporter=work.reporter)
            check_sampler(work.models[side.ref])
            work.drawn = _drawn(request, work.models[side.ref])
    _check_moves(plan, work.models)
    if any(m.kind == "ppl" for m in plan.metrics):
        from ganctl.metrics.perceptual import open_lpips

        work.lpips = open_lpips("vgg", device=work.device, reporter=work.reporter)
    if any(side.kind != "stats" for side in plan.sides) or any(m.kind == "is" for m in plan.metrics):
        settings = {"mode": request.mode or MODES[0], "dims": request.dims or DIMS[-1], "device": work.device}
        dtype = "fp32" if request.dtype == "auto" else request.dtype
        if dtype == "bf16" and plan.networks and not computes_in(dtype, work.device):
            why = "this processor has no bfloat16 arithmetic, and would take many times as long as in fp32"
            raise UsageError("cannot use --dtype bf16", why, "leave it out")
        for network in plan.networks:
            work.extractors[network] = open_extractor(network, **settings, dtype=dtype, reporter=work.reporter)


def _check_moves(plan: Plan, models: "dict[str, Model]") -> None:
    moved = next((m.id for m in plan.metrics if m.moves), None)
    if moved is None or plan.fake is None:
        return
    from ganctl.metrics.equivariance import check_moves

    try:
        check_moves(models[plan.fake.ref].net)
    except ValueError as e:
        raise UsageError(f"cannot take {moved} of {quoted(plan.fake.ref)}", str(e)) from e


def _drawn(request: "FidRequest", model: "Model") -> dict[str, Any]:
    """Raises UsageError for --trunc of a model without W, and --class of one without classes."""
    Style(request.trunc).drawing(model)
    options = {"psi": request.trunc, "classes": pick_classes(request.classes, model)}
    return {name: value for name, value in options.items() if value is not None}


def measure(work: Work, side: Operand, *, real: bool) -> dict[str, Measured]:
    """One side under every network. Empty when unreadable images forbid a score, and in all but the first process."""
    from ganctl.train import distributed

    if side.stats is not None:
        return {network: _from_file(work, side.stats, network, real) for network in work.plan.networks}
    if side.kind == "model" and work.blocked:
        return {}
    keys = {n: _stats_file(work, side, n) for n in work.extractors} if real and work.request.cache else {}
    found = {} if distributed.rank() else {n: s for n, path in keys.items() if (s := _cached(work, path, n))}
    if keys and distributed.told(len(found) == len(keys)):
        work.read += len(side.images) or work.plan.n
        return {n: Measured(stats) for n, stats in found.items()}
    made = _made(work, side, real=real)
    if keys and distributed.told(all(_remembered(made, network, path) for network, path in keys.items())):
        forget(work)
    return made


def _remembered(made: dict[str, Measured], network: str, path: Path) -> bool:
    """Whether a side's statistics are in the cache now. A cache that cannot be written costs time, nothing else."""
    from ganctl.metrics.statistics import write_stats

    if network not in made or made[network].stats.seen.skipped:
        return False
    try:
        write_stats(path, made[network].stats)
    except GanctlError:
        return False
    return True


def forget(work: Work) -> None:
    """Blocks have served once what is made of them is safe."""
    for path in work.spent:
        path.unlink(missing_ok=True)
    work.spent.clear()


def _from_file(work: Work, stats: "Stats", network: str, real: bool) -> Measured:
    from ganctl.metrics.inception_score import inception_score

    wanted = not real and any(m.kind == "is" and m.features == network for m in work.plan.metrics)
    if not wanted or stats.feats is None:
        return Measured(stats)
    import torch

    logits = work.extractors[network].logits
    assert logits is not None
    try:
        return Measured(stats, inception_score=inception_score(logits(torch.from_numpy(stats.feats)).numpy()))
    except ValueError as e:
        raise UsageError("cannot take the Inception Score", str(e)) from e


def _made(work: Work, side: Operand, *, real: bool) -> dict[str, Measured]:
    """Measures a side, this process its share of the blocks; the first one puts all of them together, in order."""
    from ganctl.train import distributed

    total = len(side.images) or work.plan.n
    sinks = None if distributed.rank() else Sinks(work, total, real)
    for block in _shared(work, _blocks(work, side, total, real=real), total):
        if sinks:
            sinks.add(block)
    work.read += total
    bad = sorted(sinks.bad) if sinks else []
    for label, why in bad:
        work.bad.append(f"{quoted(label)}: {why}")
        work.reporter.result({"input": label, "status": "failed", "error": why})
        if work.request.fail_fast:
            break
    work.stopped = distributed.told(bool(bad) and work.request.fail_fast)
    work.blocked = distributed.told(work.blocked or work.stopped or (bool(bad) and not work.request.skip_bad))
    if work.blocked or not sinks:
        return {}
    if (left := total - len(bad)) < 2:
        why = f"{left} of its {total} images can be read, a distance needs at least 2"
        raise UsageError(f"cannot score {quoted(side.ref)}", why)
    return sinks.measured(mirror=work.request.mirror and real)


def _blocks(work: Work, side: Operand, total: int, *, real: bool) -> "Iterator[Block]":
    """This process's share of a side's blocks: those an interrupted run left behind, and the others measured."""
    from ganctl.metrics.blocks import extract, read_block, split, write_block
    from ganctl.metrics.sources import looker, sampled
    from ganctl.train import distributed

    request, extractors = work.request, [] if work.blocked else list(work.extractors.values())
    mirror, world = request.mirror and real, distributed.world()
    mine = split(total)[distributed.rank() :: world]
    cache = request.cache and not work.blocked and bool(extractors)
    paths = {block: _block_file(work, side, block, mirror) for block in mine} if cache else {}
    kept = {block for block, path in paths.items() if path.exists()}
    if kept:
        work.reporter.note(f"{sum(map(len, kept)) * world} of {total} images were measured by an earlier run")
    model, seed = work.models.get(side.ref), request.seed

    def items(block: range) -> Any:
        if model is None:
            return side.images[block.start : block.stop]
        return sampled(model, range(seed + block.start, seed + block.stop), **work.drawn)

    before, stage = sum(map(len, kept)), "real images" if real else "fake images"
    settings = {"batch_size": request.batch_size, "workers": request.workers, "skip_bad": request.skip_bad}

    def run(todo: Sequence[range]) -> "Iterator[Block]":
        return extract(
            todo,
            items,
            looker(extractors, resolution=request.resolution, mirror=mirror),
            extractors,
            **settings,
            fail_fast=request.fail_fast,
            done=lambda n: work.reporter.progress(stage, min((before + n) * world, total), total),
        )

    fresh = run([block for block in mine if block not in kept])
    for positions in mine:
        block = read_block(paths[positions], extractors) if positions in kept else None
        if block is None:
            block = next(run([positions]) if positions in kept else fresh, None)
            if block is None:  # it stopped at an unreadable image
                return
            if positions in paths and not block.bad and len(block.positions):
                with contextlib.suppress(GanctlError):  # a cache that cannot be written costs time, nothing else
                    write_block(paths[positions], block)
        work.spent += [paths[positions]] if positions in paths else []
        yield block


def _shared(work: Work, blocks: "Iterator[Block]", total: int) -> "Iterator[Block]":
    """The blocks of all processes, in order, in the first process; in the others their own ones leave, none arrives."""
    from ganctl.metrics.blocks import BLOCK
    from ganctl.train import distributed

    if distributed.world() == 1:
        yield from blocks
        return
    rounds = -(-total // (BLOCK * distributed.world()))
    for _ in range(rounds):
        gathered = distributed.gather(next(blocks, None))
        yield from (block for block in gathered if block is not None)


class Sinks:
    """What is kept of a side as its blocks pass by: moments, features where a metric needs them, class evidence."""

    def __init__(self, work: Work, total: int, real: bool) -> None:
        from ganctl.metrics.statistics import Moments

        self.work, self.total = work, total
        self.keep = {n: work.plan.keeps(n) or bool(work.request.report) for n in work.extractors}
        self.moments = {n: Moments(e.dims) for n, e in work.extractors.items()}
        self.feats: dict[str, list[Any]] = {n: [] for n in work.extractors}
        self.splits: dict[str, Any] = {}
        self.scored = [] if real else [m.features for m in work.plan.metrics if m.kind == "is"]
        self.positions: list[Any] = []
        self.digests: list[Any] = []
        self.seen: list[Any] = []
        self.bad: list[tuple[str, str]] = []

    def add(self, block: "Block") -> None:
        self.seen.append(block.seen)
        self.bad += block.bad
        if self.work.blocked or (self.bad and not self.work.request.skip_bad):
            return
        self.positions.append(block.positions)
        self.digests.append(block.digests)
        for network, rows in zip(self.work.extractors, block.features, strict=True):
            self.moments[network].add(rows)
            if self.keep[network]:
                self.feats[network].append(rows)
            if network in self.scored:
                self._add_evidence(network, rows, block.positions)

    def _add_evidence(self, network: str, rows: "np.ndarray", positions: "np.ndarray") -> None:
        import torch

        from ganctl.metrics.inception_score import ScoreSplits

        read = self.work.extractors[network].logits
        assert read is not None
        logits = read(torch.from_numpy(rows)).numpy()
        try:
            if network not in self.splits:
                self.splits[network] = ScoreSplits(self.total, classes=logits.shape[1])
            self.splits[network].add(logits, positions)
        except ValueError as e:
            raise UsageError("cannot take the Inception Score", str(e)) from e

    def measured(self, *, mirror: bool) -> dict[str, Measured]:
        import numpy as np

        from ganctl.metrics.blocks import merged

        made = {
            "seen": merged(self.seen),
            "digests": np.concatenate(self.digests),
            "resolution": self.work.request.resolution,
            "mirror": mirror,
        }
        positions = np.concatenate(self.positions)
        found = {}
        for network, extractor in self.work.extractors.items():
            stats = self.moments[network].stats(**extractor.protocol, **made)
            if self.keep[network]:
                stats = replace(stats, feats=np.concatenate(self.feats[network]))
                self.feats[network].clear()
            try:
                score = self.splits[network].score() if network in self.splits else None
            except ValueError as e:
                raise UsageError("cannot take the Inception Score", str(e)) from e
            found[network] = Measured(stats, positions if self.keep[network] else None, score)
        return found


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts]).encode()).hexdigest()


def _protocols(extractors: "Sequence[Extractor]") -> list[Any]:
    return [[*e.protocol.values(), e.dims] for e in extractors]


def _block_file(work: Work, side: Operand, block: range, mirror: bool) -> Path:
    """Named by its images and the protocols: another block's images may change without touching it."""
    model = work.models.get(side.ref)
    seed = work.request.seed
    rows = [model.revision, seed + block.start, seed + block.stop, *work.drawn.items()] if model else side.rows(block)
    parts = _protocols(list(work.extractors.values())), rows, mirror, work.request.resolution
    return cache_root() / "features" / f"{_digest(*parts)}.npz"


def _stats_file(work: Work, side: Operand, network: str) -> Path:
    request, model = work.request, work.models.get(side.ref)
    rows = [model.revision, request.seed, work.plan.n, *work.drawn.items()] if model else side.digest()
    parts = _protocols([work.extractors[network]]), rows, request.mirror, request.resolution
    return cache_root() / "stats" / f"{_digest(*parts)}.npz"


def _cached(work: Work, path: Path, network: str) -> "Stats | None":
    from ganctl.metrics.statistics import check_fit, read_stats

    e = work.extractors[network]
    try:
        stats = read_stats(path)
        check_fit(stats, source=str(path), features=e.features, mode=e.mode, dims=e.dims, dtype=e.dtype)
    except UsageError:  # absent, or damaged: it is made again
        return None
    needed = work.plan.keeps(network) or bool(work.request.report)
    return None if needed and stats.feats is None else stats
