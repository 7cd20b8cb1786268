"""R3GAN's equations, computed a second time."""

import math

import pytest
import torch

from ganctl.errors import UsageError
from ganctl.load import skeleton
from ganctl.losses.adversarial import relativistic
from ganctl.losses.regularizers import logits_and_penalty
from ganctl.models import r3gan
from ganctl.phase import Batch, Progress
from ganctl.train import optim
from ganctl.train.loop import half_life, strength
from ganctl.workflows.recipe import resolve


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


SMALL = {"resolution": 16, "channels": 1, "z_dim": 5, "width": 8}


def test_the_published_sizes() -> None:
    """Widths, groups and blocks of the authors' FFHQ-256; its G and D have 23 million weights each."""
    cfg = r3gan.Config()
    nets = skeleton(r3gan, cfg)
    table = r3gan.stages(cfg)
    assert [s.width for s in table] == [768, 768, 768, 768, 384, 192, 96]
    assert [s.groups for s in table] == [96, 96, 96, 96, 48, 24, 12] and {s.blocks for s in table} == {2}
    for net in (nets.G, nets.D):
        assert 22e6 < sum(p.numel() for p in net.parameters()) < 24e6


def test_a_new_network_keeps_its_variance_and_every_block_is_the_identity() -> None:
    torch.manual_seed(0)
    stage = r3gan.Stage(64, 8, 1)
    block, x = r3gan.Block(stage, 2, depth=16), torch.randn(8, 64, 8, 8)
    assert torch.equal(block(x), x)
    # He's gain for the slope 0.2, and 16^(-1/4) = 1/2 for the depth.
    assert block.LinearLayer1.Layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1.04 / 64) / 2, rel=0.03)
    assert block.LinearLayer2.Layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1.04 / (16 * 9)) / 2, rel=0.03)
    y = block.NonLinearity1(2 * block.LinearLayer1(x))
    assert y.square().mean().item() == pytest.approx(1, abs=0.1)


def test_gamma_falls_by_half_a_cosine() -> None:
    cfg, at = r3gan.Config(**SMALL, gamma=2.0, gamma_end=0.2, decay_kimg=10.0), (0, 2500, 5000, 10000, 90000)
    torch.manual_seed(0)
    nets, x = r3gan.build(cfg), torch.randn(4, 1, 16, 16)
    r1 = []
    for nimg in at:
        p = Progress(nimg, 0, torch.Generator().manual_seed(0), x.device)
        r1.append(r3gan.d_loss(nets, Batch(x), p, cfg)["D_r1"].item())
    done = [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, 1.0, 1.0]
    assert [r / r1[0] for r in r1] == pytest.approx([1 - 0.9 * d for d in done], rel=1e-5)
    # The learning rates fall to a quarter and β₂ rises, along the same curve.
    for name, lr in (("G", 2e-4), ("D", 2e-4)):
        optimizer = optim.make(r3gan.optimizers(cfg)[name], getattr(nets, name))
        for nimg, d in zip(at, done, strict=True):
            optim.adjust(optimizer, r3gan.optimizers(cfg)[name], nimg, 1)
            (group,) = optimizer.param_groups
            assert group["lr"] == pytest.approx(lr * (1 - 0.75 * d)) and group["betas"][0] == 0
            assert group["betas"][1] == pytest.approx(0.9 + 0.09 * d)


def test_the_average_and_the_augmentation_rise_with_the_burn_in() -> None:
    train = resolve("r3gan", {"train.burn_in_kimg": 10.0}, ("resolution=16",)).train
    done = [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, 1.0, 1.0]
    at = (0, 2500, 5000, 10000, 90000)
    assert [half_life(train, nimg) for nimg in at] == pytest.approx([500_000 * d for d in done])
    assert [strength(train, nimg) for nimg in at] == pytest.approx([0.3 * d for d in done])
    chances = train.aug_pipe
    assert isinstance(chances, dict)
    assert chances["hue"] == 0.5 and chances["rotate"] == chances["cutout"] == 1 and len(chances) == 13
    assert resolve("r3gan", {}, ("resolution=16",)).train.burn_in_kimg == 20_000


def test_a_conditional_network_needs_its_classes_and_heeds_them() -> None:
    torch.manual_seed(0)
    nets = r3gan.build(r3gan.Config(**SMALL, classes=3))
    z, c = nets.G.prior([1, 1, 1]), torch.arange(3)
    x = nets.G(z, c)
    assert (x[0] - x[1]).abs().max() > 1e-3 and (nets.D(x[:1].expand(3, -1, -1, -1), c).diff().abs() > 1e-4).all()
    for call in (lambda: nets.G.sample(z), lambda: nets.D(x)):
        with pytest.raises(UsageError, match="no class given"):
            call()
    # The embedding is a table: what the class of the other samples is does not matter.
    assert torch.allclose(nets.G(z, c.flip(0))[0], x[2], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"resolution": 48}, "4 doubled"),
        ({"resolution": 2}, "4 doubled"),
        ({"widths": (8, 8)}, "widths has 2 numbers, and there are 3"),
        ({"blocks": (1,) * 4}, "blocks has 4 numbers"),
        ({"widths": (8, 9, 8), "cardinalities": (1, 4, 1)}, "18 feature maps cannot be cut into 4 groups"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        r3gan.build(r3gan.Config(**{**SMALL, **changes}))


def test_published_layout_is_read_off_the_shapes_and_damage_is_none() -> None:
    sizes = {"widths": (16, 8, 8), "cardinalities": (4, 2, 1), "blocks": (1, 2, 1), "expansion": 3, "classes": 3}
    nets = r3gan.build(r3gan.Config(**SMALL, **sizes))
    for net in "GD":
        state = getattr(nets, net).state_dict()
        config, states = r3gan.from_upstream(state) or ({}, {})
        assert config == {k: v for k, v in {**SMALL, **sizes}.items() if k != "width" and (net == "G" or k != "z_dim")}
        assert states[net].keys() == state.keys()
        for key in state:
            for wrong in (torch.zeros(()), torch.zeros(0, 2, 2, 2), torch.zeros(2, 0, 1, 1)):
                found = r3gan.from_upstream({**state, key: wrong})
                assert found is None or found[1].keys() == {net}
        assert r3gan.from_upstream({k: v for k, v in state.items() if "MainLayers.1" not in k}) is None


def test_the_sign_that_is_reported_is_that_of_differences() -> None:
    """D's logits may all be far above 0: what counts is how often a real image is above a generated one."""
    torch.manual_seed(0)
    nets = r3gan.build(r3gan.Config(**SMALL))
    D = nets.D
    signs = []
    for level in (0.0, 16.0):
        nets.D = lambda x, c, level=level: D(x, c) + level  # type: ignore[assignment]
        p = Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"))
        real = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
        r3gan.d_loss(nets, Batch(real), p, r3gan.Config(**SMALL))
        signs += [verdict.item() for verdict in p.verdicts]
    assert signs[0] == signs[1] and abs(signs[0]) < 1
