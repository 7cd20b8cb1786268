"""A walk over an image's blocks before Pillow sees them: Pillow walks in Python, and a crafted file keeps it for hours.

Each walk takes at most `MAX_STEPS` steps. Sources: JPEG, ITU-T T.81 annex B; GIF89a, sections 18 to 26; TIFF 6.0,
section 2, and BigTIFF; BMP, Microsoft's BITMAPINFOHEADER; PNM, netpbm's pbm(5), pgm(5), ppm(5).
"""

import re
import struct

from ganctl.io.limits import MAX_RLE_BYTES, MAX_SCANS, MAX_STEPS, MAX_TAG_VALUES

TOO_MANY = f"it has more than {MAX_STEPS} blocks, or as much between them that belongs to none"
FILL = re.compile(rb"[^\xff]*+\xff++")
GAP = rb"(?:\s|#[^\r\n]*+[\r\n])++"
BITS = re.compile(rb"P(1)" + GAP + rb"([0-9]{1,9})" + GAP + rb"([0-9]{1,9})(?=[\s#])")
NUMBERS = re.compile(rb"P([23])" + (GAP + rb"([0-9]{1,9})") * 3 + rb"(?=[\s#])")
COMMENT, DIGITS = re.compile(rb"#[^\r\n]*+"), re.compile(rb"[0-9\s]*+")
RAW = re.compile(rb"P[4-6f]" + GAP + rb"[0-9]")
HEADER_BYTES = 1 << 16


def fault_in(data: bytes) -> str:
    """Why an image would take Pillow unreasonably long, or an empty string. PNG is `png.check_png`'s."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"GIF8"):
        return TOO_MANY if gif_frames(data) < 0 else ""
    if data.startswith((b"II", b"MM")):
        return _tiff(data)
    if data.startswith(b"BM"):
        # RLE is the one BMP that Pillow decodes in Python.
        packed = int.from_bytes(data[30:34], "little") in (1, 2) and len(data) > MAX_RLE_BYTES
        return f"it is a run-length BMP of more than {MAX_RLE_BYTES} bytes" if packed else ""
    if data[:1] == b"P" and data[1:2] in b"456f" and not RAW.match(data[:HEADER_BYTES]):
        return f"its header is damaged, or longer than {HEADER_BYTES} bytes"
    return ""


def gif_frames(data: bytes) -> int:
    """How many frames begin in a GIF, counted up to 2; -1 where finding out takes more than `MAX_STEPS` steps."""
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    frames = steps = 0
    while at < len(data) and frames < 2 and data[at] != 0x3B:
        block, at, steps = data[at], at + 1, steps + 1
        if block == 0x2C:
            frames += 1
            colours = data[at + 8] if at + 8 < len(data) else 0
            at += 10 + (3 * 2 ** ((colours & 7) + 1) if colours & 0x80 else 0)
        elif block == 0x21:
            at += 1
        while block in (0x2C, 0x21) and at < len(data) and data[at] and steps <= MAX_STEPS:
            at, steps = at + 1 + data[at], steps + 1
        if steps > MAX_STEPS:
            return -1
        at += block in (0x2C, 0x21)
    return frames


def raw_of_plain(data: bytes) -> bytes | None:
    """A PNM written in digits (P1, P2, P3) as its raw twin (P5, P6), or None for any other image.

    Raises ValueError for a damaged header, too few values, or one above the largest.
    """
    if data[:1] != b"P" or data[1:2] not in (b"1", b"2", b"3"):
        return None
    import numpy as np

    head = (BITS if data[1:2] == b"1" else NUMBERS).match(data[:HEADER_BYTES])
    if head is None:
        raise ValueError("header damaged")
    width, height, most = int(head[2]), int(head[3]), int(head[4]) if head.lastindex == 4 else 1
    count = width * height * (3 if head[1] == b"3" else 1)
    text = COMMENT.sub(b"", data[head.end() :])
    # Checked before anything is made of it: a value is at least one character.
    if not 1 <= most <= 65535 or count > len(text) or not DIGITS.fullmatch(text):
        raise ValueError("values missing or damaged")
    digits = np.frombuffer(text, np.uint8) >= ord("0")
    if head[1] == b"1":  # each digit a value; 1 is black
        values = ord("1") - np.frombuffer(text, np.uint8)[digits][:count].astype(np.int64)
    else:
        # NumPy makes up the values that are not there, so they are counted first.
        there = int(digits[:1].sum()) + int((digits[1:] & ~digits[:-1]).sum())
        values = np.fromstring(text, np.int64, min(count, there), sep=" ") if there else np.zeros(0, np.int64)
    if len(values) < count or (count and not 0 <= values.min() <= values.max() <= most):
        raise ValueError("values missing or out of range")
    body = values.astype(np.uint8 if most < 256 else ">u2").tobytes()
    return b"P%d %d %d %d\n" % (6 if head[1] == b"3" else 5, width, height, most) + body


def _jpeg(data: bytes) -> str:
    """Markers up to the first scan (B.1.1), and how many scans there are."""
    at = 2
    for _ in range(MAX_STEPS):
        # Bytes that are no marker, and the fill before one, are passed one by one in Pillow.
        gap = FILL.match(data, at)
        if gap is None:
            return "" if len(data) - at <= MAX_STEPS else TOO_MANY
        if gap.end() - at > MAX_STEPS:
            return TOO_MANY
        marker = data[gap.end()] if gap.end() < len(data) else 0xD9
        at = gap.end() + 1
        if marker == 0xDA:
            scans = data.count(b"\xff\xda", at)
            return f"it has {scans} scans, more than the limit of {MAX_SCANS}" if scans > MAX_SCANS else ""
        if marker == 0xD9:
            return ""
        if marker not in (0, 1, *range(0xD0, 0xD9)):
            at += int.from_bytes(data[at : at + 2], "big")
    return TOO_MANY


def _tiff(data: bytes) -> str:
    """The number of values of each tag in the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    entry, size, start = ("HHQQ", 8, 8) if data[2:4] in (b"+\0", b"\0+") else ("HHII", 4, 4)
    at = int.from_bytes(data[start : start + size], "little" if order == "<" else "big")
    wide = 8 if size == 8 else 2
    length = int.from_bytes(data[at : at + wide], "little" if order == "<" else "big")
    entries = data[at + wide : at + wide + min(length, 65535) * struct.calcsize(order + entry)]
    step = struct.calcsize(order + entry)
    for tag, kind, count, _ in struct.iter_unpack(order + entry, entries[: len(entries) // step * step]):
        # Bytes, text and undefined values are one object in Pillow, any others one each.
        if kind not in (1, 2, 7) and count > MAX_TAG_VALUES:
            return f"its TIFF tag {tag} has {count} values, more than the limit of {MAX_TAG_VALUES}"
    return ""
