"""`ganctl train --estimate` beside the training that it foretells: time of a kimg, of the whole, and memory.

    python -m tests.benchmarks.estimate [SECONDS] RECIPE DATA [RECIPE DATA ...]

Each recipe is estimated, then trained for about SECONDS (40) with one snapshot halfway and one at the end, on the same
threads and the same pictures, already decoded. The time of a kimg is the mean of the log's ticks; the whole is from the
start of the loop to the last snapshot. A ratio above 1 means that training took more than was said.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def ganctl(*args: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-m", "ganctl", *args], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compared(recipe: str, data: str, seconds: float, work: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What was said, and what it took: seconds per kimg, seconds of the whole, GiB at most."""
    run = work / "run"

    def command(kimg: float) -> list[str]:
        of = [f"train.tick={kimg / 8}", f"train.snap={kimg / 2}", "train.metrics=[]"]
        options = [word for setting in of for word in ("--set", setting)]
        return ["train", recipe, data, "-o", str(run), "--kimg", str(kimg), *options, "--json"]

    rate = json.loads(ganctl(*command(1.0), "--estimate", cwd=work))["sec_per_kimg"]
    chosen = command(round(seconds / rate, 3))
    said = json.loads(ganctl(*chosen, "--estimate", cwd=work))
    ganctl(*chosen, cwd=work)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    ticks = [line for line in lines if "sec_per_kimg" in line]
    images = [b - a for a, b in itertools.pairwise([0, *(tick["nimg"] for tick in ticks)])]
    spent = [tick["sec_per_kimg"] * n / 1000 for tick, n in zip(ticks, images, strict=True)]
    begun = ticks[0]["time"] - spent[0]
    last = max(path.stat().st_mtime for path in (run / "snapshots").iterdir())
    took = {
        "sec_per_kimg": sum(spent) / sum(images) * 1000,
        "seconds": last - begun,
        "memory_gib": max(line["memory_gib"] for line in ticks),
    }
    return said, took


def main() -> None:
    args = sys.argv[1:]
    seconds = float(args.pop(0)) if len(args) % 2 else 40.0
    print("recipe: s/kimg said, took, ratio; seconds; GiB", flush=True)
    for recipe, data in zip(args[::2], args[1::2], strict=True):
        with tempfile.TemporaryDirectory() as made:
            said, took = compared(recipe, str(Path(data).resolve()), seconds, Path(made))
        parts = [f"{said[k]:.3g} {took[k]:.3g} {took[k] / said[k]:.2f}" for k in took]
        print(f"{recipe}: {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
