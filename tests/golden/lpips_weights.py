"""LPIPS with the published heads on backbones of reproducible random weights: those the golden distances were recorded
with. Each tensor is drawn from its own seed, the CRC-32 of salt, network and key, as for Inception.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganctl.io.tensors import load_into
from ganctl.nn.features.lpips import BACKBONES, LPIPS, Backbone
from tests.golden.inception_weights import arrays

SALT = "ganctl-golden-lpips-dev/"


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = zlib.crc32((SALT + key).encode())
    return np.random.RandomState(seed).standard_normal(int(np.prod(shape))).reshape(shape)


def backbone_state(backbone: Backbone) -> dict[str, Tensor]:
    """features.*, float32: weights of He's variance, biases of deviation 0.1."""
    with torch.device("meta"):
        shapes = {k: tuple(t.shape) for k, t in BACKBONES[backbone]().state_dict().items()}
    state = {}
    for key, shape in shapes.items():
        scale = 0.1 if key.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
        state[key] = torch.from_numpy((draw(f"{backbone}/{key}", shape) * scale).astype(np.float32))
    return state


def heads_state(file: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The published heads, as the golden file holds them."""
    recorded, _ = arrays(file)
    prefix = f"weights.{backbone}."
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in recorded.items() if k.startswith(prefix)}


@lru_cache(maxsize=3)
def network(file: Path, backbone: Backbone) -> LPIPS:
    with torch.device("meta"):
        lpips = LPIPS(backbone)
    load_into(lpips.net, backbone_state(backbone), where="drawn")
    load_into(lpips.heads, heads_state(file, backbone), where="recorded")
    return lpips.eval().requires_grad_(False)
