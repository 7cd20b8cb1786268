"""A generator beside NVIDIA's on the CPU: seconds in alternated rounds, bfloat16's effect on a picture, peak memory."""

import contextlib
import importlib
import re
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ganctl.nn.precision import computes_in, inference

CPU = torch.device("cpu")
ROUNDS = 3
PRODUCTS = (torch.conv2d, torch.conv_transpose2d, torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d)


def reference(path: str, name: str) -> Any:
    """A module of NVIDIA's `training`. It asks pkg_resources, which setuptools no longer has, to compare versions."""
    from packaging.version import parse

    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(parse_version=parse))  # type: ignore[arg-type]
    sys.path.insert(0, path)
    return importlib.import_module(f"training.{name}")


class Rounded(TorchFunctionMode):
    """bfloat16 convolutions where no instruction has them: rounded operands, sums in float32, rounded results."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            args = [a.bfloat16().float() if isinstance(a, Tensor) else a for a in args]
            return func(*args, **(kwargs or {})).bfloat16()


def picture(net: Callable[[Tensor], Tensor], z: Tensor, half: str | None = None) -> Tensor:
    """As `ganctl sample --dtype` makes it; bfloat16 also where the processor does not have it."""
    with inference(CPU, half), Rounded() if half and not computes_in(half, CPU) else contextlib.nullcontext():
        return net(z).clamp(-1, 1)


def seconds(net: Callable[[Tensor], Tensor], z: Tensor, half: str | None = None) -> float:
    # One thread's own time, whatever else the machine does.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    picture(net, z, half)
    return clock() - begun


def compare(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], latents: list[Tensor]) -> None:
    """Prints for each batch of latents what an image takes, and how many times as long NVIDIA's code takes."""
    halves = [None, "bf16"] if computes_in("bf16", CPU) else [None]
    print(f"{'batch':>5} {'dtype':<5} {'ganctl':>8} {'NVIDIA':>8}  ratio (least - most)")
    for z in latents:
        difference = float((picture(ours, z) - picture(theirs, z)).abs().max())
        assert difference < 1e-3, f"the pictures differ by {difference}"
        rounds = [[seconds(ours, z, half) for half in halves] + [seconds(theirs, z)] for _ in range(ROUNDS)]
        for i, half in enumerate(halves):
            ratios = [r[-1] / r[i] for r in rounds]
            own, other = (statistics.median(r[k] for r in rounds) / len(z) for k in (i, -1))
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            print(f"{len(z):>5} {half or 'fp32':<5} {own:6.2f} s {other:6.2f} s  {spread}")
        print(f"      largest difference of the pictures, in [-1, 1]: {difference:.1e}")
    levels = [picture(ours, latents[0], half).add(1).mul(127.5).round() for half in (None, "bf16")]
    moved = (levels[0] - levels[1]).abs()
    psnr = 10 * torch.log10(255**2 / moved.square().mean())
    print(
        f"bf16 moves a pixel by {float(moved.mean()):.2f} of 255 levels in the mean, by {int(moved.max())} at most;",
        end=" ",
    )
    print(f"PSNR {float(psnr):.1f} dB" + ("" if len(halves) == 2 else "; this processor does not have it"))


def peak() -> float:
    """Resident memory of this process at its most so far, MiB; getrusage's would have that of the parent in it."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
