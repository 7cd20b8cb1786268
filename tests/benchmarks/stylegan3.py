"""StyleGAN3's synthesis network on the CPU: ganctl beside NVIDIA's code, as it runs there without its compiled parts.

    python -m tests.benchmarks.stylegan3 PATH [t|r] [DIVISOR] [THREADS]

PATH is a checkout of NVlabs/stylegan3. Images of 256 px, the same weights in both; DIVISOR 4 takes a quarter of the
channels.
"""

import sys

import torch

from ganctl.models import stylegan3
from tests.benchmarks.beside import compare, reference


def main() -> None:
    path, kind = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "t"
    divisor, threads = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((3, 1), (4, 2)))
    torch.set_num_threads(threads)
    double = 2 if kind == "r" else 1
    widths = {"channel_base": 32768 * double // divisor, "channel_max": 512 * double // divisor}
    turns = {"conv_kernel": 1, "use_radial_filters": True} if kind == "r" else {}
    torch.manual_seed(0)
    theirs = reference(path, "networks_stylegan3").SynthesisNetwork(512, 256, 3, **widths, **turns).eval()
    config = stylegan3.Config(resolution=256, kernel=turns.get("conv_kernel", 3), radial_filters=bool(turns), **widths)
    ours = stylegan3.Synthesis(config).eval()
    ours.load_state_dict(theirs.state_dict())
    print(f"StyleGAN3-{kind.upper()}, 256 px, channels / {divisor}, {threads} threads")
    compare(ours, theirs, [torch.randn(n, ours.layers, 512) for n in ((1,) if divisor == 1 else (1, 8))])


if __name__ == "__main__":
    main()
