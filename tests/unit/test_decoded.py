"""Decoded pictures in the cache: the same pixels, once, for every run and rank; and whatever may be wrong there."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganctl.data.decode
import ganctl.data.images
from ganctl.data import DataConfig, Dataset, open_dataset
from ganctl.errors import UsageError
from ganctl.io.decoded import folder


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is kept, in a cache of this test's own."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ganctl.data.decode.SMALL", 0)
    return tmp_path / "cache" / "decoded"


def pictures(path: Path, n: int = 6, side: int = 12) -> Path:
    path.mkdir(parents=True)
    rng = np.random.default_rng(n)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side + i % 3, 3), dtype=np.uint8)).save(path / f"{i}.png")
    return path


def opened(path: Path, resolution: int = 8, channels: int = 3, **settings: object) -> Dataset:
    source = settings.pop("source_channels", None)
    cfg = DataConfig(path=str(path), **settings)  # type: ignore[arg-type]
    return open_dataset(cfg, resolution=resolution, channels=channels, source_channels=source)  # type: ignore[arg-type]


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("an image is decoded again")

    for module in ("images", "paired", "label_maps"):
        monkeypatch.setattr(f"ganctl.data.{module}.read_image", refuse)


def entries(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir())


@pytest.mark.parametrize("how", [{}, {"crop": "random"}, {"source_channels": 1, "pairs": "grey"}, {"channels": 1},
                                 {"source_channels": 3, "pairs": "unpaired", "path_b": "b"}])  # fmt: skip
def test_a_second_run_decodes_nothing(tmp_path: Path, kept: Path, how: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures(tmp_path / "a")
    if "path_b" in how:
        how = {**how, "path_b": str(pictures(tmp_path / "b", n=4))}
    (path / "x.png").write_bytes(b"no image")
    first = opened(path, max_bad=0.5, **how)
    monkeypatch.setattr("ganctl.data.decode.SMALL", 1 << 40)
    plain = opened(path, max_bad=0.5, **how)
    monkeypatch.setattr("ganctl.data.decode.SMALL", 0)
    no_decoding(monkeypatch)
    again = opened(path, max_bad=0.5, **how)
    assert len(entries(kept)) == 1 + ("path_b" in how)
    for data in (first, again):
        assert data.fingerprint() == plain.fingerprint() and data.skipped == plain.skipped
    assert [name for name, _ in again.skipped] == [f"cannot read image '{path / 'x.png'}'"]
    assert not again.x.flags.writeable or "crop" in how
    with pytest.raises(UsageError, match="more than the limit of 1"):
        opened(path, **how)
    assert not list(kept.glob(".*"))


def test_whatever_changes_the_pixels_is_decoded_anew(tmp_path: Path, kept: Path) -> None:
    path = pictures(tmp_path / "a")
    opened(path)
    for change in ({"resolution": 9}, {"channels": 1}, {"subset": 3}):
        opened(path, **change)
    assert len(entries(kept)) == 4
    Image.new("RGB", (12, 12), (1, 2, 3)).save(path / "0.png")
    data = opened(path)
    assert data.x[0, 0, 0].tolist() == [1, 2, 3] and len(entries(kept)) == 5
    shutil.copytree(path, tmp_path / "b")
    opened(tmp_path / "b")
    assert len(entries(kept)) == 6
    # A mirror, or a seed, changes nothing here.
    opened(tmp_path / "b", mirror=True, holdout=2)
    assert len(entries(kept)) == 6


def test_what_is_damaged_is_made_again(tmp_path: Path, kept: Path) -> None:
    path = pictures(tmp_path / "a")
    whole = opened(path).fingerprint()
    (entry,) = entries(kept)
    facts = json.loads((entry / "facts.json").read_text())
    for name, data in (
        ("pixels", b""),
        ("pixels", (entry / "pixels").read_bytes()[:-1]),
        ("facts.json", b"{"),
        ("facts.json", json.dumps({**facts, "version": 0}).encode()),
        ("facts.json", json.dumps({**facts, "n": 10**30}).encode()),
        ("facts.json", json.dumps({**facts, "shapes": []}).encode()),
        ("facts.json", json.dumps({**facts, "shapes": [[0, 8, 3]]}).encode()),
    ):
        (entry / name).write_bytes(data)
        assert opened(path).fingerprint() == whole, (name, data[:40])
        assert json.loads((entry / "facts.json").read_text()) == facts
    (entry / "pixels").unlink()
    assert opened(path).fingerprint() == whole
    shutil.rmtree(entry)
    assert opened(path).fingerprint() == whole and entry.is_dir()


def test_a_cache_without_room_or_permission_leaves_the_memory(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pictures(tmp_path / "a")
    whole = opened(path).fingerprint()
    shutil.rmtree(kept)
    monkeypatch.setattr("ganctl.data.decode.room", lambda: 6 * 8 * 8 * 3)
    assert opened(path).fingerprint() == whole and not kept.exists()
    monkeypatch.undo()
    monkeypatch.setattr("ganctl.data.decode.SMALL", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "file"))
    assert opened(path).fingerprint() == whole
    # Nor does a disk that fills up meanwhile, at whatever write.
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "other"))
    for n in range(1, 12):
        calls = iter(range(1, 100))
        real = os.fsync

        def full(fd: int, n: int = n, calls=calls, real=real) -> None:
            if next(calls) == n:
                raise OSError(28, "No space left on device")
            real(fd)

        with monkeypatch.context() as m:
            m.setattr(os, "fsync", full)
            assert opened(path).fingerprint() == whole
        assert not list(folder().glob(".*")), n
        shutil.rmtree(folder())
    # And where the memory is too small as well, a sentence.
    monkeypatch.setattr("ganctl.data.decode.room", lambda: 0)
    monkeypatch.setattr("ganctl.data.decode.MAX_DECODED_BYTES", 100)
    with pytest.raises(UsageError, match=r"cannot hold 6 images of '.*a'\. decoded they take") as e:
        opened(path)
    assert "GANCTL_CACHE" in e.value.hint and "--subset" in e.value.hint


def test_more_than_the_memory_may_hold_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures(tmp_path / "a")
    monkeypatch.setattr("ganctl.data.decode.MAX_DECODED_BYTES", 100)
    assert len(opened(path)) == 6 and len(opened(path, crop="random")) == 6


def test_processes_that_begin_together_decode_once(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = pictures(tmp_path / "a"), tmp_path / "decoded"
    log.touch()
    read = ganctl.data.images.read_image

    def slowly(*args: object, **options: object):
        with log.open("a") as f:
            f.write("x")
        time.sleep(0.05)
        return read(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("ganctl.data.images.read_image", slowly)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=lambda: opened(path)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    assert log.read_text() == "x" * 6 and len(entries(kept)) == 1


def test_what_is_long_unused_makes_room(tmp_path: Path, kept: Path) -> None:
    for name in "abc":
        opened(pictures(tmp_path / name, n=4))
    first, second, third = sorted(entries(kept), key=lambda p: (p / "facts.json").stat().st_mtime)
    long_ago = time.time() - 40 * 24 * 3600
    for entry in (first, second):
        os.utime(entry / "facts.json", (long_ago, long_ago))
    data = opened(tmp_path / "b")  # used again
    opened(pictures(tmp_path / "d", n=4))
    assert not first.exists() and second.is_dir() and third.is_dir() and len(entries(kept)) == 3
    shutil.rmtree(second)
    assert data.x.sum() > 0  # who has it mapped keeps it
