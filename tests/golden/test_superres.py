"""SRGAN, ESRGAN and Real-ESRGAN against numbers recorded from their repositories, and against published weights."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganctl.config import parse
from ganctl.losses.adversarial import relativistic_average
from ganctl.metrics.psnr import luma, psnr, shave
from ganctl.models import esrgan, srgan
from ganctl.nn.shrink import shrink
from tests.conftest import golden, shared_data
from tests.golden.test_networks import close, read, upstream


@pytest.mark.parametrize("name", ["x2", "x4_narrow"])
@torch.no_grad()
def test_srresnet(name: str) -> None:
    weights, inputs, outputs, config = read(golden(f"srgan_generator_{name}.safetensors"))
    G = upstream(srgan, weights, "G")
    assert (G.scale, G.head[0].out_channels, len(G.blocks)) == (config["scale"], config["width"], 5)
    x = inputs["image"]
    close((G(x) + 1) / 2, outputs["image"])
    close((G.translate(2 * x - 1) + 1) / 2, outputs["image"])


@torch.no_grad()
def test_srgan_discriminator() -> None:
    weights, inputs, outputs, _ = read(golden("srgan_discriminator_narrow.safetensors"))
    D = upstream(srgan, weights, "D")
    close(D(inputs["image"]).sigmoid(), outputs["probability"])


@pytest.mark.parametrize(
    "name", ["esrgan_rrdbnet_new_layout", "esrgan_rrdbnet_old_layout", "realesrgan_rrdbnet_x2", "realesrgan_rrdbnet_x4"]
)
@torch.no_grad()
def test_rrdbnet(name: str) -> None:
    weights, inputs, outputs, config = read(golden(f"{name}.safetensors"))
    G = upstream(esrgan, weights, "G")
    assert (len(G.body), G.scale) == (config.get("nb") or config["num_block"], config.get("scale", 4))
    close(G(inputs["image"]), outputs["image"])
    close((G.translate(2 * inputs["image"] - 1) + 1) / 2, outputs["image"])


@pytest.mark.parametrize("activation", ["leakyrelu", "prelu"])
@torch.no_grad()
def test_compact_network(activation: str) -> None:
    weights, inputs, outputs, config = read(golden(f"realesrgan_srvggnet_compact_{activation}.safetensors"))
    G = upstream(esrgan, weights, "G")
    assert G.scale == config["upscale"]
    close(G(inputs["image"]), outputs["image"])


@torch.no_grad()
def test_unet_discriminator_and_a_step_of_its_power_iteration() -> None:
    weights, inputs, outputs, _ = read(golden("realesrgan_unet_discriminator_sn.safetensors"))
    D = upstream(esrgan, weights, "D")
    close(D(inputs["image"]), outputs["logits"])
    close(D(inputs["image"]), outputs["logits"])
    # In training, u and v go to the first singular vectors: the normalised weight's largest singular value is 1.
    D.train()
    for _ in range(100):
        D(inputs["image"][:1, :, :8, :8])
    D.eval()
    for conv in (D.conv1, D.conv6):
        matrix = conv.weight_orig.flatten(1)
        sigma = torch.dot(conv.weight_u, matrix @ conv.weight_v)
        assert sigma == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=5e-3)


@torch.no_grad()
def test_vgg_discriminator() -> None:
    """BasicSR's VGGStyleDiscriminator, at its 128 px; in training mode too, and what that does to the statistics."""
    weights, inputs, outputs, _ = read(golden("basicsr_vgg_discriminator.safetensors"))
    D = upstream(esrgan, weights, "D")
    assert D.linear1.in_features == 8 * 4 * 4
    x = F.interpolate(inputs["small"], (128, 128), mode="bilinear", align_corners=False)
    close(D(x)[:, None], outputs["logits"])
    D.train()
    close(D(x)[:, None], outputs["training"])
    close(D.bn4_1.running_var, outputs["running_var"])


def test_relativistic_average_is_equation_1() -> None:
    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(6, 1, generator=g), torch.randn(6, 1, generator=g)
    d_real, d_fake = (real - fake.mean()).sigmoid(), (fake - real.mean()).sigmoid()
    wanted = -d_real.log().mean() - (1 - d_fake).log().mean()
    assert relativistic_average(real, fake) == pytest.approx(float(wanted), rel=1e-6)


