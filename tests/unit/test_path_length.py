"""The perceptual path length where its value is known in advance, and of real samplers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganctl.io.seeds import seed_class
from ganctl.load import load
from ganctl.metrics.path_length import EPSILON, arc, path_length, sampler_path_length, step_distances
from ganctl.nn.features.lpips import LPIPS
from ganctl.nn.layers import normal_prior
from ganctl.protocols import Sampler, StyleSampler
from ganctl.spec import Image, Label
from tests.conftest import Tiny

CPU = torch.device("cpu")
DIM = 6


def squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum((1, 2, 3))


class Linear(nn.Module):
    """x = A z, with orthonormal columns: a step has the same length in the picture as in z. w = M z, x = A w."""

    def __init__(self, side: int = 4, scale: float = 1.0, channels: int = 3) -> None:
        super().__init__()
        self.x = Image((side, side), channels)
        torch.manual_seed(1)
        self.a = torch.linalg.qr(torch.randn(channels * side * side, DIM))[0] * scale
        self.m = torch.randn(DIM, DIM)

    def prior(self, seeds: Sequence[int]) -> Tensor:
        return normal_prior(seeds, DIM)

    def sample(self, z: Tensor) -> Tensor:
        assert self.x.size is not None
        return (z @ self.a.T).reshape(len(z), self.x.channels, *self.x.size)


class Style(Linear):
    def map(self, z: Tensor) -> Tensor:
        return (z @ self.m.T)[:, None].expand(-1, 2, -1)

    def synthesize(self, w: Tensor) -> Tensor:
        return Linear.sample(self, w.mean(1))

    def sample(self, z: Tensor) -> Tensor:
        return self.synthesize(self.map(z))


class TinyStyle(nn.Module):
    """A StyleSampler in earnest: a mapping network, styles that scale channels, constant noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.x = Image((32, 32), 3)
        self.mapping = nn.Sequential(nn.Linear(DIM, 16), nn.LeakyReLU(0.2), nn.Linear(16, 8))
        self.start = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(2))
        self.rgb = nn.Conv2d(8, 3, 1)
        self.register_buffer("noise", torch.randn(1, 1, 32, 32))

    def prior(self, seeds: Sequence[int]) -> Tensor:
        return normal_prior(seeds, DIM)

    def map(self, z: Tensor) -> Tensor:
        z = z / z.square().mean(1, keepdim=True).sqrt()
        return self.mapping(z)[:, None].expand(-1, len(self.layers), -1)

    def synthesize(self, w: Tensor) -> Tensor:
        x: Any = self.start.expand(len(w), -1, -1, -1)
        for k, layer in enumerate(self.layers):
            x = nn.functional.interpolate(layer(x * (1 + w[:, k, :, None, None])), scale_factor=2).relu()
        return self.rgb(x + 0.1 * self.noise).tanh()

    def sample(self, z: Tensor) -> Tensor:
        return self.synthesize(self.map(z))


def measured(net: Any, **options: Any) -> np.ndarray:
    chosen = {"space": "z", "ends": "full", "seed": 3, "batch_size": 16, "device": CPU, **options}
    return step_distances(net, chosen.pop("distance", squares), chosen.pop("samples", range(64)), **chosen)


