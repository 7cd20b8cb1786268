"""Killed, stopped, damaged, out of disk: a run goes on as if nothing had happened."""

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from ganctl.errors import GanctlError, StoppedError, UsageError, WeightsError
from ganctl.workflows.train import TrainRequest
from tests.cli.runs import (
    arguments,
    assert_same_run,
    forked,
    kept,
    log,
    newest,
    pictures,
    request,
    train,
)

CASES = {
    "gan-accumulated": ("gan", ("batch_gpu=2", "mirror=true", "kimg=0.6")),
    "wgan": ("wgan", ("mirror=true",)),
    "funit": ("funit", ("mirror=true", "kimg=0.16", "snap=0.08")),
    "cyclegan": ("cyclegan", ("jitter=4", "mirror=true", "kimg=0.16", "snap=0.08")),
}


def wait_for(condition, process=None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(run: Path) -> int:
    path = run / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_it_ends_as_the_undisturbed_run(case: str, tmp_path: Path):
    model, settings = CASES[case]
    data = pictures(tmp_path / "data" / "a", size=(32, 16) if model == "cyclegan" else (16, 16), mode="RGB")
    if model == "funit":
        pictures(tmp_path / "data" / "b", n=5, mode="RGB", seed=1)
        data = tmp_path / "data"
    train(request(model, data, tmp_path / "a", *settings))
    again = request(model, data, tmp_path / "b", *settings)
    kills, rng = 0, random.Random()
    while True:
        begun, process = lines(tmp_path / "b"), forked(again)
        if kills < 3:
            # Somewhere in its work: in a step, a picture, a snapshot, a log line.
            enough = begun + rng.randint(1, 4)
            wait_for(lambda n=enough, p=process: lines(tmp_path / "b") >= n or not p.is_alive())
            time.sleep(rng.random() * 0.05)
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills >= 1
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not list((tmp_path / "b").rglob(".*"))


def test_kill_9_on_the_command_line_then_the_same_command(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    train(request("gan", data, tmp_path / "a", "kimg=1.6"))
    command = arguments(request("gan", data, tmp_path / "b", "kimg=1.6"))
    process = ganctl.start(*command)
    wait_for(lambda: lines(tmp_path / "b") >= 4, process)
    process.kill()
    process.communicate()
    done = ganctl.ok(*command)
    assert done.lines == [str(tmp_path / "b" / "snapshots" / "000001.600")]
    assert_same_run(tmp_path / "a", tmp_path / "b")
    # Finished: done at once, and nothing is touched.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").rglob("*")}
    report = train(request("gan", data, tmp_path / "b", "kimg=1.6"))
    assert (report.nimg, report.snapshot) == (1600, done.lines[0])
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "b").rglob("*")}


