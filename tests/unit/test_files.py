import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ganctl.errors import GanctlError, UsageError
from ganctl.io import files
from ganctl.io.files import atomic_folder, atomic_write, cache_root, read_regular, sha256

ROOT = Path(__file__).parents[2]

FAULTS = """
# In a child per n: the n-th call that touches the disk fails with {errno}, or kills the process.
import errno, json, os, signal, sys
from pathlib import Path
from ganctl.errors import GanctlError
from ganctl.io.files import atomic_folder, atomic_write

place, what, fault = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.scandir", "os.link",
          "fcntl.flock", "tempfile.mkstemp", "tempfile.mkdtemp"}
state = {"left": None, "seen": 0}

def hit(event, args):
    if event not in EVENTS or state["left"] is None:
        return
    if event == "open" and not str(args[0]).startswith(str(place)):
        return
    state["seen"] += 1
    state["left"] -= 1
    if state["left"] == 0:
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))

real_fsync = os.fsync
def fsync(fd):  # the one call without an audit event
    hit("os.mkdir", ())
    real_fsync(fd)
os.fsync = fsync
sys.addaudithook(hit)

def write(text):
    if what == "file":
        with atomic_write(place / "a" / "x.bin") as f:
            f.write(text)
    else:
        with atomic_folder(place / "a" / "x") as folder:
            for name in ("1", "2"):
                with atomic_write(folder / name) as f:
                    f.write(text)

for n in range(1, 200):
    pid = os.fork()
    if not pid:
        code = 0
        try:
            write(b"old")
            import ganctl.io.files
            ganctl.io.files._swept.clear()
            state["left"] = n
            write(b"new" * 50000)
        except GanctlError as e:
            print(json.dumps([n, e.message]), flush=True)
            code = 1
        except BaseException as e:
            print(json.dumps([n, "UNEXPECTED " + repr(e)]), flush=True)
            code = 9
        never = state["seen"] < n
        state["left"] = None
        os._exit(50 if never else code)
    _, status = os.waitpid(pid, 0)
    root = place / "a"
    there = {p.name: p.read_bytes()[:3].decode() for p in sorted(root.rglob("*")) if p.is_file()}
    left = sorted(p.name for p in root.iterdir() if p.name.startswith("."))
    print(json.dumps([n, os.waitstatus_to_exitcode(status), there, left]), flush=True)
    if os.waitstatus_to_exitcode(status) == 50:
        break
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def faults(folder: Path, what: str, fault: str) -> tuple[list[str], list[tuple[int, dict[str, str], list[str]]]]:
    """Messages of the failures, and for every n: exit code, what lies there, hidden names left."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FAULTS, str(folder), what, fault]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [x[1] for x in lines if len(x) == 2], [(x[1], x[2], x[3]) for x in lines if len(x) == 4]


@pytest.mark.parametrize(("what", "fault"), [("file", "ENOSPC"), ("file", "EIO"), ("folder", "ENOSPC")])
def test_whichever_call_fails_old_or_new_is_there_and_nothing_else(tmp_path: Path, what: str, fault: str):
    messages, ends = faults(tmp_path, what, fault)
    assert len(ends) > 6 and ends[-1][0] == 50
    wanted = {"x.bin"} if what == "file" else {"1", "2"}
    for code, there, left in ends:
        assert there.keys() == wanted and len(set(there.values())) == 1, (code, there)
        assert code in (0, 1, 50), (code, there, left)
        if code == 0:  # a call that is only a courtesy failed, such as removing the replaced folder
            assert set(there.values()) == {"new"} and (left == [] or what == "folder")
        else:
            assert left == []
    assert any(code == 1 for code, _, _ in ends)
    why = "the disk is full" if fault == "ENOSPC" else "Input/output error"
    assert messages and all("cannot write '" in m and why in m for m in messages), messages


@pytest.mark.parametrize("what", ["file", "folder"])
def test_wherever_it_is_killed_old_or_new_is_there_and_the_next_run_clears_up(tmp_path: Path, what: str):
    _, ends = faults(tmp_path, what, "kill")
    visible = {"x.bin"} if what == "file" else {"1", "2"}
    assert sum(code == -signal.SIGKILL for code, _, _ in ends) > 6
    for code, there, left in ends:
        whole = [v for k, v in there.items() if k in visible]
        assert code in (-signal.SIGKILL, 50) and len(whole) >= len(visible), (code, there)
        assert set(whole) <= {"old", "new"}
        assert len(left) <= 1
    # The last child was not killed and swept what the one before it had left.
    assert ends[-1][2] == []


