"""The augmentation pipe: its draws, its geometry and colours by other means, its derivatives."""

import math

import pytest
import torch
from torch import Tensor

from ganctl.errors import UsageError
from ganctl.nn.augment import LAWS, SETS, augment, every, inverse_map, transform, variates, warp
from ganctl.phase import Progress


def draws(seed: int = 0, rank: int = 0, world: int = 1) -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(seed), torch.device("cpu"), rank, world)


def images(n: int = 4, channels: int = 3, height: int = 24, width: int = 24) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def only(n: int = 1, **values: tuple[float, ...]) -> dict[str, Tensor]:
    return {name: torch.tensor([row] * n, dtype=torch.float32) for name, row in values.items()}


def test_sets_add_up() -> None:
    assert SETS["bgcfnc"] == tuple(LAWS) and len(LAWS) == 15
    added = ""
    for letter, name in zip("bgcfnc", ("blit", "geom", "color", "filter", "noise", "cutout"), strict=True):
        added += letter
        assert added == "b" or SETS[added][-len(SETS[name]) :] == SETS[name]


def test_each_transformation_happens_with_its_chance_and_follows_its_law() -> None:
    n, p, chance = 20000, 0.6, 0.5
    found = variates(dict.fromkeys(LAWS, chance), p, n, draws())
    assert list(found) == list(LAWS)
    for name, law in LAWS.items():
        v = found[name]
        assert v.shape == (n, law.columns) and v.isfinite().all()
        happens = (v != 0).float()
        expected = p * chance
        if name == "rotate":
            assert (v != 0).any(1).float().mean() == pytest.approx(expected, abs=0.015)
            expected = 1 - math.sqrt(1 - expected)
        if law.kind == "choice":
            expected *= 1 - 1 / law.options
        assert happens.mean(0).tolist() == pytest.approx([expected] * law.columns, abs=0.015), name
        together = (happens == happens[:, :1]).all()
        assert bool(together) == (not law.apart), name
        values = v[(v != 0).any(1) if not law.apart else (v != 0).all(1)]
        if law.kind in ("normal", "half_normal"):
            assert values.square().mean().sqrt() == pytest.approx(1, abs=0.05), name
            assert (values.min() > 0) == (law.kind == "half_normal")
        if law.kind == "range":
            assert values.square().mean() == pytest.approx(1 / 3, abs=0.02) and values.abs().max() <= 1
        if law.kind == "choice":
            assert values.unique().tolist() == list(range(1, law.options))
        if law.kind == "cutout":
            assert (values[:, 0] == 1).all() and values[:, 1:].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_happens_at_p_0_and_much_at_1(channels: int) -> None:
    x = images(channels=channels)
    still, moved = (augment(x, p, draws(), every("bgcfnc")) for p in (0.0, 1.0))
    # Up and down through orthogonal filters is the identity, to the digits of their taps.
    assert (still - x).abs().max() < 1e-5
    assert moved.shape == x.shape and moved.isfinite().all() and ((moved - x).abs().amax((1, 2, 3)) > 0.1).all()
    assert torch.equal(moved, augment(x, 1.0, draws(), every("bgcfnc")))
    assert not torch.equal(moved, augment(x, 1.0, draws(1), every("bgcfnc")))


def test_two_ranks_see_what_one_process_of_the_whole_batch_sees() -> None:
    x = images(6)
    whole = augment(x, 0.8, draws(), every("bgcfnc"))
    halves = [augment(part, 0.8, draws(0, rank, 2), every("bgcfnc")) for rank, part in enumerate((x[::2], x[1::2]))]
    assert (torch.stack(halves, 1).flatten(0, 1) - whole).abs().max() < 1e-4


def test_flips_and_quarter_turns() -> None:
    """To the filters' asymmetry, which a smooth picture does not show."""
    x = torch.nn.functional.interpolate(images(1, height=4, width=4), (24, 24), mode="bicubic")
    assert (transform(x, only(xflip=(1,))) - x.flip(3)).abs().max() < 0.06
    for k in (1, 2, 3):
        assert (transform(x, only(rotate90=(k,))) - x.rot90(k, (2, 3))).abs().max() < 0.06, k
    assert (x.flip(3) - x).abs().max() > 0.5 and (x.rot90(2, (2, 3)) - x).abs().max() > 0.5


def test_integer_translation_is_exact() -> None:
    x = images(1)
    moved = transform(x, only(xint=(1 / 3, -2 / 3)))
    assert (moved[..., :-2, 1:] - x[..., 2:, :-1]).abs().max() < 1e-5
    assert (moved[..., :-2, 0] - x[..., 2:, 1]).abs().max() < 1e-5, "reflected at the border"


