"""The door for images: decoded by content, fully or not at all, and right for odd but valid files.

The written rules (docs/images.md has them for users): 16-bit values v become round(v / 257), save in colour TIFFs,
whose high byte is taken; transparency stays as a fourth channel and, where it must go, lies over
white; palettes become RGB, or RGBA when they hold transparency; CMYK becomes RGB without a colour profile, Lab becomes
sRGB; EXIF orientation is applied (XMP's is not); of several frames the first is taken; grey is ITU-R 601 luma; gamma
and colour profiles are not applied. Floating-point and 32-bit pixels are refused: they have no fixed scale.
"""

import io
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.errors import GanctlError, UsageError, quoted
from ganctl.io.files import atomic_write, read_regular
from ganctl.io.limits import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_REQUEST_BYTES

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", *(b"P%d" % n for n in range(1, 7)))
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}
USER_COMMENT, EXIF_IFD, ORIENTATION, BITS_PER_SAMPLE = 0x9286, 0x8769, 0x0112, 0x0102
SIDES = {"jpg": 65_500, "webp": 16_383}
"""The longest side that the format can hold (libjpeg, libwebp)."""
SILENCE = logging.NullHandler()


class BadImage(UsageError):
    """An image that cannot be read."""

    kind = "image"


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: "np.ndarray"
    """uint8 [height, width, channels]: 1 grey, 3 RGB, 4 RGBA; upright. Of a label map its three numbers."""
    notes: tuple[str, ...] = ()
    """What was done to an odd file, in words: 'rotated by EXIF', 'first of several frames'."""


def read_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS, numbers: bool = False) -> Picture:
    """Decodes one image fully. Raises BadImage: no image, damaged, too large, or pixels without a written rule.

    `numbers`: it is a label map, whose pixels are taken as they are (io/label_maps.py).
    """
    where = f"cannot read image {quoted(name)}"
    if not data:
        raise BadImage(where, "it is empty (0 bytes)")
    from ganctl.io.headers import fault_in, raw_of_plain
    from ganctl.io.png import check_png, is_animated, pixels_only

    png = data.startswith(b"\x89PNG")
    if fault := check_png(data) if png else fault_in(data):
        raise BadImage(where, fault)
    try:
        if png:
            told = ("first of several frames",) * is_animated(data)
            return _decode(pixels_only(data), where, max_pixels, told, numbers=numbers)
        return _decode(raw_of_plain(data) or data, where, max_pixels, numbers=numbers)
    except BadImage:
        raise
    except Exception as e:  # Pillow's decoders raise nearly anything on damaged bytes
        if not data.startswith(SIGNATURES):
            raise BadImage(where, f"it is no image of a known format ({', '.join(FORMATS).lower()})") from e
        raise BadImage(where, "it is damaged or cut short") from e


@dataclass(frozen=True)
class Look:
    """What an image's header says."""

    width: int
    """Upright, as the height."""
    height: int
    grey: bool
    """Whether it has one channel when decoded."""
    format: str
    """One of FORMATS."""


def look(data: bytes) -> Look | None:
    """An image's header, its pixels undecoded; None where it cannot be read."""
    from ganctl.io.headers import fault_in, raw_of_plain
    from ganctl.io.png import check_png, pixels_only

    png = data.startswith(b"\x89PNG")
    if check_png(data) if png else fault_in(data):
        return None
    try:
        with open_image(pixels_only(data) if png else raw_of_plain(data) or data) as image:
            width, height = image.size
            # Of a TIFF, Pillow's size is the upright one already.
            if image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8):
                width, height = height, width
            grey = (image.mode in ("1", "L") or image.mode.startswith("I")) and "transparency" not in image.info
            return Look(width, height, grey, str(image.format))
    except Exception:  # Pillow raises nearly anything; decoding will say what is wrong
        return None


def to_channels(pixels: "np.ndarray", channels: int) -> "np.ndarray":
    """uint8 [H, W, C] with 1, 3 or 4 channels: alpha goes over white, colour becomes luma, grey is repeated."""
    import numpy as np

    have = pixels.shape[2]
    if have == channels:
        return pixels
    if have == 4:
        colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
        pixels = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if channels == 1 and pixels.shape[2] == 3:
        wide = pixels.astype(np.uint32)
        luma = wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000
        return (luma >> 16).astype(np.uint8)[..., None]
    if channels in (3, 4) and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if channels == 4:
        pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
    if pixels.shape[2] != channels:
        raise UsageError(f"cannot make {channels} channels of an image", "1 (grey), 3 (RGB) and 4 (RGBA) are known")
    return pixels


