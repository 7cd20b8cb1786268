"""Images a second on their way into training, against decoding them and nothing else.

    python -m tests.benchmarks.loader [--images 2000] [--side 256] [--threads 2]

Three rates over the same JPEGs, in turns so that a busy machine is busy for all of them: decoding alone (Pillow, `RGB`,
a pool of threads); a first run's decoding into the cache, with checks, crop and resize; and batches of a second run,
from the cache. The ratios to the first are what is promised: 0.8 for the second, more for the third. Those of processor
time are the same where other programs keep the machine busy; they leave out the time that the disk takes.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ganctl.data import DataConfig, Dataset, open_dataset
from ganctl.data.loader import batches

ROUNDS, BATCH = 3, 64


def jpegs(folder: Path, n: int, side: int) -> list[Path]:
    """Photographs' worth of detail: smooth shapes with a little noise, no two alike."""
    rng = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        x = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(x + rng.normal(0, 6, x.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:05d}.jpg", quality=90)
    return sorted(folder.iterdir())


def decoded(path: Path) -> int:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        seconds.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))

    with tempfile.TemporaryDirectory() as work:
        os.environ["GANCTL_CACHE"] = f"{work}/cache"
        folder = Path(work) / "jpegs"
        folder.mkdir()
        paths = jpegs(folder, args.images, args.side)
        cfg = DataConfig(path=str(folder), mirror=True)

        def alone() -> None:
            with ThreadPoolExecutor(args.threads) as pool:
                sum(pool.map(decoded, paths))

        def opened() -> Dataset:
            return open_dataset(cfg, resolution=args.side, channels=3, workers=args.threads)

        def epoch() -> None:
            stream = batches(opened(), cfg, size=BATCH, resolution=args.side, seed=0)
            for _ in itertools.islice(stream, args.images // BATCH):
                pass
            stream.close()  # type: ignore[attr-defined]

        for _ in range(ROUNDS):
            shutil.rmtree(f"{work}/cache", ignore_errors=True)
            timed("decoding alone", alone)
            timed("first run", opened)
            timed("second run", epoch)
    report: dict[str, object] = vars(args)
    for name, spent in seconds.items():
        wall, cpu = (
            statistics.median(pure[k] / one[k] for pure, one in zip(seconds["decoding alone"], spent, strict=True))
            for k in (0, 1)
        )
        rate = round(args.images / statistics.median(w for w, _ in spent))
        report[name] = {"images/s": rate, "ratio": round(wall, 2), "ratio of processor time": round(cpu, 2)}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
