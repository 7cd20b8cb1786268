"""The door for IDX files (MNIST and its kin), plain or gzipped: http://yann.lecun.com/exdb/mnist, file formats."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ganctl.errors import UsageError, quoted
from ganctl.io.files import read_regular
from ganctl.io.limits import MAX_IDX_BYTES

if TYPE_CHECKING:
    import numpy as np

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class BadIdx(UsageError):
    """A file that is no whole IDX array."""

    kind = "data"


@dataclass(frozen=True)
class IdxImage:
    """One image of an IDX file, as an `ImageRef` is one of a folder."""

    name: str
    """Its number."""
    size: int
    mtime: float
    pixels: "np.ndarray"
    """uint8 [height, width, 1 | 3 | 4]."""
    file: Path

    @property
    def label(self) -> str:
        return f"{self.file}[{self.name}]"


def idx_images(path: Path) -> list[IdxImage]:
    """The images of an IDX file in order. Raises BadIdx when it holds labels, or anything else."""
    array = read_idx(path)
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.ndim not in (3, 4) or array.dtype != "u1" or channels not in (1, 3, 4) or not array.size:
        why = f"it holds {array.dtype} of shape {array.shape}, not uint8 images (n, height, width)"
        raise BadIdx(f"cannot use {quoted(path)}", why)
    pixels = array.reshape(*array.shape[:3], channels)
    size, mtime = pixels[0].size, path.stat().st_mtime
    return [IdxImage(str(i), size, mtime, image, path) for i, image in enumerate(pixels)]


def is_idx(data: bytes) -> bool:
    """Whether bytes (plain, not gzipped) begin as an IDX file."""
    return len(data) >= 4 and data[:2] == b"\0\0" and data[2] in DTYPES and 1 <= data[3] <= 4


def read_idx(source: bytes | Path, *, name: str = "") -> "np.ndarray":
    """The array of an IDX file, plain or gzipped, in native byte order. Shape as in its header: [N, H, W] or [N].

    Raises BadIdx when the header and the bytes that are there disagree, before anything large is allocated.
    """
    import numpy as np

    data = read_regular(source, limit=MAX_IDX_BYTES) if isinstance(source, Path) else source
    where = f"cannot read {quoted(name or (source if isinstance(source, Path) else 'IDX data'))}"
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, where)
    if not is_idx(data):
        raise BadIdx(where, "it is empty" if not data else "it does not begin as an IDX file")
    kind, rank = DTYPES[data[2]], data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise BadIdx(where, "its header is cut short")
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    need = start + math.prod(shape) * np.dtype(kind).itemsize
    if need != len(data):
        raise BadIdx(where, f"its header {shape} needs {need} bytes, it has {len(data)}")
    array = np.frombuffer(data, kind, offset=start).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


def _gunzip(data: bytes, where: str) -> bytes:
    """Unpacks exactly as many bytes as the IDX header inside announces, and one more to see a surplus."""
    try:
        head = zlib.decompressobj(31).decompress(data, 20)
        if not is_idx(head):
            raise BadIdx(where, "the gzip file holds no IDX file")
        dims = [int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(head[3])]
        need = 4 + 4 * head[3] + math.prod(dims) * int(DTYPES[head[2]][-1])
        if need > MAX_IDX_BYTES:
            raise BadIdx(where, f"its header needs {need} bytes, more than the limit of {MAX_IDX_BYTES}")
        # gzip packs at most 1032 times.
        if need > 1032 * len(data) + 1024:
            raise BadIdx(where, f"its header {tuple(dims)} needs {need} bytes, more than the file can hold")
        stream = zlib.decompressobj(31)
        unpacked = stream.decompress(data, need + 1)
        if len(unpacked) == need and not stream.eof:
            unpacked += stream.decompress(stream.unconsumed_tail, 1)
        if not stream.eof:
            raise BadIdx(where, f"its gzip stream is cut short, or longer than the {need} bytes its header needs")
    except zlib.error as e:
        raise BadIdx(where, "its gzip stream is damaged") from e
    return unpacked
