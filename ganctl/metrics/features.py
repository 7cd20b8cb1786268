"""The networks whose features are scored: each opened with its weights, under one protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ganctl.errors import DeviceError
from ganctl.io.images import from_pixels, resize, to_channels
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.tensors import load_into
from ganctl.load import best_net, network
from ganctl.metrics.catalog import INCEPTION, VGG16
from ganctl.metrics.perceptual import open_vgg16, vgg16_input
from ganctl.metrics.resize import inception_input, on_cpu
from ganctl.metrics.weights import feature_bundle, tensors_sha256
from ganctl.nn.cores import side_by_side
from ganctl.nn.features.inception import Inception
from ganctl.nn.features.inception_fast import fast
from ganctl.nn.precision import HALVES, products

Pixels = UInt8[np.ndarray, "h w c"]
Prepared = tuple[np.ndarray, ...]
"""One image as each extractor takes it."""

LARGE = 1 << 20
"""Pixels above which an image is shrunk beside its decoder, so that a batch of photographs fits in memory."""
TOGETHER = 8
"""Images resized at a time: at 1024 px, 64 of them in float32 would take gigabytes."""
PER_CORE = 4
"""Images in the network at a time on each core of a CPU."""


@dataclass(frozen=True)
class Extractor:
    """A network under one protocol."""

    features: str
    """Its zoo entry."""
    mode: str
    dims: int
    weights_sha256: str
    prepare: Callable[[Pixels], np.ndarray]
    """One image, uint8 [H, W, 1 | 3 | 4], as the network's batches take it; runs in decoder threads."""
    extract: Callable[[Sequence[np.ndarray]], Float[Tensor, "n d"]]
    """Features of prepared images, in order."""
    logits: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]] | None = None
    """Class logits from features, on the CPU; None where the network tells no classes apart."""
    dtype: str = "fp32"
    """fp32, or fp16 or bf16 in which the network computes; its features are fp32 always."""

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything features depend on beside the images; fields of Stats."""
        return {
            "features": self.features,
            "mode": self.mode,
            "weights_sha256": self.weights_sha256,
            "dtype": self.dtype,
        }


def open_extractor(
    features: str, *, mode: str, dims: int, device: torch.device, dtype: str = "fp32", reporter: Reporter = SILENT
) -> Extractor:
    """The extractor over the zoo entry `features`. `mode`, `dims` and `dtype` are Inception's.

    Raises WeightsError when its weights are not at hand, naming the command.
    """
    if features == INCEPTION:
        net, digest = inception(reporter)
        return inception_extractor(net, digest, mode=mode, dims=dims, device=device, dtype=dtype)
    if features == VGG16:
        return vgg16_extractor(*open_vgg16(device=device, reporter=reporter), device=device)
    bundle = feature_bundle(features, reporter)
    net = network(bundle, best_net(bundle))
    return classifier_extractor(net, features, tensors_sha256(net.state_dict()), device=device)


def inception(reporter: Reporter = SILENT) -> tuple[Inception, str]:
    """FID's network on the CPU, and the digest of its tensors. Raises WeightsError."""
    bundle = feature_bundle(INCEPTION, reporter)
    (name,) = bundle.nets
    # Some copies of the published file carry batch counters, which mean nothing here.
    state = {k: v for k, v in bundle.state(name).items() if not k.endswith("num_batches_tracked")}
    with torch.device("meta"):
        net = Inception()
    load_into(net, state, where=f"of {INCEPTION}")
    return net.eval().requires_grad_(False), tensors_sha256(state)


