"""StyleGAN2's generator on the CPU: ganctl beside NVIDIA's code, as it runs there without its compiled parts.

    python -m tests.benchmarks.stylegan2 PATH [THREADS]

PATH is a checkout of NVlabs/stylegan3, which has StyleGAN2 too. Configuration F at 256 px with the same random weights
in both: seconds an image, alone and in batches of 8. Then the memory of one image of 1024 px in a process of its own;
`-` in place of PATH measures only that.
"""

import subprocess
import sys

import torch
from torch import Tensor

from ganctl.models import stylegan2
from tests.benchmarks.beside import CPU, compare, computes_in, peak, picture, reference


def pair(path: str) -> tuple[stylegan2.Generator, torch.nn.Module]:
    """ganctl's and NVIDIA's generator, of the same weights; noise is heard, and nothing is where it began."""
    theirs = reference(path, "networks_stylegan2").Generator(512, 0, 512, 256, 3).eval()
    for name, p in theirs.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            p.data.add_(torch.randn_like(p) / 10)
        if name.endswith(("torgb.weight", "torgb.bias")):
            p.data.div_(6)  # the picture stays within its range
    found = stylegan2.from_upstream(theirs.state_dict())
    assert found is not None
    ours = stylegan2.Generator(stylegan2.Config(**{**found[0], "clamp": 256.0})).eval()
    ours.load_state_dict(found[1]["G"])
    return ours, theirs


def memory(half: str) -> None:
    torch.manual_seed(0)
    net = stylegan2.Generator(stylegan2.Config()).eval()
    before = peak()
    picture(net.sample, torch.randn(1, 512), None if half == "fp32" else half)
    print(f"1024 px, {half}: {peak():.0f} MiB, of which {before:.0f} before the picture")


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2
    if path in ("fp32", "bf16"):
        memory(path)
        return
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if path != "-":
        ours, theirs = pair(path)
        print(f"StyleGAN2, 256 px, {threads} threads")

        def reference_picture(z: Tensor) -> Tensor:
            return theirs(z, None, noise_mode="const")

        compare(ours.sample, reference_picture, [torch.randn(n, 512) for n in (1, 8)])
    for half in ("fp32", "bf16") if computes_in("bf16", CPU) else ("fp32",):
        subprocess.run([sys.executable, "-m", "tests.benchmarks.stylegan2", half], check=True)


if __name__ == "__main__":
    main()
