"""LPIPS and the path length against the authors' package and torch-fidelity: the same weights, images, numbers."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ganctl.io.tensors import load_into
from ganctl.metrics.features import tensors_sha256
from ganctl.metrics.path_length import path_length
from ganctl.nn.features.lpips import BACKBONES, LPIPS
from tests.conftest import golden
from tests.golden import lpips_weights
from tests.golden.inception_weights import arrays

pytestmark = pytest.mark.xdist_group("lpips")

FILE = "lpips.safetensors"
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return arrays(golden(FILE))[0]


@pytest.fixture(scope="module", params=BACKBONES)
def lpips(request: pytest.FixtureRequest) -> tuple[str, LPIPS]:
    return request.param, lpips_weights.network(golden(FILE), request.param)


@pytest.fixture(scope="module")
def vgg() -> LPIPS:
    return lpips_weights.network(golden(FILE), "vgg")


def images(recorded: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Both sides on [-1, 1]."""
    a, b = (torch.from_numpy(recorded[f"in.image{k}"]).float() / 127.5 - 1 for k in (0, 1))
    return a, b


def check(found: Tensor, recorded: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(found.numpy(), recorded[f"out.{name}"], **CLOSE, err_msg=name)


def test_the_recipe_makes_the_recorded_weights(lpips: tuple[str, LPIPS]) -> None:
    name, net = lpips
    wanted = json.loads(arrays(golden(FILE))[1]["backbone_sha256"])[name]
    # The recipe's networks are torchvision's `features`, so the names are those of the published files.
    assert tensors_sha256(net.net.state_dict()) == wanted


def test_distances_of_the_authors_package(lpips: tuple[str, LPIPS], recorded: dict[str, np.ndarray]) -> None:
    name, net = lpips
    a, b = images(recorded)
    found = net.distance(a, b)
    check(found, recorded, f"{name}.distance")
    assert found[-1] == 0, "the last pair is one image twice"
    # Its `normalize` takes images on [0, 1].
    unit = (torch.from_numpy(recorded[f"in.image{k}"]).float() / 255 for k in (0, 1))
    check(net.distance(*(2 * x - 1 for x in unit)), recorded, f"{name}.distance_normalize_flag_on_0_1_inputs")


def test_every_layer_and_the_map(lpips: tuple[str, LPIPS], recorded: dict[str, np.ndarray]) -> None:
    name, net = lpips
    a, b = images(recorded)
    maps = net.maps(a, b)
    assert len(maps) == sum(key.startswith(f"out.{name}.layer") for key in recorded)
    for k, layer in enumerate(maps):
        check(layer.mean((1, 2)), recorded, f"{name}.layer{k}")
    large = [F.interpolate(layer[:1, None], a.shape[2:], mode="bilinear", align_corners=False) for layer in maps]
    check(torch.cat(large).sum((0, 1)), recorded, f"{name}.spatial_first_pair")


def test_without_the_learned_heads(lpips: tuple[str, LPIPS], recorded: dict[str, np.ndarray]) -> None:
    name, net = lpips
    with torch.device("meta"):
        equal = LPIPS(name)  # type: ignore[arg-type]
    equal.net = net.net
    load_into(equal.heads, {k: torch.ones_like(v) for k, v in net.heads.state_dict().items()}, where="of ones")
    check(equal.requires_grad_(False).distance(*images(recorded)), recorded, f"{name}.baseline_no_lin")


@pytest.mark.parametrize(("size", "rule"), [(None, ""), (40, "area"), (96, "bilinear")])
def test_torch_fidelity(vgg: LPIPS, recorded: dict[str, np.ndarray], size: int | None, rule: str) -> None:
    """It takes 0 … 255, and may resize: by area when it shrinks, else bilinear."""
    a, b = images(recorded)
    if size:
        a, b = (F.interpolate(x, (size, size), mode=rule) for x in (a, b))
    check(vgg.distance(a, b), recorded, "torchfidelity_vgg16.distance" + (f"_resize{size}" if size else ""))


@pytest.mark.parametrize("method", ["lerp", "slerp_unit"])
def test_path_length_of_torch_fidelity(vgg: LPIPS, recorded: dict[str, np.ndarray], method: str) -> None:
    """64 samples, ε = 0.01, of x = tanh(z Aᵀ / √8), 32 px."""
    epsilon, n = 0.01, 64
    matrix = torch.from_numpy(lpips_weights.draw("ppl_toy", (3072, 8)).astype(np.float32))
    rng = np.random.RandomState(2020)
    start, other = (torch.from_numpy(rng.randn(n, 8)).float() for _ in range(2))
    if method == "lerp":
        end = start + (other - start) * epsilon
    else:  # only the moved end gets length 1: the two lie far apart, and the score is large
        lengths = [z.norm(dim=1, keepdim=True) for z in (start, other)]
        cosine = (start / lengths[0] * (other / lengths[1])).sum(1, keepdim=True)
        omega = cosine.acos()
        mixed = ((1 - epsilon) * omega).sin() * start + (epsilon * omega).sin() * other
        end = mixed / mixed.norm(dim=1, keepdim=True)
    a, b = ((z @ matrix.T / 8**0.5).tanh().reshape(n, 3, 32, 32) for z in (start, end))
    found = path_length(vgg.distance(a, b).numpy(), epsilon=epsilon)
    for value, name in zip(found, ("mean", "std"), strict=True):
        wanted = recorded[f"out.torchfidelity_ppl_toy.{method}.perceptual_path_length_{name}"]
        np.testing.assert_allclose(value, wanted, rtol=1e-4)


def test_small_images_are_refused_with_the_size_that_would_do(lpips: tuple[str, LPIPS]) -> None:
    _, net = lpips
    side = net.min_side
    a = torch.zeros(1, 3, side, side)
    assert net.distance(a, a).tolist() == [0]
    with pytest.raises(ValueError, match=f"images are {side}x{side - 1}, and this network needs {side} pixels"):
        net.distance(a[:, :, 1:], a[:, :, 1:])


def test_gradients_are_finite_where_no_channel_is_active() -> None:
    """With all biases at -∞'s side every feature is zero: a plain square root would give NaN."""
    net = LPIPS("squeeze")
    for name, parameter in net.net.named_parameters():
        torch.nn.init.constant_(parameter, -10.0 if name.endswith("bias") else 0.0)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    net.distance(x, torch.rand(1, 3, 32, 32)).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
