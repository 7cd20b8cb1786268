"""Latents to pixels: the one way in which `sample` and `interpolate` make a picture, so that both make the same one."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ganctl.errors import DeviceError, UsageError, printable, quoted
from ganctl.io.progress import Reporter

if TYPE_CHECKING:
    import numpy as np

    from ganctl.load import Model
    from ganctl.nn.drawing import Drawing, Latent

AUTO_BATCH = 32
SMALL = 64 * 64
"""Pictures of so many pixels are computed by one thread: more gain nothing, and lose much on a busy machine."""


def load_sampler(ref: str, device: str, reporter: Reporter) -> "Model":
    """`load`, for a model that makes pictures of latents. Raises UsageError for any other."""
    from ganctl.load import load
    from ganctl.protocols import Sampler

    model = load(ref, device=device, reporter=reporter)
    if not isinstance(model.net, Sampler):
        task = printable(model.card.get("task", model.model))
        why = f"it has no latent space to draw from: it is a model for {task}"
        raise UsageError(f"cannot sample from {quoted(ref)}", why, "see: ganctl zoo list --task sample")
    return model


def half_precision(model: "Model", dtype: str, reporter: Reporter) -> str | None:
    """'fp16' or 'bf16' where it is asked for and used, else None: fp32. Warns where the device has none."""
    if dtype not in ("fp16", "bf16"):
        return None
    from ganctl.nn.precision import computes_in

    if not computes_in(dtype, model.device):
        why = "this processor has no such arithmetic: everything is computed in fp32"
        reporter.warn(f"--dtype {dtype} is not used", why, "")
        return None
    return dtype


def pictures(
    model: "Model",
    latents: "Iterable[Latent]",
    *,
    drawing: "Drawing | None" = None,
    batch: int | None = None,
    half: str | None = None,
    reporter: Reporter,
) -> "Iterator[tuple[Latent, np.ndarray]]":
    """(the latent with its w, uint8 [H, W, C]) of each latent, in order; none is taken before it is needed.

    `batch` latents are computed together on a GPU, by default 32, and half as many each time memory is short. Raises
    DeviceError when one alone does not fit, GanctlError when the network gives NaN.
    """
    import torch

    from ganctl.io.images import to_pixels
    from ganctl.nn.drawing import Drawing, draw

    # On the CPU one by one: how a convolution splits its sums depends on the batch, and bytes must not.
    size = 1 if model.device.type == "cpu" else batch or AUTO_BATCH
    latents = iter(latents)
    part = list(itertools.islice(latents, size))
    while part:
        try:
            with _computing(model, half):
                x, now = draw(model.net, part[:size], drawing or Drawing(), model.device)
            pixels = to_pixels(x, model.net.x.range)
        except torch.OutOfMemoryError as e:
            size = _halved(model, len(part[:size]), e, reporter)
            continue
        yield from zip(now, pixels, strict=True)
        part = part[size:] or list(itertools.islice(latents, size))


@contextlib.contextmanager
def _computing(model: "Model", half: str | None) -> Iterator[None]:
    """The settings under which pictures are made."""
    import torch

    from ganctl.nn.precision import inference

    threads = torch.get_num_threads()
    height, width = model.net.x.size
    if height * width <= SMALL:
        torch.set_num_threads(1)
    try:
        with inference(model.device, half):
            yield
    finally:
        torch.set_num_threads(threads)


def _halved(model: "Model", size: int, e: Exception, reporter: Reporter) -> int:
    import torch

    if size == 1:
        raise DeviceError("out of memory", "even one image at a time does not fit", "use --device cpu") from e
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    reporter.warn("memory was short", f"going on with {size // 2} images at once", "")
    return size // 2