def test_a_limit_on_the_file_size_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "x.bin"
    with atomic_write(path) as f:
        f.write(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 8192, 9999):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(GanctlError, match=r"cannot write .*File too large") as e, atomic_write(path) as f:
                for _ in range(10):
                    f.write(bytes(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert e.value.code == 1
        assert path.read_bytes() == b"old" and names(tmp_path) == ["x.bin"]


def test_an_exception_inside_the_block_leaves_everything_as_it_was(tmp_path: Path):
    with atomic_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("old")
    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind), atomic_write(tmp_path / "new.bin") as f:
            f.write(b"half")
            raise kind
        with pytest.raises(kind), atomic_folder(tmp_path / "d") as folder:
            (folder / "a").write_text("half")
            raise kind
    assert names(tmp_path) == ["d"] and (tmp_path / "d" / "a").read_text() == "old"


def test_eight_processes_write_the_same_names_at_once(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from ganctl.io.files import atomic_write, atomic_folder\n"
        "place, mark = Path(sys.argv[1]), sys.argv[2].encode()\n"
        "sys.stdin.read()\n"
        "for _ in range(20):\n"
        "    with atomic_write(place / 'f') as f: f.write(mark * 3000)\n"
        "    with atomic_folder(place / 'd') as d:\n"
        "        for n in 'ab': (d / n).write_bytes(mark * 3000)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, str(i)], env=env, stdin=-1, stderr=-1)
        for i in range(8)
    ]
    for p in started:
        assert p.stdin
        p.stdin.close()
    seen = set()
    while any(p.poll() is None for p in started):
        if (tmp_path / "f").exists():
            data = (tmp_path / "f").read_bytes()
            seen.add(data[:1])
            assert data == data[:1] * 3000
    for p in started:
        assert p.stderr
        assert p.wait() == 0, p.stderr.read()
        p.stderr.close()
    assert seen and names(tmp_path) == ["d", "f"]
    a, b = ((tmp_path / "d" / n).read_bytes() for n in "ab")
    assert a == b == a[:1] * 3000


def test_a_living_writer_is_never_swept(tmp_path: Path):
    with atomic_write(tmp_path / "slow") as slow, atomic_folder(tmp_path / "kept") as kept:
        slow.write(b"whole")
        (kept / "a").write_bytes(b"whole")
        (tmp_path / f".dead.xyz{files.TEMPORARY}").write_bytes(b"left by a killed process")
        (tmp_path / f".dead.abc{files.TEMPORARY}").mkdir()
        (tmp_path / f"visible{files.TEMPORARY}").write_bytes(b"a user's own")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        script = (
            "import sys; from pathlib import Path; from ganctl.io.files import atomic_write\n"
            "with atomic_write(Path(sys.argv[1])) as f: f.write(b'quick')"
        )
        subprocess.run([sys.executable, "-c", script, tmp_path / "quick"], env=env, check=True, timeout=60)
    assert names(tmp_path) == ["kept", "quick", "slow", f"visible{files.TEMPORARY}"]
    assert (tmp_path / "slow").read_bytes() == b"whole" and (tmp_path / "kept" / "a").read_bytes() == b"whole"


def test_permissions_follow_the_umask(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from ganctl.io.files import atomic_write, atomic_folder\n"
        "with atomic_write(Path(sys.argv[1], 'f')) as f: pass\n"
        "with atomic_folder(Path(sys.argv[1], 'd')) as d: pass\n"
    )
    for umask in (0o022, 0o077, 0o002):
        place = tmp_path / f"{umask:o}"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script, place], env=env, umask=umask, check=True, timeout=60)
        assert stat.S_IMODE((place / "f").stat().st_mode) == 0o666 & ~umask
        assert stat.S_IMODE((place / "d").stat().st_mode) == 0o777 & ~umask


def test_long_and_odd_names(tmp_path: Path):
    for name in ("x" * 255, "🦊" * 63, "é" * 127, os.fsdecode(b"\xff\xfe"), "a\nb", "-", ".hidden"):
        with atomic_write(tmp_path / name) as f:
            f.write(b"1")
        assert (tmp_path / name).read_bytes() == b"1"
    with pytest.raises(UsageError, match="File name too long") as e, atomic_write(tmp_path / ("y" * 256)) as f:
        f.write(b"1")
    assert e.value.code == 2 and e.value.hint
    assert len(names(tmp_path)) == 7


def test_places_that_cannot_be_written_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "folder", Path("/proc/no\x1b[31m/x")):
        with pytest.raises(GanctlError, match="cannot write '") as e, atomic_write(path) as f:
            f.write(b"1")
        assert e.value.why and "\x1b" not in str(e.value)
    with pytest.raises(UsageError, match="cannot write '"), atomic_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file", "folder"]


def test_only_regular_files_are_read_and_only_so_much_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = tmp_path / "a"
    whole.write_bytes(b"12345")
    assert read_regular(whole, limit=5) == b"12345"
    assert read_regular(whole, limit=3, whole=False) == b"123"
    with pytest.raises(UsageError, match="it has 5 bytes, more than the limit of 4"):
        read_regular(whole, limit=4)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        monkeypatch.chdir(tmp_path)
        s.bind("socket")
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "broken").symlink_to("absent")
        reasons = {
            "pipe": "it is not a regular file",
            "socket": "it is not a regular file",
            ".": "it is a folder",
            "absent": "there is no such file",
            "broken": "there is no such file",
            "loop": "Too many levels",
            "/dev/zero": "it is not a regular file",
            "nul\0": "null byte",
            "x" * 300: "File name too long",
        }
        for name, why in reasons.items():
            with pytest.raises(UsageError, match=why) as e:
                read_regular(Path(name), limit=9)
            assert e.value.what.startswith("cannot read '") and "\0" not in str(e.value)
    # What grows past its limit while it is read, or has no size at all, is cut off too.
    with pytest.raises(UsageError, match="more than the limit of 2 bytes"):
        read_regular(Path("/proc/self/status"), limit=2)


def test_threads_do_not_disturb_the_umask_or_each_other(tmp_path: Path):
    def work(i: int) -> None:
        for k in range(10):
            with atomic_write(tmp_path / f"{i}-{k}") as f:
                f.write(bytes([i]) * 100)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(names(tmp_path)) == 40
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {stat.S_IFREG | (0o666 & ~files.UMASK)}


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GANCTL_CACHE", "~/derived")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / "derived"
    monkeypatch.delenv("GANCTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x" / "ganctl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / ".cache" / "ganctl"
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
