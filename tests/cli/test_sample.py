"""`ganctl sample` as a user runs it: streams, exit codes, kills, refusals."""

import fcntl
import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.bundle import read_bundle, write_bundle
from ganctl.workflows.sample import SampleRequest, run
from tests.conftest import Shell, Tiny

CONFIG = {"resolution": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}


@pytest.fixture
def dcgan(lively: Tiny) -> Path:
    return lively("dcgan", **CONFIG)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def imported(err: str) -> set[str]:
    """The top-level modules of an -X importtime log."""
    return {line.rsplit("|", 1)[-1].strip() for line in err.splitlines() if line.startswith("import time:")}


def test_one_file_a_seed_in_order_and_the_same_again_costs_no_torch(ganctl: Shell, dcgan: Path):
    command = ("sample", dcgan, "--seeds", "85,0-2", "--grid", "2x2", "--save-latents", "-o", "out")
    names = ["seed0085.png", "seed0000.png", "seed0001.png", "seed0002.png", "grid.png"]
    first = ganctl.ok(*command)
    assert first.lines == [f"out/{n}" for n in names]
    assert "sample: 4/4 (100 %)" in first.err
    made = bytes_of(ganctl.folder / "out")
    assert sorted(made) == sorted([*names, *(f"seed{s:04d}.npz" for s in (0, 1, 2, 85))])

    again = ganctl.ok(*command, "--json", PYTHONPROFILEIMPORTTIME="1")
    rows = [json.loads(line) for line in again.lines]
    assert [r["path"] for r in rows] == first.lines
    assert [list(r) for r in rows] == [["path", "seed", "model", "revision", "status"]] * 4 + [
        ["path", "grid", "model", "revision", "status"]
    ]
    assert [r.get("seed") for r in rows] == [85, 0, 1, 2, None]
    assert {r["status"] for r in rows} == {"exists"} and {r["model"] for r in rows} == {"tiny-dcgan"}
    assert "numpy" in imported(again.err) or "PIL" in imported(again.err)
    assert "torch" not in imported(again.err)

    other = ganctl(*command, "--size", 32)
    assert other.code == 2 and other.out == ""
    assert other.err.splitlines()[0] == "error: refused to overwrite 'out/seed0085.png'"
    assert "why: another request wrote it: size was not given and is now '32'" in other.err
    assert "hint: pass --overwrite" in other.err
    assert bytes_of(ganctl.folder / "out") == made

    quiet = ganctl.ok(*command, "--size", 32, "--overwrite", "-q")
    assert quiet.lines == first.lines and quiet.err == ""
    assert bytes_of(ganctl.folder / "out").keys() == made.keys()


def test_a_killed_run_makes_only_what_is_missing(ganctl: Shell, dcgan: Path, tmp_path: Path):
    command = ("sample", dcgan, "-n", "60", "-o", "out")
    folder = ganctl.folder / "out"
    process = ganctl.start(*command, "--json")
    assert process.stdout
    # A page of unread results holds it up long before the end.
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    limit = time.monotonic() + 120
    while not (folder.is_dir() and len(list(folder.glob("*.png"))) >= 5) and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")}
    assert 5 <= len(kept) < 60
    # What a kill in the middle of a write leaves, whether or not this one did.
    (folder / ".seed0059.png.abcd1234.ganctl-tmp").write_bytes(b"half")
    (folder / ".notes.tmp").write_bytes(b"somebody else's")

    assert len(ganctl.ok(*command, "-q").lines) == 60
    run(SampleRequest(model=str(dcgan), num=60, out=str(tmp_path / "calm"), device="cpu"))
    (folder / ".notes.tmp").unlink()
    assert bytes_of(folder) == bytes_of(tmp_path / "calm")
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept


def test_streams_carry_an_image_or_a_tar_and_nothing_else(ganctl: Shell, dcgan: Path):
    run(SampleRequest(model=str(dcgan), num=3, out=str(ganctl.folder / "files"), device="cpu"))
    files = bytes_of(ganctl.folder / "files")
    one = io.BytesIO()
    run(SampleRequest(model=str(dcgan), seed=1, out="-", device="cpu"), stdout=one)
    assert one.getvalue() == files["seed0001.png"]
    code, out, _ = ganctl.bytes("sample", dcgan, "-n", 3, "-o", "-")
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert code == 0 and {m.name: tar.extractfile(m).read() for m in tar} == files  # type: ignore[union-attr]


