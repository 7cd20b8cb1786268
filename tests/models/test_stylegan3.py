"""StyleGAN3 beyond the recorded numbers: what moves with the plane, published names, blur, running means, errors."""

import math

import pytest
import torch
from torch import Tensor

from ganctl.config import parse
from ganctl.errors import UsageError
from ganctl.models import stylegan3
from ganctl.phase import Adam, Batch, Progress
from ganctl.train.loop import TrainConfig, run_phase
from tests.models.test_contract import state_of

TINY = {
    "resolution": 16, "channels": 1, "z_dim": 6, "w_dim": 8, "channel_base": 256, "channel_max": 12,
    "d_channel_base": 128, "d_channel_max": 8, "num_layers": 6,
}  # fmt: skip
R = {"kernel": 1, "radial_filters": True}


def made(**changes: object) -> tuple[stylegan3.Config, stylegan3.Nets]:
    cfg = parse(stylegan3.Config, {**TINY, **changes}, where="test")
    torch.manual_seed(0)
    return cfg, stylegan3.build(cfg)


def progress(nimg: int = 0) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(1), torch.device("cpu"))


def batch() -> Batch:
    return Batch(torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Of an untrained network's images, by their own deviation in the place of a range."""
    return float(10 * torch.log10(b.var() / (a - b).square().mean()))


@torch.no_grad()
def test_translation_moves_the_picture_right_and_down() -> None:
    _, nets = made()
    G = nets.G
    w = G.map(G.prior(range(4)))
    still = G.synthesis(w)
    assert stylegan3.transformed(G, translate=(3 / 16, 2 / 16)) is G
    moved = G.synthesis(w)
    assert psnr(moved[:, :, 2:, 3:], still[:, :, :-2, :-3]) > 35
    assert psnr(moved[:, :, :-2, :-3], still[:, :, 2:, 3:]) < 10
    stylegan3.transformed(G)
    assert torch.equal(G.synthesis(w), still)


@torch.no_grad()
def test_rotation_turns_the_picture_counter_clockwise() -> None:
    _, nets = made(**R)
    G = nets.G
    w = G.map(G.prior(range(4)))
    still = G.synthesis(w)
    turned = stylegan3.transformed(G, rotate=90.0).synthesis(w)
    assert psnr(turned, still.rot90(1, (2, 3))) > 60
    assert psnr(turned, still.rot90(-1, (2, 3))) < 10
    # T's 3 × 3 kernels do not turn with the plane.
    T = made()[1].G
    w = T.map(T.prior(range(4)))
    assert psnr(stylegan3.transformed(T, rotate=90.0).synthesis(w), made()[1].G.synthesis(w).rot90(1, (2, 3))) < 20


def test_the_image_is_turned_first_and_then_moved() -> None:
    """The matrix takes a point of the picture back to where it came from."""
    place = stylegan3.transform_of((0.25, 0.5), 90.0)
    centre, right = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([0.25, 0.4, 1.0])
    assert torch.allclose(place @ centre, torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)
    # What lies above the centre now (y goes down) lay to the right of it before.
    assert torch.allclose(place @ right, torch.tensor([0.1, 0.0, 1.0]), atol=1e-6)
    assert torch.equal(stylegan3.transform_of(), torch.eye(3))


def names(**config: object) -> list[str]:
    made = stylegan3.signals(parse(stylegan3.Config, config, where="test"))
    return [f"L{i}_{signal.size}_{signal.channels}" for i, signal in enumerate(made)]


def test_published_layer_names() -> None:
    """Of the 1024 px networks, T and R, and of T at 256 px."""
    t = ["L0_36_512", "L1_36_512", "L2_52_512", "L3_52_512", "L4_84_512", "L5_148_512", "L6_148_512", "L7_276_323"]
    t += ["L8_276_203", "L9_532_128", "L10_1044_81", "L11_1044_51", "L12_1044_32", "L13_1024_32", "L14_1024_3"]
    assert names() == t
    r = names(channel_base=65536, channel_max=1024, **R)
    assert (r[0], r[7], r[12], r[14]) == ("L0_36_1024", "L7_276_645", "L12_1044_64", "L14_1024_3")
    small = names(resolution=256)
    assert (small[0], small[6], small[13], small[14]) == ("L0_36_512", "L6_84_512", "L13_256_128", "L14_256_3")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"resolution": 48}, "not 48"),
        ({"resolution": 4}, "not 4"),
        ({"num_critical": 6}, "first_cutoff"),
        ({"first_cutoff": 8.0, "first_stopband": 9.0}, "first_cutoff"),
        ({"first_stopband": 1.5}, "first_cutoff"),
    ],
)
def test_sizes_that_no_network_has(changes: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError) as e:
        made(**changes)
    assert why in e.value.why and e.value.hint


