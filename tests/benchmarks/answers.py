"""How long a user waits: help, completion, mistakes, and 64 pictures of the built-in default.

    python -m tests.benchmarks.answers

Wall-clock milliseconds of whole processes, best and median of several, beside what is promised. Run it on a machine
that does nothing else.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIES = 9
ROWS = [
    # what, command, promised milliseconds, environment
    ("help", ["--help"], 250, {}),
    ("completion of a command", ["sam"], 150, {"_GANCTL_COMPLETE": "bash"}),
    ("completion of a model", ["sample", "dcgan"], 150, {"_GANCTL_COMPLETE": "bash"}),
    ("mistyped option", ["sample", "--sed", "3"], 300, {}),
    ("mistyped model", ["sample", "dcgan-mnits"], 300, {}),
    ("mistyped recipe", ["train", "dcgan-mnits"], 300, {}),
]


def seconds(arguments: list[str], folder: str, **env: str) -> float:
    begun = time.perf_counter()
    command = [sys.executable, "-m", "ganctl", *arguments]
    path = str(Path(__file__).parents[2])
    subprocess.run(command, cwd=folder, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": path, **env})
    return time.perf_counter() - begun


def row(what: str, times: list[float], promised: float) -> None:
    best, median = 1000 * min(times), 1000 * statistics.median(times)
    print(f"{what:<26} {best:7.0f} {median:7.0f} {promised:9.0f}")


def main() -> None:
    print(f"{'ms':<26} {'best':>7} {'median':>7} {'promised':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for what, arguments, promised, env in ROWS:
            row(what, [seconds(arguments, folder, **env) for _ in range(TRIES)], promised)
        sheet = ["sample", "-n", "64", "--grid", "8x8"]
        times: dict[str, list[float]] = {"64 pictures and a grid": [], "the same again": []}
        for _ in range(5):
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            for found in times.values():
                found.append(seconds(sheet, folder))
        for what, found in times.items():
            row(what, found, 6000)


if __name__ == "__main__":
    main()
