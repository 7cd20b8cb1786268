"""What a training run would cost, from a few of its steps, one snapshot and a few images of each score."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.io.progress import SILENT
from ganctl.workflows.recipe import Recipe
from ganctl.workflows.session import Session, memory
from ganctl.workflows.stopping import duration_text

if TYPE_CHECKING:
    import torch

    from ganctl.data import Dataset
    from ganctl.phase import Phase
    from ganctl.train.loop import State

STEPS, SECONDS = 200, 10.0
"""How often each phase is timed, at most, and for how long all of them."""
PLACES = 12
"""Of a run whose networks grow: so many moments of it, evenly spread, are timed."""
SCORED = 64
"""Images by which a score is timed."""
Stop = Callable[[], bool]


def estimate(recipe: Recipe, data: "Dataset", state: "State", stop: Stop) -> dict[str, Any]:
    """Seconds per kimg, memory and time to the end, from steps whose results are thrown away.

    The end counts snapshots, their scores and the real side of those too; a score that only a whole run of it would
    time (path lengths, equivariance) is named under `not_timed` and left out.
    """
    cfg = recipe.train
    rate = step_seconds(recipe, data, state, stop)
    first, other = snapshot_seconds(recipe, data, state, stop)
    scores, begun, left_out = score_seconds(recipe, data, state)
    snapshots = math.ceil(cfg.kimg / cfg.snap)
    whole = rate * cfg.kimg + first + (snapshots - 1) * other + begun + math.ceil(snapshots / cfg.metric_every) * scores
    return {
        "sec_per_kimg": round(rate, 3),
        "snapshot_seconds": round(other + scores, 2),
        "seconds": round(whole, 1),
        "eta": duration_text(whole),
        "kimg": cfg.kimg,
        **({"not_timed": left_out} if left_out else {}),
        **memory(state.progress.device),
    }


def step_seconds(recipe: Recipe, data: "Dataset", state: "State", stop: Stop) -> float:
    """Seconds per kimg of the loop, the mean over the run."""
    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train.distributed import any_rank
    from ganctl.train.loop import adapted, train_step

    cfg, p = recipe.train, state.progress
    stream = batches(
        data,
        recipe.data,
        size=cfg.batch,
        resolution=recipe.config.resolution,
        seed=cfg.seed,
        rank=p.rank,
        world=p.world,
    )
    phases = adapted(family(recipe.model).phases(recipe.config), cfg)
    total = round(cfg.kimg * 1000)
    places = [round(total * (i + 0.5) / PLACES) for i in range(PLACES)] if grows(recipe) else [total]
    lazy = cfg.penalty_every if cfg.penalties else 1

    def seconds(of: "list[Phase]", nimg: int, step: int = 0) -> float:
        p.nimg, p.step = nimg, step
        begun = clock(p.device)
        train_step(state, of, stream, cfg)
        return clock(p.device) - begun

    def alone(phase: "Phase", nimg: int) -> float:
        """With the run's lazy penalties as often as they are due."""
        phase = replace(phase, every=1, start=0)
        return (seconds([phase], nimg) + (seconds([phase], nimg, 1) * (lazy - 1) if lazy > 1 else 0)) / lazy

    # The first step at each size also allocates, chooses kernels and reads the data's pages.
    for nimg in places:
        seconds([replace(phase, every=1, start=0) for phase in phases], nimg)
    # Each phase apart, counted as often as it runs: a few steps would miss, or be mostly, those of every 16th.
    begun, rounds, spent = time.monotonic(), 0, 0.0
    while rounds < STEPS:
        nimg = places[rounds % len(places)]
        idle, read = seconds([], nimg), time.monotonic()
        next(stream)
        read = time.monotonic() - read
        # A phase that is timed alone reads a batch that in training it takes over from the one before.
        later = [(phase, max(0.0, 1 - phase.start / total) / phase.every) for phase in phases]
        spent += idle + read + sum((alone(phase, nimg) - idle - read) * often for phase, often in later)
        rounds += 1
        enough = rounds >= len(places) and (stop() or time.monotonic() - begun > SECONDS)
        if any_rank(enough, p.device):
            break
    images = cfg.batch * (1 + sum((phase.repeat - 1) / phase.every for phase in phases))
    return spent / rounds / images * 1000


def grows(recipe: Recipe) -> bool:
    """Whether the size of the networks' pictures depends on the images seen."""
    return hasattr(recipe.config, "stage_kimg")


def snapshot_seconds(recipe: Recipe, data: "Dataset", state: "State", stop: Stop) -> tuple[float, float]:
    """Of the first snapshot, which looks at the training data too, and of any later one; without scores.

    Written into a temporary folder. That is also where memory has its peak on a CPU.
    """
    from ganctl.train.checkpoint import Scores

    bare = replace(recipe, train=replace(recipe.train, metrics=()))
    with tempfile.TemporaryDirectory(prefix="ganctl-estimate-") as folder:
        session = Session(bare, Path(folder), state, data, Scores(), SILENT, lambda _: None, contextlib.ExitStack())
        took = []
        for _ in range(2):
            begun = clock(state.progress.device)
            session.snapshot()
            took.append(clock(state.progress.device) - begun)
            if stop():
                break
    return took[0], took[-1]


def score_seconds(recipe: Recipe, data: "Dataset", state: "State") -> tuple[float, float, list[str]]:
    """Of all scores of a snapshot, and of the real side of those, once; and the scores that are not timed.

    Raises WeightsError when a score's network is not at hand.
    """
    from ganctl.metrics import training
    from ganctl.metrics.catalog import METRICS
    from ganctl.workflows.pictures import samples, stats_path

    device, each, once, left_out = state.progress.device, 0.0, 0.0, []
    for name in recipe.train.metrics:
        metric = METRICS[name]
        n = metric.n if metric.training else recipe.train.metric_images
        if metric.kind == "ppl" or metric.moves or not metric.two_sided or not n:
            left_out.append(name)
            continue
        begun = clock(device)
        made = list(samples(state.ema, SCORED, SCORED))
        drawing = clock(device) - begun
        training.prepare(name, made, device=device)  # opens the network
        begun = clock(device)
        training.prepare(name, made, device=device)
        looking = clock(device) - begun
        each += (drawing + looking) / SCORED * n
        once += 0.0 if stats_path(name, data).is_file() else looking / SCORED * min(len(data), metric.real or len(data))
    return each, once, left_out


def clock(device: "torch.device") -> float:
    """Now, all that a GPU was given being done."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.monotonic()
