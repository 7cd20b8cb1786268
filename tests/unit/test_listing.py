import io
import os
import socket
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ganctl.errors import UsageError
from ganctl.io.images import BadImage
from ganctl.io.limits import MAX_FOLDER_DEPTH
from ganctl.io.listing import expand_inputs, find_images, scan
from ganctl.io.progress import Reporter
from ganctl.workflows.targets import list_inputs


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(root: Path, **options: bool) -> list[str]:
    return [r.name for r in find_images(root, **options)]


def test_images_are_sorted_whatever_their_case_and_depth(tmp_path: Path):
    touch(
        tmp_path,
        "b.PNG",
        "a.jpg",
        "B/c.JPeG",
        "B/a.tiff",
        "z.webp",
        "10.bmp",
        "9.gif",
        "note.txt",
        "noext",
        "a.png.txt",
    )
    want = sorted(["b.PNG", "a.jpg", "B/c.JPeG", "B/a.tiff", "z.webp", "10.bmp", "9.gif"])
    assert names(tmp_path) == want
    assert names(tmp_path, recursive=False) == [n for n in want if "/" not in n]
    found = scan(tmp_path)
    assert dict(found.others) == {".txt": 2, "(no extension)": 1} and found.skipped == ()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        for name in want:
            z.writestr(name, b"x")
        z.writestr("__MACOSX/._a.jpg", b"x")
        z.writestr("B/.hidden.png", b"x")
    assert names(tmp_path / "x.zip") == want
    assert names(tmp_path / "x.zip", recursive=False) == [n for n in want if "/" not in n]
    assert {n for n, _ in scan(tmp_path / "x.zip").skipped} == {"__MACOSX/._a.jpg", "B/.hidden.png"}


def test_each_image_once_hidden_ones_never_and_all_told(tmp_path: Path):
    touch(tmp_path, "a.png", "sub/b.png", ".c.png", ".git/d.png", "__MACOSX/e.png", "sub/._b.png")
    (tmp_path / "0-link.png").symlink_to("a.png")
    (tmp_path / "broken.png").symlink_to("absent")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "again").symlink_to("sub")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "here").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tmp_path / "s.png"))
        (tmp_path / "folder.png").mkdir()
        found = scan(tmp_path)
    assert [r.name for r in found.images] == ["a.png", "sub/b.png"]
    told = dict(found.skipped)
    assert told["0-link.png"] == "it is a link to a.png"
    assert told["broken.png"] == "it is a broken link" and "link" in told["self.png"]
    assert told["pipe.png"] == told["s.png"] == "it is not a regular file"
    assert told[".c.png"] == told["sub/._b.png"] == "it is hidden"
    assert {".git", "__MACOSX", "again", "here", "sub/up"} <= set(told)


def test_links_in_circles_and_deep_nesting_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in "abc":
        (tmp_path / name).mkdir()
        for other in "abc":
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    touch(tmp_path, "a/x.png")
    start = time.monotonic()
    assert names(tmp_path) == ["a/x.png"]
    # Python's own ** would follow the links for ever.
    monkeypatch.chdir(tmp_path)
    assert [i.ref.name for i in expand_inputs(["**/*.png"])] == ["x.png"]
    deep = tmp_path
    for _ in range(MAX_FOLDER_DEPTH + 3):
        deep = deep / "d"
    touch(deep, "deep.png")
    found = scan(tmp_path)
    assert [r.name for r in found.images] == ["a/x.png"]
    assert any(f"deeper than {MAX_FOLDER_DEPTH} folders" in why for _, why in found.skipped)
    assert time.monotonic() - start < 10


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.png", "in/b.jpg", "in/s/c.png", "in/s/t/d.png", "in/.h/e.png", "in/we[1]rd.png", "x.png")

    def matched(pattern: str) -> list[str]:
        return [str(i.ref.path) for i in expand_inputs([pattern])]

    assert matched("in/*.png") == ["in/a.png", "in/we[1]rd.png"]
    assert matched("in/we[1]rd.png") == ["in/we[1]rd.png"]  # a name before a pattern
    assert matched("in/**/*.png") == ["in/a.png", "in/s/c.png", "in/s/t/d.png", "in/we[1]rd.png"]
    assert matched("**/s/*.png") == ["in/s/c.png"]
    assert matched(f"{tmp_path}/in/**/d.png") == [f"{tmp_path}/in/s/t/d.png"]
    assert matched("in/s/**") == ["in/s/c.png", "in/s/t/d.png"]
    assert matched("in/?") == ["in/s/c.png", "in/s/t/d.png"]
    for pattern in ("in/*.gif", "no/**/x", "in/**/*.gif", "["):
        with pytest.raises(UsageError, match="no such path"):
            expand_inputs([pattern])


