"""AdaIN's losses against its equations by hand; its encoder in training: taken once, never moved, kept in the run."""

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganctl.errors import UsageError, WeightsError
from ganctl.io.bundle import read_bundle
from ganctl.io.images import read_image
from ganctl.models import adain, vgg
from ganctl.phase import Batch, Progress
from tests.cli.runs import newest, pictures, request, train
from tests.conftest import Tiny

FEW = ("kimg=0.016", "tick=0.008", "snap=0.008")


def progress() -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(0), torch.device("cpu"))


def images(seed: int) -> Tensor:
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel of each image, [N, C], by numpy in float64."""
    flat = x.detach().double().numpy().reshape(*x.shape[:2], -1)
    return flat.mean(2), np.sqrt(flat.var(2, ddof=1) + 1e-5)


@pytest.mark.parametrize("layer", ["relu3_1", "relu4_1"])
def test_losses_are_equations_11_to_13(layer: Literal["relu3_1", "relu4_1"]) -> None:
    cfg = adain.Config(width=8, resolution=16, style_weight=3.0, layer=layer)
    torch.manual_seed(0)
    nets = adain.build(cfg)
    content, style = images(1), images(2)
    terms = adain.g_loss(nets, Batch(content, style), progress(), cfg)
    G = nets.G
    (m_c, s_c), (m_s, s_s) = (moments(G.encoder((x + 1) / 2)) for x in (content, style))
    f = G.encoder((content + 1) / 2).double().numpy()
    t = s_s[..., None, None] * (f - m_c[..., None, None]) / s_c[..., None, None] + m_s[..., None, None]
    made = G.decoder(torch.from_numpy(t).float())
    wanted = ((G.encoder(made).detach().double().numpy() - t) ** 2).mean()
    assert terms["G_content"].item() == pytest.approx(wanted, rel=1e-4)
    # The published numbers of relu1_1, relu2_1, relu3_1 and relu4_1 in its sequence.
    layers = [3, 10, 17, 30] if layer == "relu4_1" else [3, 10, 17]
    assert len(G.encoder) == layers[-1] + 1 and G.decoder(torch.from_numpy(t).float()).shape == content.shape
    errors = 0.0
    a, b = made, (style + 1) / 2
    for place, module in enumerate(G.encoder):
        a, b = module(a), module(b)
        if place in layers:
            (m_a, s_a), (m_b, s_b) = moments(a), moments(b)
            errors += ((m_a - m_b) ** 2).mean() + ((s_a - s_b) ** 2).mean()
    assert terms["G_style"].item() == pytest.approx(3.0 * errors, rel=1e-4)
    # Both images see the encoder without a gradient to it; t is a target.
    sum(terms.values()).backward()
    assert not list(G.encoder.parameters()) and all(p.grad is not None for p in G.decoder.parameters())


def test_a_code_moves_features_to_the_styles_statistics_and_own_code_leaves_them() -> None:
    x, y = images(3), images(4)
    moved = adain.adain(x, adain.statistics(y))
    for found, wanted in zip(moments(moved), moments(y), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(adain.adain(x, adain.statistics(x)), x, rtol=1e-5, atol=1e-5)


def test_the_learning_rate_falls_with_the_images_seen() -> None:
    rate = adain.optimizers(adain.Config(glr=1e-4))["G"].lr
    # 1e-4 / (1 + 5e-5 · steps), 8 images each: half of it after 20,000 steps.
    assert rate(0, 1) == 1e-4 and rate(160_000, 1) == pytest.approx(5e-5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pictures(tmp_path / "data" / "trainA", n=5, size=(24, 20), mode="RGB")
    pictures(tmp_path / "data" / "trainB", n=3, size=(20, 24), mode="L", seed=1)
    return tmp_path / "data"


def test_training_takes_the_encoder_and_a_run_goes_on_without_its_source(data: Path, tiny: Tiny, tmp_path: Path):
    shutil.copytree(tiny("vgg", resolution=16, width=4), tmp_path / "enc")
    wanted = read_bundle(tmp_path / "enc").state("C")
    settings = ("resolution=16", f"encoder={tmp_path / 'enc'}", *FEW)
    train(request("adain", data, tmp_path / "run", *settings))
    shutil.rmtree(tmp_path / "enc")
    bundle = read_bundle(newest(tmp_path / "run"))
    assert sorted(bundle.nets) == ["G", "G_ema"]
    for net in bundle.nets:
        state = bundle.state(net)
        assert all(torch.equal(state[f"encoder.{k[7:]}"], v) for k, v in wanted.items() if k.startswith("layers."))
    first = bundle.state("G")
    train(request("adain", data, tmp_path / "run", *settings, "kimg=0.032"))
    second = read_bundle(newest(tmp_path / "run")).state("G")
    moved = {k for k in first if not torch.equal(first[k], second[k])}
    assert moved == {k for k in first if k.startswith("decoder.")}


def test_an_encoder_of_another_width_or_kind_is_refused(data: Path, tiny: Tiny, tmp_path: Path):
    for name, source in (("wide", tiny("vgg", resolution=16, width=8)), ("odd", tiny("lenet"))):
        with pytest.raises(WeightsError, match="cannot use weights of") as refused:
            train(request("adain", data, tmp_path / name, "resolution=16", f"encoder={source}", *FEW))
        assert "the config's widths as theirs" in refused.value.hint
    with pytest.raises(UsageError, match="it halves the side three times"):
        train(request("adain", data, tmp_path / "run", "resolution=20", *FEW))
    with pytest.raises(UsageError, match="it halves the side twice"):
        train(request("adain", data, tmp_path / "run", "resolution=22", "layer=relu3_1", *FEW))


def test_a_new_vggs_filters_tell_its_images_apart(tmp_path: Path) -> None:
    for c in ("a", "b"):
        pictures(tmp_path / "data" / c, n=4, size=(16, 16), mode="RGB", seed=ord(c))
    settings = ("resolution=16", "width=4", "classes=2", "lr=1e-12", "kimg=0.016", "tick=0.008", "snap=0.008")
    train(request("vgg", tmp_path / "data", tmp_path / "run", *settings))
    bundle = read_bundle(newest(tmp_path / "run"))
    C = vgg.build(vgg.Config(resolution=16, width=4, classes=2)).C
    assert all(torch.allclose(bundle.state("C")[k], t) for k, t in bundle.state("C_ema").items())
    C.load_state_dict(bundle.state("C"))
    # Which images come first is the data's order; all eight are among them, equally often.
    files = sorted((tmp_path / "data").rglob("*.png"))
    pixels = np.stack([read_image(f.read_bytes(), name=f.name).pixels for f in files])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0
    for layer in C.layers:
        if isinstance(layer, nn.ReLU):
            mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
            torch.testing.assert_close(std, torch.ones_like(std), atol=2e-2, rtol=0)
        x = layer(x)
