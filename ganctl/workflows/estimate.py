"""What a training run would cost, from a few of its steps."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ganctl.workflows.recipe import Recipe
from ganctl.workflows.session import memory
from ganctl.workflows.stopping import duration_text

if TYPE_CHECKING:
    from ganctl.data import Dataset
    from ganctl.train.loop import State

STEPS, SECONDS = 200, 10.0
"""Steps that are timed, at most, and for how long."""


def estimate(recipe: Recipe, data: "Dataset", state: "State", stop: Callable[[], bool]) -> dict[str, Any]:
    """Seconds per kimg, memory and time to the end, from steps whose results are thrown away."""
    import torch

    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train.distributed import any_rank
    from ganctl.train.loop import train_step

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
    phases = family(recipe.model).phases(recipe.config)
    # Networks that grow are timed as they end: no run takes longer than was said.
    p.nimg = round(cfg.kimg * 1000)
    # The first step also allocates, chooses kernels and reads the data's pages.
    train_step(state, phases, stream, cfg)
    begun, first = time.monotonic(), p.nimg
    for _ in range(STEPS):
        train_step(state, phases, stream, cfg)
        if p.device.type == "cuda":
            torch.cuda.synchronize()
        if any_rank(stop() or time.monotonic() - begun > SECONDS, p.device):
            break
    rate = (time.monotonic() - begun) / (p.nimg - first) * 1000
    seconds = rate * cfg.kimg
    return {
        "sec_per_kimg": round(rate, 3),
        "seconds": round(seconds, 1),
        "eta": duration_text(seconds),
        "kimg": cfg.kimg,
        **memory(p.device),
    }