def test_blur_fades_with_the_images_seen() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 16] = 1
    y = stylegan3.blur(x, 3.0)
    assert y.sum() == pytest.approx(1, abs=1e-5) and y.shape == x.shape
    assert y[0, 0, 16, 19] / y[0, 0, 16, 16] == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(stylegan3.blur(x, 0.3), x)
    cfg, _ = made(blur_sigma=4.0, blur_kimg=2.0)
    p = [stylegan3.seen(x, progress(nimg), cfg) for nimg in (0, 1000, 2000, 9000)]
    assert torch.equal(p[0], stylegan3.blur(x, 4.0)) and torch.equal(p[1], stylegan3.blur(x, 2.0))
    assert torch.equal(p[2], x) and torch.equal(p[3], x)


def test_running_means_move_in_ds_phase_alone() -> None:
    cfg, nets = made(blur_sigma=4.0)
    state = state_of(stylegan3, cfg, nets)

    def means() -> list[Tensor]:
        return [v.clone() for k, v in nets.G.state_dict().items() if k.endswith(("magnitude_ema", "w_avg"))]

    for phase in stylegan3.phases(cfg):
        before = means()
        run_phase(state, phase, batch(), TrainConfig(batch=4))
        moved = [not torch.equal(a, b) for a, b in zip(before, means(), strict=True)]
        assert all(moved) if phase.name == "D" else not any(moved), phase.name
    fixed = {"synthesis.input.freqs", "synthesis.input.phases", "synthesis.input.transform"}
    assert fixed <= {k for k, _ in nets.G.named_buffers()}


def test_phases_and_learning_rates() -> None:
    cfg = stylegan3.Config()
    assert [(p.name, p.every) for p in stylegan3.phases(cfg)] == [("D", 1), ("D_r1", 16), ("G", 1)]
    adam = stylegan3.optimizers(cfg)
    assert adam["G"] == Adam(2.5e-3, 0.0, 0.99)
    assert adam["D"] == Adam(pytest.approx(2e-3 * 16 / 17), 0.0, pytest.approx(0.99 ** (16 / 17)))  # type: ignore[arg-type]
    assert math.isclose(cfg.magnitude_ema_beta, 0.9988915792636801)
    plain = stylegan3.Config(r1_gamma=0.0)
    assert [p.name for p in stylegan3.phases(plain)] == ["D", "G"]
    assert stylegan3.optimizers(plain)["D"] == Adam(2e-3, 0.0, 0.99)


def test_r1_is_that_of_the_blurred_discriminator() -> None:
    cfg, nets = made(blur_sigma=1.0, r1_gamma=3.0)
    x = batch().x
    found = stylegan3.d_r1(nets, Batch(x), progress(), cfg)["D_r1"]
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nets.D(stylegan3.blur(x, 1.0)).sum(), x)
    assert found.item() == pytest.approx(1.5 * float(grad.square().sum() / len(x)), rel=1e-5)


@torch.no_grad()
def test_classes_and_half_precision() -> None:
    _, nets = made(classes=3)
    G = nets.G
    z = G.prior([1, 1, 2])
    w = G.map(z, torch.tensor([0, 1, 0]))
    assert w.shape == (3, G.synthesis.layers, 8) and not torch.allclose(w[0], w[1])
    with pytest.raises(UsageError, match="no class"):
        G.map(z)
    full = G.synthesis(w)
    with torch.autocast("cpu", torch.bfloat16):
        half = G.synthesis(w)
    assert half.dtype == torch.float32 and 25 < psnr(half, full) < 80
    with torch.autocast("cpu", torch.float16):
        assert psnr(G.synthesis(w), full) > 40
        # In the published setting the layers of the lower rates stay in float32.
        own = made(classes=3, num_fp16_res=0)[1].G
        assert torch.allclose(own.synthesis(w), full, atol=1e-5)
