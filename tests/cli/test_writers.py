"""Whatever a command writes, on a disk that fails at the n-th call: old or new is there, whole, and nothing else."""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganctl.errors import GanctlError
from ganctl.io import files, hub
from ganctl.workflows import convert, fid, interpolate, sample, translate
from tests.cli.runs import assert_same_run, forked_call, newest, pictures, request, tensors, train
from tests.conftest import Tiny

GAN = {"resolution": 16, "g_hidden": (8,), "d_hidden": (8,), "z_dim": 4, "channels": 1}
PIX2PIX = {"resolution": 16, "ngf": 4, "ndf": 4, "num_downs": 4, "n_layers": 1}


@dataclass
class Disk:
    """Counts the calls that change what is below `root`, and refuses the n-th with `number`, or ends the process in it.

    0 refuses none.
    """

    root: Path
    n: int = 0
    number: int = errno.ENOSPC
    kill: bool = False
    calls: int = 0

    def change(self, path: object) -> None:
        if os.fsdecode(path).startswith(str(self.root)):  # type: ignore[arg-type]
            self.calls += 1
            if self.calls == self.n and self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.calls == self.n:
                raise OSError(self.number, os.strerror(self.number))


@contextmanager
def failing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every system call by which Python makes, renames and flushes files and folders asks `disk` first."""
    fsync, opened, mkdir = os.fsync, os.open, os.mkdir

    def flush(fd: int) -> None:
        disk.change(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            disk.change(path)
        return opened(path, flags, *rest, **options)

    def before(real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *rest: Any, **options: Any) -> None:
            # Making a folder that is there changes nothing.
            if real is not mkdir or not Path(path).is_dir():
                disk.change(path)
            real(path, *rest, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush)
        patched.setattr(os, "open", open_)
        for name in ("replace", "rename", "mkdir"):
            patched.setattr(os, name, before(getattr(os, name)))
        yield


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system itself refuses to write further, also where a library writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def below(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too, by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all outputs and the cache go."""
    torch.set_num_threads(1)
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "disk"


Write = Callable[[int, bool], object]
"""Writes the outputs of a request (1 or 2: another one), over those of the other request or not."""


def sampled(tiny: Tiny, place: Path, **options: Any) -> Write:
    base = sample.SampleRequest(model=str(tiny("gan", **GAN)), device="cpu", num=2, **options)
    return lambda which, over: sample.run(replace(base, size=16 + 8 * which, overwrite=over))


def png(tiny: Tiny, place: Path) -> Write:
    return sampled(tiny, place, out=str(place / "out"), grid="2x1", save_latents=True)


def npy(tiny: Tiny, place: Path) -> Write:
    return sampled(tiny, place, out=str(place / "out"), format="npy")


def zipped(tiny: Tiny, place: Path) -> Write:
    return sampled(tiny, place, out=str(place / "out.zip"))


def walked(tiny: Tiny, out: Path) -> Write:
    base = interpolate.InterpolateRequest(model=str(tiny("gan", **GAN)), device="cpu", out=str(out), frames=2)
    return lambda which, over: interpolate.run(replace(base, seeds=f"{which},{which + 1}", overwrite=over))


def gif(tiny: Tiny, place: Path) -> Write:
    return walked(tiny, place / "walk.gif")


def mp4(tiny: Tiny, place: Path) -> Write:
    return walked(tiny, place / "walk.mp4")


def frames(tiny: Tiny, place: Path) -> Write:
    return walked(tiny, place / "walk")


def translated(tiny: Tiny, place: Path) -> Write:
    inputs = tuple(str(p) for p in sorted(pictures(place.parent / "in", n=2).iterdir()))
    model = str(tiny("pix2pix", **PIX2PIX))
    base = translate.TranslateRequest(model=model, inputs=inputs, out=str(place / "out"), device="cpu")
    return lambda which, over: translate.run(replace(base, seed=which, overwrite=over))


def converted(tiny: Tiny, place: Path) -> Write:
    sources = {1: tiny("gan", **GAN), 2: tiny("gan", **{**GAN, "z_dim": 5})}
    out = str(place / "bundle")
    return lambda which, over: convert.run(convert.ConvertRequest(source=str(sources[which]), out=out, overwrite=over))


def statistics(tiny: Tiny, place: Path) -> Write:
    data = {i: str(pictures(place.parent / f"in{i}", n=3, seed=i)) for i in (1, 2)}
    base = fid.FidRequest(real="", metrics="fd-lenet", save_stats=str(place / "x.npz"), device="cpu", cache=False)
    return lambda which, over: fid.run(replace(base, real=data[which], overwrite=over))


