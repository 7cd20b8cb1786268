import io
import os
import struct
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.archives import (
    BadArchive,
    Contents,
    kind_of,
    read_contents,
    read_member,
    request_of_zip,
    tar_writer,
    unsafe_name,
    zip_writer,
)
from ganctl.io.limits import MAX_NAME_CHARACTERS, MAX_RATIO
from ganctl.io.listing import find_images, scan


def made(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return path


def reasons(contents: Contents) -> dict[str, str]:
    return dict(contents.skipped)


def test_members_are_read_in_place_and_nothing_is_unpacked(tmp_path: Path):
    data = {"a.png": b"first" * 99, "sub/ü.png": b"", "sub/read me.txt": b"hello"}
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        path = made(tmp_path / f"{method}.zip", data, method)
        found = read_contents(path)
        assert {m.name: read_member(m) for m in found.members} == data and not found.skipped
    with tarfile.open(tmp_path / "x.tar", "w") as t:
        for name, content in data.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    assert {m.name: read_member(m) for m in read_contents(tmp_path / "x.tar").members} == data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.zip", "8.zip", "x.tar"]
    with pytest.raises(BadArchive, match="more than the limit of 3"):
        read_member(found.members[0], limit=3)


UNSAFE = [
    "../up.png",
    "a/../../up.png",
    "/etc/a.png",
    "C:/a.png",
    "C:a.png",
    "a\\b.png",
    "./a.png",
    "a//b.png",
    "a/./b.png",
    "nul\0.png",
    "esc\x1b[31m.png",
    "new\nline.png",
    "x.png" * MAX_NAME_CHARACTERS,
]


def test_unsafe_names_are_skipped_with_a_reason_and_others_kept(tmp_path: Path):
    safe = ["a.png", "b/c.png", "Foto 1 Uhr.png", "می‌خواهم.png", "👨‍👩‍👧.png", "x..y.png", "-rf.png", "~.png"]
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as z:
        for i, name in enumerate([*safe, *UNSAFE]):
            info = zipfile.ZipInfo("q" * len(name.encode()))
            info.filename = name  # past ZipInfo's own cleaning
            info.orig_filename = name
            z.writestr(info, b"%d" % i)
    found = read_contents(path)
    assert [m.name for m in found.members] == safe
    told = reasons(found)
    assert set(told) == {n[:200] for n in UNSAFE} and all(told.values())
    listing = scan(path)
    assert [r.name for r in listing.images] == sorted(safe)
    assert {n for n, _ in listing.skipped} <= set(told) and len(listing.skipped) >= len(UNSAFE) - 1
    assert unsafe_name("") and unsafe_name("ok.png") == ""


def test_links_devices_duplicates_and_passwords_are_skipped(tmp_path: Path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as z, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the duplicate
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "../../etc/passwd")
        for data in (b"1", b"2"):
            z.writestr("twice.png", data)
        z.writestr("secret.png", b"xx")
        z.writestr("kept.png", b"yes")
        z.writestr("inner.zip", made(tmp_path / "inner.zip", {"deep.png": b"no"}).read_bytes())
        z.mkdir("folder.png")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"secret.png", raw.index(b"PK\1\2")) - 46
    raw[at + 8] |= 1
    path.write_bytes(raw)
    found = read_contents(path)
    assert [m.name for m in found.members] == ["kept.png", "inner.zip"]
    told = reasons(found)
    assert "link" in told["link.png"] and "2 times" in told["twice.png"] and "encrypted" in told["secret.png"]
    # A zip inside is a file like any other that is no image.
    assert [r.name for r in find_images(path)] == ["kept.png"]
    with tarfile.open(tmp_path / "x.tar", "w") as t:
        for name, kind in (
            ("s.png", tarfile.SYMTYPE),
            ("h.png", tarfile.LNKTYPE),
            ("d.png", tarfile.CHRTYPE),
            ("f.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            t.addfile(info)
        info = tarfile.TarInfo("kept.png")
        info.size = 3
        t.addfile(info, io.BytesIO(b"yes"))
    found = read_contents(tmp_path / "x.tar")
    assert [m.name for m in found.members] == ["kept.png"] and read_member(found.members[0]) == b"yes"
    assert set(reasons(found)) == {"s.png", "h.png", "d.png", "f.png"}


def test_wild_ratios_other_methods_and_contradictions_are_skipped(tmp_path: Path):
    path = made(
        tmp_path / "x.zip", {"bomb.png": bytes(50 << 20), "fair.png": os.urandom(2 << 20), "tiny.png": bytes(9999)}
    )
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as z:
        z.writestr("lzma.png", b"x" * 99)
    start = time.monotonic()
    found = read_contents(path)
    assert [m.name for m in found.members] == ["fair.png", "tiny.png"]
    assert f"more than the limit of {MAX_RATIO}" in reasons(found)["bomb.png"]
    assert "method 14" in reasons(found)["lzma.png"]
    assert time.monotonic() - start < 5


def central(raw: bytes, name: bytes) -> int:
    """Where the central directory's entry of a member begins."""
    return raw.index(name, raw.index(b"PK\1\2")) - 46


def test_headers_that_lie_are_seen(tmp_path: Path):
    content = bytes(range(256)) * 40
    path = made(tmp_path / "x.zip", {"a.png": content, "b.png": b"other"})
    whole = path.read_bytes()

    def lie(offset: int, value: int, where: bytes = b"a.png", size: int = 4) -> Path:
        raw = bytearray(whole)
        at = central(whole, where) + offset
        raw[at : at + size] = value.to_bytes(size, "little")
        path.write_bytes(raw)
        return path

    for offset, value in ((24, 100), (24, len(content) + 1), (24, 1 << 30), (16, 12345), (42, 5), (20, 30)):
        (member,) = [m for m in read_contents(lie(offset, value)).members if m.name == "a.png"] or [None]
        if member is not None:
            with pytest.raises(BadArchive):
                read_member(member)
    with pytest.raises(BadArchive, match="claim more bytes than the file has"):
        read_contents(lie(20, 1 << 30))
    # The local header says another name than the list.
    raw = bytearray(whole)
    raw[30] = ord("z")
    path.write_bytes(raw)
    with pytest.raises(BadArchive, match="another member"):
        read_member(read_contents(path).members[0])


def test_zip64_numbers_beyond_the_file_are_refused(tmp_path: Path):
    name, data = b"a.png", b"hello"
    local = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0
    )
    for size, packed, offset in (
        (1 << 60, 1 << 60, 0),
        (5, 5, 1 << 62),
        (5, 1 << 50, 0),
        ((1 << 64) - 1, (1 << 64) - 1, 0),
    ):
        extra = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
        entry = struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2", 45, 45, 0, 0, 0, 0, zlib.crc32(data), 0xFFFFFFFF, 0xFFFFFFFF,
            len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF,
        )  # fmt: skip
        body = local + name + data
        listed = entry + name + extra
        end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(listed), len(body), 0)
        path = tmp_path / "x.zip"
        path.write_bytes(body + listed + end)
        with pytest.raises(BadArchive):
            for member in read_contents(path).members:
                read_member(member)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path):
    """Fifield's bomb: many entries over one block of packed bytes."""
    data = zlib.compress(bytes(100_000))[2:-4]
    local = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(bytes(100_000)), len(data), 100_000, 5, 0
    )
    body, listed = local + b"a.png" + data, b""
    for i in range(500):
        listed += struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(100_000)), len(data), 100_000, 5, 0, 0, 0, 0, 0, 0,
        ) + b"a%03d." % i  # fmt: skip
    (tmp_path / "x.zip").write_bytes(
        body + listed + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 500, 500, len(listed), len(body), 0)
    )
    with pytest.raises(BadArchive, match="claim more bytes"):
        read_contents(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_cut_or_flipped_anywhere_ends_with_bytes_or_bad_archive(tmp_path: Path, kind: str):
    content = {"a.png": b"first" * 30, "b/c.png": bytes(range(256)), "d.txt": b"x"}
    if kind == "zip":
        whole = made(tmp_path / "whole", content).read_bytes()
    else:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5
                t.addfile(info, io.BytesIO(data))
        whole = out.getvalue().rstrip(b"\0") + bytes(1024)
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    refused = 0
    for at in range(0, len(whole), 5 if kind == "zip" else 37):
        flipped = bytearray(whole)
        flipped[at] ^= int(rng.integers(1, 256))
        for data in (bytes(flipped), whole[:at]):
            path.write_bytes(data)
            try:
                for member in read_contents(path).members:
                    got = read_member(member)
                    # A zip's checksums leave no doubt about the bytes of a member.
                    assert kind == "tar" or got == content.get(member.name, got)
            except BadArchive as e:
                refused += 1
                assert str(path) in e.what and e.why
    assert refused > 20


def test_what_is_no_archive_or_cannot_be_read_in_place(tmp_path: Path):
    import gzip

    files = {"empty.zip": b"", "text.zip": b"hello", "x.tar.gz": gzip.compress(b"hello"), "x.tgz": gzip.compress(b"a")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadArchive, match=r"compressed tar|neither a zip nor a tar") as e:
            read_contents(tmp_path / name)
        assert e.value.code == 2
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    assert read_contents(tmp_path / "none.zip") == Contents((), ())
    assert kind_of(tmp_path / "none.zip") == "zip"
    with pytest.raises(UsageError, match="it is empty"):
        find_images(tmp_path / "none.zip")
    path = made(tmp_path / "gone.zip", {"a.png": b"x" * 50})
    (member,) = read_contents(path).members
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadArchive, match="cut short"):
        read_member(member)
    path.unlink()
    with pytest.raises(BadArchive, match="No such file"):
        read_member(member)


