import gzip
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.idx import BadIdx, idx_images, is_idx, read_idx
from ganctl.io.limits import MAX_IDX_BYTES

from ..conftest import shared_data

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def idx(array: np.ndarray, kind: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def test_every_type_and_rank_plain_and_gzipped(tmp_path: Path):
    for kind, dtype in ((8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        for shape in ((60,), (20, 3), (5, 4, 3), (5, 2, 2, 3)):
            array = PIXELS.reshape(shape).astype(dtype)
            for data in (idx(array, kind), gzip.compress(idx(array, kind))):
                got = read_idx(data)
                assert (got == array).all() and got.shape == shape and got.dtype.isnative
    (tmp_path / "a").write_bytes(gzip.compress(idx(PIXELS)))
    assert (read_idx(tmp_path / "a") == PIXELS).all()
    images = idx_images(tmp_path / "a")
    assert [i.name for i in images] == list("01234") and images[2].label == f"{tmp_path / 'a'}[2]"
    assert all(
        (i.pixels[..., 0] == p).all() and i.pixels.shape == (4, 3, 1) for i, p in zip(images, PIXELS, strict=True)
    )
    assert is_idx(idx(PIXELS)) and not is_idx(b"\0\0\x08") and not is_idx(b"\0\0\x07\1") and not is_idx(b"\0\0\x08\x05")


def test_headers_and_bytes_that_disagree_are_refused_before_anything_is_allocated():
    whole = idx(PIXELS)
    start = time.monotonic()
    for data, why in (
        (b"", "it is empty"),
        (b"hello world", "does not begin as an IDX file"),
        (b"\0\0\x07\x01\0\0\0\0", "does not begin"),
        (whole[:9], "header is cut short"),
        (whole[:-1], "needs 76 bytes, it has 75"),
        (whole + b"x", "needs 76 bytes, it has 77"),
        (idx(PIXELS, shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), "needs"),
        (gzip.compress(b"hello"), "holds no IDX"),
        (gzip.compress(whole)[:-9], "cut short"),
        (gzip.compress(whole[:-1]), "needs 76 bytes, it has 75"),
        (gzip.compress(whole + bytes(99)), "longer"),
        (b"\x1f\x8bnonsense", "damaged"),
        (gzip.compress(idx(PIXELS, shape=(2**31, 9, 9))), f"more than the limit of {MAX_IDX_BYTES}"),
        (gzip.compress(idx(PIXELS, shape=(2**20, 9, 9))), "more than the file can hold"),
    ):
        with pytest.raises(BadIdx, match=why) as e:
            read_idx(data, name="x\x1b")
        assert e.value.what == "cannot read 'x\\x1b'" and e.value.code == 2
    assert time.monotonic() - start < 5


def test_a_flipped_byte_ends_with_an_array_or_bad_idx():
    for whole in (idx(PIXELS), gzip.compress(idx(PIXELS))):
        for at in range(len(whole)):
            flipped = bytearray(whole)
            flipped[at] ^= 0x41
            try:
                assert read_idx(bytes(flipped)).size > 0
            except BadIdx as e:
                assert e.why
            with pytest.raises(BadIdx):
                read_idx(whole[:at])


def test_only_images_are_images(tmp_path: Path):
    for name, array, kind in (
        ("labels", PIXELS.reshape(-1), 8),
        ("floats", PIXELS.astype(">f4"), 13),
        ("none", PIXELS[:0], 8),
    ):
        (tmp_path / name).write_bytes(idx(array, kind))
        with pytest.raises(BadIdx, match="not uint8 images"):
            idx_images(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        read_idx(tmp_path / "pipe")


def test_the_published_mnist_files():
    images = read_idx(shared_data("mnist/train-images-idx3-ubyte.gz"))
    labels = read_idx(shared_data("mnist/train-labels-idx1-ubyte.gz"))
    assert images.shape == (60000, 28, 28) and labels.tolist()[:5] == [5, 0, 4, 1, 9]
    assert abs(images.mean() - 33.318) < 0.001
