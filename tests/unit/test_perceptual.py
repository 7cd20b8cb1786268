"""The backbones against torchvision's, and VGG-16's features against torch-fidelity's."""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganctl.metrics.perceptual import vgg16_input
from ganctl.nn.features.alexnet import AlexNet
from ganctl.nn.features.squeezenet import SqueezeNet
from ganctl.nn.features.vgg import VGG16, VGG16Features
from tests.parity.peers import peers, quiet


@pytest.fixture(scope="module")
def published() -> Any:
    """torchvision's networks."""
    peers()
    return importlib.import_module("torchvision.models")


@pytest.mark.parametrize(
    ("name", "ours"), [("alexnet", AlexNet), ("vgg16", VGG16), ("vgg16", VGG16Features), ("squeezenet1_1", SqueezeNet)]
)
def test_names_and_shapes_are_torchvisions(published: Any, name: str, ours: type[nn.Module]) -> None:
    with torch.device("meta"), quiet():
        theirs = {k: tuple(v.shape) for k, v in published.get_model(name).state_dict().items()}
        own = {k: tuple(v.shape) for k, v in ours().state_dict().items()}
    assert own == {k: v for k, v in theirs.items() if ours is VGG16 or k.startswith("features.")}


@pytest.mark.parametrize("size", [(40, 64), (224, 224), (300, 231)])
def test_fc2_is_torch_fidelitys(published: Any, size: tuple[int, int]) -> None:
    """Its own code from pixels to fc2, with the same weights. The layers are narrow: the whole network has 553 MB."""
    with torch.device("meta"), quiet():
        net, theirs = VGG16(), published.vgg16()
    for vgg in (net, theirs):
        narrow(vgg)
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3 if p.ndim == 1 else (2 / p[0].numel()) ** 0.5)
    theirs.load_state_dict(net.state_dict(), assign=True)
    extractor = importlib.import_module("torch_fidelity.feature_extractor_vgg16").FeatureExtractorVGG16
    del theirs.classifier[4:]
    self = SimpleNamespace(
        model=theirs.eval(),
        features_list=["fc2_relu"],
        feature_extractor_internal_dtype=torch.float32,
        INPUT_IMAGE_SIZE=extractor.INPUT_IMAGE_SIZE,
    )
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8))
    with torch.inference_mode(), quiet():
        (wanted,) = extractor.forward(self, pixels.permute(0, 3, 1, 2))
        found = net.eval()(vgg16_input(pixels))
    assert found.shape == (2, 4096) and bool((found > 0).any()) and bool((found == 0).any())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def narrow(vgg: Any) -> None:
    """An eighth of the channels and a narrow fc1, in place."""
    inputs = 3
    for place, layer in enumerate(vgg.features):
        if isinstance(layer, nn.Conv2d):
            with torch.device("meta"):
                vgg.features[place] = nn.Conv2d(inputs, layer.out_channels // 8, 3, 1, 1)
            inputs = layer.out_channels // 8
    with torch.device("meta"):
        vgg.classifier[0], vgg.classifier[3] = nn.Linear(inputs * 49, 16), nn.Linear(16, 4096)
        vgg.classifier[6] = nn.Linear(4096, 10)