def resize(pixels: "np.ndarray", size: tuple[int, int], filter: str = "lanczos") -> "np.ndarray":
    """uint8 [H, W, C] to size (h, w), antialiased (Pillow's resampling): lanczos, bicubic, bilinear or box.

    nearest gives every pixel the value of one of the input's.
    """
    if filter not in FILTERS:
        raise UsageError(f"unknown filter {quoted(filter)}", f"known: {', '.join(FILTERS)}")
    if pixels.shape[:2] == tuple(size):
        return pixels
    from PIL import Image

    return _array(_picture(pixels).resize((size[1], size[0]), Image.Resampling(FILTERS[filter])))


def center_crop_resize(pixels: "np.ndarray", size: tuple[int, int], filter: str = "lanczos") -> "np.ndarray":
    """The largest centred rectangle with the proportions of (h, w), resized to it."""
    h, w = pixels.shape[:2]
    side = min(h / size[0], w / size[1])
    ch, cw = max(1, min(h, round(size[0] * side))), max(1, min(w, round(size[1] * side)))
    top, left = (h - ch) // 2, (w - cw) // 2
    return resize(pixels[top : top + ch, left : left + cw], size, filter)


def encode(
    pixels: "np.ndarray", format: str = "png", quality: int = 95, request: Mapping[str, Any] | None = None
) -> bytes:
    """uint8 [H, W, C] as png, jpg or webp bytes (quality 100 makes webp lossless; jpg lays alpha over white).

    `request` travels along as JSON: tEXt 'ganctl' in PNG, EXIF UserComment in JPEG and WebP.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = json.dumps(dict(request)) if request is not None else ""
    if len(text) > MAX_REQUEST_BYTES:
        raise GanctlError("cannot store the request in the image", f"it has more than {MAX_REQUEST_BYTES} bytes")
    out = io.BytesIO()
    if format == "png":
        info = PngInfo()
        if text:
            info.add_text("ganctl", text)
        _picture(pixels).save(out, "PNG", pnginfo=info)
        return out.getvalue()
    format = "jpg" if format == "jpeg" else format
    if format not in SIDES:
        raise UsageError(f"unknown image format {quoted(format)}", "known: png, jpg, webp")
    if max(pixels.shape[:2]) > SIDES[format]:
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        raise UsageError(f"cannot write {size} as {format}", f"its longest side is {SIDES[format]}", "write a png")
    exif = Image.Exif()
    if text:
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0" + text.encode("ascii")
    block = exif.tobytes() if text else b""
    if format == "webp":
        _picture(pixels).save(out, "WEBP", quality=quality, lossless=quality >= 100, exif=block)
    else:
        flat = to_channels(pixels, 3) if pixels.shape[2] == 4 else pixels
        # Chroma at full resolution from quality 90: generated colours are judged pixel by pixel.
        _picture(flat).save(out, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, exif=block)
    return out.getvalue()


def write_image(
    path: Path,
    pixels: "np.ndarray",
    *,
    format: str | None = None,
    quality: int = 95,
    request: Mapping[str, Any] | None = None,
) -> None:
    """Encodes and writes an image atomically; the format is the suffix's unless given."""
    data = encode(pixels, format or path.suffix.lower().removeprefix(".") or "png", quality, request)
    with atomic_write(path) as f:
        f.write(data)


def request_of(path: Path) -> dict | None:
    """The request that an image, a .npz or a .zip written by ganctl carries, or None."""
    try:
        if path.suffix.lower() == ".zip":
            from ganctl.io.archives import request_of_zip

            return request_of_zip(path)
        if path.suffix.lower() == ".npz":
            from ganctl.io.arrays import read_npz

            text = str(read_npz(path).get("request", ""))
        else:
            text = _embedded(read_regular(path, limit=MAX_IMAGE_BYTES))
        value = json.loads(text) if text else None
    except (GanctlError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def grid(images: "Sequence[np.ndarray]", columns: int, gap: int = 2) -> "np.ndarray":
    """One uint8 sheet [H, W, C] of many images, row by row, `gap` white pixels between them."""
    import numpy as np

    if not images or columns < 1:
        raise UsageError("cannot make a grid", "it needs at least one image and one column")
    channels = max(i.shape[2] for i in images)
    cells = [to_channels(i, channels) for i in images]
    h, w = max(i.shape[0] for i in cells), max(i.shape[1] for i in cells)
    rows = math.ceil(len(cells) / columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, channels), 255, np.uint8)
    for k, cell in enumerate(cells):
        y, x = k // columns * (h + gap), k % columns * (w + gap)
        sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return sheet


def to_pixels(images: "Tensor", range: tuple[float, float]) -> "np.ndarray":
    """Float images [N, C, H, W] in `range` as uint8 [N, H, W, C], rounded and clipped. Raises GanctlError for NaN."""
    low, high = range
    bad = int((~images.isfinite()).sum())
    if bad:
        raise GanctlError("cannot write the images", f"{bad} of {images.numel()} values are NaN or infinite")
    scaled = (images.detach().float() - low) * (255 / (high - low))
    return scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_pixels(pixels: "np.ndarray", range: tuple[float, float]) -> "Tensor":
    """uint8 [N, H, W, C] as float32 [N, C, H, W] in `range`."""
    import numpy as np
    import torch

    low, high = range
    # Pixels may be mapped from a file and not be written to, which PyTorch does not like.
    planes = torch.from_numpy(np.require(pixels.transpose(0, 3, 1, 2), requirements=["C", "W"]))
    return planes.float() * ((high - low) / 255) + low


