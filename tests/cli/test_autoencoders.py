"""Autoencoders from the command line: few labels, the picture of the code space, classes that an encoder finds."""

from pathlib import Path

import numpy as np
import pytest

from ganctl.data import Dataset, few_labels
from ganctl.errors import UsageError
from ganctl.io.arrays import read_npz
from ganctl.io.images import read_image
from ganctl.io.progress import Reporter
from ganctl.workflows.invert import InvertRequest
from ganctl.workflows.invert import run as invert
from ganctl.workflows.pictures import COLOURS, SIDE, code_space
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.cli.runs import log, pictures, request, train

SHORT = ("kimg=0.08", "tick=0.04", "snap=0.08")


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Twelve pictures of each of two classes."""
    folder = tmp_path_factory.mktemp("data")
    for label in "ab":
        pictures(folder / label, n=12, seed=ord(label))
    return folder


def pixels(path: Path) -> np.ndarray:
    return read_image(path.read_bytes(), name=str(path)).pixels


def test_few_labels_are_those_of_equally_many_images_of_each_class() -> None:
    c = np.array([0, 1, 1, 0, 2, 2, 0, 1, 2, 0])
    data = Dataset(np.arange(10)[:, None, None, None].astype(np.uint8), c=c, classes=("a", "b", "c"))
    few = few_labels(data, 6)
    assert len(few) == 10 and few.unpaired and few.y is not None and few.c is not None
    assert few.y.ravel().tolist() == [0, 1, 2, 3, 4, 5] and few.c.tolist() == c[:6].tolist()
    for count, why in ((4, "3 classes of equal shares"), (12, "one class has 3 images")):
        with pytest.raises(UsageError, match=why):
            few_labels(data, count)


def test_labelled_images_come_with_their_own_classes(classes: Path) -> None:
    """In every batch, y and cy belong to each other whatever x is; all images pass by."""
    from ganctl.data import DataConfig, open_dataset
    from ganctl.data.loader import batches

    whole = open_dataset(DataConfig(path=str(classes)), resolution=16, channels=1, labels=True)
    few = few_labels(whole, 6)
    assert few.y is not None and few.c is not None
    known = {few.y[i].tobytes(): int(few.c[i]) for i in range(6)}
    stream = batches(few, DataConfig(path=str(classes)), size=8, resolution=16, seed=0)
    seen = set()
    for _ in range(3):
        b = next(stream)
        assert b.c is None
        seen |= {x.numpy().tobytes() for x in b.x}
        for y, c in zip(b.y, b.cy, strict=True):
            assert known[np.ascontiguousarray(y.numpy().transpose(1, 2, 0)).tobytes()] == int(c)
    assert len(seen) == 24


def test_semi_supervised_training_and_an_encoder_that_finds_the_class(classes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(request("aae", classes, run, "classes=2", "labels=4", *SHORT))
    assert {"rec", "G_z", "G_y", "classes", "D_z", "D_y"} <= {name for line in log(run) for name in line}
    results: list = []
    inputs = sorted(str(p) for p in (classes / "a").glob("*.png"))[:3]
    common = {"model": str(run), "device": "cpu"}
    invert(InvertRequest(inputs=tuple(inputs), out=str(tmp_path / "own"), **common), Reporter(result=results.append))
    found = [read_npz(Path(r["path"])) for r in results]
    assert [r["class"] for r in results] == [int(f["class"]) for f in found]
    assert all(f["z"].shape == (4,) for f in found)
    # The same style as any class: what was asked for, in place of what was found.
    other = 1 - results[0]["class"]
    asked = InvertRequest(inputs=(inputs[0],), classes=str(other), out=str(tmp_path / "other"), **common)
    again: list = []
    invert(asked, Reporter(result=again.append))
    assert (read_npz(Path(again[0]["path"]))["z"] == found[0]["z"]).all() and again[0]["class"] == other
    assert (pixels(Path(again[0]["picture"])) != pixels(Path(results[0]["picture"]))).any()
    # What was written draws the same picture again, and repeating the command keeps it.
    sample(SampleRequest(latents=(results[0]["path"],), out=str(tmp_path / "back.png"), **common))
    assert (pixels(tmp_path / "back.png") == pixels(Path(results[0]["picture"]))).all()
    kept: list = []
    invert(InvertRequest(inputs=tuple(inputs), out=str(tmp_path / "own"), **common), Reporter(result=kept.append))
    assert [(r["status"], r["class"]) for r in kept] == [("exists", r["class"]) for r in results]


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    [
        ("vae", ("labels=4",), "its losses use no classes"),
        ("aae", ("labels=4",), "every image needs its class"),
        ("lenet", ("labels=4",), "every image needs its class"),
        ("aae", ("labels=0", "classes=2"), "labels must be 1 or more"),
    ],
)
def test_labels_are_refused_where_they_would_do_nothing(model, settings, why, classes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"(?s){why}"):
        train(request(model, classes, tmp_path / "run", *settings))


def test_a_run_with_two_dimensional_codes_draws_them(classes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("z_dim=2", "prior=mixture", "classes=2", "classes_in=prior")
    train(request("aae", classes, run, *settings, *SHORT))
    colours = {tuple(c) for c in pixels(run / "codes.png").reshape(-1, 3).tolist()}
    assert colours == {(255, 255, 255), COLOURS[0], COLOURS[1]}
    assert b"code space" in (run / "report.html").read_bytes()
    train(request("aae", classes, tmp_path / "other", *SHORT))
    assert not (tmp_path / "other" / "codes.png").exists()
    assert b"code space" not in (tmp_path / "other" / "report.html").read_bytes()


def test_codes_stand_where_they_are(tmp_path: Path) -> None:
    import torch

    from ganctl.models.vae import VAE, Config

    net = VAE(Config(resolution=8, z_dim=2)).eval()
    # The code of a picture: how bright its first two pixels are.
    net.encode = lambda x: x.flatten(1)[:, :2]  # type: ignore[method-assign]
    x = np.zeros((3, 8, 8, 1), np.uint8)
    x[:, 0, :2, 0] = [[255, 0], [0, 255], [128, 128]]
    code_space(net, Dataset(x, c=np.array([0, 1, 2])), tmp_path / "codes.png", torch.device("cpu"))
    drawn = pixels(tmp_path / "codes.png")
    at = [np.argwhere((drawn == np.array(COLOURS[k])).all(2)).mean(0) for k in range(3)]
    # Rows grow downwards, codes upwards.
    assert at[0][0] > 0.9 * SIDE and at[0][1] > 0.9 * SIDE
    assert at[1][0] < 0.1 * SIDE and at[1][1] < 0.1 * SIDE
    assert np.abs(at[2] - SIDE / 2).max() < 4
