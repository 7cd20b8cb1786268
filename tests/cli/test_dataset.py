"""`ganctl dataset`: the layouts it writes, read by others' readers and by ours; and what `check` finds."""

import io
import json
import os
import signal
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.data import DataConfig, open_dataset
from ganctl.errors import PartialError, UsageError
from ganctl.io.images import look
from ganctl.io.progress import Reporter
from ganctl.workflows.dataset import DatasetRequest, check, fitted, run, size_of
from tests.conftest import Shell


def pictures(folder: Path, n: int = 3, size: tuple[int, int] = (20, 16), mode: str = "RGB", first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + n):
        rng = np.random.default_rng(k)
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
        image.save(folder / f"{k:02d}.png")
    return folder


def made(source: object, out: object, **options: object) -> tuple[list[dict], list[str]]:
    """Results and notes."""
    results, notes = [], []
    reporter = Reporter(result=lambda r: results.append(dict(r)), note=notes.append)
    run(DatasetRequest(source=str(source), out=str(out), **options), reporter)  # type: ignore[arg-type]
    return results, notes


def opened(source: object, resolution: int = 8, channels: int = 3):
    return open_dataset(DataConfig(path=str(source)), resolution=resolution, channels=channels)


def cats_and_dogs(folder: Path) -> Path:
    pictures(folder / "dog", first=10)
    return pictures(folder / "cat").parent


def test_the_layouts_and_what_they_are_read_as(tmp_path: Path) -> None:
    source = cats_and_dogs(tmp_path / "src")
    for out in ("a.zip", "a", "a.tar", "s-{0..1}.tar"):
        results, notes = made(source, tmp_path / out, resolution="8x8")
        assert notes == ["6 images of 8x8, RGB, 2 classes"]
        assert [r["images"] for r in results] == ([6] if out[0] == "a" else [3, 3])
        assert results[0] == {
            "path": str(tmp_path / out).replace("{0..1}", "0"), "status": "written", "images": results[0]["images"],
            "resolution": [8, 8], "channels": 3, "classes": 2,
        }  # fmt: skip
    want = opened(source)
    assert want.classes == ("cat", "dog")
    # The same pixels and classes as training makes of the source.
    for out in ("a.zip", "a", "a.tar", "s-{0..1}.tar"):
        got = opened(tmp_path / out)
        assert got.fingerprint() == want.fingerprint() and got.classes == want.classes and got.notes == (), out
    # As NVIDIA's loader reads it: a stored zip, a label for each name, PNGs that Pillow opens.
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        names = [n for n in z.namelist() if n.endswith(".png")]
        assert names == [f"00000/img0000000{k}.png" for k in range(6)]
        index = json.loads(z.read("dataset.json"))
        assert dict(index["labels"]) == dict(zip(names, [0, 0, 0, 1, 1, 1], strict=True))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(z.read(names[4])))), want.x[4])
    assert str(tmp_path) not in json.dumps(index) and index["classes"] == ["cat", "dog"]
    # As WebDataset's reader does: members of a sample behind one another, alike up to the first dot.
    with tarfile.open(tmp_path / "s-1.tar") as t:
        assert t.getnames() == [f"0000000{k}.{e}" for k in (3, 4, 5) for e in ("png", "cls", "json")]
        assert [t.extractfile(m).read() for m in t.getmembers()[1:3]] == [b"1", b'{"label": "dog"}']  # type: ignore[union-attr]
    # From one layout to another and back nothing is lost; from a tar, captions come along.
    made(tmp_path / "s-{0..1}.tar", tmp_path / "b.zip")
    assert opened(tmp_path / "b.zip").fingerprint() == want.fingerprint()
    with tarfile.open(tmp_path / "c.tar", "w") as t:
        for name, data in {"x.png": (source / "cat/00.png").read_bytes(), "x.txt": b"a cat\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    made(tmp_path / "c.tar", tmp_path / "d.tar")
    with tarfile.open(tmp_path / "d.tar") as t:
        assert t.extractfile("00000000.txt").read() == b"a cat"  # type: ignore[union-attr]


def test_idx_grey_sizes_and_labels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 6), dtype=np.uint8)
    for name, a in (("t-images-idx3-ubyte", array), ("t-labels-idx1-ubyte", np.array([2, 0, 1, 2, 0], np.uint8))):
        head = bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape)
        (tmp_path / name).write_bytes(head + a.tobytes())
    _, notes = made(tmp_path / "t-images-idx3-ubyte", tmp_path / "idx.zip", max_images=4)
    assert notes[0] == "4 images of 6x6, grey, 3 classes" and "power of 2, and not 6x6" in notes[1]
    got = opened(tmp_path / "idx.zip", 6, 1)
    assert np.array_equal(got.x[..., 0], array[:4]) and got.c.tolist() == [2, 0, 1, 2]  # type: ignore[union-attr]
    # One image of colour makes all RGB; one of another size needs a size to be named.
    mixed = pictures(pictures(tmp_path / "mixed", mode="L"), n=1, first=5)
    assert made(mixed, tmp_path / "m.zip")[0][0]["channels"] == 3
    pictures(mixed, n=1, first=6, size=(9, 9))
    with pytest.raises(UsageError, match=r"of several sizes. 4 of 20x16, 1 of 9x9") as e:
        made(mixed, tmp_path / "n.zip")
    assert "--resolution" in e.value.hint
    assert made(mixed, tmp_path / "n.zip", resolution="8")[0][0]["images"] == 5
    source = cats_and_dogs(tmp_path / "src")
    with pytest.raises(UsageError, match="none are written down"):
        made(source, tmp_path / "o.zip", labels="json")
    with pytest.raises(UsageError, match="not in two or more sub-folders"):
        made(mixed, tmp_path / "o.zip", labels="folders", resolution="8")
    assert made(source, tmp_path / "o.zip", labels="folders")[0][0]["classes"] == 2
    assert not list(tmp_path.glob(".*"))