def test_no_images_names_what_is_there(tmp_path: Path):
    touch(tmp_path, "a.txt", "b.txt", "c.heic", ".d.png")
    with pytest.raises(UsageError) as e:
        find_images(tmp_path)
    assert e.value.code == 2 and "no images in" in e.value.what
    assert "2 .txt" in e.value.why and "1 .heic" in e.value.why and "1 skipped, the first '.d.png'" in e.value.why
    assert ".png" in e.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="it is empty"):
        find_images(tmp_path / "empty")
    for path, why in ((tmp_path / "absent", "there is no such path"), (Path("a\0b"), "null byte")):
        with pytest.raises(UsageError, match=why):
            find_images(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a folder nor a regular file"):
        find_images(tmp_path / "pipe")


def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # beyond the 4096 bytes that Linux takes as one path
        Path("d" * 250).mkdir()
        monkeypatch.chdir("d" * 250)
    touch(Path(), "b.png")
    monkeypatch.chdir("/")
    found = scan(tmp_path)
    assert [r.name for r in found.images] == ["a.png"]
    ((name, why),) = found.skipped
    assert name.startswith("ddd") and why == "File name too long"


def test_odd_names_are_read_and_escaped_in_messages(tmp_path: Path):
    odd = ["new\nline.png", "esc\x1b[31m.png", os.fsdecode(b"latin\xe9.png"), "--help.png", " .png", "ü.png"]
    touch(tmp_path, *odd)
    refs = find_images(tmp_path)
    assert sorted(r.name for r in refs) == sorted(odd) and all(r.read() == b"x" for r in refs)
    for ref in refs:
        assert ref.path
        ref.path.unlink()
        with pytest.raises(BadImage, match=r"cannot read image '.*there is no such file") as e:
            ref.read()
        assert e.value.message.isprintable()


def test_lists_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.png", "b c.png", " d.png", "e.png", "f\nf.png", os.fsdecode(b"\xff.png"), "g\r")
    wanted = ["a.png", "b c.png", " d.png", os.fsdecode(b"\xff.png")]

    def listed(data: bytes) -> list[str]:
        Path("list").write_bytes(data)
        return [i.given for i in expand_inputs([], "list")]

    raw = [os.fsencode(n) for n in wanted]
    assert listed(b"\n".join(raw)) == wanted
    assert listed(b"\xef\xbb\xbf" + b"\r\n".join(raw) + b"\r\n\r\n\r\n") == wanted
    assert listed(b"\n\n  \n" + b"\n".join(raw) + b"\n") == wanted
    assert listed(b"\0".join([*raw, b"f\nf.png", b"g\r", b""])) == [*wanted, "f\nf.png", "g\r"]
    assert [i.given for i in expand_inputs(["e.png"], "list")][:2] == ["e.png", "a.png"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a.png\ne.png\n")))
    assert [i.given for i in expand_inputs([], "-")] == ["a.png", "e.png"]
    with pytest.raises(UsageError, match="the list names no path"):
        listed(b"\n\r\n")
    with pytest.raises(UsageError, match="there is no such file"):
        expand_inputs([], "absent.txt")
    gone = b"\n".join(b"gone%d.png" % i for i in range(9))
    with pytest.raises(UsageError, match=r"'gone0.png', .*'gone4.png' and 4 more"):
        listed(b"a.png\n" + gone)
    with pytest.raises(UsageError, match="standard input twice"):
        expand_inputs(["-"], "-")
    with pytest.raises(UsageError, match="no input"):
        expand_inputs([])


def test_what_is_left_out_is_told_in_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.png", "in/.h.png", "in/out/old.png", *(f"in/.{i}.png" for i in range(5)))
    (tmp_path / "link.png").symlink_to("in/a.png")
    warnings: list[tuple[str, str, str]] = []
    reporter = Reporter(warn=lambda *w: warnings.append(w))
    found = list_inputs(["in", "in/a.png", "link.png"], None, True, Path("in/out"), reporter)
    assert [i.ref.name for i in found] == ["a.png"]
    ((what, why, _),) = warnings
    assert what == "left out 9 inputs" and "and 4 more" in why and "'in/.0.png': it is hidden" in why
    warnings.clear()
    list_inputs(["in/a.png", "in/a.png", "link.png"], None, True, None, reporter)
    ((what, why, _),) = warnings
    assert "'in/a.png': it is named twice" in why and "'link.png': it is in/a.png again" in why
    with pytest.raises(UsageError, match="in the output folder"):
        list_inputs(["."], None, True, Path("in"), reporter)


def test_standard_input_is_an_image_like_any_other(monkeypatch: pytest.MonkeyPatch):
    out = io.BytesIO()
    Image.new("L", (2, 2)).save(out, "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(out.getvalue())))
    (one,) = expand_inputs(["-"])
    assert one.ref.label == "standard input" and one.ref.path is None and one.ref.open().read() == out.getvalue()
