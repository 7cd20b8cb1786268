"""A model of super-resolution as FAKE of `ganctl fid --pairs`: every original made smaller, and enlarged again."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ganctl import catalog
from ganctl.errors import UsageError, quoted
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    import numpy as np

BICUBIC = re.compile(r"bicubic-x([2-8])")
"""The baseline of the papers' tables, by its factor."""
Enlarge = Callable[["np.ndarray"], "np.ndarray"]


def is_enlarger(ref: str) -> bool:
    """Whether a side is named as one: `bicubic-x4`, or a zoo name whose task is to translate."""
    known = catalog.entries().get(catalog.split_revision(ref)[0])
    return bool(BICUBIC.fullmatch(ref)) or (known is not None and known.task == "translate")


def open_enlarger(ref: str, device: str, reporter: Reporter = SILENT) -> tuple[int, Enlarge]:
    """The factor, and what makes an image uint8 [h, w, 3] that much larger.

    Raises UsageError for a model that does not enlarge, and what `load` does.
    """
    if found := BICUBIC.fullmatch(ref):
        from ganctl.io.images import resize

        factor = int(found[1])
        return factor, lambda low: resize(low, (low.shape[0] * factor, low.shape[1] * factor), "bicubic")
    from ganctl.io.images import to_channels
    from ganctl.load import load
    from ganctl.workflows.translate_way import Way

    model = load(ref, device=device, reporter=reporter)
    scale = getattr(model.net, "scale", 1)
    if scale < 2:
        why = f"{quoted(model.model)} does not enlarge images"
        raise UsageError(f"cannot pair originals with {quoted(ref)}", why, "pass the folder of its results instead")
    way = Way((model.net,))
    return scale, lambda low: to_channels(way.translate([low], model.device, seed=0)[0], 3)


def reduced(pixels: "np.ndarray", factor: int) -> tuple["np.ndarray", "np.ndarray"]:
    """An original uint8 [h, w, 3], cut to multiples of the factor as the papers do, and the same made smaller.

    Raises ValueError for an image that is smaller than the factor.
    """
    import numpy as np

    from ganctl.io.images import from_pixels, to_pixels
    from ganctl.nn.shrink import shrink

    height, width = (side - side % factor for side in pixels.shape[:2])
    if not height or not width:
        raise ValueError(f"it is {pixels.shape[1]}x{pixels.shape[0]}, too small to be made {factor} times smaller")
    whole = np.ascontiguousarray(pixels[:height, :width])
    return whole, to_pixels(shrink(from_pixels(whole[None], (-1, 1)), factor), (-1, 1))[0]