def test_transforms() -> None:
    rows, columns = np.mgrid[:40, :80]
    x = np.stack([columns, rows, columns * 0 + 200], 2).astype(np.uint8)
    assert np.array_equal(fitted(x, (40, 40), "center-crop"), x[:, 20:60])
    assert np.array_equal(fitted(x, (80, 40), "center-crop"), x)
    wide = fitted(x, (80, 20), "center-crop-wide")
    assert wide.shape == (80, 80, 3) and np.array_equal(wide[30:50], x[10:30])
    assert not wide[:30].any() and not wide[50:].any()
    padded = fitted(x, (40, 40), "pad")
    assert padded.shape == (40, 40, 3) and not padded[:10].any() and not padded[30:].any()
    assert (padded[10:30, :, 2] == 200).all() and abs(int(padded[20, 20, 0]) - 40) <= 1
    assert fitted(x[:, :3], (8, 100), "pad").shape == (100, 8, 3)
    assert size_of("12x34") == (12, 34) and size_of("9") == (9, 9) and size_of(None) is None
    for bad in ("", "0", "0x4", "4x", "-4", "1e3", "99999", "4x4x4"):
        with pytest.raises(UsageError, match="cannot use --resolution"):
            size_of(bad)


def test_a_header_says_what_decoding_gives(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 6), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        out = io.BytesIO()
        image.convert("RGB").save(out, form, exif=exif)
        seen = look(out.getvalue())
        assert seen is not None and (seen.width, seen.height, seen.grey, seen.format) == (4, 6, False, form)
    out = io.BytesIO()
    image.save(out, "PNG")
    assert (seen := look(out.getvalue())) and seen.grey and (seen.width, seen.height) == (6, 4)
    assert look(b"") is None and look(out.getvalue()[:30]) is None and look(b"no image") is None


