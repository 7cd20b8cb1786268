"""Peak memory of a large photograph through ESRGAN (RRDB, x4) in tiles: the whole command, as a user runs it.

    python -m tests.benchmarks.esrgan_memory [SIDE] [TILE] [BLOCKS] [WIDTH]

A picture of SIDE x 3/4 SIDE pixels (2000) in tiles of TILE pixels (256; 0 is whole) through random weights of BLOCKS
blocks (23) and WIDTH channels (64): on a CPU that takes more than an hour. What the network holds are the maps of one
tile, the widest of them after all blocks; what the command holds beside it goes with the picture. So two short runs
bound the long one: few blocks of the true width on few tiles, and the whole picture through a narrow network.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MAKE = """
import sys
from dataclasses import asdict
from pathlib import Path
from ganctl.io.bundle import write_bundle
from ganctl.models import esrgan
blocks, width = map(int, sys.argv[1:3])
cfg = esrgan.Config(num_blocks=blocks, width=width, growth=width // 2)
states = {"G_ema": esrgan.RRDBNet(cfg).state_dict()}
write_bundle(Path(sys.argv[3]), model="esrgan", config=asdict(cfg), states=states, card={"license": "Apache-2.0"})
"""


def photograph(side: int) -> np.ndarray:
    """Noise at every scale, uint8 [3/4 side, side, 3]: a PNG of it is as large as that of a photograph."""
    random = np.random.default_rng(0)
    size, total = (side, side * 3 // 4), np.zeros((side * 3 // 4, side, 3))
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) / 4
    return total.astype(np.uint8)


def main() -> None:
    side, tile, blocks, width = (int(a) for a in [*sys.argv[1:], *["2000", "256", "23", "64"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        subprocess.run([sys.executable, "-c", MAKE, str(blocks), str(width), str(work / "net")], check=True)
        Image.fromarray(photograph(side)).save(work / "in.jpg")
        command = [
            sys.executable,
            "-m",
            "ganctl",
            "translate",
            "net",
            "in.jpg",
            "--tile",
            str(tile),
            "-o",
            "out.png",
            "-q",
        ]
        begun = time.perf_counter()
        # The largest of this process's children, of which the first only wrote the weights.
        subprocess.run(command, cwd=work, check=True)
        seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        with Image.open(work / "out.png") as out:
            size = f"{out.width}x{out.height}"
    print(f"{side} px to {size}, tiles of {tile}, {blocks} blocks of {width}: peak {peak:.0f} MiB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
