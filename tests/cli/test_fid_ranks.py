"""`ganctl fid` shared by the processes of a job, and taken up again after a kill: the same numbers, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.fid_tools import pictures, pixels
from tests.cli.runs import ranks
from tests.conftest import Done, Shell, Tiny

METRICS = "fd-lenet,kid-lenet,is-lenet,pr-lenet,c2st-lenet"


def idx(path: Path, array: np.ndarray) -> Path:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.tobytes())
    return path


def torchrun(shell: Shell, *arguments: object, processes: int = 2) -> Done:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launch, "-m", "ganctl", *map(str, arguments)]
    done = subprocess.run(command, cwd=shell.folder, env=shell.env, capture_output=True, text=True, timeout=240)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def sides(ganctl: Shell) -> tuple[Path, Path]:
    """Three and a half blocks of images, and two and a half."""
    base = pixels(300, 0)
    real = np.concatenate([np.roll(base, k, 1 + k % 2) for k in range(12)])[:3500]
    return idx(ganctl.folder / "real-idx3-ubyte", real), idx(ganctl.folder / "fake-idx3-ubyte", real[:2500, ::-1])


def test_processes_of_a_job_share_the_images_and_give_the_same_numbers(
    ganctl: Shell, tiny: Tiny, sides: tuple[Path, Path]
) -> None:
    real, fake = sides
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    for command in (
        ("fid", "--metrics", METRICS, real, fake, "--mirror"),
        ("fid", "--metrics", METRICS, real, bundle, "-n", 1500),
    ):
        alone = ganctl.ok(*command, "--json", "--no-cache")
        shared = ranks(ganctl, *command, "--json", "--no-cache", "--no-progress")
        assert shared.code == 0, shared.err
        assert shared.lines == alone.lines
    assert len(alone.lines) == 7
    # With a cache, the real side is measured once, by whichever job comes first.
    kept = ranks(ganctl, "fid", "--metrics", METRICS, real, fake, "--json", "--no-progress", processes=3)
    assert kept.code == 0, kept.err
    assert ganctl.ok("fid", "--metrics", METRICS, real, fake, "--json").lines == kept.lines
    cache = ganctl.folder.parent / "home" / "cache"
    assert len(list((cache / "stats").iterdir())) == 1 and not list((cache / "features").iterdir())


def test_a_job_names_every_unreadable_image_once(ganctl: Shell, sides: tuple[Path, Path]) -> None:
    folder = pictures(ganctl.folder / "fake", pixels(40, 1))
    for name in ("0003.png", "0030.png"):
        (folder / name).write_bytes(b"no picture")
    done = torchrun(ganctl, "fid", "--metrics", "fd-lenet", sides[0], folder, "--json", "--no-progress")
    assert done.code == 1
    failed = [json.loads(line) for line in done.lines if line.startswith("{")]
    assert [Path(row["input"]).name for row in failed[:-1]] == ["0003.png", "0030.png"]
    assert "2 of 3540 images are unreadable" in failed[-1]["error"]["message"]


def test_a_killed_run_goes_on_where_it_was(ganctl: Shell, sides: tuple[Path, Path]) -> None:
    many = idx(ganctl.folder / "many-idx3-ubyte", np.concatenate([pixels(100, 3)] * 140))
    command = ("fid", "--metrics", "fd-lenet,kid-lenet", sides[0], many, "--batch-size", 16, "--workers", 1)
    kept = ganctl.folder.parent / "home" / "cache" / "features"
    process = ganctl.start(*command)
    deadline = time.monotonic() + 120
    while not kept.exists() or len(list(kept.glob("*.npz"))) < 6:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = len(list(kept.glob("*.npz")))
    assert left >= 6
    # A block that the kill, or anyone else, damaged is measured again.
    damaged = sorted(kept.glob("*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = ganctl.ok(*command, "--no-progress", "--json")
    assert "of 14000 images were measured by an earlier run" in again.err
    assert not list(kept.iterdir())
    assert ganctl.ok(*command, "--no-progress", "--json", "--no-cache").lines == again.lines
