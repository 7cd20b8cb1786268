"""StyleGAN3's synthesis network on the CPU: ganctl beside NVIDIA's code, as it runs there without its compiled parts.

    python -m tests.benchmarks.stylegan3 PATH [t|r] [DIVISOR] [THREADS]

PATH is a checkout of NVlabs/stylegan3. One image of 256 px in float32, the same weights in both; DIVISOR 4 takes a
quarter of the channels. Printed are seconds, the median ratio of rounds with least and largest, and the largest
difference of the images. Seconds are the processor's where there is one thread, else the clock's.
"""

import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ganctl.models import stylegan3

ROUNDS = 3


def reference(path: str) -> Any:
    """NVIDIA's network module. It asks pkg_resources, which setuptools no longer has, to compare versions."""
    from packaging.version import parse

    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(parse_version=parse))  # type: ignore[arg-type]
    sys.path.insert(0, path)
    return importlib.import_module("training.networks_stylegan3")


def timed(net: Any, w: Tensor, clock: Callable[[], float]) -> float:
    begun = clock()
    net(w)
    return clock() - begun


def main() -> None:
    path, kind = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "t"
    divisor, threads = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((3, 1), (4, 2)))
    torch.set_num_threads(threads)
    double = 2 if kind == "r" else 1
    widths = {"channel_base": 32768 * double // divisor, "channel_max": 512 * double // divisor}
    turns = {"conv_kernel": 1, "use_radial_filters": True} if kind == "r" else {}
    torch.manual_seed(0)
    theirs = reference(path).SynthesisNetwork(512, 256, 3, **widths, **turns).eval()
    config = stylegan3.Config(resolution=256, kernel=turns.get("conv_kernel", 3), radial_filters=bool(turns), **widths)
    ours = stylegan3.Synthesis(config).eval()
    ours.load_state_dict(theirs.state_dict())
    clock = time.thread_time if threads == 1 else time.perf_counter
    w = torch.randn(1, ours.layers, 512)
    with torch.inference_mode():
        difference = float((ours(w) - theirs(w)).abs().max())
        rounds = [(timed(ours, w, clock), timed(theirs, w, clock)) for _ in range(ROUNDS)]
    ratios = [other / own for own, other in rounds]
    own, other = (statistics.median(r[k] for r in rounds) for k in (0, 1))
    print(f"StyleGAN3-{kind.upper()}, 256 px, channels / {divisor}, {threads} threads, {ROUNDS} rounds")
    print(f"  ganctl {own:.2f} s   NVIDIA {other:.2f} s", end="   ")
    print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})")
    print(f"  largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
