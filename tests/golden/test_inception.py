"""FID's network against torch-fidelity, pytorch-fid and clean-fid: the same weights, images, features."""

import numpy as np
import pytest
import torch

from ganctl.metrics.features import inception_extractor, tensors_sha256
from ganctl.metrics.resize import inception_input
from ganctl.nn.features import inception_fast
from ganctl.nn.features.inception import DIMS, Inception
from ganctl.nn.precision import computes_in
from tests.conftest import golden
from tests.golden import inception_weights

pytestmark = pytest.mark.xdist_group("inception")

EXCERPT = "inception_excerpt.safetensors"
TOOLS = {"torchfidelity": "legacy_tensorflow", "pytorchfid": "legacy_pytorch", "cleanfid": "clean"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> Inception:
    return inception_weights.network(golden(EXCERPT))


def features(net: Inception, images: np.ndarray, mode: str, dims: int = 2048, at_once: int = 64) -> np.ndarray:
    """As `ganctl fid` takes them, from [N, 3, H, W] bytes."""
    extractor = inception_extractor(net, "", mode=mode, dims=dims, device=CPU)
    prepared = [extractor.prepare(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
    parts = [extractor.extract(prepared[i : i + at_once]) for i in range(0, len(prepared), at_once)]
    return torch.cat(parts).numpy()


def network_input(size: str, n: int) -> torch.Tensor:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    pixels = recorded[f"in.images_{size}"][:n].transpose(0, 2, 3, 1)
    return inception_input(torch.from_numpy(pixels.copy()), "legacy_tensorflow")


def test_the_recipe_makes_the_recorded_weights(net: Inception) -> None:
    recorded, meta = inception_weights.arrays(golden(EXCERPT))
    own = net.state_dict()
    assert len(own) == 472
    assert own["fc.weight"].shape == (1008, 2048)
    for key in (k for k in recorded if k.startswith("probe.")):
        np.testing.assert_allclose(own[key.removeprefix("probe.")].flatten()[:8], recorded[key], rtol=1e-6)
    # The stamp's digest: over sorted names and float32 bytes, the same in any container.
    assert tensors_sha256(own) == meta["weights_sha256"]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (EXCERPT, {"32x32", "56x56", "96x160"}),
        ("inception_features.safetensors", {"128x128", "299x299", "400x300"}),
    ],
)
def test_features_are_those_of_the_reference_tools(net: Inception, name: str, sizes: set[str]) -> None:
    recorded, _ = inception_weights.arrays(golden(name))
    checked = set()
    for key, wanted in recorded.items():
        tool, size, dims = [*key.removeprefix("out.").split("."), "", ""][:3]
        if dims == "2048" and tool in TOOLS and size in sizes:
            found = features(net, recorded[f"in.images_{size}"], TOOLS[tool])
            np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4, err_msg=key)
            checked.add((tool, size))
    assert len(checked) >= 5 and {size for _, size in checked} == sizes


def test_every_depth_and_both_logits(net: Inception) -> None:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    images = recorded["in.images_32x32"]
    for tool in ("torchfidelity", "pytorchfid"):
        for dims in DIMS[:3]:
            found = features(net, images, TOOLS[tool], dims)
            np.testing.assert_allclose(found, recorded[f"out.{tool}.32x32.{dims}"], atol=1e-4, rtol=1e-4)
    last = torch.from_numpy(recorded["out.torchfidelity.32x32.2048"])
    for bias, name in ((True, "logits"), (False, "logits_unbiased")):
        wanted = recorded[f"out.torchfidelity.32x32.{name}"]
        np.testing.assert_allclose(net.logits(last, bias=bias), wanted, atol=1e-3, rtol=1e-4)


def test_double_precision_agrees_more_closely(net: Inception) -> None:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    pixels = torch.from_numpy(recorded["in.images_32x32"][:1].transpose(0, 2, 3, 1).copy())
    double = inception_weights.network(golden(EXCERPT)).double()
    found = double(inception_input(pixels.double(), "legacy_tensorflow"))
    np.testing.assert_allclose(found, recorded["out.torchfidelity_float64.32x32.2048"][:1], atol=1e-5)


@pytest.mark.parametrize("fuses", [True, False])
def test_the_fast_graph_is_the_plain_one(net: Inception, fuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With oneDNN's fused convolutions, where torch has them, and without."""
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    x = inception_input(
        torch.from_numpy(recorded["in.images_56x56"][:3].transpose(0, 2, 3, 1).copy()), "legacy_tensorflow"
    )
    if not fuses:
        monkeypatch.setattr(inception_fast, "_fuses", lambda: False)
    quick = inception_fast.fast(net)
    assert {block.fuses for block in quick.modules() if hasattr(block, "fuses")} == {fuses}
    with torch.inference_mode():
        for dims in DIMS:
            plain, found = net(x, dims), quick(x, dims)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, plain, rtol=2e-5, atol=1e-5)
        alone = torch.cat([quick(image[None]) for image in x])
        torch.testing.assert_close(alone, found, rtol=1e-6, atol=1e-6)
        assert torch.equal(quick.logits(found), net.logits(found))


@pytest.mark.skipif(not computes_in("bf16", torch.device("cpu")), reason="needs a processor with bfloat16 arithmetic")
def test_bfloat16_costs_two_digits(net: Inception) -> None:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    x = inception_input(
        torch.from_numpy(recorded["in.images_32x32"][:2].transpose(0, 2, 3, 1).copy()), "legacy_pytorch"
    )
    with torch.inference_mode():
        for dims in DIMS:
            plain, found = net(x, dims), inception_fast.fast(net, torch.bfloat16)(x, dims)
            assert found.dtype == torch.float32
            error = ((found - plain).norm() / plain.norm()).item()
            assert 1e-5 < error < 2e-2


def test_features_are_the_same_on_one_core_and_on_two(net: Inception) -> None:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    images = np.concatenate([recorded["in.images_32x32"], recorded["in.images_32x32"][::-1]])[:6]
    assert torch.get_num_threads() == 1
    one = features(net, images, "clean", dims=192)
    try:
        torch.set_num_threads(2)
        assert np.array_equal(features(net, images, "clean", dims=192), one)
        assert np.array_equal(features(net, images[::-1], "clean", dims=192, at_once=5)[::-1], one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_sizes_may_mix_in_a_batch_and_the_batch_does_not_matter(net: Inception) -> None:
    recorded, _ = inception_weights.arrays(golden(EXCERPT))
    small, wide = recorded["in.images_32x32"], recorded["in.images_96x160"]
    # More pixels than a decoder thread passes on: resized beside it, by the same arithmetic.
    large = np.ascontiguousarray(np.tile(wide[0], (1, 9, 9))[:, :800, :1400])
    for mode in ("legacy_tensorflow", "clean"):
        extractor = inception_extractor(net, "", mode=mode, dims=64, device=CPU)
        images = [small[0], wide[0], small[1], large]
        prepared = [extractor.prepare(np.ascontiguousarray(i.transpose(1, 2, 0))) for i in images]
        together = extractor.extract(prepared)
        alone = torch.cat([extractor.extract([p]) for p in prepared])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert prepared[3].shape == (299, 299, 3)
    assert extractor.features == "inception-2015-12-05"
