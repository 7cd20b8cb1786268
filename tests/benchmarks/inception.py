"""Images per second through Inception, from a folder to statistics, and what bfloat16 does to a score.

    python -m tests.benchmarks.inception [FOLDER] [--rounds N] [--photos N]

ganctl, pytorch-fid and torch-fidelity run in one process, in turn, on the same images and random weights in the
published layout, each as its users have it: pytorch-fid in batches of 50 with one loader process per core,
torch-fidelity in batches of 64 with four. Every round gives ratios; printed are their median, least and largest.
FOLDER holds photographs of any sizes; without it they are made. Run it on a machine that does nothing else. Needs the
peers and the golden file of the weights.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganctl.io.listing import find_images
from ganctl.metrics import features
from ganctl.metrics.fid import frechet_distance
from ganctl.metrics.resize import inception_input
from ganctl.metrics.sources import decoded
from ganctl.nn.cores import side_by_side
from ganctl.nn.features.inception_fast import fast
from ganctl.workflows.fid import FidRequest, run
from tests.conftest import golden
from tests.golden import inception_weights
from tests.parity.peers import install_weights, peers, quiet

MODE, CPU = "legacy_tensorflow", torch.device("cpu")
SIZES = ((500, 375), (375, 500), (640, 480), (500, 333), (400, 400), (1024, 683))
"""Of made photographs; the first is that of peers, whose loaders take one size alone."""


def photographs(folder: Path, n: int, sizes: tuple[tuple[int, int], ...]) -> Path:
    """JPEG files as large as a camera's of these sizes: smooth shapes, edges and fine noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        size = sizes[i % len(sizes)]
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        blocks = np.asarray(Image.fromarray(coarse[::-1]).resize(size, Image.Resampling.NEAREST), np.int16)
        noisy = smooth // 2 + blocks // 4 + rng.normal(32, 9, smooth.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=90)
    return folder


