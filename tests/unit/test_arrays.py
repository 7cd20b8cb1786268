"""The door for .npz: what is written comes back; anything odd is one sentence, never a traceback."""

import io
import zipfile

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.arrays import npz_bytes, read_npz, write_npz
from ganctl.io.outputs import request_in


def header(array_like: bytes, shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + array_like


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as z:
        for name, data in members:
            z.writestr(name, data)
    return path


def refused(path) -> str:
    with pytest.raises(UsageError) as e:
        read_npz(path)
    assert "Traceback" not in e.value.message and "allow_pickle" not in e.value.message
    assert str(path.name) in e.value.message
    return e.value.message


def test_round_trip(tmp_path):
    arrays = {
        "mu": np.arange(4.0),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array("clean"),
        "empty": np.zeros((0, 3)),
        "n": np.array(7),
        "half": np.ones((2, 2), np.float16),
    }
    write_npz(tmp_path / "a.npz", arrays, {"seed": 1, "model": "dcgan-mnist"})
    back = read_npz(tmp_path / "a.npz")
    assert request_in(tmp_path / "a.npz") == {"seed": 1, "model": "dcgan-mnist"}
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    assert request_in(tmp_path / "c.npz") is None
    assert np.array_equal(read_npz(tmp_path / "c.npz")["fortran"], arrays["fortran"])
    (tmp_path / "b.npz").write_bytes(npz_bytes(arrays))
    assert set(read_npz(tmp_path / "b.npz")) == set(arrays)


def test_no_object_is_unpickled_or_stored(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    assert "no array of numbers" in refused(tmp_path / "o.npz")
    with pytest.raises(ValueError, match="cannot store"):
        write_npz(tmp_path / "p.npz", {"a": np.array([{}], dtype=object)})
    assert not (tmp_path / "p.npz").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path, value):
    np.savez(tmp_path / "n.npz", mu=np.array([0.0, value]))
    assert "NaN or infinity" in refused(tmp_path / "n.npz")


def test_damaged_files(tmp_path):
    write_npz(tmp_path / "a.npz", {"mu": np.arange(500.0), "sigma": np.eye(20)})
    whole = (tmp_path / "a.npz").read_bytes()
    for name, data in {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "flipped": whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
        "text": b"not numbers",
        "npy": header(b"\0" * 8, "(1,)"),
        "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
        "pk": b"PK",
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        refused(tmp_path / f"{name}.npz")
    assert "no such file" in refused(tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "regular" in refused(tmp_path / "folder.npz")


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ("(1000000000000,)", "'<f8'"),
        ("(-1,)", "'<f8'"),
        ("'x'", "'<f8'"),
        ("(2,)", "'<U999999999'"),
        ("(1,)", "'|O'"),
        ("(1,)", "[('a', '<f8')]"),
        ("(1,)", "'<f7'"),
        ("(1,)", "'<m8'"),
        ("(0, 99999999999999999999999)", "'<f8'"),
    ],
)
def test_absurd_headers_take_no_memory(tmp_path, shape, descr):
    refused(archive(tmp_path / "h.npz", [("a.npy", header(b"\0" * 8, shape, descr))]))


def test_odd_members(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2))
    assert "not one array" in refused(archive(tmp_path / "t.npz", [("readme.txt", b"hi")]))
    assert "no arrays" in refused(archive(tmp_path / "e.npz", []))
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(tmp_path / "d.npz", [("a.npy", buffer.getvalue()), ("a.npy", buffer.getvalue())])
    assert "not one array" in refused(tmp_path / "d.npz")
    bomb = header(b"\0" * (300 << 20), "(39321600,)")
    assert "unpack" in refused(archive(tmp_path / "z.npz", [("a.npy", bomb)], compression=zipfile.ZIP_DEFLATED))
