"""Seconds and memory of the metrics that compare sets of features, beside torch-fidelity's on the same arrays.

    python -m tests.benchmarks.array_metrics [ROWS]

ROWS x 2048 float32 features a side, 10,000 unless said. Each metric runs in a process of its own, whose peak of
resident memory (libraries and both arrays included) has to stay below 2 GB. Peers run right after ours; the ratio is
their time by ours. Run it on a machine that does nothing else.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

ROWS, DIMS, LATENT = 10_000, 2048, 64


def sides(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative correlated features, the generated ones a little apart."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((LATENT, DIMS), dtype=np.float32) / np.float32(LATENT**0.5)
    made = []
    for shift in (0, 0.05):
        x = rng.standard_normal((rows, DIMS), dtype=np.float32)
        x *= 0.3
        x += (rng.standard_normal((rows, LATENT), dtype=np.float32) + np.float32(shift)) @ mixing
        made.append(np.maximum(x, 0, out=x))
    return made[0], made[1]


def ours(name: str) -> Callable[[np.ndarray, np.ndarray], tuple[float, float]]:
    from ganctl.metrics.kid import kernel_distance
    from ganctl.metrics.precision_recall import density_coverage, precision_recall
    from ganctl.metrics.two_sample import two_sample

    return {"kid": kernel_distance, "pr": precision_recall, "dc": density_coverage, "two-sample": two_sample}[name]


def torch_fidelity(name: str) -> Callable[[np.ndarray, np.ndarray], tuple[float, float]]:
    import torch

    from tests.parity.peers import peers

    tool = peers().torch_fidelity
    score = {"kid": tool.metric_kid.kid_features_to_metric, "pr": tool.metric_prc.prc_features_to_metric}[name]

    def run(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
        found = list(score(torch.from_numpy(fake), torch.from_numpy(real), verbose=False).values())
        return found[0], found[1]

    return run


TOOLS = {"ganctl": ours, "torch-fidelity": torch_fidelity}
METRICS = {
    "kid": ["ganctl", "torch-fidelity"],
    "pr": ["ganctl", "torch-fidelity"],
    "dc": ["ganctl"],
    "two-sample": ["ganctl"],
}


def one(tool: str, metric: str, rows: int) -> None:
    """The work of one process: seconds, megabytes and the two numbers."""
    real, fake = sides(rows)
    run = TOOLS[tool](metric)
    begun = time.perf_counter()
    found = run(real, fake)
    seconds = time.perf_counter() - begun
    unit = 1 if sys.platform == "darwin" else 1024
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, *found)


def main(rows: int) -> None:
    print(f"{rows:,} x {DIMS}   {'seconds':>14} {'MB':>7} {'ratio':>6}   found")
    for metric, tools in METRICS.items():
        base = 0.0
        for tool in tools:
            command = [sys.executable, "-m", "tests.benchmarks.array_metrics", str(rows), tool, metric]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            seconds, megabytes, a, b = map(float, done.stdout.split())
            base = base or seconds
            print(f"{metric:<11}{tool:<16}{seconds:8.1f} {megabytes:7.0f} {seconds / base:6.2f}   {a:.6g} {b:.6g}")


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    if len(sys.argv) > 2:
        one(sys.argv[2], sys.argv[3], asked)
    else:
        main(asked)