def test_every_way_to_stop_saves_and_goes_on_exactly(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    run = tmp_path / "b"
    long = ("kimg=8", "tick=0.2", "snap=1")
    command = arguments(request("gan", data, run, *long))

    def stopped_by(number: int, *extra: str) -> tuple[int, str, str]:
        seen = lines(run)
        process = ganctl.start(*command, *extra)
        wait_for(lambda: lines(run) > seen + 1, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert b"Traceback" not in err
        return process.returncode, out.decode(), err.decode()

    code, out, err = stopped_by(signal.SIGINT)
    assert (code, out) == (130, "")
    assert err.count("error: training stopped at ") == 1 and " of 8 kimg" in err
    assert "why: Ctrl-C; a snapshot was saved" in err
    assert f"hint: run the same command again, or: ganctl train {run}" in err
    code, out, err = stopped_by(signal.SIGTERM, "--json")
    assert code == 75
    assert json.loads(out.splitlines()[-1])["error"]["kind"] == "stopped"
    assert "why: SIGTERM; a snapshot was saved" in err
    process, seen = forked(request("gan", data, run, *long)), lines(run)
    wait_for(lambda: lines(run) > seen + 1)
    os.kill(process.pid, signal.SIGUSR1)
    process.join()
    assert process.exitcode == 75
    with pytest.raises(StoppedError, match="--max-time is over; a snapshot was saved"):
        train(request("gan", data, run, *long, max_seconds=0.1))
    assert json.loads((newest(run) / "resume" / "state.json").read_text())["planned"] is False
    # The old run's folder alone is enough to go on.
    done = train(TrainRequest(recipe=str(run), changes={}, device="cpu"))
    assert done.snapshot == str(run / "snapshots" / "000008")
    train(request("gan", data, tmp_path / "a", *long))
    assert_same_run(tmp_path / "a", run)


def test_a_second_ctrl_c_ends_at_once(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data", n=4)
    # One step of half a minute: nobody waits for its end twice.
    process = ganctl.start(*arguments(request("gan", data, tmp_path / "r", "batch=200000", "kimg=4000", "tick=1")))
    wait_for(lambda: (tmp_path / "r" / "snapshots" / "000000").exists(), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err
    assert time.monotonic() - begun < 5
    assert [p.name for p in kept(tmp_path / "r")] == ["000000"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Data, a whole run on it, and one that has come to 0.6 of 1 kimg."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = pictures(folder / "data")
    train(request("gan", data, folder / "whole"))
    train(request("gan", data, folder / "begun", "kimg=0.6"))
    return data, folder / "whole", folder / "begun"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("file", "harm", "why"),
    [
        ("G.safetensors", flip, "G.safetensors is not what was written"),
        ("resume/optim.safetensors", cut, "resume/optim.safetensors is not what was written"),
        ("D.safetensors", Path.unlink, "D.safetensors is missing"),
        ("resume/state.json", cut, "resume/state.json is missing or unreadable"),
    ],
)
def test_of_a_damaged_snapshot_it_says_so_and_takes_the_one_before(file, harm, why, undisturbed, tmp_path: Path):
    data, whole, begun = undisturbed
    shutil.copytree(begun, tmp_path / "b")
    harm(tmp_path / "b" / "snapshots" / "000000.600" / file)
    warnings: list[str] = []
    train(request("gan", data, tmp_path / "b"), warnings)
    # How the training goes is another matter.
    warnings = [said for said in warnings if "snapshot" in said]
    assert len(set(warnings)) == 1
    assert "000000.600' is damaged" in warnings[0] and why in warnings[0] and "the one before" in warnings[0]
    assert_same_run(whole, tmp_path / "b")


def test_with_no_whole_snapshot_left_it_refuses(tmp_path: Path):
    data = pictures(tmp_path / "data")
    train(request("gan", data, tmp_path / "a", "kimg=0.4"))
    for snapshot in kept(tmp_path / "a"):
        flip(snapshot / "G.safetensors")
    before = log(tmp_path / "a")
    with pytest.raises(WeightsError, match="none of its snapshots is whole"):
        train(request("gan", data, tmp_path / "a"))
    assert log(tmp_path / "a") == before


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(tmp_path: Path, monkeypatch):
    data = pictures(tmp_path / "data")
    train(request("gan", data, tmp_path / "a", "kimg=0.4"))
    train(request("gan", data, tmp_path / "b", "kimg=0.2"))
    real = os.fsync

    def full(fd: int) -> None:
        if "log.jsonl" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    with monkeypatch.context() as patched, pytest.raises(GanctlError, match=r"log.jsonl'. the disk is full") as failed:
        patched.setattr(os, "fsync", full)
        train(request("gan", data, tmp_path / "b", "kimg=0.4"))
    assert failed.value.code == 1
    train(request("gan", data, tmp_path / "b", "kimg=0.4"))
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_only_one_process_trains_a_run(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    process = forked(request("gan", data, tmp_path / "a", "kimg=1000", "snap=100"))
    try:
        wait_for(lambda: lines(tmp_path / "a") > 0)
        with pytest.raises(UsageError, match="another process is training it"):
            train(request("gan", data, tmp_path / "a", "kimg=1000", "snap=100"))
    finally:
        process.kill()
        process.join()


def test_what_may_change_when_a_run_goes_on_and_what_not(tmp_path: Path):
    data = pictures(tmp_path / "data")
    run = tmp_path / "a"
    train(request("gan", data, run, "kimg=0.2"))
    for settings, named in (
        (("glr=0.1",), "config.glr: 0.0002 → 0.1"),
        (("batch=4",), "train.batch: 8 → 4"),
        (("mirror=true",), "data.mirror: False → True"),
        (("seed=1",), "train.seed: 0 → 1"),
    ):
        with pytest.raises(UsageError, match=named):
            train(request("gan", data, run, *settings))
    with pytest.raises(UsageError, match="model: gan → vae"):
        train(request("vae", data, run))
    # More images, other times for snapshots and moved data are the same run.
    moved = data.rename(tmp_path / "elsewhere")
    assert train(request("gan", moved, run, "kimg=0.4", "snap=0.1", "keep=2", "tick=0.1")).nimg == 400
    # A recipe written before a setting existed is taken to have its default.
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text("".join(line + "\n" for line in text.splitlines() if "metric_every" not in line))
    assert train(request("gan", moved, run, "kimg=0.6")).nimg == 600
    # Other pixels under the same settings are told.
    pictures(moved, n=3, seed=9)
    warnings: list[str] = []
    train(request("gan", moved, run, "kimg=0.8"), warnings)
    assert any("have changed" in w and "24 images when it began, 24 now" in w for w in warnings)


def test_never_and_overwrite_and_another_runs_state(tmp_path: Path):
    data = pictures(tmp_path / "data")
    run = tmp_path / "a"
    train(request("gan", data, run, "kimg=0.4"))
    with pytest.raises(UsageError, match="holds a run already"):
        train(request("gan", data, run, "kimg=0.4", resume="never"))
    # A new run from this one's exact state is this one, had it gone on.
    fork = request("gan", data, tmp_path / "fork", resume=str(run))
    assert train(fork).nimg == 1000
    train(request("gan", data, run))
    from tests.cli.runs import tensors

    ours, theirs = tensors(newest(run)), tensors(newest(tmp_path / "fork"))
    assert all((ours[k] == theirs[k]).all() for k in ours)
    assert [p.name for p in kept(run)] == [p.name for p in kept(tmp_path / "fork")]
    # The same command goes on with the fork, not from the start of it again; a snapshot will do as well as a run.
    assert train(fork).nimg == 1000
    third = train(request("gan", data, tmp_path / "third", "kimg=0.8", resume=str(run / "snapshots" / "000000.600")))
    assert log(tmp_path / "third")[0]["nimg"] == 640 and third.nimg == 800
    # Replaced only on demand.
    train(request("gan", data, run, "seed=3", "kimg=0.2", overwrite=True))
    assert [p.name for p in kept(run)] == ["000000", "000000.200"]
    assert [line["nimg"] for line in log(run) if "step" in line] == [40, 80, 120, 160, 200]