def test_a_tar_with_endless_headers_ends(tmp_path: Path):
    header = tarfile.TarInfo("x").tobuf(tarfile.PAX_FORMAT)
    for kind in (b"x", b"g", b"L", b"K", b"S", b"9"):
        raw = bytearray(header)
        raw[156:157] = kind
        for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0"):
            raw[124:136] = size
            raw[148:156] = b" " * 8
            raw[148:156] = b"%06o\0 " % sum(raw[:512])
            (tmp_path / "x.tar").write_bytes(bytes(raw) * 50)
            start = time.monotonic()
            try:
                for member in read_contents(tmp_path / "x.tar").members:
                    read_member(member)
            except BadArchive as e:
                assert e.why
            assert time.monotonic() - start < 5


def test_written_archives_are_whole_or_absent_and_the_same_every_time(tmp_path: Path):
    path = tmp_path / "x.zip"
    for _ in range(2):
        with zip_writer(path, request={"seed": 3}) as add:
            add("a.png", b"one")
            add("b/c.png", b"two")
        first = path.read_bytes() if _ == 0 else first
    assert path.read_bytes() == first and request_of_zip(path) == {"seed": 3}
    assert {m.name: read_member(m) for m in read_contents(path).members} == {"a.png": b"one", "b/c.png": b"two"}
    with pytest.raises(BadArchive, match=r"cannot write '\.\./x'"), zip_writer(path) as add:
        add("../x", b"")
    assert path.read_bytes() == first and len(list(tmp_path.iterdir())) == 1
    stream = io.BytesIO()
    with tar_writer(stream) as add:
        add("a.png", b"one")
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as t:
        assert t.getnames() == ["a.png"]
    stream = io.BytesIO()
    with pytest.raises(ValueError), tar_writer(stream) as add:
        add("a.png", b"one")
        raise ValueError
    assert not stream.getvalue().endswith(bytes(1024))