def test_streams_that_cannot_take_bytes(ganctl: Shell, dcgan: Path):
    command = [sys.executable, "-m", "ganctl", "sample", str(dcgan), "-o", "-"]
    master, slave = pty.openpty()
    refused = subprocess.run(command, env=ganctl.env, cwd=ganctl.folder, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    os.close(master)
    assert refused.returncode == 2 and b"cannot write image bytes to a terminal" in refused.stderr
    both = ganctl("sample", dcgan, "-o", "-", "--json")
    assert both.code == 2 and "both want stdout" in both.err

    closed = ganctl.start("sample", dcgan, "-n", 20, "-o", "-", "-q")
    assert closed.stdout
    closed.stdout.close()
    closed.stdout = None
    _, err = closed.communicate()
    assert closed.returncode == 1 and err == b""
    with Path("/dev/full").open("wb") as full:
        stuffed = subprocess.run([*command, "-q"], env=ganctl.env, stdout=full, stderr=subprocess.PIPE)
    assert stuffed.returncode == 1 and b"No space left on device" in stuffed.stderr
    assert b"Traceback" not in stuffed.stderr


def test_a_network_that_gives_nan_writes_nothing(ganctl: Shell, dcgan: Path, tmp_path: Path):
    bundle = read_bundle(dcgan)
    state = bundle.state("G")
    # Finite, as the door for weights demands; the sums are not.
    state = {k: v * 1e38 if k.endswith("weight") and v.ndim == 4 else v for k, v in state.items()}
    card = {"license": "Apache-2.0"}
    write_bundle(tmp_path / "wild", model="dcgan", config=bundle.config, states={"G": state}, card=card)
    done = ganctl("sample", tmp_path / "wild", "-n", 3, "-o", "out")
    assert done.code == 1 and done.out == ""
    assert "error: cannot write the images\n  why: " in done.err and "values are NaN or infinite" in done.err
    assert not (ganctl.folder / "out").exists() or not bytes_of(ganctl.folder / "out")


def test_a_file_that_cannot_grow_leaves_nothing_half_written(ganctl: Shell, dcgan: Path):
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    process = ganctl.start("sample", dcgan, "-n", 3, "-o", "out", "-q", preexec_fn=small_files)
    out, err = process.communicate()
    assert process.returncode == 1 and out == b""
    assert err.decode() == "error: cannot write 'out/seed0000.png'\n  why: File too large\n"
    assert bytes_of(ganctl.folder / "out") == {}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["dcgan-fashion-mnits"], ["unknown model 'dcgan-fashion-mnits'", "did you mean dcgan-fashion-mnist?"]),
        (["./nowhere"], ["no such model './nowhere'", "hint: "]),
        (["M", "-n", "99999999999999999999"], ["--num", "hint: "]),
        (["M", "-n", "0"], ["cannot use --num 0", "1 to 1,000,000"]),
        (["M", "--seed", "-1"], ["cannot use --seed -1", "0 to 4294967295"]),
        (["M", "--seeds", "0-99999999999"], ["largest seed", "hint: "]),
        (["M", "--seeds", "0-4000000000"], ["more than 1,000,000 seeds"]),
        (["M", "--seeds", "0-3", "-n", "4"], ["cannot use -n and --seeds together"]),
        (["M", "--latents", "gone.npz"], ["cannot read latents 'gone.npz'", "no such file"]),
        (["M", "-n", "4", "--grid", "3x3"], ["cannot fill --grid 3x3", "holds 9 images and 4"]),
        (["M", "--grid", "99999999999x9"], ["a grid holds 1 to 10,000 images"]),
        (["M", "--size", "99999999"], ["cannot use --size 99999999"]),
        (["M", "--quality", "0"], ["cannot use --quality 0"]),
        (["M", "-n", "2", "-o", "x.png"], ["cannot write 2 images to 'x.png'", "hint: "]),
        (["M", "-o", "x.tiff"], ["cannot write 'x.tiff'", ".png, .jpg"]),
        (["M", "-o", "x.png", "--format", "jpg"], ["cannot use --format jpg"]),
        (["M", "-o", "file/sub"], ["cannot write 'file/sub'", "'file' is not a folder", "hint: "]),
        (["M", "-o", "file"], ["cannot write 'file'", "hint: "]),
        (["M", "--trnc", "0.5"], ["unknown option '--trnc'", "did you mean --trunc?"]),
    ],
)
def test_mistakes_end_at_once_without_torch(ganctl: Shell, dcgan: Path, args: list[str], said: list[str]):
    (ganctl.folder / "file").write_bytes(b"")
    started = time.monotonic()
    done = ganctl("sample", *(dcgan if a == "M" else a for a in args), PYTHONPROFILEIMPORTTIME="1")
    text = "\n".join(line for line in done.err.splitlines() if not line.startswith("import time:"))
    assert done.code == 2 and done.out == ""
    assert text.startswith("error: ") and all(s in text for s in said), text
    assert "torch" not in imported(done.err)
    assert time.monotonic() - started < 10
    assert [p.name for p in ganctl.folder.iterdir()] == ["file"]


