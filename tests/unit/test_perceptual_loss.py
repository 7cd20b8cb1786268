"""The perceptual loss against torchvision's VGG-19, and its place in a training: filled, never moved, never saved."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganctl.errors import WeightsError
from ganctl.io.bundle import write_bundle
from ganctl.losses.perceptual import VGG19, Perceptual
from ganctl.nn.features.vgg import VGG19Features
from ganctl.phase import Adam, Batch, Phase, Progress
from ganctl.train import checkpoint, optim
from ganctl.train.loop import State, TrainConfig, networks, run_phase
from ganctl.workflows import given
from tests.parity.peers import peers, quiet

LAYERS = {"relu1_1": 1 / 32, "conv2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "conv5_4": 1.0, "relu5_4": 0.5}
SMALL = {"relu1_1": 1.0}


@pytest.fixture(scope="module")
def theirs() -> Any:
    """torchvision's VGG-19 without its classifier, weights from a seed."""
    peers()
    with torch.device("meta"), quiet():
        features = importlib.import_module("torchvision.models").vgg19(init_weights=False).features
    features.to_empty(device="cpu")
    g = torch.Generator().manual_seed(0)
    for p in features.parameters():
        p.data.normal_(0, 0.1 if p.ndim == 1 else (2 / p[0].numel()) ** 0.5, generator=g)
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return features


def images(seed: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_and_loss_are_those_of_torchvisions_network(theirs: nn.Sequential) -> None:
    vgg = Perceptual(LAYERS)
    vgg.load_state_dict({f"features.{k}": v for k, v in theirs[:36].state_dict().items()})
    x, y = images(1), images(2)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def reference(image: torch.Tensor) -> list[torch.Tensor]:
        found, h = [], (image * 0.5 + 0.5 - mean) / deviation
        for i, layer in enumerate(theirs):
            h = layer(h)
            # The published order of torchvision's 37 modules: 1 is relu1_1, 5 conv2_1, 11, 20, 34 conv5_4, 35.
            if i in (1, 5, 11, 20, 34, 35):
                found.append(h)
        return found

    a, b = reference(x), reference(y)
    for mine, wanted in zip(vgg.of(x), a, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    assert bool((vgg.of(x)[4] < 0).any()) and bool((vgg.of(x)[5] >= 0).all())
    l1 = sum(w * (p - q).abs().mean() for w, p, q in zip(LAYERS.values(), a, b, strict=True))
    l2 = sum(w * (p - q).square().mean() for w, p, q in zip(LAYERS.values(), a, b, strict=True))
    assert vgg.distance(x, y).item() == pytest.approx(l1.item(), rel=1e-5)
    assert vgg.distance(x, y, F.mse_loss).item() == pytest.approx(l2.item(), rel=1e-5)
    grey = images(3, 1)
    torch.testing.assert_close(vgg.of(grey)[0], reference(grey.expand(-1, 3, -1, -1))[0], rtol=1e-5, atol=1e-5)


def test_the_gradient_goes_to_the_first_image_alone() -> None:
    vgg, x, y = Perceptual(SMALL), images(1).requires_grad_(), images(2).requires_grad_()
    vgg.distance(x, y).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0 and y.grad is None
    assert all(p.grad is None for p in vgg.parameters())
    with pytest.raises(ValueError, match="images are 48x8, and the perceptual loss needs 16 pixels"):
        vgg.of(images(1)[:, :, :8])


@dataclass
class Nets:
    G: nn.Module
    vgg: Perceptual | None = None


def state_of(nets: Nets) -> State:
    specs = {"G": Adam(0.1)}
    p = Progress(0, 0, torch.Generator().manual_seed(0), torch.device("cpu"))
    return State(nets, nn.Conv2d(3, 3, 1), {"G": optim.make(specs["G"], nets.G)}, p, specs=specs)


def test_training_passes_the_network_by_and_no_snapshot_has_it(tmp_path: Path) -> None:
    nets = Nets(nn.Conv2d(3, 3, 1), Perceptual(SMALL))
    state, before = state_of(nets), [p.clone() for p in nets.vgg.parameters()]
    assert list(networks(nets)) == list(networks(Nets(nets.G))) == ["G"]

    def loss(n: Nets, b: Batch, p: Progress):
        return {"G_perceptual": n.vgg.distance(n.G(b.x), b.x)}

    weight = nets.G.weight.detach().clone()
    run_phase(state, Phase("G", ("G",), loss), Batch(images(1)), TrainConfig(batch=2))
    assert not torch.equal(nets.G.weight, weight)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before, nets.vgg.parameters(), strict=True))
    saved = checkpoint.save(tmp_path, state, model="x", config={}, card={}, scores=checkpoint.Scores())
    assert sorted(p.stem for p in saved.glob("*.safetensors")) == ["G", "G_ema"]


def test_a_family_names_the_weights_and_training_fills_them(tmp_path: Path) -> None:
    wanted = VGG19Features(["relu2_1"])
    states = {"features": {**wanted.state_dict(), "classifier.0.weight": torch.ones(1)}}
    write_bundle(tmp_path / "vgg", model="vgg19", config={}, states=states, card={})
    nets = Nets(nn.Conv2d(3, 3, 1), Perceptual(SMALL))
    family = SimpleNamespace(given=lambda cfg: {"vgg.features": str(cfg)})
    for resumed in (False, True):  # a snapshot has no VGG, so that it is brought again
        nets.vgg = Perceptual(SMALL)
        given.fill(family, tmp_path / "vgg", state_of(nets), resumed=resumed)
        assert torch.equal(nets.vgg.features[0].weight, wanted.features[0].weight)
    write_bundle(tmp_path / "odd", model="vgg19", config={}, states={"features": {"0.bias": torch.ones(3)}}, card={})
    with pytest.raises(WeightsError, match=r"cannot use weights of '.*odd'.*'0\.bias' has shape"):
        given.fill(family, tmp_path / "odd", state_of(nets), resumed=False)
    given.fill(SimpleNamespace(), None, state_of(nets), resumed=False)


def test_weights_that_are_not_at_hand_are_named_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    family = SimpleNamespace(given=lambda _: {"vgg.features": VGG19})
    with pytest.raises(WeightsError) as missing:
        given.fill(family, None, state_of(Nets(nn.Conv2d(3, 3, 1), Perceptual(SMALL))), resumed=False)
    assert missing.value.hint.endswith(f"ganctl zoo pull {VGG19}")
