"""TensorBoard's own reader finds in a run what log.jsonl and samples/ hold, each step once."""

import errno
import importlib.util
import json
import os
from pathlib import Path

import pytest

from ganctl.errors import GanctlError, UsageError
from ganctl.io.events import NOT_SCALARS, PREFIX, Events
from ganctl.workflows.report import read_log
from ganctl.workflows.train import check_log
from tests.cli.runs import log, pictures, request, train


def test_a_run_that_was_killed_and_went_on_has_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    data, run = pictures(tmp_path / "data"), tmp_path / "run"
    train(request("gan", data, run, "kimg=0.4", log=("jsonl", "tensorboard")))
    # What a process leaves that was killed after its last snapshot: lines, half a record, a grid; and what others left.
    old = next(run.glob(f"{PREFIX}*"))
    with (run / "log.jsonl").open("a") as f:
        f.write('{"nimg": 440, "kimg": 0.44, "time": 9e9, "step": 99, "D_loss": 7.0}\n{"nimg": 480, "ki')
    with Events(run, read_log(run / "log.jsonl"), {}).path.open("ab") as f:
        f.write(b"\x18\0\0\0")
    (run / "samples" / "000000.440.png").write_bytes((run / "samples" / "000000.400.png").read_bytes())
    (run / "samples" / "mine.png").write_bytes(b"not ours")
    train(request("gan", data, run, "kimg=0.8", log=("tensorboard",)))

    files = list(run.glob(f"{PREFIX}*"))
    assert len(files) == 1 and (files[0] == old) == (files[0].name == old.name)
    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    rows = log(run)
    clock = ("sec_per_kimg", "wait", "memory_gib")
    told = {name for row in rows for name in row if name not in NOT_SCALARS}
    assert {"D_loss", "G_loss", "D_auc", "variety"} <= told
    assert set(found.Tags()["scalars"]) - set(clock) == told
    for name in told:
        expected = [(row["nimg"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in found.Scalars(name)] == expected
    times = [json.loads(line)["time"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert {event.wall_time for event in found.Scalars("D_loss")} <= set(times)
    grids = {event.step: event.encoded_image_string for event in found.Images("samples")}
    assert list(grids) == [0, 200, 400, 600, 800]
    assert grids[800] == (run / "samples" / "000000.800.png").read_bytes()
    size = found.Images("samples")[0]
    assert (size.width, size.height) == (142, 142)
    # Once in the file itself, not only to a reader that removes what comes twice.
    raw = list(RawEventFileLoader(str(files[0])).Load())
    assert len(raw) == 1 + len(rows) + len(grids)


def test_it_costs_no_step_and_is_not_there_unless_asked_for(tmp_path: Path) -> None:
    from tests.cli.runs import assert_same_run

    data = pictures(tmp_path / "data")
    train(request("gan", data, tmp_path / "a", "kimg=0.2"))
    train(request("gan", data, tmp_path / "b", "kimg=0.2", log=("tensorboard",)))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not list((tmp_path / "a").glob(f"{PREFIX}*"))


def test_what_cannot_be_logged_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot log as 'tensorbord'") as e:
        check_log(("jsonl", "tensorbord"))
    assert e.value.hint == "did you mean tensorboard?"
    with monkeypatch.context() as patched, pytest.raises(UsageError, match="cannot log for TensorBoard") as e:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        check_log(("tensorboard",))
    assert "pip install 'ganctl[logs]'" in e.value.hint
    real = os.fsync

    def full(fd: int) -> None:
        if "tfevents" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    with monkeypatch.context() as patched, pytest.raises(GanctlError, match=r"tfevents.*the disk is full") as failed:
        patched.setattr(os, "fsync", full)
        train(request("gan", pictures(tmp_path / "data"), tmp_path / "a", "kimg=0.2", log=("tensorboard",)))
    assert failed.value.code == 1 and not list((tmp_path / "a").rglob(".*"))
