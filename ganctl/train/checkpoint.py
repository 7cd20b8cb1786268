"""Snapshots: a Bundle with the training state inside, written whole or not at all, checked before it is believed."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganctl.errors import GanctlError, WeightsError, quoted
from ganctl.io.bundle import fill_bundle, read_bundle
from ganctl.io.files import atomic_folder, atomic_write, sha256
from ganctl.io.tensors import load_into, read_tensors, write_tensors
from ganctl.train import optim
from ganctl.train.loop import State, networks


@dataclass(frozen=True)
class Best:
    metric: str
    value: float
    snapshot: str


def name_of(nimg: int) -> str:
    """000512 for 512 kimg; 000512.300 where a run stopped between thousands. Names sort by age."""
    whole, rest = divmod(nimg, 1000)
    return f"{whole:06d}" + (f".{rest:03d}" if rest else "")


def snapshots(run: Path) -> list[Path]:
    """All snapshots of a run, oldest first."""
    return sorted(p for p in (run / "snapshots").glob("[0-9]*") if (p / "model.json").is_file())


def save(
    run: Path, state: State, *, model: str, config: Mapping[str, Any], card: Mapping[str, Any], best: Best | None
) -> Path:
    """Writes snapshots/<kimg>/: the networks as a Bundle and, under resume/, all that continuing needs."""
    p = state.progress
    nets = networks(state.nets)
    states = {name: net.state_dict() for name, net in nets.items()}
    states = {f"{next(iter(nets))}_ema": state.ema.state_dict(), **states}
    path = run / "snapshots" / name_of(p.nimg)
    with atomic_folder(path) as folder:
        fill_bundle(folder, model=model, config=config, states=states, card=card)
        resume = folder / "resume"
        resume.mkdir()
        if moments := optim.state_of(state.optimizers):
            write_tensors(resume / "optim.safetensors", moments)
        write_tensors(resume / "rng.safetensors", {"rng": p.rng.get_state()})
        hashes = {f.relative_to(folder).as_posix(): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()}
        data = {"nimg": p.nimg, "step": p.step, "best": vars(best) if best else None, "sha256": hashes}
        with atomic_write(resume / "state.json") as f:
            f.write(json.dumps(data, indent=2).encode())
    return path


def newest_whole(run: Path, warn: Callable[[str, str, str], None]) -> Path | None:
    """The newest snapshot whose every file has the bytes that were written; damaged newer ones are named."""
    for path in reversed(snapshots(run)):
        fault = damage(path)
        if fault is None:
            return path
        warn(f"snapshot {quoted(path)} is damaged", fault, "training goes on from the one before")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a snapshot's files, or None."""
    try:
        data = json.loads((path / "resume" / "state.json").read_text())
        for file, expected in data["sha256"].items():
            if not (path / file).is_file():
                return f"{file} is missing"
            if sha256(path / file) != expected:
                return f"{file} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "resume/state.json is missing or unreadable"
    return None


def restore(path: Path, state: State) -> Best | None:
    """Puts a whole snapshot back into a freshly built state. Raises WeightsError if it is another network's."""
    bundle = read_bundle(path)
    nets = networks(state.nets)
    public = next(iter(nets))
    for name, net in {**nets, f"{public}_ema": state.ema}.items():
        load_into(net, bundle.state(name), where=f"{quoted(path)} ({name})", hint="train into another folder with -o")
    moments = path / "resume" / "optim.safetensors"
    optim.restore(state.optimizers, read_tensors(moments) if moments.exists() else {})
    state.progress.rng.set_state(read_tensors(path / "resume" / "rng.safetensors")["rng"].to(torch.uint8))
    data = json.loads((path / "resume" / "state.json").read_text())
    state.progress.nimg, state.progress.step = data["nimg"], data["step"]
    return Best(**data["best"]) if data["best"] else None


def prune(run: Path, keep: int, best: Best | None) -> None:
    """Removes all but the newest `keep` snapshots and the best one. At least two stay while training goes on."""
    for path in snapshots(run)[: -max(keep, 2)]:
        if best is None or path.name != best.snapshot:
            shutil.rmtree(path, ignore_errors=True)


def copy_matching(state: State, weights: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[int, list[str]]:
    """Transfer: tensors of equal name and shape are taken over; the number taken, and the names left new."""
    taken, new = 0, []
    for name, net in networks(state.nets).items():
        own = net.state_dict()
        given = weights.get(name) or weights.get(f"{name}_ema") or {}
        fit = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        new += [f"{name}.{k}" for k in own if k not in fit]
        taken += len(fit)
        net.load_state_dict({**own, **fit})
    if not taken:
        raise WeightsError("cannot start from these weights", "not one tensor has the name and shape of the recipe's")
    state.ema.load_state_dict(next(iter(networks(state.nets).values())).state_dict())
    return taken, new


def check_free(run: Path) -> None:
    """A run folder that cannot be written is found before the first step, not after the first hour."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / ".write-test"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise GanctlError(f"cannot write {quoted(run)}", e.strerror or str(e), "choose another folder with -o") from e