def tools(home: Path) -> SimpleNamespace:
    """Every tool's network on the same weights."""
    net = inception_weights.network(golden("inception_excerpt.safetensors"))
    os.environ["TORCH_HOME"] = str(home)
    weights = install_weights(home, net.state_dict())
    with quiet():
        first, second = peers().pytorch_fid, peers().torch_fidelity
        pytorch_fid = first.InceptionV3([first.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
        settings = {"feature_extractor_weights_path": str(weights), "verbose": False, "cuda": False}
        torch_fidelity = second.utils.create_feature_extractor("inception-v3-compat", ["2048"], **settings)
    ours = {
        dtype: features.inception_extractor(net, "", mode=MODE, dims=2048, device=CPU, dtype=dtype)
        for dtype in ("fp32", "bf16")
    }
    features.inception = lambda reporter=None: (net, "benchmark")  # in place of the zoo's entry
    for extractor in ours.values():  # threads start
        extractor.extract([np.zeros((299, 299, 3), np.uint8)] * 8)
    return SimpleNamespace(net=net, pytorch_fid=pytorch_fid, torch_fidelity=torch_fidelity, ours=ours)


def networks(tool: SimpleNamespace, n: int = 100) -> dict[str, Callable[[], Any]]:
    """299 x 299 pixels in memory → features."""
    pixels = np.random.default_rng(1).integers(0, 256, (n, 299, 299, 3), dtype=np.uint8)
    bytes_ = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    floats = bytes_ / 255
    without = torch.no_grad()
    return {
        "ganctl fp32": lambda: tool.ours["fp32"].extract(list(pixels)),
        "ganctl bf16": lambda: tool.ours["bf16"].extract(list(pixels)),
        "pytorch-fid": without(lambda: [tool.pytorch_fid(x) for x in floats.split(50)]),
        "torch-fidelity": without(lambda: [tool.torch_fidelity(x) for x in bytes_.split(64)]),
    }


def folders(tool: SimpleNamespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """A folder of photographs of one size → mean and covariance, by each tool's own code."""
    files, first, utils = sorted(folder.iterdir()), peers().pytorch_fid, peers().torch_fidelity.utils
    cores = min(len(os.sched_getaffinity(0)), 8)

    def torch_fidelity() -> None:
        settings = {"input1": str(folder), "verbose": False, "cuda": False}
        images = utils.prepare_input_from_id(1, **settings)
        made = utils.get_featuresdict_from_dataset(images, tool.torch_fidelity, 64, False, False, False)["2048"]
        np.mean(made.numpy(), axis=0), np.cov(made.numpy(), rowvar=False)

    def pytorch_fid() -> None:
        first.calculate_activation_statistics(files, tool.pytorch_fid, 50, 2048, "cpu", cores)

    return {
        "ganctl fp32": lambda: statistics_of(folder, "fp32"),
        "ganctl bf16": lambda: statistics_of(folder, "bf16"),
        "pytorch-fid": pytorch_fid,
        "torch-fidelity": torch_fidelity,
    }


def statistics_of(folder: Path, dtype: str) -> dict[str, np.ndarray]:
    """`ganctl fid FOLDER --save-stats FILE`."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "stats.npz"
        run(FidRequest(real=str(folder), save_stats=str(file), mode=MODE, dtype=dtype, cache=False, device="cpu"))
        with np.load(file) as made:
            return {name: made[name] for name in ("mu", "sigma")}


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    with quiet():
        work()
    return time.perf_counter() - begun


def compare(what: str, works: dict[str, Callable[[], Any]], n: int, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    print(f"\n{what}: {n} images, {rounds} rounds\n{'':<16} {'images/s':>9}   ganctl fp32's rate by this one's")
    ours = times["ganctl fp32"]
    for name, own in times.items():
        print(
            f"{name:<16} {n / statistics.median(own):9.2f}   {spread([b / a for a, b in zip(ours, own, strict=True)])}"
        )


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def overhead(tool: SimpleNamespace, folder: Path, rounds: int) -> None:
    """The wall time of a folder by the time of the network alone on as many images of 299 x 299."""
    n = len(find_images(folder))
    x = inception_input(torch.randint(0, 256, (8, 299, 299, 3), dtype=torch.uint8), MODE)
    quick = fast(tool.net)
    parts = [x[i : i + features.PER_CORE] for i in range(0, 8, features.PER_CORE)] * (n // 8)
    ratios = []
    for _ in range(rounds):
        wall = seconds(lambda: statistics_of(folder, "fp32"))
        ratios.append(wall / seconds(lambda: side_by_side(quick, parts)) * (len(parts) * features.PER_CORE) / n)
    print(f"\nfolder of {n} photographs: wall time by the network's alone {spread(ratios)}")


def half(tool: SimpleNamespace, folder: Path) -> None:
    """What bfloat16 does to features, and to the FID between two halves of a folder."""
    pixels = [decoded(image)[0].pixels for image in find_images(folder)]
    full, short = (features_of(tool.ours[dtype], pixels) for dtype in ("fp32", "bf16"))
    middle = len(full) // 2
    error = np.linalg.norm(short - full) / np.linalg.norm(full)
    print(f"\nbf16 with random weights: features differ by {error:.2e} of their norm; FID of {middle} images with")
    print(f"the others of the folder: fp32 {_fid(full[:middle], full[middle:]):.5f}", end="   ")
    print(f"bf16 {_fid(short[:middle], short[middle:]):.5f}", end="   ")
    print(f"mixed {_fid(full[:middle], short[middle:]):.5f}   same images {_fid(full[:middle], short[:middle]):.5f}")


def features_of(extractor: features.Extractor, pixels: list[np.ndarray]) -> np.ndarray:
    parts = (pixels[i : i + 64] for i in range(0, len(pixels), 64))
    return torch.cat([extractor.extract([extractor.prepare(p) for p in part]) for part in parts]).double().numpy()


def _fid(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        tool = tools(home)
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
        compare("network", networks(tool), 100, asked.rounds)
        one_size = photographs(home / "one", 128, SIZES[:1])
        compare("folder to statistics", folders(tool, one_size), 128, asked.rounds)
        photos = asked.folder or photographs(home / "photos", asked.photos, SIZES)
        overhead(tool, photos, min(asked.rounds, 3))
        half(tool, photos)


if __name__ == "__main__":
    main()