@pytest.mark.parametrize("size", [(24, 24), (20, 32)])
def test_geometry_moves_a_smooth_picture_as_its_map_says(size: tuple[int, int]) -> None:
    """result(q) = x(g q) for a wide bump, whose value between the pixels is known."""
    height, width = size
    v = only(scale=(-0.5,), rotate=(0.1, -0.05), aniso=(0.7,), xfrac=(0.4, -0.3), xint=(0.5, 0.5), xflip=(1,))
    g = inverse_map(v, height, width)
    ys, xs = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    places = torch.stack([xs, ys, torch.ones_like(xs)]).flatten(1)

    def bump(at: Tensor) -> Tensor:
        return torch.exp(-((at[0] - 1).square() + (at[1] + 2).square() * 2) / 25).view(1, 1, height, width)

    moved = transform(bump(places), v)
    expected = bump(g[0] @ places)
    assert (moved - expected)[..., 3:-3, 3:-3].abs().max() < 0.02
    assert (moved - bump(places)).abs().max() > 0.2


def test_colours() -> None:
    x = images()
    assert (transform(x, only(4, brightness=(2.0,))) - (x + 0.4)).abs().max() < 1e-6
    assert (transform(x, only(4, contrast=(2.0,))) - 2 * x).abs().max() < 1e-6
    third = transform(x, only(4, hue=(2 / 3,)))
    assert min((third - x.roll(k, 1)).abs().max() for k in (1, 2)) < 1e-6, "a third of a turn exchanges the channels"
    flipped = transform(x, only(4, lumaflip=(1.0,)))
    assert (flipped.mean(1) + x.mean(1)).abs().max() < 1e-6
    assert ((flipped - flipped.mean(1, True)) - (x - x.mean(1, True))).abs().max() < 1e-6
    pale = transform(x, only(4, saturation=(-1.0,)))
    assert (pale - (x + x.mean(1, True)) / 2).abs().max() < 1e-6
    grey = images(channels=1)
    both = transform(grey, only(4, lumaflip=(1.0,), hue=(0.3,), saturation=(1.0,), brightness=(1.0,)))
    assert (both + grey + 0.2).abs().max() < 1e-6, "a grey image has neither hue nor saturation"


def test_filter_amplifies_bands_and_keeps_the_expected_power() -> None:
    """Twice the amplitude, along both axes, after division by the power expected of an image."""
    x = torch.ones(1, 3, 32, 32)
    lows = transform(x, only(imgfilter=(1.0, 0, 0, 0)))
    assert (lows - lows.mean()).abs().max() < 1e-5 and lows.mean() == pytest.approx(4 / (1 + 10 / 13 * 3), rel=1e-4)
    checks = torch.ones(32).cumprod(0)
    checks[1::2] = -1
    highs = transform((checks * checks[:, None]).expand(1, 3, 32, 32), only(imgfilter=(0, 0, 0, 1.0)))
    assert highs[..., 0, 0].mean() == pytest.approx(4 / (1 + 1 / 13 * 3), rel=1e-3)


def test_noise_and_cutout() -> None:
    x, field = images(), torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    assert (transform(x, only(4, noise=(1.5,)), field) - (x + 0.15 * field)).abs().max() < 1e-6
    cut = transform(torch.ones(2, 1, 24, 24), {"cutout": torch.tensor([[1.0, 0.5, 0.5], [0.0, 0.5, 0.5]])})
    assert cut[0].sum() == 24 * 24 - 12 * 12 and cut[0, 0, 11, 11] == 0 and cut[1].min() == 1
    corner = transform(torch.ones(1, 1, 24, 24), only(cutout=(1.0, 0.0, 1.0)))
    assert corner.sum() == 24 * 24 - 6 * 6 and corner[0, 0, 23, 0] == 0 and corner[0, 0, 0, 23] == 1


def test_the_warp_has_derivatives_of_any_order() -> None:
    v = only(2, scale=(0.4,), rotate=(0.1, 0.05), aniso=(-0.6,), xfrac=(0.3, 0.2))
    g = inverse_map(v, 5, 6).double()
    x = images(2, 1, 5, 6).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: warp(x, g), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: warp(x, g), (x,), fast_mode=True)


def test_a_penalty_goes_through_all_of_it() -> None:
    """R1 of a critic that sees augmented images: its gradient in the critic's weights is that by differences."""
    kernel = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(3))

    def penalty(weight: Tensor) -> Tensor:
        x = images(2).requires_grad_(True)
        y = torch.nn.functional.conv2d(augment(x, 1.0, draws(), every("bgcfnc")), weight * kernel)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return slope.square().sum()

    weight = torch.tensor(0.5, requires_grad=True)
    (found,) = torch.autograd.grad(penalty(weight), weight)
    # The slope is of the order weight², and so is the penalty of the order weight⁴.
    assert found.item() == pytest.approx(4 * penalty(weight).item() / 0.5, rel=1e-4) and found > 0


def test_images_are_augmented_in_float32_under_autocast() -> None:
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        half = augment(x.bfloat16(), 1.0, draws(), every("bgcfnc"))
    full = augment(x.bfloat16().float(), 1.0, draws(), every("bgcfnc"))
    assert half.dtype == torch.float32 and torch.equal(half, full)


def test_images_that_cannot_be_augmented() -> None:
    with pytest.raises(UsageError, match="16 px"):
        augment(images(height=16), 1.0, draws(), every("bgcf"))
    with pytest.raises(UsageError, match="2 channels"):
        augment(images(channels=2), 1.0, draws(), every("bgc"))
    assert augment(images(channels=2, height=16), 1.0, draws(), every("bg")).shape == (4, 2, 16, 24)