def test_dry_run_prints_the_resolved_plan_and_touches_nothing(ganctl: Shell, dcgan: Path):
    plan = ganctl.ok("sample", dcgan, "--grid", "3x2", "--dry-run", PYTHONPROFILEIMPORTTIME="1")
    for line in ("num: 6", "seeds: 0-5", "format: png", "out: out/tiny-dcgan/sample"):
        assert line in plan.lines
    assert "torch" not in imported(plan.err)
    stream = ganctl.ok("sample", dcgan, "--seeds", "3,5-7", "-o", "-", "--dry-run", "--json")
    assert json.loads(stream.out)["plan"]["num"] == 4 and json.loads(stream.out)["plan"]["out"] == "-"
    assert list(ganctl.folder.iterdir()) == []


def test_latent_files_in_a_row_another_model_and_a_classifier(ganctl: Shell, dcgan: Path, tiny: Tiny):
    folder = ganctl.folder / "a"
    run(SampleRequest(model=str(dcgan), num=3, out=str(folder), save_latents=True, device="cpu"))
    files = [f"a/seed{s:04d}.npz" for s in (2, 0)]
    done = ganctl.ok("sample", "--latents", *files, dcgan, "-o", "b.zip", "--json")
    assert json.loads(done.out)["num"] == 2
    with zipfile.ZipFile(ganctl.folder / "b.zip") as archive:
        assert archive.namelist() == ["seed0002.png", "seed0000.png"]
        assert (pixels(archive.read("seed0002.png")) == pixels((folder / "seed0002.png").read_bytes())).all()
    vae = str(tiny("vae", resolution=16, z_dim=8, hidden=[8]))
    given = tuple(str(ganctl.folder / f) for f in files)
    with pytest.raises(UsageError, match="cannot use 2 of 2 latent files") as e:
        run(SampleRequest(model=vae, latents=given, out=str(ganctl.folder / "c"), device="cpu"))
    assert "made with 'tiny-dcgan'" in e.value.why and "not with 'tiny-vae'" in e.value.why
    with pytest.raises(UsageError, match="no latent space") as e:
        run(SampleRequest(model=str(tiny("lenet")), out=str(ganctl.folder / "c"), device="cpu"))
    assert "zoo list" in e.value.hint


def pixels(data: bytes) -> np.ndarray:
    from ganctl.io.images import read_image

    return read_image(data, name="x").pixels


def test_the_built_in_default_draws_garments_offline(ganctl: Shell):
    done = ganctl.ok("sample", "-n", 2, "--offline")
    assert done.lines == [f"out/dcgan-fashion-mnist/sample/seed000{s}.png" for s in (0, 1)]
    a, b = (pixels((ganctl.folder / p).read_bytes()) for p in done.lines)
    assert a.shape == b.shape == (28, 28, 1) and (a != b).any()
    # Garments stand on black: dark corners, something bright in the middle.
    assert max(a[0, 0], a[0, -1]) < 40 and a[8:20, 8:20].max() > 100
    # Pinned weights are checked again without loading a network.
    again = ganctl.ok("sample", "-n", 2, "--offline", PYTHONPROFILEIMPORTTIME="1")
    assert again.lines == done.lines and "torch" not in imported(again.err)
