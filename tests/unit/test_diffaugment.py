import pytest
import torch
from torch import Tensor

from ganctl.losses.regularizers import consistency
from ganctl.nn.diffaugment import ALL, color, cutout, diffaugment, translation
from ganctl.phase import Progress


def draws(seed: int = 0, rank: int = 0, world: int = 1) -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(seed), torch.device("cpu"), rank, world)


def images(n: int = 4, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_colour_in_the_middle_of_its_ranges_changes_nothing_and_at_the_ends_what_the_paper_says() -> None:
    x = images()
    assert (color(x, torch.full((4, 3), 0.5)) - x).abs().max() < 1e-6
    assert (color(x, torch.tensor([[0.9, 0.5, 0.5]] * 4)) - (x + 0.4)).abs().max() < 1e-6
    assert (color(x, torch.tensor([[0.5, 0.0, 0.5]] * 4)) - x.mean(1, keepdim=True)).abs().max() < 1e-6
    weak = color(x, torch.tensor([[0.5, 0.5, 0.0]] * 4))
    assert (weak.std((1, 2, 3)) - x.std((1, 2, 3)) / 2).abs().max() < 1e-6
    assert (weak.mean((1, 2, 3)) - x.mean((1, 2, 3))).abs().max() < 1e-6


@pytest.mark.parametrize(("u", "down", "right"), [((0.0, 0.999), -2, 3), ((0.999, 0.0), 2, -3), ((0.5, 0.5), 0, 0)])
def test_translation_moves_at_most_an_eighth(u: tuple[float, float], down: int, right: int) -> None:
    x = images(2, height=16, width=24)
    moved = translation(x, torch.tensor([[*u, 0.0]] * 2))
    padded = torch.nn.functional.pad(x, (3, 3, 2, 2))
    assert torch.equal(moved, padded[:, :, 2 + down : 18 + down, 3 + right : 27 + right])


def test_cutout_takes_a_square_of_half_the_sides() -> None:
    x = torch.ones(3, 1, 16, 20)
    cut = cutout(x, torch.tensor([[0.5, 0.5, 0], [0.0, 0.0, 0], [0.999, 0.0, 0]]))
    assert [int(c.sum()) for c in 1 - cut] == [8 * 10, 4 * 5, 4 * 5]
    assert not cut[0, 0, 4:12, 5:15].any() and not cut[1, 0, :4, :5].any() and not cut[2, 0, 12:, :5].any()


def test_every_shift_and_place_is_drawn() -> None:
    bar = torch.zeros(2000, 1, 16, 16)
    bar[:, :, 8, 8] = 1
    places = diffaugment(bar, draws(), ("translation",)).flatten(1).argmax(1)
    assert places.unique().numel() == 25
    corners = diffaugment(torch.ones(2000, 1, 16, 16), draws(), ("cutout",)).sum((1, 2, 3))
    assert corners.min() == 256 - 64 and corners.max() == 256 - 16


def test_draws_are_those_of_the_whole_batch_and_of_the_generator_alone() -> None:
    x = images(6)
    whole = diffaugment(x, draws())
    halves = [diffaugment(part, draws(0, rank, 2)) for rank, part in enumerate((x[::2], x[1::2]))]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)
    assert not torch.equal(whole, diffaugment(x, draws(1)))


@pytest.mark.parametrize("policy", ALL)
def test_two_derivatives(policy: str) -> None:
    x = images(2, 3, 4, 5).double().requires_grad_(True)

    def changed(x: Tensor) -> Tensor:
        return diffaugment(x, draws(3), (policy,)).square()  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(changed, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(changed, (x,), fast_mode=True)


def test_consistency_is_the_mean_square_of_what_augmentation_changes() -> None:
    """The critic Σ x² of an image that loses a square changes by that square's share."""
    x = torch.ones(4, 1, 16, 16)
    plain, augmented = (y.square().sum((1, 2, 3)) for y in (x, diffaugment(x, draws(), ("cutout",))))
    lost = (256 - augmented).square().mean()
    assert consistency(plain, augmented).item() == pytest.approx(lost.item()) and lost >= 16**2
    assert consistency(plain, plain) == 0
