"""CycleGAN's test script and `ganctl translate`, as a user runs them on a CPU: JPEGs of 256 px in, PNGs out.

    python -m tests.benchmarks.cyclegan PATH [FOLDER|-] [IMAGES] [ROUNDS] [THREADS]

PATH is a checkout of junyanz/pytorch-CycleGAN-and-pix2pix, which needs dominate and torchvision. Both translate the
same pictures (FOLDER's, else drawn at random) by the same random weights of a ResNet of 9 blocks, in alternated rounds
that share the IMAGES: 200 in 5, if nothing else is said. A round's time is that of the whole command. Pictures may
differ by one level of 255.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganctl.models import cyclegan

RUNNER = """
import runpy, sys
from tests.parity.peers import _torchvision
kept = _torchvision()
sys.path.insert(0, "")
runpy.run_path("test.py", run_name="__main__")
"""


def pictures(folder: str, count: int, into: Path, rounds: int) -> None:
    """`count` JPEGs of 256 px, in one folder for each round."""
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".jpg", ".jpeg")) if folder != "-" else []
    random = np.random.default_rng(0)
    for k in range(count):
        place = into / str(k * rounds // count)
        place.mkdir(exist_ok=True)
        if files:
            image = Image.open(files[k]).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
        else:
            coarse = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
        image.save(place / f"{k:03d}.jpg", quality=92)


def measured(command: list[str], folder: Path, env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds by the clock, and of all cores."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, spent


def main() -> None:
    path = Path(sys.argv[1]).resolve()
    folder, count, rounds, threads = [*sys.argv[2:], *["-", "200", "5", "2"][len(sys.argv) - 2 :]]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": paths}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        (work / "in").mkdir()
        pictures(folder, int(count), work / "in", int(rounds))
        weights = work / "checkpoints" / "bench" / "latest_net_G.pth"
        weights.parent.mkdir(parents=True)
        torch.save(cyclegan.ResNet(3, 3, cyclegan.Config()).state_dict(), weights)
        ganctl = [sys.executable, "-m", "ganctl"]
        measured([*ganctl, "convert", str(weights), "--model", "cyclegan", "-o", str(work / "net")], work, env)
        script = ["--name", "bench", "--model", "test", "--no_dropout", "--gpu_ids", "-1", "--num_test", count]
        script += ["--checkpoints_dir", str(weights.parents[1]), "--results_dir", str(work / "theirs")]
        rows = []
        for k in range(int(rounds)):
            taken = str(work / "in" / str(k))
            ours = measured([*ganctl, "translate", str(work / "net"), taken, "-o", str(work / "ours"), "-q"], work, env)
            theirs = measured([sys.executable, "-c", RUNNER, *script, "--dataroot", taken], path, env)
            rows.append((ours, theirs))
            print(
                f"round {k + 1}: ganctl {ours[0]:.1f} s, test.py {theirs[0]:.1f} s, {theirs[0] / ours[0]:.2f}",
                flush=True,
            )
        largest = 0
        for file in sorted((work / "ours").iterdir()):
            other = work / "theirs" / "bench" / "test_latest" / "images" / f"{file.stem}_fake.png"
            a, b = (np.asarray(Image.open(p)).astype(int) for p in (file, other))
            largest = max(largest, int(np.abs(a - b).max()))
    print(f"{count} pictures of 256 px, {threads} threads; largest difference {largest} of 255 levels")
    for i, what in enumerate(("by the clock", "of processor time")):
        own, other = (sum(row[who][i] for row in rows) / int(count) for who in (0, 1))
        ratios = [theirs[i] / ours[i] for ours, theirs in rows]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(f"{what}: ganctl {own:.2f} s a picture, test.py {other:.2f} s; ratio {spread}")


if __name__ == "__main__":
    main()
