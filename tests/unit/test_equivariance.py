"""EQ-T and EQ-R: moved and turned waves against their formulas, and networks that do and do not move with the plane."""

import math

import pytest
import torch
from torch import Tensor

from ganctl.errors import UsageError
from ganctl.io.seeds import seed_class
from ganctl.metrics import training
from ganctl.metrics.catalog import METRICS
from ganctl.metrics.equivariance import (
    KINDS,
    equivariance,
    pseudo_rotated,
    rotated,
    rotation_filter,
    sampler_equivariance,
    translated,
)
from ganctl.models import dcgan, stylegan3

SMALL = {"channels": 1, "z_dim": 6, "w_dim": 8, "channel_base": 256, "channel_max": 12, "num_layers": 6}


def waves(x: Tensor, y: Tensor, side: int) -> Tensor:
    """Two waves of a few cycles at points given in px from the centre, [1, 1, h, w]."""
    f = 2 * math.pi / side
    return (torch.sin(f * (3 * x + 2 * y) + 0.3) + 0.5 * torch.cos(f * (4 * y - x)))[None, None]


def plane(side: int, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Those waves turned counter-clockwise, then moved: the formula in the place of pixels."""
    at = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    x, y = torch.meshgrid(at - shift[0], at - shift[1], indexing="xy")
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return waves(cos * x - sin * y, sin * x + cos * y, side).float()


@pytest.mark.parametrize(
    ("shift", "tolerance", "kept"),
    # Six taps: 2.3 right reaches from 5 before to 0; -3.7 from 1 after to 6 after; 4.25 from 7 before to 2 before.
    [((5.0, -3.0), 0.0, 43 * 45), ((2.3, 0.0), 0.02, 43 * 48), ((-3.7, 4.25), 0.03, 42 * 41)],
)
def test_translated(shift: tuple[float, float], tolerance: float, kept: int) -> None:
    moved, known = translated(plane(48), *shift)
    error = ((moved - plane(48, shift=shift)) * known).abs().max()
    assert error <= tolerance + 1e-5
    assert set(known.unique().tolist()) == {0.0, 1.0} and known.sum() == kept


def test_whole_translations_lose_only_what_leaves() -> None:
    x = torch.randn(2, 3, 8, 9)
    moved, known = translated(x, 2.0, -3.0)
    assert torch.equal(moved[:, :, :-3, 2:], x[:, :, 3:, :-2]) and known.sum() == 5 * 7
    assert known[:5, 2:].all()


@pytest.mark.parametrize("angle", [0.0, 30.0, -90.0, 137.0])
def test_rotated_and_its_counterpart(angle: float) -> None:
    """A wave well within both bands is turned by the one and left by the other."""
    turned, known = rotated(plane(64), angle)
    assert known.sum() > 400
    assert ((turned - plane(64, angle)) * known).abs().max() <= 0.02
    left, known = pseudo_rotated(plane(64, angle), angle)
    assert known.sum() == (64 - 10) ** 2
    assert ((left - plane(64, angle)) * known).abs().max() <= 0.01


def test_right_angles_lose_nothing_and_others_the_corners_of_the_spectrum() -> None:
    x = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    for angle, turns in ((90.0, 1), (180.0, 2)):
        turned, known = rotated(x, angle)
        assert ((turned - x.rot90(turns, (2, 3))) * known).abs().max() <= 0.03
        left, known = pseudo_rotated(x, angle)
        assert ((left - x) * known).abs().max() <= 1e-4
    turned, known = rotated(x, 45.0)
    # The grids share an octagon, 0.83 of the square; linear interpolation and the window take a little more.
    assert 0.6 < float((turned.square() * known).sum() / known.sum()) < 0.83
    f = rotation_filter(45.0, up=4)
    assert f.shape == (47, 47) and f.sum() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(f, f.flip(0, 1), atol=1e-7)


def measured(*kinds: str, seed: int = 0, **changes: object) -> dict[str, float]:
    torch.manual_seed(0)
    G = stylegan3.Generator(stylegan3.Config(**{**SMALL, "resolution": 32, **changes})).eval()  # type: ignore[arg-type]

    def draw(w: Tensor, transform: Tensor) -> Tensor:
        G.synthesis.input.transform.copy_(transform)
        return G.synthesis(w)

    with torch.no_grad():
        w = [G.map(G.prior([2 * i, 2 * i + 1])) for i in range(2)]
        scale = draw(w[0], torch.eye(3)).std()
        G.synthesis.output_scale *= float(0.5 / scale)
    return equivariance(draw, w, kinds=kinds, seed=seed)


def test_networks_that_move_with_the_plane() -> None:
    """T moves and does not turn; R does both; with filters of one tap for each sample, neither."""
    t = measured("eqt_int", "eqt_frac", "eqr")
    assert t["eqt_int"] > 45 and t["eqt_frac"] > 30 and t["eqr"] < 20
    r = measured("eqr", kernel=1, radial_filters=True)
    assert r["eqr"] > t["eqr"] + 15
    assert measured("eqt_int", filter_size=1)["eqt_int"] < t["eqt_int"] - 15
    assert measured("eqr")["eqr"] == t["eqr"] != measured("eqr", seed=1)["eqr"]


def test_a_samplers_is_that_of_its_seeds_in_groups_of_four() -> None:
    torch.manual_seed(0)
    G = stylegan3.Generator(stylegan3.Config(**{**SMALL, "resolution": 16, "num_layers": 3, "classes": 3})).eval()  # type: ignore[arg-type]
    seeds = range(7, 12)
    c = torch.tensor([seed_class(s, 3) for s in seeds])
    own = stylegan3.transform_of((0.25, 0.0), 30.0)
    G.synthesis.input.transform.copy_(own)
    told: list[int] = []
    options = {"n": 5, "seed": 7, "device": torch.device("cpu")}
    found = sampler_equivariance(G, kinds=KINDS, **options, done=told.append)  # type: ignore[arg-type]
    assert told == [4, 5] and torch.equal(G.synthesis.input.transform, own)

    def draw(w: Tensor, transform: Tensor) -> Tensor:
        G.synthesis.input.transform.copy_(transform)
        return G.synthesis(w)

    w = G.map(G.prior(seeds), c)
    wanted = equivariance(draw, [w[:4], w[4:]], seed=7)
    assert found == pytest.approx(wanted, abs=0.05)
    (score,) = training.equivariance("eqr50k", G, 5)
    assert (score.name, METRICS["eqr50k"].n, METRICS["eqr50k"].higher_is_better) == ("eqr50k", 50_000, True)
    assert score.value == sampler_equivariance(G, kinds=("eqr",), n=5, device=torch.device("cpu"))["eqr"]
    G.synthesis.output_scale = float("nan")
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        sampler_equivariance(G, kinds=("eqt_int",), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only a stylegan3 can move the plane") as e:
        training.equivariance("eqt", dcgan.Generator(dcgan.Config(resolution=16)), 6)
    assert e.value.hint == "pass --metrics none"


def test_kinds_and_sizes_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="no such equivariance: eqx"):
        equivariance(lambda w, _: w[None], [torch.zeros(1, 4, 4)], kinds=("eqx",))
    with pytest.raises(ValueError, match="too small: none of their pixels"):
        equivariance(lambda w, _: w[None], [], kinds=("eqr",))
