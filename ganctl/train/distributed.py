"""Ranks: joining what torchrun or Slurm started, and the few collectives training needs."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ganctl.errors import DeviceError, GanctlError

WAIT = timedelta(hours=12)
"""How long ranks wait for one another: rank 0 draws and scores snapshots while the others stand still."""


def join(device: torch.device, backend: str | None = None) -> torch.device:
    """Joins the job that the environment describes (WORLD_SIZE, RANK, LOCAL_RANK); this rank's device.

    Alone, nothing happens. On CUDA each rank takes the card of its local rank. The backend is that of the device,
    unless one is named. Raises DeviceError if there is no such card.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return device
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise DeviceError(f"cannot use {local + 1} GPUs", f"there are {torch.cuda.device_count()}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group(backend or ("nccl" if device.type == "cuda" else "gloo"), timeout=WAIT)
    return device


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Around work that talks to other ranks: one that is gone becomes a sentence. Raises GanctlError."""
    try:
        yield
    except RuntimeError as e:
        lost = isinstance(e, dist.DistError) or any(name in str(e) for name in ("gloo", "Gloo", "NCCL"))
        if world() == 1 or not lost:
            raise
        what = f"process {rank()} lost another of the {world()} processes"
        why = "one of them was killed, ran out of memory or lost its network"
        hint = "run the same command again: it goes on from the newest snapshot"
        raise GanctlError(what, why, hint) from e


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank raises the flag: all ranks stop at the same step."""
    if world() == 1:
        return flag
    t = torch.tensor(float(flag), device=device)
    dist.all_reduce(t, dist.ReduceOp.MAX)
    return bool(t > 0)


def gather(value: Any) -> list[Any]:
    """One value of each rank, in order, on rank 0; nothing on the others. Needs gloo."""
    if world() == 1:
        return [value]
    found: list[Any] | None = None if rank() else [None] * world()
    dist.gather_object(value, found)
    return found or []


def told(flag: bool) -> bool:
    """Rank 0's answer, on every rank. Needs gloo."""
    if world() == 1:
        return flag
    t = torch.tensor(float(flag))
    dist.broadcast(t, 0)
    return bool(t > 0)


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over all ranks."""
    dist.all_reduce(values)
    return values / world()


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """One flat all_reduce for a phase, in place of a DDP wrapper, whose bookkeeping a penalty-only phase breaks."""
    if world() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world()
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
