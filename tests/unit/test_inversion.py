"""Inversion by optimisation: it finds what is there, knows its own loss, and breaks off in a sentence."""

import math

import pytest
import torch

from ganctl.errors import GanctlError
from ganctl.inversion.optimize import InvertConfig, optimize, psnr, schedule, squared_error, start_points
from ganctl.inversion.perceptual import perceptual_loss
from ganctl.models import dcgan
from ganctl.nn.features.lpips import LPIPS


@pytest.fixture
def G() -> dcgan.Generator:
    torch.manual_seed(0)
    net = dcgan.Generator(dcgan.Config(resolution=16, channels=1, z_dim=8, ngf=4)).eval().requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(12 if weight.ndim > 1 else 1)  # Untrained, every picture is a nearly even grey.
    return net


class Line(torch.nn.Module):
    """x = A z: its best z is known."""

    def __init__(self, A: torch.Tensor) -> None:
        super().__init__()
        self.A = A

    def prior(self, seeds):
        return torch.stack([torch.randn(self.A.shape[1], generator=torch.Generator().manual_seed(s)) for s in seeds])

    def sample(self, z):
        return (z @ self.A.T).reshape(len(z), 1, 2, -1)


def test_a_linear_model_is_solved_as_least_squares_solves_it():
    A = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 1, 2, 6, generator=torch.Generator().manual_seed(2))
    best = torch.linalg.lstsq(A, x.reshape(2, 12).T).solution.T
    found = optimize(Line(A), x, InvertConfig(steps=400))  # type: ignore[arg-type]
    torch.testing.assert_close(found.latent, best, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.loss, squared_error(x, found.x))
    # Only the left half counts: those rows alone are solved.
    mask = torch.zeros(2, 1, 2, 6)
    mask[..., :3] = 1
    rows = mask[0].flatten().bool()
    half = torch.linalg.lstsq(A[rows], x.reshape(2, 12).T[rows]).solution.T
    found = optimize(Line(A), x, InvertConfig(steps=600), mask=mask)  # type: ignore[arg-type]
    torch.testing.assert_close(found.latent, half, rtol=0, atol=1e-2)


def test_images_do_not_influence_each_other_and_a_seed_repeats(G):
    x = G.sample(G.prior([3, 4]))
    cfg = InvertConfig(steps=12, seed=5)
    both = optimize(G, x, cfg)
    torch.testing.assert_close(optimize(G, x[1:], cfg).latent, both.latent[1:], rtol=0, atol=1e-3)
    assert torch.equal(optimize(G, x, cfg).latent, both.latent)
    assert not torch.equal(optimize(G, x, InvertConfig(steps=12, seed=6)).latent, both.latent)


def test_steps_tell_the_best_so_far_and_the_start_can_be_given(G):
    z = G.prior([9])
    x = G.sample(z)
    seen: list[float] = []
    found = optimize(G, x, InvertConfig(steps=30), lambda s: seen.append(float(s.loss)))
    assert len(seen) == 31 and seen == sorted(seen, reverse=True) and math.isclose(seen[-1], float(found.loss))
    assert torch.equal(optimize(G, x, InvertConfig(steps=5), init=z).latent, z)
    starts = start_points(G, 2, InvertConfig(seed=1), None)
    assert starts.shape == (8, 8) and torch.equal(starts[1:4], G.prior([1, 2, 3])) and not starts[0].any()
    assert torch.equal(starts[:4], starts[4:])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_break_off(G, value):
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 3, 3] = value
    with pytest.raises(GanctlError, match="NaN or infinite"):
        optimize(G, x, InvertConfig(steps=2))
    with pytest.raises(GanctlError, match="the loss is not finite at step 0"):
        optimize(Line(torch.full((128, 3), value)), torch.zeros(1, 1, 2, 64), InvertConfig(steps=2))  # type: ignore[arg-type]


def test_scores():
    x = torch.zeros(2, 1, 2, 2)
    y = x.clone()
    y[1, 0, 0, 0] = 0.2
    error = squared_error(x, y)
    torch.testing.assert_close(error, torch.tensor([0.0, 0.01]))
    torch.testing.assert_close(psnr(error, (-1.0, 1.0)), torch.tensor([100.0, 10 * math.log10(4 / 0.01)]))
    mask = torch.ones(2, 1, 2, 2)
    mask[:, :, 0, 0] = 0
    assert not squared_error(x, y, mask).any()
    mask[:, :, 1] = 0
    torch.testing.assert_close(squared_error(x, y, 1 - mask), torch.tensor([0.0, 0.04 / 3]))


def test_the_learning_rate_rises_stays_and_falls():
    cfg = InvertConfig()
    assert schedule(0.0, cfg) == 0 and schedule(0.025, cfg) == 0.5 and schedule(0.5, cfg) == 1
    assert math.isclose(schedule(0.875, cfg), 0.5) and math.isclose(schedule(1.0, cfg), 0)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 1.0)])
def test_the_perceptual_loss_sees_only_what_counts(bounds):
    torch.manual_seed(0)
    lpips = LPIPS("squeeze").eval().requires_grad_(False)
    low, high = bounds
    x, y = (low + (high - low) * torch.rand(2, 1, 32, 32) for _ in range(2))
    alone, both = (perceptual_loss(lpips, bounds, l2=l2) for l2 in (False, True))

    def rgb(t):
        return (2 * (t - low) / (high - low) - 1).expand(-1, 3, -1, -1)

    torch.testing.assert_close(alone(x, y, None), lpips.distance(rgb(x), rgb(y)))
    assert alone(x, x, None).tolist() == [0, 0]
    added = squared_error(rgb(x), rgb(y))
    torch.testing.assert_close(both(x, y, None), alone(x, y, None) + added)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., :16] = 1
    y.requires_grad_(True)
    (gradient,) = torch.autograd.grad(both(x, y, mask).sum(), y)
    assert not gradient[..., 16:].any() and bool(gradient[..., :16].any())
    assert both(x, torch.cat([x[..., :16], y[..., 16:]], 3), mask).tolist() == [0, 0]
