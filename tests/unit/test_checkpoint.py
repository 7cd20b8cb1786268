"""Snapshots under failing writes: the old or the new one can be loaded, never neither."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from ganctl.errors import DivergedError, GanctlError
from ganctl.io import files
from ganctl.train import checkpoint
from ganctl.train.checkpoint import Best, Scores
from ganctl.train.loop import State
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import new_state
from tests.cli.runs import SMALL, forked_call


def state_of(model: str = "gan") -> State:
    recipe = resolve(model, {}, ("resolution=16", *SMALL[model]))
    state = new_state(recipe, torch.device("cpu"))
    for name, optimizer in state.optimizers.items():
        for p in getattr(state.nets, name).parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return state


def save(run: Path, state: State, nimg: int, **options: object) -> Path:
    state.progress.nimg = nimg
    options = {"scores": Scores(), **options}
    path = checkpoint.save(run, state, model="gan", config={}, card={}, **options)  # type: ignore[arg-type]
    checkpoint.prune(run, 2, None)
    return path


def names(run: Path) -> list[str]:
    return [p.name for p in checkpoint.snapshots(run)]


@pytest.mark.parametrize("door", ["fsync", "replace", "rename", "mkdir", "open"])
@pytest.mark.parametrize("fault", ["full", "broken", "killed"])
def test_the_nth_write_fails_for_every_n(door: str, fault: str, tmp_path: Path, monkeypatch):
    """The n-th call of one of the operating system's functions fails, or the process dies in it."""
    run, state = tmp_path / "run", state_of()
    for nimg in (1000, 2000):
        save(run, state, nimg)
    real, left = getattr(os, door), 0

    def fails(*args, **options):
        nonlocal left
        left -= 1
        if left == 0 and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if left == 0:
            number = errno.ENOSPC if fault == "full" else errno.EIO
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    def attempt(nimg: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, door, fails)
            save(run, state, nimg)

    struck = 0
    for n in range(1, 200):
        left, nimg = n, 3000 + n
        before = names(run)
        if fault == "killed":
            reached = forked_call(lambda nimg=nimg: attempt(nimg)) == 0
        else:
            try:
                attempt(nimg)
            except GanctlError as e:
                assert e.code == 1 and ("the disk is full" in e.why) == (fault == "full")
            reached = left > 0
        struck += not reached
        # Whatever bears a snapshot's name is whole, and nothing that was there before is lost for a failed one.
        assert [checkpoint.damage(p) for p in checkpoint.snapshots(run)] == [None] * len(names(run))
        assert len(names(run)) >= 2 and names(run)[-1] in (before[-1], checkpoint.name_of(nimg))
        # Where folders cannot be opened they cannot be emptied either.
        if fault != "killed" and door != "open":
            assert not list((run / "snapshots").glob(".*"))
        if reached:
            assert names(run)[-1] == checkpoint.name_of(nimg)
            break
    assert struck >= 1
    # What the killed left half written, the next process removes.
    monkeypatch.setattr(files, "_swept", set())
    save(run, state, 9000)
    assert not list(run.rglob(".*"))


def test_what_comes_back_is_what_was_saved(tmp_path: Path):
    for model in ("gan", "wgan", "vae"):
        state = state_of(model)
        state.sums, state.counts = {"D_loss": torch.tensor(0.1, dtype=torch.float64) / 3}, {"D_loss": 7}
        state.progress.step = 5
        state.progress.rng.manual_seed(9)
        path = save(tmp_path / model, state, 1234, scores=Scores({"fd": 2.5}, Best("fd", 1.5, "000001")))
        state.progress.rng.manual_seed(9)
        other = state_of(model)
        for name in state.optimizers:
            for p in getattr(other.nets, name).parameters():
                p.data.zero_()
        scores = checkpoint.restore(path, other)
        assert scores == Scores({"fd": 2.5}, Best("fd", 1.5, "000001"))
        assert (other.progress.nimg, other.progress.step, other.counts) == (1234, 5, {"D_loss": 7})
        assert other.sums["D_loss"].dtype == torch.float64 and torch.equal(other.sums["D_loss"], state.sums["D_loss"])
        assert torch.equal(other.progress.normal(3, 2), state.progress.normal(3, 2))
        # The next update is the same: weights, moments and step counts are.
        for one in (state, other):
            for name, optimizer in one.optimizers.items():
                for p in getattr(one.nets, name).parameters():
                    p.grad = torch.full_like(p, 0.5)
                optimizer.step()
        for name in state.optimizers:
            pairs = zip(getattr(state.nets, name).parameters(), getattr(other.nets, name).parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_pruning_keeps_the_newest_and_the_best_and_drops_what_a_stop_saved(tmp_path: Path):
    state = state_of()
    for nimg in (1000, 2000, 3000, 4000, 5000):
        save_only(tmp_path, state, nimg)
    save_only(tmp_path, state, 5500, planned=False)
    checkpoint.prune(tmp_path, 3, Best("fd", 1.0, "000001"))
    assert names(tmp_path) == ["000001", "000003", "000004", "000005", "000005.500"]
    save_only(tmp_path, state, 6000)
    checkpoint.prune(tmp_path, 3, Best("fd", 1.0, "000001"))
    assert names(tmp_path) == ["000001", "000004", "000005", "000006"]
    # Two stay while a third may be written.
    checkpoint.prune(tmp_path, 1, None)
    assert names(tmp_path) == ["000005", "000006"]


def save_only(run: Path, state: State, nimg: int, planned: bool = True) -> None:
    state.progress.nimg = nimg
    checkpoint.save(run, state, model="gan", config={}, card={}, scores=Scores(), planned=planned)


@pytest.mark.parametrize("where", ["weight", "average", "moment"])
def test_nothing_that_is_not_finite_becomes_a_snapshot(where: str, tmp_path: Path):
    state = state_of()
    if where == "weight":
        next(state.nets.D.parameters()).data[0] = float("nan")
    elif where == "average":
        next(state.ema.parameters()).data[0] = float("inf")
    else:
        next(iter(state.optimizers["G"].state.values()))["exp_avg"][0] = float("inf")
    name = {"weight": "D", "average": "G_ema", "moment": "the optimiser"}[where]
    with pytest.raises(DivergedError, match=f"{name} holds NaN or infinity"):
        save(tmp_path, state, 1000)
    assert names(tmp_path) == []