HALOS = {
    "srgan-x2": (srgan, {"num_blocks": 1, "width": 4, "scale": 2}),
    "srgan-x4": (srgan, {"num_blocks": 2, "width": 4, "scale": 4}),
    "rrdb-x4": (esrgan, {"num_blocks": 1, "width": 4, "growth": 2}),
    "rrdb-x2": (esrgan, {"num_blocks": 1, "width": 4, "growth": 2, "scale": 2}),
    "rrdb-x8": (esrgan, {"num_blocks": 1, "width": 4, "growth": 2, "scale": 8}),
    "compact": (esrgan, {"num_blocks": 3, "width": 4, "network": "compact", "scale": 3, "resolution": 96}),
}


@pytest.mark.parametrize("name", HALOS)
def test_an_output_pixel_sees_its_halo_and_no_further(name: str) -> None:
    module, config = HALOS[name]
    torch.manual_seed(0)
    G = module.build(parse(module.Config, {**config, "channels": 1}, where=name)).G.double().eval()
    side = 2 * G.halo + 4 * G.stride + 1
    side += -side % G.stride
    far = 0
    for place in range(side // 2, side // 2 + G.stride):
        x = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        block = G(x)[..., place * G.scale : (place + 1) * G.scale, place * G.scale : (place + 1) * G.scale]
        (seen,) = torch.autograd.grad(block.square().sum(), x)
        rows = seen[0, 0].abs().sum(1).nonzero().flatten()
        far = max(far, int((rows - place).abs().max()))
    assert G.halo - 2 - G.stride <= far <= G.halo


def test_shrink_is_pillows_bicubic_in_8_bits() -> None:
    """Equal to Pillow's in float, rounded once; Pillow rounds bytes after each of two passes, one level beside it."""
    # Between its passes Pillow clips too, which these numbers do not reach.
    pixels = np.random.default_rng(0).integers(64, 192, (96, 144), dtype=np.uint8)
    for scale in (2, 3, 4, 8):
        size = (144 // scale, 96 // scale)
        exact = np.array(Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)).clip(0, 255)
        made = (shrink(torch.from_numpy(pixels)[None, None].float() / 127.5 - 1, scale)[0, 0].numpy() + 1) * 127.5
        levels = made.round()
        np.testing.assert_allclose(made, levels, atol=2e-5)
        assert np.abs(levels - exact).max() <= 0.5 + 1e-4
        stored = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        assert np.abs(levels - stored).max() <= 1


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(shared_data("checkpoints/checkpoints.zip")) as z:
        z.extractall(folder, [n for n in z.namelist() if n.startswith(("srgan", "realesrgan"))])
    with zipfile.ZipFile(shared_data("super_resolution/set5_set14_bsds.zip")) as z:
        z.extractall(folder, ["Set5/bird.png", "Set5/butterfly.png"])
    return folder


def low(path: Path, scale: int, to: Path) -> np.ndarray:
    """The picture, cut to multiples of the scale, and its bicubic low resolution in `to`."""
    image = Image.open(path).convert("RGB")
    image = image.crop((0, 0, image.width // scale * scale, image.height // scale * scale))
    image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC).save(to)
    return np.array(image)


@pytest.mark.parametrize(
    ("file", "scale", "wanted"),
    [
        ("srgan_leftthomas/netG_epoch_4_100.pth", 4, {"bird": 32.70, "butterfly": 26.38}),
        ("srgan_leftthomas/netG_epoch_2_100.pth", 2, {"butterfly": 32.32}),
        ("realesrgan_compact/realesr-animevideov3.pth", 4, {"butterfly": 23.16}),
    ],
)
def test_published_weights_enlarge_set5_as_measured(
    file: str, scale: int, wanted: dict[str, float], published: Path, tmp_path: Path, ganctl
) -> None:
    ganctl.ok("convert", published / file, "-o", "bundle", "--license", "MIT")
    (ganctl.folder / "low").mkdir()
    originals = {n: low(published / "Set5" / f"{n}.png", scale, ganctl.folder / "low" / f"{n}.png") for n in wanted}
    ganctl.ok("translate", "./bundle", "low", "-o", "high")
    for name, db in wanted.items():
        made = np.array(Image.open(ganctl.folder / "high" / f"{name}.png"))
        assert made.shape == originals[name].shape
        found = psnr(luma(shave(made, 4)), luma(shave(originals[name], 4)))
        assert found == pytest.approx(db, abs=0.05), name
    pixels = np.full((9, 7, 4), 255, np.uint8)
    pixels[:, :3, 3] = 0
    Image.fromarray(pixels).save(ganctl.folder / "a.png")
    ganctl.ok("translate", "./bundle", "a.png", "-o", "b.png")
    made = np.array(Image.open(ganctl.folder / "b.png"))
    assert made.shape == (9 * scale, 7 * scale, 4) and made[0, 0, 3] == 0 and made[0, -1, 3] == 255
