"""Names, requests and refusals of outputs; and the one way files are written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io import files
from ganctl.io.arrays import write_npz
from ganctl.io.files import TEMPORARY, atomic_write
from ganctl.io.images import write_image
from ganctl.io.outputs import check_writable, default_folder, npy_bytes, request_for, request_in, shown_name, status_of
from ganctl.io.video import write_gif

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
REQUEST = request_for("sample", "dcgan-mnist", "abc", seed=3, grid=(2, 3), size=None)


def write(path: Path) -> None:
    kinds = {
        ".npy": lambda: path.write_bytes(npy_bytes(PIXELS, REQUEST)),
        ".npz": lambda: write_npz(path, {"z": np.zeros(3)}, REQUEST),
        ".gif": lambda: write_gif(path, [PIXELS] * 2, count=2, fps=10, request=REQUEST),
    }
    kinds.get(path.suffix, lambda: write_image(path, PIXELS, request=REQUEST))()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".npy", ".npz", ".gif"])
def test_the_same_request_is_known_again_and_another_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert status_of(path, REQUEST) == "write"
    write(path)
    assert request_in(path) == {**REQUEST, "grid": [2, 3]}
    assert status_of(path, REQUEST) == "exists"
    assert status_of(path, {**REQUEST, "ganctl": "another version"}) == "exists"
    assert status_of(path, {**REQUEST, "seed": 4}, overwrite=True) == "write"
    with pytest.raises(UsageError, match="seed was '3' and is now '4'") as e:
        status_of(path, {**REQUEST, "seed": 4})
    assert "--overwrite" in e.value.hint
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 3], b"\0" * 100, b"\nganctl-request: {", b"PK\x03\x04"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="carries no ganctl request"):
            status_of(path, REQUEST)


def test_an_npy_file_is_one_for_numpy_and_keeps_its_request_behind(tmp_path):
    write(tmp_path / "a.npy")
    assert (np.load(tmp_path / "a.npy") == PIXELS).all()


def test_what_is_no_file_is_not_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        status_of(tmp_path / "folder.png", REQUEST, overwrite=True)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(UsageError, match="carries no ganctl request"):
            status_of(tmp_path / name, REQUEST)


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    check_writable(tmp_path / "new/deep/x.png")
    check_writable(tmp_path / "file")
    for path, folder, why in (
        (tmp_path / "file/x.png", False, "is not a folder"),
        (tmp_path / "file/deep/x.png", False, "is not a folder"),
        (tmp_path / "file", True, "it is a file"),
        (tmp_path / "a\0b", False, "null byte"),
    ):
        with pytest.raises(UsageError, match=why):
            check_writable(path, folder=folder)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_permission_is_refused_for_who_has_none(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    # Root may write anywhere: there the answer must be that it can.
    if os.geteuid() == 0:
        check_writable(locked / "x.png")
    else:
        with pytest.raises(UsageError, match="no permission to write"):
            check_writable(locked / "x.png")


def test_names_hold_no_folders_of_this_machine(tmp_path):
    assert default_folder("dcgan-mnist", "sample") == Path("out/dcgan-mnist/sample")
    assert default_folder("org/faces@0123abc", "invert") == Path("out/faces/invert")
    assert default_folder("/runs/a/", "sample") == Path("out/a/sample")
    assert default_folder("../a/G.safetensors", "sample") == Path("out/G/sample")
    assert default_folder("..", "sample") == Path("out/model/sample")
    assert shown_name("dcgan-mnist") == "dcgan-mnist" and shown_name("org/faces") == "org/faces"
    assert shown_name(str(tmp_path)) == tmp_path.name and shown_name("./runs/a/") == "a"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    with atomic_write(tmp_path / "a") as f:
        f.write(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as f:
        f.write(b"new")
        raise ZeroDivisionError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~files.UMASK


def test_only_temporaries_of_dead_writers_are_swept(tmp_path, monkeypatch):
    code = "import sys, pathlib, ganctl.io.files as f\nwith f.atomic_write(pathlib.Path(sys.argv[1])) as s:\n"
    command = [sys.executable, "-c", code + "    s.write(b'x'); print(flush=True); sys.stdin.read()"]
    writers = [
        subprocess.Popen([*command, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("live", "dead")
    ]
    for w in writers:
        assert w.stdout and w.stdout.readline()
    live, dead = writers
    dead.kill()
    dead.communicate()
    (tmp_path / ".other.tmp").write_bytes(b"not ganctl's")
    names = [p.name for p in tmp_path.iterdir() if p.name.endswith(TEMPORARY)]
    assert len(names) == 2

    monkeypatch.setattr(files, "_swept", set())
    with atomic_write(tmp_path / "mine") as f:
        f.write(b"y")
    left = [p.name for p in tmp_path.iterdir() if p.name.endswith(TEMPORARY)]
    assert len(left) == 1 and left[0].startswith(".live.")
    live.communicate(b"")
    assert live.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.tmp", "live", "mine"]
