"""What a training run would cost, from a few of its steps."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ganctl.workflows.recipe import Recipe
from ganctl.workflows.session import memory
from ganctl.workflows.stopping import duration_text

if TYPE_CHECKING:
    from ganctl.data import Dataset
    from ganctl.phase import Phase
    from ganctl.train.loop import State

STEPS, SECONDS = 200, 10.0
"""How often each phase is timed, at most, and for how long all of them."""


def estimate(recipe: Recipe, data: "Dataset", state: "State", stop: Callable[[], bool]) -> dict[str, Any]:
    """Seconds per kimg, memory and time to the end, from steps whose results are thrown away."""
    import torch

    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train.distributed import any_rank
    from ganctl.train.loop import adapted, train_step

    cfg, p = recipe.train, state.progress
    size = recipe.config.resolution
    stream = batches(
        data,
        recipe.data,
        size=cfg.batch,
        micro=cfg.batch_gpu,
        resolution=size,
        seed=cfg.seed,
        rank=p.rank,
        world=p.world,
    )
    phases = adapted(family(recipe.model).phases(recipe.config), recipe.train)
    # Networks that grow are timed as they end: no run takes longer than was said.
    p.nimg = round(cfg.kimg * 1000)

    def seconds(of: "list[Phase]") -> float:
        begun = time.monotonic()
        train_step(state, of, stream, cfg)
        if p.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - begun

    # The first step also allocates, chooses kernels and reads the data's pages.
    seconds([replace(phase, every=1) for phase in phases])
    # Each phase apart, counted as often as it runs: a few steps would miss, or be mostly, those of every 16th.
    begun, rounds, total = time.monotonic(), 0, 0.0
    while rounds < STEPS:
        idle = seconds([])
        total += idle + sum((seconds([replace(phase, every=1, start=0)]) - idle) / phase.every for phase in phases)
        rounds += 1
        if any_rank(stop() or time.monotonic() - begun > SECONDS, p.device):
            break
    images = cfg.batch * (1 + sum((phase.repeat - 1) / phase.every for phase in phases))
    rate = total / rounds / images * 1000
    whole = rate * cfg.kimg
    return {
        "sec_per_kimg": round(rate, 3),
        "seconds": round(whole, 1),
        "eta": duration_text(whole),
        "kimg": cfg.kimg,
        **memory(p.device),
    }
