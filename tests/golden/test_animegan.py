"""AnimeGANv2's generator against numbers recorded from its PyTorch port, and its losses by hand."""

import pytest
import torch
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.models import animegan
from ganctl.nn.edges import luma
from ganctl.phase import Batch, Progress
from ganctl.protocols import Translator
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream


@torch.no_grad()
def test_generator() -> None:
    weights, inputs, outputs, config = read(golden("animeganv2_generator_narrow.safetensors"))
    G = upstream(animegan, weights, "G")
    assert isinstance(G, Translator) and G.block_a[0][1].out_channels == 32 // config["div"]
    close(G(inputs["image"]), outputs["image_align_corners_true"], 2e-5)
    close(G.translate(inputs["image"]), outputs["image_align_corners_true"], 2e-5)
    plain = upstream(animegan, weights, "G", align_corners=False)
    assert (G.stride, plain.stride) == (1, 4)
    close(plain(inputs["image"]), outputs["image_align_corners_false"], 2e-5)
    # Sides of any length, and small ones.
    assert G.translate(inputs["image"][..., :5, :33]).shape == (2, 3, 5, 33)


class Number(nn.Module):
    """G that paints one grey, D that answers with the mean."""

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3), keepdim=True) if self.value is None else torch.full_like(x, self.value)


class Eye:
    """In the place of VGG: one layer, which is the image."""

    def of(self, x: Tensor) -> list[Tensor]:
        return [x.expand(-1, 3, -1, -1)]


def progress(nimg: int) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_losses_by_hand() -> None:
    cfg = parse(animegan.Config, {"resolution": 16, "width": 1, "ndf": 1, "init_kimg": 1.0}, where="test")
    nets = animegan.build(cfg)
    nets.G, nets.D, nets.vgg = Number(0.5), Number(), Eye()  # type: ignore[assignment]
    drawing = torch.zeros(1, 3, 16, 16)
    drawing[:, 0] = 0.6
    photo = torch.zeros(1, 3, 16, 16)
    b = Batch(photo, drawing)
    d = animegan.d_loss(nets, b, progress(0), cfg)["D_loss"]
    grey = 0.299 * 0.6  # a flat picture has no edges: without them it is the same
    assert float(d) == pytest.approx((0.2 - 1) ** 2 + 0.5**2 + 1.1 * grey**2, rel=1e-5)
    early = animegan.g_loss(nets, b, progress(999), cfg)
    assert {k: float(v) for k, v in early.items()} == {"G_content": pytest.approx(1.5 * 0.5)}
    late = {k: float(v) for k, v in animegan.g_loss(nets, b, progress(1000), cfg).items()}
    assert late == {
        "G_content": pytest.approx(0.75),
        # Every product of two channels is the mean square, over three channels.
        "G_style": pytest.approx(3 * abs(0.5**2 - grey**2) / 3, rel=1e-5),
        "G_loss": pytest.approx(10 * 0.5**2),
        # Grey in place of grey: no chroma either way, and half of the difference on [0, 1].
        "G_colour": pytest.approx(10 * 0.25, rel=1e-5),
        "G_variation": 0.0,
    }
    d_phase, g_phase = animegan.phases(cfg)
    assert (d_phase.start, g_phase.start) == (1000, 0)
    rate = animegan.optimizers(cfg)["G"].lr
    assert callable(rate) and [rate(n, 10) for n in (0, 999, 1000)] == [2e-4, 2e-4, 2e-5]
    assert animegan.phases(animegan.Config(content_weight=0.0))[0].start == 0
    assert animegan.build(animegan.Config(content_weight=0.0, style_weight=0.0)).vgg is None


def test_colour_and_variation() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 5, 6, generator=g) * 2 - 1 for _ in range(2))

    def yuv(image: Tensor) -> list[Tensor]:
        r, g_, b = ((image + 1) / 2).unbind(1)
        light = 0.299 * r + 0.587 * g_ + 0.114 * b
        return [
            light,
            -0.14714119 * r - 0.28886916 * g_ + 0.43601035 * b,
            0.61497538 * r - 0.51496512 * g_ - 0.10001026 * b,
        ]

    (ya, ua, va), (yb, ub, vb) = yuv(x), yuv(y)
    # Every difference is below 1, where Huber's loss is half the square.
    wanted = (ya - yb).abs().mean() + (ua - ub).square().mean() / 2 + (va - vb).square().mean() / 2
    assert float(animegan.colour_loss(x, y)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(animegan.colour_loss(x[:, :1], y)) == pytest.approx(float((x[:, :1] - luma(y)).abs().mean() / 2))
    stripes = torch.tensor([1.0, -1.0, 1.0]).expand(1, 1, 4, 3)
    assert float(animegan.total_variation(stripes)) == 2.0


def test_d_sees_patches_and_has_no_bias() -> None:
    cfg = animegan.Config(resolution=32, ndf=2, width=1)
    D = animegan.build(cfg).D
    assert D(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 8, 12)
    assert [k for k, _ in D.named_parameters() if k.endswith("bias")] == [f"model.{i}.bias" for i in (6, 12, 15)]
    # 2i - 1, 2i and 2i + 1 along both sides.
    assert D.model[2].padding == (1, 0, 1, 0)
