"""In which number format a device computes: one switch for TF32, one for half precision."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@contextlib.contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions on CUDA in TF32 or in full fp32; the CPU knows only the latter.

    TF32 is for training alone: it moves features, and so scores, in the third digit, and would make a GPU's picture
    differ visibly from a CPU's.
    """
    places: Any = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@contextlib.contextmanager
def inference(device: torch.device, half: str | None = None) -> Iterator[None]:
    """How a picture is made: without gradients, fp32 as fp32, or under autocast to `half` ('fp16' or 'bf16').

    On CUDA with cuDNN's repeatable algorithms: the same picture every time.
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.inference_mode(), products(tf32=False), lowered(device, half):
            yield
    finally:
        torch.backends.cudnn.deterministic = before


def lowered(device: torch.device, half: str | None) -> contextlib.AbstractContextManager[Any]:
    """Autocast to 'fp16' or 'bf16'; to nothing where `half` is 'fp32' or None."""
    return torch.autocast(device.type, HALVES.get(half or ""), enabled=half in HALVES)


def float32_unless(half: bool, device: torch.device, *, training: bool) -> contextlib.AbstractContextManager[Any]:
    """Leaves autocast where layers were not made for half precision: for float16 always, as its range is narrow.

    bfloat16 has float32's range, and few digits: it is left in training alone, whose gradients add up over the layers.
    """
    kind = device.type
    left = torch.float16, *([torch.bfloat16] if training else [])
    if half or not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) not in left:
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def computes_in(half: str, device: torch.device) -> bool:
    """Whether a device itself multiplies in 'fp16' or 'bf16'. Processors without such instructions take much longer."""
    return device.type != "cpu" or (half == "bf16" and torch.cpu._is_avx512_bf16_supported())
