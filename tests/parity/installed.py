"""Inception with the golden files' random weights, installed for ganctl and for its peers, without a network."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.workflows.zoo import PullRequest, pull
from tests.conftest import golden
from tests.golden import inception_weights
from tests.parity.peers import install_weights
from tests.zoo.hubserver import serve

INCEPTION = "inception-2015-12-05"
SETS = "inception_image_set_metrics.safetensors"
FEW = "inception_image_set_excerpt.safetensors"
"""Nine images of each set, and what was recorded of the first of them; it travels with the tests."""


@contextmanager
def inception(folder: Path) -> Iterator[Path]:
    """The weights as a file of the published form; ganctl has pulled it, torch's cache holds it for the peers."""
    weights = install_weights(folder / "torch", inception_weights.state(golden("inception_excerpt.safetensors")))
    data = weights.read_bytes()
    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        hub.files["weights.pth"] = data
        zoo = folder / "zoo.yaml"
        zoo.write_text(
            f"{INCEPTION}:\n  model: inception\n  weights:\n    upstream:\n      url: {hub.url}/upstream/weights.pth\n"
            f"      sha256: '{hashlib.sha256(data).hexdigest()}'\n      bytes: {len(data)}\n"
            f"      format: torch-state-dict\n  card: {{task: features, license: Apache-2.0, trained_on: nothing}}\n"
        )
        patch.setenv("GANCTL_ZOO", str(zoo))
        patch.setenv("GANCTL_CACHE", str(folder / "cache"))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(proxy, raising=False)
        pull(PullRequest(names=[INCEPTION]))
        yield weights


def recorded(name: str = FEW) -> dict[str, np.ndarray]:
    """Golden images and what the three tools said of them."""
    return inception_weights.arrays(golden(name))[0]


def save(folder: Path, images: np.ndarray, suffix: str = "png") -> Path:
    """uint8 [n, h, w, 3] as files; JPEG at quality 90."""
    folder.mkdir(parents=True, exist_ok=True)
    first = len(list(folder.iterdir()))
    for i, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"{i:04}.{suffix}", **({"quality": 90} if suffix == "jpg" else {}))
    return folder
