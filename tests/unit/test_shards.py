"""WebDataset tars as one set, and the classes written down in tars, folders and zips."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.data import DataConfig, Dataset, open_dataset
from ganctl.data.images import listed
from ganctl.data.labels import caption_of, classes_of
from ganctl.errors import UsageError
from ganctl.io.listing import expand_inputs, find_images, scan
from ganctl.io.shards import is_there, shard_names
from ganctl.workflows.operands import operand


def picture(shade: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), shade).save(out, form)
    return out.getvalue()


def tar(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in special:
            archive.addfile(info)
    return path


def samples(first: int, n: int = 3, **more: bytes) -> dict[str, bytes]:
    """n samples of a shard: picture k is of shade k, class k mod 2, with whatever else is given."""
    found = {}
    for k in range(first, first + n):
        found[f"{k:04d}.png"] = picture(k)
        found[f"{k:04d}.cls"] = str(k % 2).encode()
        found |= {f"{k:04d}.{suffix}": data for suffix, data in more.items()}
    return found


def opened(source: object, **settings: object) -> Dataset:
    return open_dataset(DataConfig(path=str(source), **settings), resolution=8, channels=1)  # type: ignore[arg-type]


def shades(data: Dataset) -> list[int]:
    return data.x[:, 0, 0, 0].tolist()


def test_names_of_a_pattern() -> None:
    assert shard_names("a-{000..002}.tar") == ["a-000.tar", "a-001.tar", "a-002.tar"]
    assert shard_names("{8..11}/x.tar") == ["8/x.tar", "9/x.tar", "10/x.tar", "11/x.tar"]
    assert shard_names("{08..11}") == ["08", "09", "10", "11"] and shard_names("{5..5}") == ["5"]
    assert shard_names("a{b..c}{,}{1...3}") is None
    for wrong, why in (("{3..1}", "backwards"), ("{1..2}{1..2}", "two ranges"), ("{0..999999999}", "more than 100000")):
        with pytest.raises(UsageError, match=why):
            shard_names(wrong)


def test_a_tar_several_by_pattern_and_a_folder_of_them_are_one_set(tmp_path: Path) -> None:
    for i in range(3):
        tar(tmp_path / "set" / f"s-{i:03d}.tar", samples(30 * i, n=2))
    pattern = tmp_path / "set" / "s-{000..002}.tar"
    assert shades(opened(tmp_path / "set" / "s-001.tar")) == [30, 31]
    for source in (pattern, tmp_path / "set"):
        data = opened(source)
        assert shades(data) == [0, 1, 30, 31, 60, 61] and data.c is not None and data.c.tolist() == [0, 1] * 3
        assert data.classes == ("0", "1") and data.notes == () and data.skipped == []
    # The pattern is the order, a folder's is that of the names; a part of them is a set too.
    assert shades(opened(tmp_path / "set" / "s-{001..002}.tar")) == [30, 31, 60, 61]
    # Wherever images are named.
    assert [i.ref.name for i in expand_inputs([str(pattern)])] == [f"{k:04d}.png" for k in (0, 1, 30, 31, 60, 61)]
    assert len(operand(str(pattern)).images) == 6
    assert is_there(pattern) and is_there(tmp_path) and not is_there(tmp_path / "t-{0..3}.tar")
    with pytest.raises(UsageError, match=r"2 of 5 files are missing: '.*s-003.tar', '.*s-004.tar'"):
        scan(tmp_path / "set" / "s-{000..004}.tar")
    # A folder with images of its own is a folder of images, and a file whose name has braces is that file.
    (tmp_path / "set" / "a.png").write_bytes(picture(9))
    assert shades(opened(tmp_path / "set")) == [9]
    tar(tmp_path / "x{0..1}.tar", samples(4, n=1))
    assert shades(opened(tmp_path / "x{0..1}.tar")) == [4]


def test_samples_are_what_is_alike_up_to_the_first_dot(tmp_path: Path) -> None:
    files = samples(1, txt=b"a grey square\n", **{"mask.png": picture(99), "pyd": b"?", "depth.npy": b"?"})
    found = listed(str(tar(tmp_path / "a.tar", files)))
    assert [r.name for r in found.images] == ["0001.png", "0002.png", "0003.png"]
    assert [name for name, _ in found.skipped] == [f"000{k}.mask.png" for k in (1, 2, 3)]
    assert [caption_of(r) for r in found.images] == ["a grey square"] * 3
    data = opened(tmp_path / "a.tar")
    assert data.notes == ("6 files beside the images are not read: 3 .pyd, 3 .npy",)
    # In any other tar a dot is a letter like others.
    plain = tar(tmp_path / "b.tar", {f"a{dots}.png": picture(5) for dots in ("", ".1", ".2")} | {"notes": b""})
    assert shades(opened(plain)) == [5, 5, 5] and opened(plain).notes == ()
    inside = tar(tmp_path / "c.tar", {f"{d}/0.{e}": f for d, e, f in [
        ("a", "png", picture(1)), ("b", "png", picture(2)), ("a", "cls", b"1"), ("b", "cls", b"0")]})  # fmt: skip
    assert opened(inside).c.tolist() == [1, 0]  # type: ignore[union-attr]


def test_classes_are_numbers_names_or_records(tmp_path: Path) -> None:
    def classes(*pairs: tuple[str, bytes]) -> tuple[list[int] | None, tuple[str, ...], tuple[str, ...]]:
        files = {f"{i}.png": picture(i) for i in range(len(pairs))}
        files |= {f"{i}.{suffix}": data for i, (suffix, data) in enumerate(pairs) if suffix}
        found = scan(tar(tmp_path / "a.tar", files))
        got = classes_of(found, found.images)
        return None if got.c is None else got.c.tolist(), got.names, got.notes

    assert classes(("cls", b"3"), ("cls", b"0\n")) == ([3, 0], ("0", "1", "2", "3"), ())
    assert classes(("cls", b"dog"), ("cls", b"cat")) == ([1, 0], ("cat", "dog"), ())
    assert classes(("json", b'{"label": 1, "caption": "x"}'), ("json", b'{"label": 0}')) == ([1, 0], ("0", "1"), ())
    assert classes(("json", b'{"label": "b"}'), ("json", b'{"label": "a"}')) == ([1, 0], ("a", "b"), ())
    assert classes(("txt", b"a caption"), ("txt", b"another")) == (None, (), ())
    assert classes(("json", b'{"width": 8}'), ("json", b"{}")) == (None, (), ())
    # Some without, both kinds, and what is no class: told, and not taken.
    why = classes(("cls", b"1"), ("", b""), ("cls", b"0"))[2]
    assert len(why) == 1 and "1 of 3 images have none, the first" in why[0] and "a.tar:1.png" in why[0]
    assert "some are numbers and others names" in classes(("cls", b"1"), ("cls", b"cat"))[2][0]
    for bad in (b"\xff\xfe", b"", b"9" * 9, b"x" * 201):
        assert classes(("cls", b"1"), ("cls", bad))[:2] == (None, ()), bad
    for bad in (
        b"{",
        b"[" * 100_000,
        b"[1]",
        b'{"label": -1}',
        b'{"label": true}',
        b'{"label": null}',
        b'{"label": 1e3}',
    ):
        assert classes(("json", b'{"label": 1}'), ("json", bad))[:2] == (None, ()), bad[:30]


def test_dataset_json_gives_classes_in_folders_and_zips(tmp_path: Path) -> None:
    """The layout of NVIDIA's tools: folders of a thousand that are no classes."""
    files = {f"0000{k // 2}/img0000000{k}.png": picture(k) for k in range(4)}

    def written(index: object) -> list[Dataset]:
        text = index if isinstance(index, bytes) else json.dumps(index).encode()
        found = []
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
            for name, data in {**files, "dataset.json": text}.items():
                z.writestr(name, data)
                (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "a" / name).write_bytes(data)
        for source in (tmp_path / "a.zip", tmp_path / "a"):
            found.append(opened(source))
            assert shades(found[-1]) == [0, 1, 2, 3]
        return found

    rows = [[name, k % 3] for k, name in enumerate(files)]
    for data in written({"labels": rows}):
        assert data.c is not None and data.c.tolist() == [0, 1, 2, 0] and data.classes == ("0", "1", "2")
    for data in written({"labels": rows, "classes": ["cat", "dog", "emu"]}):
        assert data.classes == ("cat", "dog", "emu") and data.notes == ()
    for data in written({"labels": None}):
        assert data.c is None and data.notes == () and data.classes == ()
    for index, why in (
        ({"labels": rows[1:]}, "1 of 4 images have none, the first '00000/img00000000.png'"),
        ({"labels": [[name, [0.5, 0.5]] for name in files]}, "lists of numbers"),
        ({"labels": 3}, "no list of labels"),
        ({}, "no list of labels"),
        (b"[" * 100_000, "no list of labels"),
        (b"\xff", "no list of labels"),
    ):
        for data in written(index):
            assert data.c is None and len(data.notes) == 1 and why in data.notes[0]
    with pytest.raises(UsageError, match="no classes in"):
        open_dataset(DataConfig(path=str(tmp_path / "a")), resolution=8, channels=1, labels=True)


