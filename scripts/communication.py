"""The table of docs/scaling.md: what the ranks of a training step tell one another, for every family at its defaults.

`python scripts/communication.py` writes it anew. The numbers of bytes and of collectives are counted, not derived: one
process runs the losses, the backward passes and the exchange of gradients of every phase as rank 0 of 8, on the meta
device, where tensors have shapes and no values, and the collectives that it calls are noted instead of carried out.
Times are a model: see `seconds`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from ganctl.config import parse
from ganctl.load import family, model_names
from ganctl.models.cyclegan import Pool
from ganctl.phase import Batch, Progress
from ganctl.train.loop import State, TrainConfig, backward, judge, networks

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
TABLE = re.compile(r"(?<=<!-- communication -->\n).*?(?=<!-- /communication -->)", re.DOTALL)
RANKS = 8
LINKS = {
    "8 GPUs, NVLink": (8, 300e9, 20e-6),
    "8 GPUs, PCIe": (8, 20e9, 20e-6),
    "64 GPUs, 400 Gbit/s": (64, 50e9, 60e-6),
    "64 GPUs, 25 Gbit/s": (64, 3.125e9, 60e-6),
}
"""N, bytes a second that a ring gets through its slowest link, seconds of latency of a collective."""


@dataclass
class Traffic:
    """Of one step: collectives, the bytes reduced or gathered by them, and those of the bytes that are gradients."""

    calls: float = 0.0
    reduced: float = 0.0
    gathered: float = 0.0
    gradients: float = 0.0

    def plus(self, other: "Traffic", times: float) -> "Traffic":
        names = ("calls", "reduced", "gathered", "gradients")
        return replace(self, **{n: getattr(self, n) + times * getattr(other, n) for n in names})


def seconds(traffic: Traffic, ranks: int, bandwidth: float, latency: float) -> float:
    """calls · latency + (2 reduced + gathered) · (N - 1) / N / bandwidth: rings, nothing of it behind computation."""
    moved = (2 * traffic.reduced + traffic.gathered) * (ranks - 1) / ranks
    return traffic.calls * latency + moved / bandwidth


@contextmanager
def noted(ranks: int = RANKS, carried_out: bool = False) -> Iterator[Traffic]:
    """Collectives inside are noted; without `carried_out` this process is rank 0 of a job of which it is alone."""
    traffic, reduce, gather = Traffic(), dist.all_reduce, dist.all_gather

    def size(t: Tensor) -> int:
        traffic.calls += 1
        return t.numel() * t.element_size()

    def all_reduce(t: Tensor, *options: Any) -> None:
        traffic.reduced += size(t)
        if carried_out:
            reduce(t, *options)

    def all_gather(parts: list[Tensor], t: Tensor) -> None:
        traffic.gathered += size(t) * len(parts)
        if carried_out:
            gather(parts, t)

    with mock.patch.multiple(dist, all_reduce=all_reduce, all_gather=all_gather):
        if carried_out:
            yield traffic
            return
        alone = {"is_initialized": lambda: True, "get_world_size": lambda: ranks, "get_rank": lambda: 0}
        with mock.patch.multiple(dist, **alone):
            yield traffic


@contextmanager
def without_values() -> Iterator[None]:
    """What the meta device cannot do: autocast, even one that is off; whether two tensors are equal, which decides how
    long edges grow; and which image of CycleGAN's pool is shown."""
    with (
        mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: False),
        mock.patch.object(torch, "equal", lambda *_: True),
        mock.patch.object(Pool, "query", lambda _, new, draws: new),
    ):
        yield


class Shapes(Progress):
    """Draws without values."""

    def normal(self, n: int, *shape: int) -> Tensor:
        return torch.zeros(n, *shape, device=self.device)

    uniform = normal


def of_step(
    name: str, *, ranks: int = RANKS, n: int | None = None, carried_out: bool = False, **changes: object
) -> Traffic:
    """One step of a family, each phase as often as it runs, growing networks grown.

    With n images for each rank, or a rank's share of the family's batch; the other numbers are the defaults but for
    `changes`. `carried_out`: as a rank of a job over gloo, with values.
    """
    module, device = family(name), torch.device("cpu" if carried_out else "meta")
    cfg, train = parse(module.Config, changes, where=name), parse(TrainConfig, module.TRAIN, where=name)
    with device:
        nets = module.build(cfg)
    for net in networks(nets).values():
        net.train()
    rank = dist.get_rank() if carried_out else 0
    p = Shapes(round(train.kimg * 1000), 0, torch.Generator(), device, rank, ranks)
    state = State(nets, next(iter(networks(nets).values())), {}, p)
    batch = batch_of(cfg, n or max(1, train.batch // ranks), device)
    # That nobody asks for an end.
    found = Traffic(calls=1, reduced=4)
    for phase in module.phases(cfg):
        with noted(ranks, carried_out) as traffic, without_values():
            grads, _ = backward(state, phase, batch, train)
            judge(state, train)
        traffic.gradients = sum(g.numel() * g.element_size() for g in grads)
        found = found.plus(traffic, phase.repeat / phase.every)
    return found


def batch_of(cfg: Any, n: int, device: torch.device) -> Batch:
    side, channels = cfg.resolution, getattr(cfg, "source_channels", None)
    images = [torch.zeros(n, c, side, side, dtype=torch.uint8, device=device) for c in (channels, cfg.channels) if c]
    number = torch.zeros(n, dtype=torch.long, device=device)
    classes = number if getattr(cfg, "classes", None) else None
    y = images[1] if channels else images[0]
    return Batch(images[0], y, classes, number)


def row(name: str) -> str:
    t = of_step(name)
    other = t.reduced + t.gathered - t.gradients
    times = [f"{1e3 * seconds(t, *link):.3g}" for link in LINKS.values()]
    cells = [f"`{name}`", f"{t.calls:.4g}", megabytes(t.gradients), megabytes(other), *times]
    return f"| {' | '.join(cells)} |\n"


def megabytes(n: float) -> str:
    return f"{n / 1e6:.3g}" if n >= 1000 else "< 0.001"


def table() -> str:
    head = ["family", "collectives", "MB of gradients", "MB of the rest", *(f"ms: {name}" for name in LINKS)]
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(cells)} |\n" for cells in (head, rule)]
    return "".join([*lines, *map(row, model_names())])


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(), page), encoding="utf-8")
