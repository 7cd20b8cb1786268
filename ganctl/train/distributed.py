"""Ranks: the job that torchrun or Slurm started, and the few collectives training needs."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ganctl.errors import DeviceError, GanctlError, UsageError, quoted

WAIT = timedelta(hours=12)
"""How long ranks wait for one another: rank 0 draws and scores snapshots while the others stand still."""
MEET = timedelta(minutes=15)
"""How long they wait for all to have come."""


@contextlib.contextmanager
def job(device: torch.device, backend: str | None = None) -> Iterator[torch.device]:
    """Inside, the processes that the environment describes (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT)
    are one job; gives this rank's device.

    Alone, nothing happens. On CUDA each rank takes the card of its local rank. The backend is that of the device,
    unless one is named. An error inside knows whether another process has told one before (`echo`); a process that is
    gone becomes a sentence. Raises UsageError for an environment that lacks something, DeviceError if there is no such
    card, GanctlError when others do not come or are lost.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", _card())
        torch.cuda.set_device(device)
    store, me, size = _meet()
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    try:
        dist.init_process_group(backend, store=PrefixStore("ranks", store), rank=me, world_size=size, timeout=WAIT)
        yield device
    except GanctlError as e:
        e.echo = not _first(store)
        raise
    except RuntimeError as e:
        echo = not _first(store)
        if not (isinstance(e, dist.DistError) or any(name in str(e) for name in ("gloo", "Gloo", "NCCL"))):
            raise
        lost = _lost(me, size)
        lost.echo = echo
        raise lost from e
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _card() -> int:
    """The number of this rank's GPU. Raises DeviceError."""
    count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    # Slurm's --gpus-per-task shows each task its own card alone.
    if count == 1 and "SLURM_LOCALID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    if local >= count:
        raise DeviceError(f"cannot use {local + 1} GPUs", f"there are {count}")
    return local


def _meet() -> tuple[Store, int, int]:
    """Where the job's processes tell each other who they are, this one's rank, and how many there are."""
    size, where = (os.environ.get(name, "") for name in ("WORLD_SIZE", "MASTER_ADDR"))
    hint = "start one for each GPU: ganctl train --gpus N, torchrun, or srun"
    try:
        store, me, count = next(rendezvous("env://", timeout=MEET))
    except ValueError as e:
        raise UsageError(f"cannot join a job of {quoted(size)} processes", str(e).removesuffix("."), hint) from e
    except dist.DistError as e:
        why = f"they did not all come to {quoted(where)} within {round(MEET.total_seconds() / 60)} minutes"
        raise GanctlError(f"cannot join a job of {quoted(size)} processes", why, hint) from e
    store.set_timeout(WAIT)
    # torchrun keeps one store over all its attempts, with the addresses of processes that are gone.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {count}"
    return PrefixStore(f"attempt {attempt}", store), me, count


def _first(store: Store) -> bool:
    """Whether no other process of the job has told of an error; nor has one where nobody can be asked."""
    try:
        return store.add("errors", 1) == 1
    except RuntimeError:
        return True


def _lost(me: int, size: int) -> GanctlError:
    restarts = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    done, most = (int(n) if n.isdigit() else 0 for n in restarts)
    again = "torchrun starts it again" if done < most else "run the same command again"
    what = f"process {me} lost another of the {size} processes"
    why = "one of them was killed, ran out of memory or lost its network"
    return GanctlError(what, why, f"{again}: it goes on from what was saved last")


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