def test_strange_members_are_left_out_and_damaged_tars_refused(tmp_path: Path) -> None:
    def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    outside = {"../up.png": picture(1), "/root.png": picture(2), "../0001.cls": b"1"}
    links = [special("l.png", tarfile.SYMTYPE, "/etc/passwd"), special("d.png", tarfile.CHRTYPE)]
    links.append(special("h.png", tarfile.LNKTYPE, "0001.png"))
    path = tar(tmp_path / "a.tar", {**samples(1, n=2), **outside}, *links)
    found = find_images(path)
    assert [r.name for r in found] == ["0001.png", "0002.png"]
    assert {Path(name).name for name, _ in scan(path).skipped} == {"up.png", "root.png", "l.png", "d.png", "h.png"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]
    whole = path.read_bytes()
    for cut in (700, 1024, 1400, 3000):
        (tmp_path / "b-0.tar").write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"cannot read archive '.*b-0.tar'") as e:
            scan(tmp_path / "b-{0..0}.tar")
        assert e.value.why
    (tmp_path / "b-0.tar").write_bytes(b"")
    with pytest.raises(UsageError, match="neither a zip nor a tar"):
        scan(tmp_path / "b-{0..0}.tar")
    big = np.random.default_rng(0).integers(32, 127, 2 << 20, dtype=np.uint8).tobytes()
    data = opened(tar(tmp_path / "c.tar", samples(1, n=1) | {"0001.cls": big}))
    assert data.c is None and "1 of 1 images have none" in data.notes[0]
