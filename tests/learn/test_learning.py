"""Short real training on real digits: every family's recipe of losses and phases must really learn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.io.idx import read_idx
from ganctl.io.images import from_pixels
from ganctl.load import load
from ganctl.workflows.train import TrainRequest, run
from tests.conftest import shared_data

pytestmark = pytest.mark.learn


@pytest.fixture(scope="module")
def digits() -> Path:
    """The folder of MNIST's IDX files."""
    return shared_data("mnist/train-images-idx3-ubyte.gz").parent


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))


def learn(model: str, data: Path, out: Path, *settings: str) -> list[dict]:
    request = TrainRequest(recipe=model, data=str(data), outdir=str(out), settings=settings, changes={}, device="cpu")
    run(request)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_lenet_reads_digits_it_has_not_seen(digits: Path, tmp_path: Path):
    """3,000 digits, five times each."""
    learn("lenet", digits, tmp_path / "run", "subset=3000", "kimg=15", "snap=15", "tick=5", "ema_kimg=0.5")
    net = load(str(tmp_path / "run"), device="cpu").net
    images = read_idx(shared_data("mnist/t10k-images-idx3-ubyte.gz"))[:2000, ..., None]
    labels = read_idx(shared_data("mnist/t10k-labels-idx1-ubyte.gz"))[:2000]
    with torch.inference_mode():
        found = net.logits(from_pixels(images, net.x.range)).argmax(1).numpy()
    assert float((found == labels).mean()) > 0.85


SCORED = ("subset=5000", "metrics=[fd-lenet]", "metric_images=1000", "tick=5")
LEARNERS = {
    "gan": ("kimg=48", "snap=24", "batch=32", "g_hidden=[256]", "d_hidden=[256]", "z_dim=32", "glr=0.001", "dlr=0.001"),
    "dcgan": ("kimg=16", "snap=8", "batch=16", "ngf=8", "ndf=8", "z_dim=32", "glr=0.001", "dlr=0.001"),
    "vae": ("kimg=60", "snap=30", "batch=50", "hidden=[256]"),
    "aae": ("kimg=30", "snap=15", "batch=50", "hidden=[256]", "prior_std=1", "lr=0.001", "dlr=0.001"),
}
SHARE = 0.5
"""Of the untrained network's distance, what the trained one's may be at most; a third is usual."""


@pytest.mark.parametrize("model", LEARNERS)
def test_samples_come_nearer_to_the_digits(model: str, digits: Path, tmp_path: Path):
    pace = ("ema_kimg=0.5", "resolution=28", "channels=1")
    lines = learn(model, digits, tmp_path / "run", *SCORED, *pace, *LEARNERS[model])
    scores = [line["fd-lenet"] for line in lines if "fd-lenet" in line]
    untrained = first_score(tmp_path / "run", digits)
    assert scores[-1] < SHARE * untrained, (untrained, scores)
    assert all(np.isfinite(v) for line in lines for v in line.values())


def first_score(folder: Path, digits: Path) -> float:
    """What the untrained network of the run would have scored."""
    from ganctl.data import DataConfig, open_dataset
    from ganctl.workflows.pictures import score
    from ganctl.workflows.recipe import resolve
    from ganctl.workflows.train import new_state

    recipe = resolve(str(folder), {}, ())
    cfg = DataConfig(path=str(digits), subset=5000)
    data = open_dataset(cfg, resolution=recipe.config.resolution, channels=1)
    (found,) = score("fd-lenet", new_state(recipe, torch.device("cpu")).ema, data, recipe, {})
    return found.value


def test_a_translator_learns_its_pairs(tmp_path: Path):
    """pix2pix from grey to colour on pictures whose colour follows from their brightness: L1 falls by half."""
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(64):
        grey = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).resize((32, 32)), np.float64)
        Image.fromarray(np.stack([grey, 255 - grey, grey / 2], -1).astype(np.uint8)).save(folder / f"{i:02d}.png")
    small = ("resolution=32", "num_downs=5", "ngf=16", "ndf=8", "n_layers=2", "batch=4", "glr=0.001")
    pace = ("kimg=0.8", "tick=0.1", "snap=0.8")
    lines = learn("pix2pix", folder, tmp_path / "run", "pairs=grey", "source_channels=1", *small, *pace)
    assert lines[-1]["G_l1"] < 0.5 * lines[0]["G_l1"], [line["G_l1"] for line in lines]
