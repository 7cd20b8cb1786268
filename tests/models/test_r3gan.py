"""R3GAN's equations, computed a second time."""

import pytest
import torch

from ganctl.losses.adversarial import relativistic
from ganctl.losses.regularizers import logits_and_penalty


def test_relativistic_loss_is_the_log_probability_of_the_right_order() -> None:
    a, b = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([1.5, -1.0, 0.0])
    assert relativistic(a, b).item() == pytest.approx(-(a - b).sigmoid().log().mean().item(), rel=1e-6)
    assert relativistic(a + 7, b + 7).item() == pytest.approx(relativistic(a, b).item(), rel=1e-5)
    assert relativistic(torch.tensor([-1e4]), torch.tensor([1e4])).isfinite()


def test_penalty_is_the_squared_slope_of_each_sample_alone() -> None:
    """For D(x) = Σ w x² the gradient is 2 w x, and the penalty's own gradient in w is 8 w Σ x²."""
    w = torch.tensor(0.5, requires_grad=True)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits, penalty = logits_and_penalty(lambda x: (w * x.square()).flatten(1).sum(1), x)
    squares = x.square().sum((1, 2, 3))
    assert logits.dtype == penalty.dtype == torch.float32 and not x.requires_grad
    torch.testing.assert_close(logits, 0.5 * squares)
    torch.testing.assert_close(penalty, squares)
    penalty.sum().backward()
    assert w.grad is not None and w.grad.item() == pytest.approx(4 * squares.sum().item(), rel=1e-5)
