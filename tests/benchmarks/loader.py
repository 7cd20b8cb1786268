"""Images a second on their way into training, against decoding them and nothing else.

    python -m tests.benchmarks.loader [--images 2000] [--side 256] [--threads 2]

Three rates over the same JPEGs, in turns so that a busy machine is busy for all of them: decoding alone (Pillow, `RGB`,
a pool of threads); a first run's decoding into the cache, with checks, crop and resize; and batches of a second run,
from the cache. The ratios to the first are what is promised: 0.8 for the second, and far more for the third.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ganctl.data import DataConfig, open_dataset
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
    found: dict[str, list[float]] = {"decoding alone": [], "first run": [], "second run": []}
    with tempfile.TemporaryDirectory() as work:
        os.environ["GANCTL_CACHE"] = f"{work}/cache"
        folder = Path(work) / "jpegs"
        folder.mkdir()
        paths = jpegs(folder, args.images, args.side)
        cfg = DataConfig(path=str(folder), mirror=True)
        for _ in range(ROUNDS):
            shutil.rmtree(f"{work}/cache", ignore_errors=True)
            begun = time.perf_counter()
            with ThreadPoolExecutor(args.threads) as pool:
                sum(pool.map(decoded, paths))
            found["decoding alone"].append(args.images / (time.perf_counter() - begun))
            begun = time.perf_counter()
            open_dataset(cfg, resolution=args.side, channels=3, workers=args.threads)
            found["first run"].append(args.images / (time.perf_counter() - begun))
            begun = time.perf_counter()
            data = open_dataset(cfg, resolution=args.side, channels=3, workers=args.threads)
            stream = batches(data, cfg, size=BATCH, resolution=args.side, seed=0)
            steps = args.images // BATCH
            for batch in itertools.islice(stream, steps):
                batch.x.float()
            found["second run"].append(steps * BATCH / (time.perf_counter() - begun))
            stream.close()  # type: ignore[attr-defined]
    pure = found["decoding alone"]
    rows = {}
    for name, rates in found.items():
        ratio = float(np.median([a / b for a, b in zip(rates, pure, strict=True)]))
        rows[name] = {"images/s": round(float(np.median(rates))), "ratio": round(ratio, 2)}
    print(json.dumps({"images": args.images, "side": args.side, "threads": args.threads, **rows}, indent=2))


if __name__ == "__main__":
    main()
