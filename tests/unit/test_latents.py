"""Latent files: read for the model that made them, refused for any other."""

from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.arrays import write_npz
from ganctl.io.latents import read_latents

STAMP = {"model": np.array("faces"), "revision": np.array("0123456789ab")}


def read(*paths: Path) -> list[tuple[Path, np.ndarray]]:
    found = read_latents(paths, model="faces", revision="0123456789ab", shapes={"z": (4,)})
    assert {file.space for file in found} == {"z"}
    return [(file.path, file.rows) for file in found]


def test_the_first_space_that_a_file_has_and_its_classes(tmp_path: Path):
    shapes = {"w": (2, 3), "z": (4,)}
    write_npz(tmp_path / "both.npz", {"z": np.zeros(4), "w": np.ones((5, 2, 3)), "class": np.array(7), **STAMP})
    write_npz(tmp_path / "z.npz", {"z": np.zeros((2, 4)), "class": np.array([1, 2])})
    paths = [tmp_path / "both.npz", tmp_path / "z.npz"]
    both, z = read_latents(paths, model="faces", revision="0123456789ab", shapes=shapes)
    assert (both.space, both.rows.shape, both.c) == ("w", (5, 2, 3), (7,) * 5)
    assert (z.space, z.rows.shape, z.c) == ("z", (2, 4), (1, 2))
    for wrong in ({"class": np.array([1, 2, 3])}, {"class": np.array(1.5)}):
        write_npz(tmp_path / "x.npz", {"z": np.zeros((2, 4)), **wrong})
        with pytest.raises(UsageError, match="'class' has shape"):
            read_latents([tmp_path / "x.npz"], model="faces", revision="", shapes=shapes)
    write_npz(tmp_path / "none.npz", {"x": np.zeros(4)})
    with pytest.raises(UsageError, match="there is no array 'w' or 'z', only 'x'"):
        read_latents([tmp_path / "none.npz"], model="faces", revision="", shapes=shapes)


def test_one_or_many_latents_in_the_order_given(tmp_path: Path):
    write_npz(tmp_path / "one.npz", {"z": np.arange(4.0), **STAMP})
    write_npz(tmp_path / "many.npz", {"z": np.ones((3, 4), np.float16), "w": np.zeros(9)})
    (one, a), (many, b) = read(tmp_path / "one.npz", tmp_path / "many.npz")
    assert (one.name, many.name) == ("one.npz", "many.npz")
    assert a.dtype == b.dtype == np.float32 and a.tolist() == [[0, 1, 2, 3]] and b.shape == (3, 4)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"z": np.zeros(4), "model": np.array("cats"), "revision": np.array("ba9876543210")}, "made with 'cats'"),
        ({"w": np.zeros(4)}, "there is no array 'z', only 'w'"),
        ({"z": np.zeros(5)}, "'z' has shape (5,), 'faces' takes ('n', 4)"),
        ({"z": np.zeros((0, 4))}, "'z' has shape (0, 4)"),
        ({"z": np.array(1.0)}, "'z' has shape ()"),
        ({"z": np.zeros(4, complex)}, "'z' has shape"),
        ({"z": np.array(["a", "b", "c", "d"])}, "'z' has shape"),
        ({"z": np.full(4, 1e300)}, "beyond float32"),
        ({"z": np.array([0, 1, np.nan, 2])}, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(tmp_path: Path, arrays: dict[str, np.ndarray], why: str):
    write_npz(tmp_path / "a\x1b.npz", arrays)
    with pytest.raises(UsageError) as e:
        read(tmp_path / "a\x1b.npz")
    assert why in e.value.why and "a\\x1b.npz" in e.value.what and e.value.hint
    assert "'faces'" in e.value.message or "cats" not in e.value.message


def test_all_faults_come_at_once_and_at_most_five(tmp_path: Path):
    paths = [tmp_path / f"{i}.npz" for i in range(8)]
    for i, path in enumerate(paths):
        write_npz(path, {"z": np.zeros(4 if i == 0 else 3)})
    with pytest.raises(UsageError) as e:
        read(*paths)
    assert e.value.what == "cannot use 7 of 8 latent files"
    assert e.value.why.count("has shape") == 5 and e.value.why.endswith("and 2 more")


@pytest.mark.parametrize("cut", [0, 1, 60, -30])
def test_damaged_files_are_refused(tmp_path: Path, cut: int):
    path = tmp_path / "a.npz"
    write_npz(path, {"z": np.zeros(4), **STAMP})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match="cannot use"):
        read(path)
    (tmp_path / "no.npz").write_bytes(b"\x89PNG" + bytes(90))
    with pytest.raises(UsageError, match="it is not an"):
        read(tmp_path / "no.npz")
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "gone.npz")
