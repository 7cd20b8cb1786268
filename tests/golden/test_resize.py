"""The three resizes against clean-fid, torch-fidelity's TensorFlow-1 bilinear and PyTorch as pytorch-fid calls it."""

import numpy as np
import pytest
import torch

from ganctl.metrics.resize import MODES, SIDE, inception_input, on_cpu, pillow_float, tensorflow_bilinear
from tests.conftest import golden
from tests.golden.inception_weights import arrays

TO_299 = {
    "cleanfid_clean_every7th": ("clean", lambda x: x * 128 + 128, 2e-4),
    "pytorchfid_bilinear_every7th": ("legacy_pytorch", lambda x: (x + 1) * 127.5, 1e-3),
    "tf1_bilinear_every7th": ("legacy_tensorflow", lambda x: x * 128 + 128, 1e-3),
}


@pytest.mark.parametrize("name", ["resize_excerpt.safetensors", "resize_filters.safetensors"])
def test_each_protocol_makes_the_recorded_299(name: str) -> None:
    recorded, _ = arrays(golden(name))
    checked = set()
    for key, wanted in recorded.items():
        if "_to_299." not in key:
            continue
        size, kind = key.removeprefix("out.").split("_to_299.")
        mode, pixels_of, atol = TO_299[kind]
        prepared = on_cpu(recorded[f"in.{size}"], mode)
        x = inception_input(torch.from_numpy(prepared)[None], mode)
        assert x.shape == (1, 3, SIDE, SIDE)
        found = pixels_of(x[0]).permute(1, 2, 0).numpy()[::7, ::7]
        np.testing.assert_allclose(found, wanted, atol=atol, err_msg=key)
        checked.add(mode)
    assert checked == set(MODES)


def test_the_same_rules_at_other_sizes() -> None:
    recorded, _ = arrays(golden("resize_filters.safetensors"))
    checked = 0
    for key, wanted in recorded.items():
        source, _, target = key.removeprefix("out.").partition("_to_w")
        if not target or target.endswith("align_corners"):
            continue
        size, kind = target.split(".")
        width, height = (int(n) for n in size.split("_h"))
        image = recorded[f"in.{source}"]
        if kind == "tf1_bilinear":
            planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            found = tensorflow_bilinear(planes, (height, width))[0].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-3, err_msg=key)
        elif kind.startswith("pil_float_"):
            found = pillow_float(image, (height, width), kind.removeprefix("pil_float_"))
            np.testing.assert_allclose(found, wanted, atol=2e-4, err_msg=key)
        else:
            continue
        checked += 1
    assert checked == 32


def test_tensorflow_1_has_no_half_pixel() -> None:
    """Doubling keeps every source pixel at an even place, and its last one twice: the rule that shifts old FIDs."""
    x = torch.tensor([[[[0.0, 10.0, 20.0]]]])
    assert tensorflow_bilinear(x, (1, 6)).flatten().tolist() == [0, 5, 10, 15, 20, 20]


def test_clean_clips_but_does_not_round() -> None:
    edges = np.zeros((8, 8, 3), np.uint8)
    edges[:, 4:] = 255
    found = on_cpu(edges, "clean")
    assert found.dtype == np.float32
    assert found.min() == 0 and found.max() == 255  # bicubic overshoots on both sides of an edge
    assert not np.array_equal(found, found.round())
