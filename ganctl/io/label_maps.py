"""Label maps: images whose pixels are class numbers, and the numbers of objects.

In memory three bytes a pixel: class, object ÷ 256, remainder. A file has one number a pixel, of 8 or 16 bits, grey or a
palette's index. The rule is that of Cityscapes' instance files, which its label files keep too: a number below 1000 is
a class and is its own only object, and of a larger one the thousands are the class. 255 is no class.
"""

from typing import TYPE_CHECKING

from ganctl.io.images import BadImage

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

THOUSAND = 1000
NONE = 255


def numbers_of(image: "Image.Image", where: str) -> "np.ndarray":
    """uint8 [H, W, 3] of a loaded image. Raises BadImage for colours, and numbers beyond a byte's or two bytes'."""
    import numpy as np

    pixels = np.asarray(image)
    if image.mode == "RGB" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, saved as if it were coloured
    elif image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        why = f"its pixels are colours ({image.mode}), and class numbers are wanted"
        raise BadImage(where, why, "save it as grey or with a palette, one number a pixel")
    value = pixels.astype(np.int64)
    if value.min() < 0 or value.max() > 65535:
        raise BadImage(where, "its numbers have more than 16 bits, or a sign")
    classes = np.where(value < THOUSAND, value, value // THOUSAND)
    if classes.max() > NONE:
        raise BadImage(where, f"its class {classes.max()} is beyond {NONE}")
    return np.stack([classes, value // 256, value % 256], 2).astype(np.uint8)


def coloured(numbers: "np.ndarray") -> "np.ndarray":
    """Label maps [..., 3] to be looked at: each class a colour of its own (that of Pascal VOC), no class white."""
    import numpy as np

    index = np.arange(256)
    bits = [sum(((index >> (3 * k + c)) & 1) << (7 - k) for k in range(3)) for c in range(3)]
    palette = np.stack(bits, 1).astype(np.uint8)
    palette[NONE] = 255
    return palette[numbers[..., 0]]
