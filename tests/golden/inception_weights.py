"""Inception with reproducible random weights: those the golden features were recorded with.

Each tensor is drawn from its own seed (CRC-32 of salt and key, NumPy's frozen RandomState stream) and scaled as below;
the norms' running statistics were calibrated once and are stored in the golden file. The published network's layout,
none of its numbers.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ganctl.nn.features.inception import Inception

SALT = "ganctl-golden-dev/"


def arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A golden file: its tensors and its metadata."""
    with safe_open(path, "np") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118 (safe_open is no mapping)


def draw(key: str, shape: tuple[int, ...]) -> Any:
    seed = zlib.crc32((SALT + key).encode())
    return np.random.RandomState(seed).standard_normal(int(np.prod(shape))).reshape(shape)


@lru_cache(maxsize=1)
def state(excerpt: Path) -> dict[str, Tensor]:
    """All 472 tensors, float32."""
    stored, _ = arrays(excerpt)
    with torch.device("meta"):
        shapes = {k: tuple(t.shape) for k, t in Inception().state_dict().items()}
    return {k: torch.from_numpy(_value(k, s, stored).astype(np.float32)) for k, s in shapes.items()}


def _value(key: str, shape: tuple[int, ...], stored: dict[str, np.ndarray]) -> np.ndarray:
    if f"weights.{key}" in stored:
        return stored[f"weights.{key}"]
    z = draw(key, shape)
    if key.endswith("conv.weight"):
        return z * np.sqrt(2 / np.prod(shape[1:]))
    return {"bn.weight": 0.8 + 0.1 * z, "bn.bias": 0.7 + 0.3 * z, "fc.weight": 0.15 * z, "fc.bias": 0.1 * z}[
        ".".join(key.split(".")[-2:])
    ]


def network(excerpt: Path) -> Inception:
    net = Inception()
    net.load_state_dict(state(excerpt), strict=True)
    return net.eval().requires_grad_(False)
