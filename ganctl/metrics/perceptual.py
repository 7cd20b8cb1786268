"""The networks of the perceptual metrics, opened with their weights: LPIPS over three backbones, and VGG-16."""

from typing import TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ganctl.io.progress import SILENT, Reporter
from ganctl.io.tensors import load_into
from ganctl.metrics.catalog import VGG16 as VGG16_ENTRY
from ganctl.metrics.resize import tensorflow_bilinear
from ganctl.metrics.weights import feature_bundle, tensors_sha256
from ganctl.nn.features.lpips import LPIPS, Backbone
from ganctl.nn.features.vgg import VGG16

ENTRIES: dict[Backbone, str] = {
    "alex": "alexnet-imagenet",
    "vgg": VGG16_ENTRY,
    "squeeze": "squeezenet1-1-imagenet",
}
"""The zoo entries of LPIPS's backbones; its heads are `lpips-alex` and so on."""
SIDE = 224
"""Of VGG-16's input."""

N = TypeVar("N", bound=nn.Module)


def open_lpips(backbone: Backbone, *, device: torch.device, reporter: Reporter = SILENT) -> tuple[LPIPS, str]:
    """LPIPS 0.1 on `device`, and a digest of its tensors, backbone and heads.

    Raises WeightsError when the backbone's weights are not at hand, naming the command that brings them.
    """
    with torch.device("meta"):
        lpips = LPIPS(backbone)
    # Of the published file only the convolutions serve: a tenth of VGG-16's.
    weights = _state(ENTRIES[backbone], reporter, prefix="features.")
    heads = _state(f"lpips-{backbone}", reporter)
    load_into(lpips.net, weights, where=f"of {ENTRIES[backbone]}")
    load_into(lpips.heads, heads, where=f"of lpips-{backbone}")
    return _ready(lpips, device), tensors_sha256({**weights, **heads})


def open_vgg16(*, device: torch.device, reporter: Reporter = SILENT) -> tuple[VGG16, str]:
    """VGG-16 with its classifier on `device`, and a digest of its tensors. Raises WeightsError as above."""
    with torch.device("meta"):
        vgg = VGG16()
    weights = _state(VGG16_ENTRY, reporter)
    load_into(vgg, weights, where=f"of {VGG16_ENTRY}")
    return _ready(vgg, device), tensors_sha256(weights)


def vgg16_input(pixels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 224 224"]:
    """RGB images as torch-fidelity gives them to VGG-16: TensorFlow 1's bilinear resize, then ImageNet's mean and
    deviation, in float32.
    """
    x = tensorflow_bilinear(pixels.permute(0, 3, 1, 2).float(), (SIDE, SIDE))
    mean, deviation = (
        torch.tensor(values, device=x.device).reshape(1, 3, 1, 1) * 255
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (x - mean) / deviation


def _state(entry: str, reporter: Reporter, *, prefix: str = "") -> dict[str, Tensor]:
    bundle = feature_bundle(entry, reporter)
    (name,) = bundle.nets
    return bundle.state(name, prefix=prefix)


def _ready(net: N, device: torch.device) -> N:
    return net.eval().requires_grad_(False).to(device)