def _decode(data: bytes, where: str, max_pixels: int, notes: tuple[str, ...] = (), *, numbers: bool = False) -> Picture:
    with open_image(data) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise BadImage(where, f"its size is {width} x {height}")
        if width * height > max_pixels:
            raise BadImage(where, f"it has {width} x {height} pixels, more than the limit of {max_pixels}")
        turn = _orientation(image)
        if numbers:
            from ganctl.io.label_maps import numbers_of

            image.load()
            pixels, told = numbers_of(image, where), []
        elif image.format == "PNG" and data[24] == 16:
            from ganctl.io.png import read_deep_png

            pixels, told = read_deep_png(data), ["16 bits reduced to 8"]
        else:
            image.load()
            pixels, told = _to_uint8(image, where)
        if turn != 1:
            # Of a TIFF, whose orientation is part of the format, Pillow's pixels are upright already.
            pixels = pixels if image.format == "TIFF" else _upright(pixels, turn)
            told.append("rotated by EXIF")
        if _is_animated(image, data):
            told.append("first of several frames")
    return Picture(pixels, (*told, *notes))


def open_image(data: bytes) -> "Image.Image":
    """Pillow's image, header read. The only call of Image.open in ganctl."""
    from PIL import Image, ImageFile

    # Our own limit is checked on the header; Pillow's would only add a warning with other numbers.
    Image.MAX_IMAGE_PIXELS = None
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    logging.getLogger("PIL").addHandler(SILENCE)
    # Not catch_warnings, which is not safe in threads: this filter concerns Pillow alone.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _to_uint8(image: "Image.Image", where: str) -> "tuple[np.ndarray, list[str]]":
    """uint8 [H, W, 1 | 3 | 4] of a loaded image, and what was done to it."""
    import numpy as np

    mode = image.mode
    bits = image.getexif().get(BITS_PER_SAMPLE, 8) if image.format == "TIFF" else 8
    bits = max(bits) if isinstance(bits, tuple) else bits
    if mode == "F":
        raise BadImage(where, "its pixels are floating-point numbers, which have no fixed scale")
    if mode.startswith("I"):
        wide = np.asarray(image)
        if bits > 16 or wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise BadImage(where, "its pixels have more than 16 bits, or a sign, and so no fixed scale")
        return ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None], ["16 bits reduced to 8"]
    told = ["16 bits reduced to 8"] if bits == 16 else []
    transparent = "transparency" in image.info
    if mode in ("L", "RGB") and not transparent:
        return _array(image), told  # not converted to what it is, which takes a third of decoding's time
    if mode == "1" and not transparent:
        return _array(image.convert("L")), told
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or transparent:
        if mode in ("La", "RGBa"):
            image = image.convert("LA" if mode == "La" else "RGBA")
        return _array(image.convert("RGBA")), told
    if mode == "CMYK":
        told.append("CMYK converted without a colour profile")
    return _array(image.convert("RGBA" if mode == "P" and image.im.getpalettemode() == "RGBA" else "RGB")), told


def _orientation(image: "Image.Image") -> int:
    """EXIF orientation, 1 … 8, before the pixels are loaded."""
    from PIL import Image

    try:
        if image.format == "TIFF":
            turn = image.getexif().get(ORIENTATION, 1)
        else:
            # Not getexif(), which takes XMP's word where EXIF says nothing; browsers do not.
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            turn = exif.get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return turn if turn in range(1, 9) else 1


def _upright(pixels: "np.ndarray", turn: int) -> "np.ndarray":
    """Undoes EXIF orientation 2 … 8 (EXIF 2.3, tag 274)."""
    import numpy as np

    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    flip_y, flip_x = {2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[turn]
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _is_animated(image: "Image.Image", data: bytes) -> bool:
    """Whether more frames follow the one that was loaded."""
    if image.format == "GIF":
        from ganctl.io.headers import gif_frames

        return gif_frames(data) > 1
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame; the first is whole
        return True


def _embedded(data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        from ganctl.io.png import text_of

        return text_of(data, "ganctl")
    from ganctl.io.headers import fault_in

    try:
        if fault_in(data):
            return ""
        with open_image(data) as image:
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    except Exception:  # not an image of ours: it carries no request
        return ""
    return comment[8:].decode("ascii", "replace") if isinstance(comment, bytes) else ""


def _picture(pixels: "np.ndarray") -> "Image.Image":
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _array(image: "Image.Image") -> "np.ndarray":
    import numpy as np

    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array