def test_what_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = pictures(tmp_path / "src")
    (tmp_path / "file").write_text("")
    for options, why in (
        ({"source": "gone"}, "no such file or folder"),
        ({"out": " "}, "pass -o|no folder, zip or tar"),
        ({"out": str(source)}, "it is the source"),
        ({"out": str(source / "new")}, "inside the source"),
        ({"out": str(tmp_path / "file" / "x.zip")}, "is not a folder"),
        ({"out": str(tmp_path / "file")}, "it is a file"),
        ({"transform": "pad"}, "it needs a size"),
        ({"max_images": 0}, "1 or more"),
        ({"out": "x-{3..1}.tar"}, "backwards"),
    ):
        with pytest.raises(UsageError, match=why):
            check(DatasetRequest(**{"source": str(source), "out": str(tmp_path / "new"), **options}))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot make 4 tars of 3 images"):
        made(source, tmp_path / "x-{0..3}.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "src"]


def test_the_same_again_is_there_and_another_is_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "src")
    for out in ("a.zip", "a", "a.tar"):
        path = tmp_path / out
        assert made(source, path)[0][0]["status"] == "written"
        before = path.stat().st_mtime_ns
        assert made(source, path)[0] == [{"path": str(path), "status": "exists"}]
        with pytest.raises(UsageError, match=r"refused to overwrite .*resolution was not given and is now '8'"):
            made(source, path, resolution="8")
        assert path.stat().st_mtime_ns == before
        assert made(source, path, resolution="8", overwrite=True)[0][0]["status"] == "written"
        assert opened(path).x.shape == (3, 8, 8, 3)
    # Of tars the missing ones are made.
    made(source, tmp_path / "s-{0..2}.tar")
    whole = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").unlink()
    results, _ = made(source, tmp_path / "s-{0..2}.tar")
    assert [r["status"] for r in results] == ["exists", "written", "exists"]
    assert (tmp_path / "s-1.tar").read_bytes() == whole
    # Nothing of the user's is ever replaced.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"it holds 'thesis.tex', so it is no data set"):
        made(source, tmp_path / "mine", overwrite=True)
    (tmp_path / "a" / "notes").write_text("")
    with pytest.raises(UsageError, match=r"it holds 'notes', so"):
        made(source, tmp_path / "a", overwrite=True)
    (tmp_path / "b").mkdir()  # an empty folder is filled
    assert made(source, tmp_path / "b")[0][0]["status"] == "written"