def page(tiny: Tiny, place: Path) -> Write:
    data = {i: str(pictures(place.parent / f"in{i}", n=3, seed=i)) for i in (1, 2)}
    base = fid.FidRequest(real=data[1], metrics="fd-lenet", report=str(place / "x.html"), device="cpu", cache=False)
    return lambda which, over: fid.run(replace(base, fake=data[which], overwrite=over))


@pytest.mark.parametrize("writer", [png, npy, zipped, gif, mp4, frames, translated, converted, statistics, page])
def test_whichever_call_fails_what_is_there_is_whole(writer, tiny: Tiny, place: Path, monkeypatch) -> None:
    write: Write = writer(tiny, place)
    write(2, False)
    old = below(place)
    write(1, True)
    new = below(place)
    assert old.keys() == new.keys() and old != new

    def ends(strike: Any) -> bool:
        """Writes the new over the old under a fault; whether it got through in spite of it."""
        write(2, True)
        files._swept.clear()
        try:
            with strike:
                write(1, True)
        except GanctlError as e:
            assert (e.code, e.what.startswith("cannot write '")) == (1, True), str(e)
            assert e.why in ("the disk is full", "Input/output error", "File too large"), str(e)
        else:
            return True
        found = below(place)
        assert found.keys() == new.keys(), (sorted(found), str(strike))
        assert [name for name in found if found[name] not in (old[name], new[name])] == []
        return False

    struck = 0
    for n in range(1, 200):
        disk = Disk(place, n, errno.ENOSPC if n % 2 else errno.EIO)
        struck += not ends(failing(disk, monkeypatch))
        if disk.calls < n:
            break
    assert struck >= 3
    for size in (0, 2 * max(map(len, new.values())) // 3):
        assert not ends(no_file_beyond(size))
    # And afterwards, where the disk works again, all is as if nothing had happened.
    write(1, True)
    assert below(place) == new


@pytest.mark.parametrize("fault", ["full", "killed"])
def test_wherever_a_run_is_struck_the_same_command_ends_as_the_undisturbed_one(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In recipe, facts, pictures, log, event file, each file of a snapshot, its renaming, pruning or the report."""
    # How varied samples are takes longer than all the rest here, and writes a line like any other.
    monkeypatch.setattr("ganctl.workflows.watch.Watch.look", lambda *_: {"variety": 1.0})
    data = pictures(tmp_path / "data", n=8)
    settings = ("kimg=0.12", "tick=0.04", "snap=0.04", "keep=2", "ema_kimg=0.02")

    def attempt(run: Path) -> None:
        train(request("gan", data, run, *settings, log=("tensorboard",)))

    disk = Disk(tmp_path / "calm")
    with failing(disk, monkeypatch):
        attempt(disk.root)
    # Every seventh call is another one of those that write a file each time.
    points = range(1, disk.calls, 7 if fault == "full" else 23)
    assert len(points) > 5
    spared = 0
    for n in points:
        struck = Disk(tmp_path / f"struck{n}", n, kill=fault == "killed")

        def strike(disk: Disk = struck) -> None:
            files._swept.clear()
            with failing(disk, monkeypatch):
                attempt(disk.root)

        if fault == "killed":
            assert forked_call(strike) == -signal.SIGKILL
        else:
            try:
                strike()
            except GanctlError as e:
                assert (e.code, e.why) == (1, "the disk is full") and e.what.startswith("cannot write '"), str(e)
            else:
                # An old snapshot that could not be removed stays until the next one is written.
                spared += 1
                ours, theirs = tensors(newest(struck.root)), tensors(newest(disk.root))
                assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
                continue
            assert not list(struck.root.rglob(".*"))
        files._swept.clear()
        attempt(struck.root)
        assert_same_run(disk.root, struck.root)
        assert not list(struck.root.rglob(".*"))
        assert len(list(struck.root.iterdir())) == len(list(disk.root.iterdir()))
    assert spared <= 2


@pytest.mark.parametrize("size", [0, 10])
def test_what_the_first_download_was_is_remembered_whole_or_told(size: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path))
    first, second = {"url": "a", "sha256": "1"}, {"url": "b", "sha256": "2"}
    with no_file_beyond(size), pytest.raises(GanctlError, match=r"cannot write .*(File too large|disk is full)"):
        hub._append(first)
    # Half a line does not spoil the next one.
    hub._append(second)
    assert hub.lock_file().read_text().splitlines()[-1] == '{"url": "b", "sha256": "2"}'
