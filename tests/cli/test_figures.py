"""The lectures' figures, each from one command: points of a plane, and gradients that vanish or do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from ganctl.data import DataConfig, Dataset
from ganctl.data.toy import covered, modes, open_toy
from ganctl.errors import UsageError
from ganctl.io.images import from_pixels, read_image
from ganctl.workflows import plane
from ganctl.workflows.chart import COLOURS, chart
from ganctl.workflows.recipe import resolve
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.cli.runs import log, pictures, request, train


def pixels(path: Path) -> np.ndarray:
    return read_image(path.read_bytes(), name=str(path)).pixels


def place(points: np.ndarray) -> np.ndarray:
    return np.rint((points * [1, -1] + 1) / 2 * (plane.SIDE - 1)).astype(int)


@pytest.mark.parametrize(("toy", "count", "width"), [("ring", 8, 0.02), ("grid", 25, 0.015)])
def test_a_toys_points_lie_around_its_modes(toy: str, count: int, width: float) -> None:
    data = open_toy(DataConfig(path=f"toy:{toy}", subset=10_000))
    points, (centres, deviation) = from_pixels(data.x, (-1.0, 1.0)).flatten(1).numpy(), modes(f"toy:{toy}")
    assert data.x.shape == (10_000, 1, 1, 2) and len(centres) == count and deviation == width
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (np.bincount(nearest) == 10_000 // count).all()
    spread = (points - centres[nearest]).std()
    # One of 256 values is 1/127.5 wide, which adds its own deviation.
    assert spread == pytest.approx(np.hypot(width, 1 / 127.5 / 12**0.5), rel=0.02)
    found = covered(points, f"toy:{toy}")
    assert found["missing"] == 0 and found["near"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_modes_that_are_missed_are_counted() -> None:
    centres, deviation = modes("toy:ring")
    half = np.repeat(centres[:4], 50, 0)
    assert covered(half, "toy:ring") == {"missing": 0.5, "near": 1.0}
    away = half + 4 * deviation
    assert covered(away, "toy:ring") == {"missing": 1.0, "near": 0.0}
    # One point of eight hundred is a tenth of no mode's share.
    stray = np.concatenate([np.repeat(centres[:7], 100, 0), centres[7:]])
    assert covered(stray, "toy:ring")["missing"] == pytest.approx(1 / 8, abs=1e-4)


def test_a_frame_shows_points_where_they_are_and_where_d_is_sure(tmp_path: Path) -> None:
    import torch

    module_points = np.array([[0.5, 0.5], [-0.5, 0.25]])
    data = Dataset(np.rint((module_points + 1) * 127.5).astype(np.uint8).reshape(-1, 1, 1, 2))
    recipe = resolve("gan", {"data.path": "toy:ring"}, ["g_hidden=[4]", "d_hidden=[4]", "z_dim=2"])
    from ganctl.workflows.train import new_state

    net = new_state(recipe, torch.device("cpu")).ema
    net.sample = lambda z: torch.tensor([0.0, -0.5]).expand(len(z), 2)[:, :, None, None]  # type: ignore[method-assign, assignment]
    plane.frame(net, lambda x: x[:, 0, 0, 0], data, tmp_path / "a.png", torch.device("cpu"))
    drawn = pixels(tmp_path / "a.png")
    for point, colour in ((module_points[0], plane.REAL), (module_points[1], plane.REAL), ([0.0, -0.5], plane.MADE)):
        x, y = place(np.array(point))
        assert np.abs(drawn[y - 1 : y + 3, x - 1 : x + 3].astype(int) - colour).sum(2).min() == 0, point
    # D's answer grows to the right.
    assert drawn[10, 0].tolist() == list(plane.DARK) and drawn[10, -1].tolist() == list(plane.LIGHT)


def test_a_toy_run_writes_its_animation_and_says_what_is_missing(tmp_path: Path) -> None:
    from ganctl.io.progress import Reporter
    from ganctl.workflows.train import TrainRequest, run

    said: list[str] = []
    small = ("kimg=0.5", "snap=0.1", "tick=0.1", "batch=50", "g_hidden=[8]", "d_hidden=[8]")
    out = tmp_path / "run"
    asked = TrainRequest(recipe="toy-ring", outdir=str(out), settings=small, changes={}, device="cpu")
    run(asked, Reporter(warn=lambda what, *_: said.append(what)))
    from PIL import Image

    with Image.open(out / "points.gif") as gif:
        assert gif.n_frames == 6 and gif.size == (plane.SIDE, plane.SIDE)
    assert [row["missing"] for row in log(out) if "missing" in row][-1] == 1.0
    assert any(words.startswith("modes are missing") for words in said)
    assert b"data:image/gif" in (out / "report.html").read_bytes()
    assert (pixels(out / "reals.png") == plane.REAL).all(2).sum() > 400
    with pytest.raises(UsageError, match="points of a plane"):
        sample(SampleRequest(model=str(out), device="cpu", out=str(tmp_path / "x.png")))


@pytest.mark.parametrize(
    ("model", "path", "settings", "said"),
    [
        ("gan", "toy:rign", [], "toy:ring"),
        ("dcgan", "toy:ring", [], "one pixel"),
        ("gan", "toy:ring", ["resolution=28"], "give no size"),
        ("gan", "toy:ring", ["metrics=[fd-lenet]"], "metrics is of images"),
        ("gan", "toy:ring", ["aug=diffaug"], "aug is of images"),
        ("gan", "toy:ring", ["mirror=true"], "mirror is of images"),
    ],
)
def test_what_makes_no_sense_of_points_is_refused(model: str, path: str, settings: list[str], said: str) -> None:
    with pytest.raises(UsageError) as e:
        resolve(model, {"data.path": path}, settings)
    assert said in f"{e.value} {e.value.why} {e.value.hint}"


def test_gradients_by_two_losses_are_those_of_their_formulas(tmp_path: Path) -> None:
    """Logged at every tick without a trace in the training, and drawn."""
    data = pictures(tmp_path / "data", n=24)
    small = ("g_hidden=[8]", "d_hidden=[8]", "z_dim=3", "channels=1", "batch=8")
    pace = ("kimg=0.08", "tick=0.016", "snap=0.08", "dlr=0.01")
    train(request("gan", data, tmp_path / "with", *small, *pace, "compare=[minimax, wasserstein]"))
    train(request("gan", data, tmp_path / "without", *small, *pace))
    rows = [row for row in log(tmp_path / "with") if "D_sure" in row]
    assert len(rows) == 5 and all(row["G_minimax_grad"] > 0 and row["G_wasserstein_grad"] > 0 for row in rows)
    plain = [row["D_loss"] for row in log(tmp_path / "without") if "D_loss" in row]
    assert [row["D_loss"] for row in log(tmp_path / "with") if "D_loss" in row] == plain
    drawn = pixels(tmp_path / "with" / "gradients.png")
    assert drawn.shape == (400, 640, 3)
    assert all((drawn == colour).all(2).sum() > 20 for colour in COLOURS[:2])
    assert not (tmp_path / "without" / "gradients.png").exists()
    assert json.dumps(rows[0]["D_sure"])


def test_a_measured_gradient_is_the_one_by_hand() -> None:
    """∂ log(1 - D) is -D times the logit's gradient, ∂ -log D is -(1 - D) times it: of one image, D being sure."""
    import torch

    from ganctl.phase import Batch
    from ganctl.train.gradients import measure
    from ganctl.train.loop import TrainConfig
    from tests.models.test_contract import state_of, tiny

    found = {}
    for loss in ("minimax", "non_saturating", "wasserstein"):
        module, cfg, nets = tiny("gan", loss=loss)
        state = state_of(module, cfg, nets)
        with torch.no_grad():
            nets.D.main[-1].bias.fill_(-3.0)
        phases = {loss: module.phases(cfg)[-1]}
        found |= measure(state, phases, TrainConfig(batch=1), Batch(torch.zeros(1, 1, 16, 16)))
    D = np.exp(-found["D_sure"])
    assert D < 0.06
    assert found["G_minimax_grad"] == pytest.approx(D * found["G_wasserstein_grad"], rel=1e-4)
    assert found["G_non_saturating_grad"] == pytest.approx((1 - D) * found["G_wasserstein_grad"], rel=1e-4)


def test_a_chart_has_a_dot_for_each_value() -> None:
    drawn = chart({"a": [(1.0, 1.0), (2.0, 100.0)], "b": [(4.0, 10.0), (4.0, 0.0)]}, "across", "upwards")
    dots = [np.argwhere((drawn == colour).all(2)) for colour in COLOURS[:2]]
    highest, lowest = dots[0][:, 0].min(), dots[0][:, 0].max()
    assert highest < 30 and lowest > 300
    right = dots[1][dots[1][:, 1] > 500]
    assert len(right) > 20 and 150 < right[:, 0].mean() < 220
