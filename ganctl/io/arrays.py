"""The door for NumPy archives: latents, statistics, features. Arrays only; sizes are checked before memory is taken."""

import ast
import io
import json
import math
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganctl.errors import UsageError, quoted
from ganctl.io.files import atomic_write

if TYPE_CHECKING:
    import zipfile

    import numpy as np

MAX_NPZ_BYTES = 4 << 30
"""Largest archive, unpacked: 50000 latents of 18 x 512 doubles are 3.7 GiB."""
FREE_NPZ_BYTES = 256 << 20
MAX_RATIO = 100
"""Above FREE_NPZ_BYTES, how many times its packed size an archive may hold."""
MAX_NPZ_ARRAYS = 4096
MAX_HEADER_BYTES = 64 << 10
REQUEST = "request"
"""The field that holds the request as JSON text."""


def read_npz(path: Path | str, only: Collection[str] | None = None) -> "dict[str, np.ndarray]":
    """The arrays of an .npz file, by name: all, or those of `only` that are there.

    Nothing is unpickled: an array of objects is refused. The size each header claims is compared with the bytes that
    are there before memory is taken. Raises UsageError for a file that is absent, damaged, too large, or holds NaN,
    infinity or arrays of anything but numbers and text.
    """
    import zlib
    from zipfile import BadZipFile

    import numpy as np

    path = Path(path)
    where = f"cannot use {quoted(path)}"
    if path.exists() and not path.is_file():
        raise UsageError(where, "it is not a regular file")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise UsageError(where, "it is not an .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as opened:
                members = opened.zip.infolist()
                _check_members(members, where)
                wanted = [m for m in members if only is None or m.filename.removesuffix(".npy") in only]
                _check_sizes(wanted, where)
                return {m.filename.removesuffix(".npy"): _read_member(opened.zip, m, where) for m in wanted}
    except FileNotFoundError as e:
        raise UsageError(where, "there is no such file") from e
    except OSError as e:
        raise UsageError(where, e.strerror or str(e)) from e
    except (BadZipFile, zlib.error, EOFError, LookupError, RuntimeError, ValueError, OverflowError, struct.error) as e:
        raise UsageError(where, "it is not a whole .npz file") from e


def npz_names(path: Path | str) -> list[str]:
    """What the arrays of a file that `read_npz` takes are called."""
    import numpy as np

    with np.load(path, allow_pickle=False) as opened:
        return sorted(opened.files)


def write_npz(path: Path, arrays: "Mapping[str, np.ndarray]", request: Mapping[str, Any] | None = None) -> None:
    """Writes an .npz file atomically. The request, if any, becomes the field `request` (JSON text)."""
    import numpy as np

    fields = dict(arrays)
    if request is not None:
        fields[REQUEST] = np.array(json.dumps(dict(request), ensure_ascii=False, sort_keys=True))
    for name, array in fields.items():
        if not name or "/" in name or np.asarray(array).dtype.hasobject:
            raise ValueError(f"cannot store {name!r} as a plain array")
    with atomic_write(path) as f:
        np.savez(f, allow_pickle=False, **fields)  # type: ignore[arg-type]


def _check_members(members: "list[zipfile.ZipInfo]", where: str) -> None:
    if not members:
        raise UsageError(where, "it holds no arrays")
    if len(members) > MAX_NPZ_ARRAYS:
        raise UsageError(where, f"it holds {len(members)} arrays, more than {MAX_NPZ_ARRAYS}")
    names = [m.filename for m in members]
    for member in members:
        if not member.filename.endswith(".npy") or names.count(member.filename) > 1:
            raise UsageError(where, f"its member {quoted(member.filename)} is not one array of its own")
        if member.flag_bits & 1:
            raise UsageError(where, f"its member {quoted(member.filename)} has a password")


def _check_sizes(members: "list[zipfile.ZipInfo]", where: str) -> None:
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if unpacked > MAX_NPZ_BYTES:
        raise UsageError(where, f"unpacked it is larger than {MAX_NPZ_BYTES >> 30} GiB")
    if unpacked > FREE_NPZ_BYTES and unpacked > MAX_RATIO * packed:
        raise UsageError(where, f"{packed} bytes claim to unpack to {unpacked}, more than {MAX_RATIO} times as much")


def _read_member(archive: "zipfile.ZipFile", member: "zipfile.ZipInfo", where: str) -> "np.ndarray":
    import numpy as np

    name = quoted(member.filename.removesuffix(".npy"))
    with archive.open(member) as stream:
        shape, fortran, dtype, header = _read_header(stream, name, where)
        wanted = math.prod(shape) * dtype.itemsize
        if wanted != member.file_size - header:
            there = member.file_size - header
            raise UsageError(where, f"{name} claims {wanted} bytes of data, the file holds {there}")
        data = stream.read(wanted + 1)
    if len(data) != wanted:
        raise UsageError(where, f"{name} is cut short: {len(data)} of {wanted} bytes")
    array = np.frombuffer(bytearray(data), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise UsageError(where, f"{name} holds NaN or infinity")
    return array


def _read_header(stream: IO[bytes], name: str, where: str) -> "tuple[tuple[int, ...], bool, np.dtype, int]":
    """Shape, order, dtype and length of an .npy header (NumPy's format description, versions 1 to 3)."""
    import numpy as np

    start = stream.read(8)
    if len(start) != 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise UsageError(where, f"{name} is not a NumPy array")
    width = 2 if start[6] == 1 else 4
    size = int.from_bytes(stream.read(width), "little")
    if size > MAX_HEADER_BYTES:
        raise UsageError(where, f"{name} has a header of {size} bytes")
    try:
        # A dictionary as Python writes it, of literals alone: no name is looked up and nothing is called.
        header = ast.literal_eval(stream.read(size).decode("latin-1" if start[6] < 3 else "utf-8").strip())
        shape, fortran, descr = header["shape"], header["fortran_order"], header["descr"]
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError, RecursionError, MemoryError) as e:
        raise UsageError(where, f"{name} has a damaged header") from e
    plain = isinstance(descr, str) and descr.lstrip("<>|=")[:1] in ("b", "i", "u", "f", "c", "U", "S")
    if not plain:
        raise UsageError(where, f"{name} is no array of numbers or text")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as e:
        raise UsageError(where, f"{name} has the unknown type {quoted(descr)}") from e
    if not isinstance(shape, tuple) or len(shape) > 16 or any(type(n) is not int or n < 0 for n in shape):
        raise UsageError(where, f"{name} has the impossible shape {quoted(shape)}")
    return shape, bool(fortran), dtype, 8 + width + size


def npz_bytes(arrays: "Mapping[str, np.ndarray]") -> bytes:
    """The bytes of an .npz file, for a stream."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()