def pairs(seed: int = 3, n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """What sample i is made of: two draws from the prior, and its place between them."""
    a = normal_prior([seed + 2 * i for i in range(n)], DIM).double()
    b = normal_prior([seed + 2 * i + 1 for i in range(n)], DIM).double()
    return a, b, torch.from_numpy(np.random.default_rng(seed).random(n))


def test_a_linear_generator_in_w() -> None:
    """x = A M z: every step of ε along w₀ + t (w₁ - w₀) has the length ε |M (z₁ - z₀)|, wherever t is."""
    net = Style()
    assert isinstance(net, StyleSampler)
    a, b, _ = pairs()
    wanted = ((b - a) @ net.m.double().T).square().sum(1).numpy()
    for ends in ("full", "end"):
        found = measured(net, space="w", ends=ends) / EPSILON**2
        np.testing.assert_allclose(found, wanted, rtol=0.02)
        assert abs(found.mean() / wanted.mean() - 1) < 2e-3
    # E |M (z₁ - z₀)|² = 2 tr(M Mᵀ).
    many = measured(net, space="w", ends="end", samples=range(2000), batch_size=500) / EPSILON**2
    assert abs(many.mean() / (2 * net.m.square().sum().item()) - 1) < 0.05


def test_a_linear_generator_in_z() -> None:
    """On the arc: speed² = (|z₁| - |z₀|)² + |z(t)|² Ω², with Ω the angle between the ends."""
    a, b, t = pairs()
    la, lb = a.norm(dim=1), b.norm(dim=1)
    omega = ((a * b).sum(1) / la / lb).acos()
    for ends, place in (("full", t), ("end", torch.zeros_like(t))):
        wanted = ((lb - la) ** 2 + (((1 - place) * la + place * lb) * omega) ** 2).numpy()
        found = measured(Linear(), ends=ends) / EPSILON**2
        np.testing.assert_allclose(found, wanted, rtol=0.02)
        assert abs(found.mean() / wanted.mean() - 1) < 2e-3


def test_the_arc_keeps_between_the_lengths_and_ends_at_its_ends() -> None:
    a, b, _ = pairs(n=8)
    t = torch.linspace(0, 1, 8, dtype=torch.float64)
    between = arc(a, b, t)
    torch.testing.assert_close(between[0], a[0])
    torch.testing.assert_close(between[-1], b[-1])
    torch.testing.assert_close(between.norm(dim=1), (1 - t) * a.norm(dim=1) + t * b.norm(dim=1))
    torch.testing.assert_close(arc(a, 3 * a, t), a * (1 + 2 * t[:, None]))


def test_mean_and_deviation_between_the_percentiles() -> None:
    # Of 251 numbers, the percentiles lie halfway between the third and fourth from either end.
    distances = np.array([1e9, *range(1, 250), -1e9]) * EPSILON**2
    kept = np.arange(2, 249)
    assert path_length(distances) == pytest.approx((kept.mean(), kept.std()))
    assert path_length(np.array([3.0, 5.0]), epsilon=2.0) == (1.0, 0.25)


def test_what_has_no_path_length() -> None:
    for few in (np.empty(0), np.ones(1)):
        with pytest.raises(ValueError, match=f"at least 2 samples, not {few.size}"):
            path_length(few)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            path_length(np.array([1.0, bad, 2.0]))
    with pytest.raises(ValueError, match="has no space w"):
        measured(Linear(), space="w")
    with pytest.raises(ValueError, match="have 4 channels"):
        measured(Linear(channels=4))


def test_a_constant_generator_has_length_zero() -> None:
    lpips = LPIPS("vgg").eval()
    options = {"space": "z", "ends": "full", "n": 5, "seed": 0, "batch_size": 2, "device": CPU}
    assert sampler_path_length(Linear(16, scale=0.0), lpips.distance, **options) == (0.0, 0.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def squeeze() -> LPIPS:
    torch.manual_seed(0)
    lpips = LPIPS("squeeze").eval().requires_grad_(False)
    for head in lpips.heads.parameters():  # the published ones are not negative
        head.abs_()
    return lpips


@pytest.mark.parametrize(("space", "ends"), [("z", "full"), ("z", "end"), ("w", "full"), ("w", "end")])
def test_sample_i_depends_on_seed_and_i_alone(squeeze: LPIPS, space: str, ends: str) -> None:
    net = TinyStyle().eval()
    options = {"space": space, "ends": ends, "distance": squeeze.distance}
    first = measured(net, **options, samples=range(12), batch_size=12)
    assert (first > 0).all()
    split = np.concatenate([measured(net, **options, samples=part, batch_size=5) for part in (range(7), range(7, 12))])
    np.testing.assert_allclose(split, first, rtol=0.02)
    np.testing.assert_array_equal(measured(net, **options, samples=range(12), batch_size=12), first)
    assert not np.allclose(measured(net, **options, samples=range(12), seed=4), first, rtol=0.1, atol=0)
    if ends == "full":
        np.testing.assert_allclose(measured(net, **options, samples=[9, 2])[::-1], first[[2, 9]], rtol=0.02)


def test_of_a_model(tiny: Tiny, squeeze: LPIPS) -> None:
    model = load(str(tiny("dcgan", resolution=32, channels=1, z_dim=8, ngf=4, ndf=4)), device="cpu")
    assert isinstance(model.net, Sampler)
    heard: list[int] = []
    options = {"space": "z", "ends": "full", "n": 6, "seed": 2**32 - 3, "device": CPU}
    found = sampler_path_length(model.net, squeeze.distance, **options, batch_size=4, done=heard.append)  # type: ignore[arg-type]
    assert heard == [4, 6]
    mean, deviation = found
    assert mean > 0 and deviation > 0
    again = sampler_path_length(model.net, squeeze.distance, **options, batch_size=6)  # type: ignore[arg-type]
    assert again == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(("side", "crop", "seen"), [(256, False, 256), (512, False, 256), (1024, True, 128)])
def test_what_is_compared(side: int, crop: bool, seen: int) -> None:
    """Large pictures are averaged over whole blocks; `crop` takes rows 3/8 … 7/8 and columns 2/8 … 6/8."""

    class Ramp(Linear):
        def sample(self, z: Tensor) -> Tensor:
            rows = torch.linspace(0, 1, side)[:, None].expand(side, side)
            columns = torch.linspace(0, 1, side)[None].expand(side, side)
            return torch.stack([rows, columns, rows]).expand(len(z), -1, -1, -1)

    net = Ramp()
    net.x = Image((side, side), 3, (0.0, 1.0))
    shown: list[Tensor] = []

    def look(a: Tensor, b: Tensor) -> Tensor:
        shown.append(a)
        return squares(a, b)

    measured(net, distance=look, samples=range(1), crop=crop)
    (picture,) = shown
    assert picture.shape == (1, 3, seen, seen)
    low, high = ((0.375, 0.875), (0.25, 0.75)) if crop else ((0.0, 1.0), (0.0, 1.0))
    bounds = [low[0], low[1], high[0], high[1]] if crop else [0.0, 1.0, 0.0, 1.0]
    rows, columns = (picture[0, :2] + 1) / 2
    ends = [rows[0].mean(), rows[-1].mean(), columns[:, 0].mean(), columns[:, -1].mean()]
    np.testing.assert_allclose(ends, bounds, atol=8 / side)


@pytest.mark.parametrize("space", ["z", "w"])
def test_both_ends_of_a_path_are_of_one_class(space: str) -> None:
    """A conditional network whose class shifts z: were the two classes different, pictures would lie far apart."""

    class Classes(TinyStyle):
        c = Label(5)
        seen: list[Tensor]

        def map(self, z: Tensor, c: Tensor | None = None) -> Tensor:
            assert c is not None
            self.seen.append(c)
            return super().map(z + c[:, None])

        def sample(self, z: Tensor, c: Tensor | None = None) -> Tensor:
            return self.synthesize(self.map(z, c))

    net = Classes()
    net.seen = []
    found = measured(net, space=space, ends="full", samples=range(12), batch_size=12)
    assert (found / EPSILON**2 < 1e4).all() and (found > 0).all()
    (c,) = net.seen
    wanted = [seed_class(3 + 2 * i, 5) for i in range(12)]
    assert c.tolist() == wanted + wanted and len(set(wanted)) > 2
    split = measured(net, space=space, ends="full", samples=range(4, 12), batch_size=3)
    np.testing.assert_allclose(split, found[4:], rtol=1e-2)
