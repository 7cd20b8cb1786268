"""What Pillow leaves undone for PNG: checksums of the pixel data, the low byte of 16-bit samples, extra chunks.

PNG (Portable Network Graphics) Specification, second edition, sections 5.3 (chunks), 8 (interlacing), 9 (filtering).
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ganctl.io.limits import MAX_STEPS

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
"""All that says how the pixels look. Pillow refuses an image for a large text or colour profile beside them."""
ROWS = 256
"""Rows of a 16-bit image that are computed at once."""
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, step across, step down of the seven passes."""


def check_png(data: bytes) -> str:
    """What is wrong with a PNG's critical chunks (order, length, checksum, end), or an empty string."""
    if not data.startswith(MAGIC):
        return "its PNG signature is damaged"
    last = b""
    for count, (kind, start, end) in enumerate(_chunks(data)):
        if count >= MAX_STEPS:
            return f"it has more than {MAX_STEPS} chunks"
        if not last and kind != b"IHDR":
            return "its PNG header is missing"
        if end + 4 > len(data):
            return "it is cut short"
        if kind[:1].isupper() or kind == b"tRNS":
            if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                return f"the checksum of its {kind.decode('ascii', 'replace')} chunk is wrong: it is damaged"
            if kind == b"IHDR" and end - start != 13:
                return "its PNG header is damaged"
            if kind == b"IHDR" and not all(size := struct.unpack_from(">II", data, start)):
                return f"its size is {size[0]} x {size[1]}"
        last = kind
        if kind == b"IEND":
            return ""
    return "it is cut short"


def pixels_only(data: bytes) -> bytes:
    """The same PNG without the chunks that do not concern its pixels (texts, profiles, times, further frames)."""
    return MAGIC + b"".join(data[start - 8 : end + 4] for kind, start, end in _chunks(data) if kind in PIXEL_CHUNKS)


def is_animated(data: bytes) -> bool:
    """Whether a PNG holds further frames (APNG)."""
    return any(kind == b"acTL" for kind, _, _ in _chunks(data))


def text_of(data: bytes, key: str) -> str:
    """The first plain text (tEXt) of that key, or an empty string."""
    mark = key.encode("latin-1") + b"\0"
    found = (data[s + len(mark) : e] for kind, s, e in _chunks(data) if kind == b"tEXt" and data.startswith(mark, s))
    return next(found, b"").decode("latin-1")


def read_deep_png(data: bytes) -> "np.ndarray":
    """A 16-bit PNG as uint8 [H, W, C], each value round(v / 257); transparency by colour key becomes a fourth channel.

    Filters work byte by byte at the distance of one pixel, so high and low bytes are two images of their own: both are
    written as 8-bit PNGs with the same filters and decoded by Pillow. Raises ValueError for damaged data.
    """
    import numpy as np

    width, height, _, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    channels = CHANNELS[colour]
    sizes = list(_passes(width, height, interlace))
    need = sum(h * (1 + 2 * channels * w) for w, h in sizes)
    packed = b"".join(data[s:e] for kind, s, e in _chunks(data) if kind == b"IDAT")
    raw = zlib.decompressobj().decompress(packed, need)
    if len(raw) != need:
        raise ValueError("pixel data cut short")
    halves: list[list[bytes]] = [[], []]
    offset = 0
    for w, h in sizes:
        rows = np.frombuffer(raw, np.uint8, h * (1 + 2 * channels * w), offset).reshape(h, 1 + 2 * channels * w)
        offset += rows.size
        for half in (0, 1):
            halves[half].append(np.concatenate([rows[:, :1], rows[:, 1 + half :: 2]], axis=1).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlace)
    high, low = (_plain_png(header, b"".join(half), channels) for half in halves)
    key = next((data[s:e] for kind, s, e in _chunks(data) if kind == b"tRNS"), b"")
    key = np.frombuffer(key, ">u2") if colour in (0, 2) and len(key) == 2 * channels else None
    blocks = []
    for top in range(0, height, ROWS):
        deep = high[top : top + ROWS].astype(np.uint32) * 256 + low[top : top + ROWS]
        pixels = ((deep + 128) // 257).astype(np.uint8)
        if key is not None:
            opaque = (deep != key).any(axis=2, keepdims=True)
            pixels = np.concatenate([np.broadcast_to(pixels, (*opaque.shape[:2], 3)), opaque * np.uint8(255)], axis=2)
        blocks.append(pixels[..., [0, 0, 0, 1]] if colour == 4 else pixels)
    return np.concatenate(blocks)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first and past-last byte of each chunk's content; the last may reach beyond the data."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, at + 8 + length
        at += 12 + length


def _passes(width: int, height: int, interlace: int) -> Iterator[tuple[int, int]]:
    for left, top, across, down in ADAM7 if interlace else ((0, 0, 1, 1),):
        w, h = -(-max(0, width - left) // across), -(-max(0, height - top) // down)
        if w and h:
            yield w, h


def _plain_png(header: bytes, rows: bytes, channels: int) -> "np.ndarray":
    import numpy as np

    from ganctl.io.images import open_image

    out = io.BytesIO(MAGIC)
    out.seek(0, 2)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")):
        out.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    with open_image(out.getvalue()) as image:
        image.load()
        array = np.array(image)
    return array.reshape(array.shape[0], array.shape[1], channels)