def test_broken_images_are_named_and_the_others_written(tmp_path: Path) -> None:
    source = pictures(tmp_path / "src", n=5)
    (source / "01.png").write_bytes((source / "01.png").read_bytes()[:100])
    (source / "03.png").write_text("no image")
    results: list[dict] = []
    reporter = Reporter(result=lambda r: results.append(dict(r)))
    with pytest.raises(PartialError, match=r"2 of 5 images failed. the first: '.*01.png': it is cut short"):
        run(DatasetRequest(source=str(source), out=str(tmp_path / "a.zip")), reporter)
    assert [r.get("status") for r in results] == ["failed", "failed", "written"] and results[2]["images"] == 3
    assert [Path(r["input"]).name for r in results[:2]] == ["01.png", "03.png"]
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        assert [n for n in z.namelist() if n.endswith("png")] == [f"00000/img0000000{k}.png" for k in range(3)]
    with pytest.raises(PartialError, match="stopped at the first"):
        made(source, tmp_path / "b", fail_fast=True)
    for file in source.iterdir():
        file.write_text("no image")
    with pytest.raises(UsageError, match="none of 5 images can be read"):
        made(source, tmp_path / "b.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "src"]


@pytest.mark.parametrize("out", ["a.zip", "a", "a.tar"])
def test_a_full_disk_at_any_write_leaves_nothing(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, real = pictures(tmp_path / "src", n=2), os.fsync
    for n in range(1, 4):
        calls = iter(range(1, 100))

        def full(fd: int, n: int = n, calls=calls) -> None:
            if next(calls) == n:
                raise OSError(28, "No space left on device")
            real(fd)

        with monkeypatch.context() as m:
            m.setattr(os, "fsync", full)
            try:
                made(source, tmp_path / "x" / out)
            except Exception as e:
                assert "the disk is full" in str(e)
        left = [p.name for p in (tmp_path / "x").iterdir()]
        # Whole, where only the last flush of its folder failed, or not there.
        assert left in ([], [out])
        if left:
            assert opened(tmp_path / "x" / out).x.shape == (2, 8, 8, 3)
            break


def test_the_command_line(ganctl: Shell) -> None:
    cats_and_dogs(ganctl.folder / "src")
    plan = ganctl.ok("dataset", "src", "-o", "a.zip", "--resolution", "8x8", "--dry-run")
    assert "source: src" in plan.out and [p.name for p in ganctl.folder.iterdir()] == ["src"]
    done = ganctl.ok("dataset", "src", "-o", "a.zip", "--resolution", "8x8")
    assert done.lines == ["a.zip"] and "6 images of 8x8, RGB, 2 classes" in done.err
    # Options first, the command named, quiet, JSON: the same request.
    assert ganctl.ok("dataset", "-o", "a.zip", "--resolution", "8x8", "-q", "src").lines == ["a.zip"]
    again = ganctl.ok("--json", "dataset", "make", "src", "-o", "a.zip", "--resolution", "8x8")
    assert json.loads(again.out) == {"path": "a.zip", "status": "exists"}
    refused = ganctl("dataset", "src", "-o", "a.zip")
    assert (refused.code, refused.out) == (2, "") and "refused to overwrite 'a.zip'" in refused.err
    pattern = ganctl.ok("dataset", "a.zip", "-o", "s-{00..02}.tar")
    assert pattern.lines == ["s-00.tar", "s-01.tar", "s-02.tar"]
    for words, why in (
        (("dataset", "src"), "missing option"),
        (("dataset", "src", "-o", "x", "--transfrom", "pad"), "--transform"),
        (("dataset", "src", "-o", "x", "--transform", "crop"), "none of center-crop"),
        (("dataset", "gone", "-o", "x"), "no such file or folder"),
        (("dataset", "check"), "missing argument"),
    ):
        bad = ganctl(*words)
        assert (bad.code, bad.out) == (2, "") and why in bad.err, bad.err
    # What it wrote is trained on.
    run = ganctl.ok("train", "acgan", "s-{00..02}.tar", "-o", "r", *(part for s in (
        "resolution=16", "ngf=4", "ndf=2", "z_dim=4", "classes=2", "batch=4", "kimg=0.008", "tick=0.004", "snap=0.008",
    ) for part in ("--set", s)))  # fmt: skip
    assert run.lines[-1].startswith("r/snapshots/")
    assert json.loads((ganctl.folder / "r" / "run.json").read_text())["classes"] == ["cat", "dog"]
    rows = [json.loads(line) for line in (ganctl.folder / "r" / "log.jsonl").read_text().splitlines()]
    assert rows and all(0 <= row["wait"] <= 1 for row in rows if "step" in row)


def test_check_on_the_command_line(ganctl: Shell) -> None:
    src = cats_and_dogs(ganctl.folder / "src")
    (src / "dog" / "copy.bmp").write_bytes(b"")
    Image.open(src / "cat" / "01.png").save(src / "dog" / "copy.bmp")
    pictures(src / "cat", n=1, first=7, size=(9, 9), mode="L")
    assert ganctl.ok("dataset", "check", "src").lines == [
        "images\t8", "format\tpng\t7", "format\tbmp\t1", "size\t20x16\t7", "size\t9x9\t1", "mode\tRGB\t7",
        "mode\tgrey\t1", "class\tcat\t4", "class\tdog\t4", "duplicate\tdog/copy.bmp\tcat/01.png",
    ]  # fmt: skip
    assert ganctl.ok("dataset", "check", "src", "-q").out == ""
    (src / "dog" / "zz.jpg").write_bytes(b"\xff\xd8 cut")
    (src / ".hidden.png").write_bytes(b"")
    bad = ganctl("dataset", "check", "src")
    assert bad.code == 3 and "error: 1 of 9 images cannot be read" in bad.err and "zz.jpg" in bad.err
    assert bad.lines[-3:] == [
        "left out\t.hidden.png\tit is hidden",
        "unreadable\tdog/zz.jpg\tit is damaged or cut short",
        "duplicate\tdog/copy.bmp\tcat/01.png",
    ]
    assert ganctl("dataset", "check", "-q", "src").lines == ["dog/zz.jpg"]
    result, error = map(json.loads, ganctl("dataset", "check", "src", "--json").lines)
    assert result["images"] == 9 and result["classes"] == {"cat": 4, "dog": 5} and error["error"]["kind"] == "partial"
    assert result["duplicates"] == [{"name": "dog/copy.bmp", "same_as": "cat/01.png"}]
    (ganctl.folder / "empty").mkdir()
    assert ganctl("dataset", "check", "empty").code == 2
    (ganctl.folder / "cut.tar").write_bytes(b"x" * 300)
    assert ganctl("dataset", "check", "cut.tar").code in (2, 3)


def test_killed_it_leaves_the_old_one_or_the_new_one(ganctl: Shell) -> None:
    pictures(ganctl.folder / "src", n=60, size=(200, 200))
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = ganctl.start("dataset", "src", "-o", "out/a.zip")
        deadline = time.monotonic() + 60
        while not list((ganctl.folder / "out").glob(".*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert not (ganctl.folder / "out" / "a.zip").exists() or process.returncode == 0
    ganctl.ok("dataset", "src", "-o", "out/a.zip")
    assert [p.name for p in (ganctl.folder / "out").iterdir()] == ["a.zip"]
    assert len(opened(ganctl.folder / "out" / "a.zip")) == 60