def inception_extractor(
    net: Inception, weights_sha256: str, *, mode: str, dims: int, device: torch.device, dtype: str = "fp32"
) -> Extractor:
    """Inception under one of `resize.MODES`, with features of one of its DIMS; fp32 is without TF32."""
    # The original Inception score leaves the last layer's bias out, and so does every tool since.
    weight = net.fc.weight.detach()
    net = net.to(device)
    # oneDNN's fused ReLU turns NaN into 0. Weights that overflow do so on any image, and keep the plain graph, which
    # shows it.
    with torch.inference_mode():
        sound = bool(
            net(torch.linspace(-1, 1, 3 * 299 * 299, device=device).view(1, 3, 299, 299), dims).isfinite().all()
        )
    quick = fast(net, HALVES.get(dtype, torch.float32)) if sound else net

    def logits(features: Tensor) -> Tensor:
        return torch.nn.functional.linear(features, weight)

    def prepare(pixels: Pixels) -> np.ndarray:
        rgb = on_cpu(to_channels(pixels, 3), mode)
        if rgb.dtype == np.uint8 and rgb.shape[0] * rgb.shape[1] > LARGE:
            # The same arithmetic on the CPU; [3, 299, 299] tells it apart from pixels.
            return inception_input(torch.from_numpy(rgb)[None], mode)[0].numpy()
        return rgb

    def inputs(images: Sequence[np.ndarray]) -> Tensor:
        x = torch.empty((len(images), 3, 299, 299), device=device)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        for shape, group in groups.items():
            for start in range(0, len(group), TOGETHER):
                members = group[start : start + TOGETHER]
                batch = torch.from_numpy(np.stack([images[i] for i in members])).to(device)
                x[torch.tensor(members, device=device)] = (
                    batch if shape[0] == 3 and shape[2] != 3 else inception_input(batch, mode)
                )
        return x

    def extract(images: Sequence[np.ndarray]) -> Tensor:
        if device.type != "cpu":
            return _in_halves(lambda x: quick(x, dims), inputs(images))
        # Each core resizes and reads few images at a time: activations that fit its cache.
        parts = [images[i : i + PER_CORE] for i in range(0, len(images), PER_CORE)]
        return torch.cat(side_by_side(lambda part: quick(inputs(part), dims), parts))

    return Extractor(INCEPTION, mode, dims, weights_sha256, prepare, extract, logits if dims == 2048 else None, dtype)


def vgg16_extractor(net: Any, weights_sha256: str, *, device: torch.device) -> Extractor:
    """VGG-16's second fully connected layer: the features of improved precision and recall."""

    def prepare(pixels: Pixels) -> np.ndarray:
        return vgg16_input(torch.from_numpy(to_channels(pixels, 3))[None])[0].numpy()

    def extract(images: Sequence[np.ndarray]) -> Tensor:
        return _in_halves(net.fc2, torch.from_numpy(np.stack(images)).to(device))

    return Extractor(VGG16, "fc2_relu", 4096, weights_sha256, prepare, extract)


def classifier_extractor(net: Any, name: str, weights_sha256: str, *, device: torch.device) -> Extractor:
    """A `protocols.Classifier` over its own domain: grey or RGB as it takes it, resized to its size."""
    net = net.to(device)
    size, channels = net.x.size, net.x.channels
    with torch.inference_mode():
        dims = net.features(torch.zeros(1, channels, *size, device=device)).shape[1]

    def prepare(pixels: Pixels) -> np.ndarray:
        return resize(to_channels(pixels, channels), size)

    def extract(images: Sequence[np.ndarray]) -> Tensor:
        return _in_halves(net.features, from_pixels(np.stack(images), net.x.range).to(device))

    @torch.inference_mode()
    def logits(features: Tensor) -> Tensor:
        return net.head(features.to(device)).cpu()

    return Extractor(name, f"{size[1]}x{size[0]}x{channels}", dims, weights_sha256, prepare, extract, logits)


@torch.inference_mode()
def _in_halves(features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Features of a batch, halved as often as the device's memory asks for."""
    try:
        with products(tf32=False):
            return features(x).cpu()
    except torch.OutOfMemoryError as e:
        if len(x) == 1:
            raise DeviceError("out of memory", f"a batch of 1 does not fit on {x.device}", "try --device cpu") from e
    half = len(x) // 2
    return torch.cat([_in_halves(features, x[:half]), _in_halves(features, x[half:])])
