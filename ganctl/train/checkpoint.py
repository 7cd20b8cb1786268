"""Snapshots: a Bundle with the training state inside, written whole or not at all, checked before it is believed."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ganctl import catalog
from ganctl.errors import DivergedError, GanctlError, UsageError, WeightsError, quoted
from ganctl.io.bundle import fill_bundle, read_bundle
from ganctl.io.files import TEMPORARY, atomic_folder, atomic_write, sha256, write_error
from ganctl.io.tensors import load_into, read_tensors, write_tensors
from ganctl.train import optim
from ganctl.train.ada import Ada
from ganctl.train.loop import State, networks


@dataclass(frozen=True)
class Best:
    metric: str
    value: float
    snapshot: str


@dataclass(frozen=True)
class Scores:
    """What a run knows of its quality: the newest value of each metric, and the best snapshot by the first one."""

    metrics: dict[str, float] = field(default_factory=dict)
    best: Best | None = None


def name_of(nimg: int) -> str:
    """000512 for 512 kimg; 000512.300 where a run stopped between thousands. Names sort by age."""
    whole, rest = divmod(nimg, 1000)
    return f"{whole:06d}" + (f".{rest:03d}" if rest else "")


def nimg_of(name: str) -> int | None:
    """The opposite of `name_of`; None for any other name."""
    digits = re.fullmatch(r"(\d{6,})(?:\.(\d{3}))?", name, re.ASCII)
    return int(digits[1]) * 1000 + int(digits[2] or 0) if digits else None


def snapshots(run: Path) -> list[Path]:
    """All snapshots of a run, oldest first."""
    return catalog.snapshots(run)[::-1]


def save(
    run: Path,
    state: State,
    *,
    model: str,
    config: Mapping[str, Any],
    card: Mapping[str, Any],
    scores: Scores,
    planned: bool = True,
) -> Path:
    """Writes snapshots/<kimg>/: the networks as a Bundle and, under resume/, all that continuing needs.

    `planned` is False where training was stopped between two snapshots of its schedule. Raises DivergedError when a
    weight or moment is not finite: such a snapshot could not be gone on from.
    """
    check_state(state)
    p = state.progress
    states, moments = _states(state), optim.state_of(state.optimizers)
    path = run / "snapshots" / name_of(p.nimg)
    with atomic_folder(path) as folder:
        fill_bundle(folder, model=model, config=config, states=states, card=card)
        resume = folder / "resume"
        resume.mkdir()
        if moments:
            write_tensors(resume / "optim.safetensors", moments)
        write_tensors(resume / "rng.safetensors", {"rng": p.rng.get_state()})
        hashes = {f.relative_to(folder).as_posix(): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()}
        data = {
            "nimg": p.nimg,
            "step": p.step,
            "planned": planned,
            "ada": vars(state.ada),
            "sums": {name: [float(total), state.counts[name]] for name, total in state.sums.items()},
            "metrics": scores.metrics,
            "best": vars(scores.best) if scores.best else None,
            "sha256": hashes,
        }
        with atomic_write(resume / "state.json") as f:
            f.write(json.dumps(data, indent=2).encode())
    return path


def check_state(state: State) -> None:
    """Raises DivergedError naming the networks, or the optimiser, that hold NaN or infinity."""
    found = {**_states(state), "the optimiser": optim.state_of(state.optimizers)}
    bad = [name for name, tensors in found.items() if not all(t.isfinite().all() for t in tensors.values())]
    if bad:
        kimg = state.progress.nimg / 1000
        raise DivergedError(f"training diverged after {kimg:g} kimg", f"{', '.join(bad)} holds NaN or infinity")


def _states(state: State) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every network that has any, the moving average first."""
    nets = networks(state.nets)
    average = {f"{next(iter(nets))}_ema": state.ema.state_dict()}
    return average | {name: held for name, net in nets.items() if (held := net.state_dict())}


def newest_whole(run: Path, warn: Callable[[str, str, str], None]) -> Path | None:
    """The newest snapshot whose every file has the bytes that were written; damaged newer ones are named.

    None if there is no snapshot at all. Raises WeightsError when there are some and none is whole.
    """
    found = snapshots(run)
    for path in reversed(found):
        fault = damage(path)
        if fault is None:
            return path
        before = "training goes on from the one before" if path != found[0] else ""
        warn(f"snapshot {quoted(path)} is damaged", fault, before)
    if found:
        raise WeightsError(
            f"cannot go on with {quoted(run)}", "none of its snapshots is whole", "train into another folder with -o"
        )
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a snapshot's files, or None."""
    try:
        for file, expected in facts(path)["sha256"].items():
            if not (path / file).is_file():
                return f"{file} is missing"
            if sha256(path / file) != expected:
                return f"{file} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "resume/state.json is missing or unreadable"
    return None


def restore(path: Path, state: State) -> Scores:
    """Puts a whole snapshot back into a freshly built state. Raises WeightsError if it is another network's."""
    bundle = read_bundle(path)
    nets = networks(state.nets)
    public = next(iter(nets))
    for name, net in {**nets, f"{public}_ema": state.ema}.items():
        if net.state_dict():
            hint = "train into another folder with -o"
            load_into(net, bundle.state(name), where=f"{quoted(path)} ({name})", hint=hint)
    moments = path / "resume" / "optim.safetensors"
    optim.restore(state.optimizers, read_tensors(moments) if moments.exists() else {})
    p = state.progress
    p.rng.set_state(read_tensors(path / "resume" / "rng.safetensors")["rng"].to(torch.uint8))
    saved = facts(path)
    p.nimg, p.step = saved["nimg"], saved["step"]
    state.ada = Ada(**saved.get("ada", {}))
    exact = torch.float32 if p.device.type == "mps" else torch.float64
    for name, (total, count) in saved.get("sums", {}).items():
        state.sums[name], state.counts[name] = torch.tensor(total, dtype=exact, device=p.device), count
    return Scores(saved.get("metrics", {}), Best(**saved["best"]) if saved["best"] else None)


def prune(run: Path, keep: int, best: Best | None) -> None:
    """Removes all but the newest `keep` snapshots of the schedule and the best one; at least two stay.

    What a stop saved between them is done with once a newer one is there.
    """
    found = snapshots(run)
    planned = [path for path in found if _planned(path)]
    kept = {*planned[-max(keep, 2) :], found[-1]}
    for path in found:
        if path not in kept and (best is None or path.name != best.snapshot):
            # Renamed first: a kill in the middle must not leave half a snapshot under its name, but a temporary folder,
            # which the next process removes. One that cannot be removed now stays for the next time.
            with contextlib.suppress(OSError):
                doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
                try:
                    path.rename(doomed / path.name)
                finally:
                    shutil.rmtree(doomed, ignore_errors=True)


def copy_matching(
    state: State, weights: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, tuple[list[str], list[str]]]:
    """Transfer: tensors of equal name and shape are taken over. For each network the names taken, and those left new.

    The average begins as the average that is given, else as the network. Raises WeightsError where nothing fits.
    """
    found = {}
    for name, net in networks(state.nets).items():
        if not any(True for _ in net.parameters()):
            continue  # a pool of images holds what another run's networks made
        taken, new = _copy(net, weights.get(name) or weights.get(f"{name}_ema") or {})
        found[name] = (taken, new)
    if not any(taken for taken, _ in found.values()):
        raise WeightsError("cannot start from these weights", "not one tensor has the name and shape of the recipe's")
    public = next(iter(found))
    state.ema.load_state_dict(getattr(state.nets, public).state_dict())
    _copy(state.ema, weights.get(f"{public}_ema", {}))
    return found


def _copy(net: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    own = net.state_dict()
    fit = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    net.load_state_dict({**own, **fit})
    return list(fit), [k for k in own if k not in fit]


def check_space(run: Path, state: State) -> None:
    """Room for two snapshots, found out before the first step. Raises GanctlError."""
    nets = [*networks(state.nets).values(), state.ema]
    weights = sum(t.numel() * t.element_size() for net in nets for t in net.state_dict().values())
    # Adam keeps two moments for every weight.
    need, free = 2 * 3 * weights, shutil.disk_usage(run).free
    if free < need:
        why = f"two snapshots need about {need / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"
        raise GanctlError(f"cannot train into {quoted(run)}", why, "free some space, or choose another disk with -o")


@contextlib.contextmanager
def hold(run: Path) -> Iterator[None]:
    """Makes a run's folder and holds it for this process.

    The system lets go when the process ends, however it ends. File systems without locks are trusted. Raises UsageError
    when another process trains the run, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        fd = os.open(run, os.O_RDONLY)
    except OSError as e:
        raise write_error(run, e) from e
    try:
        _lock(fd, run)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, run: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if isinstance(e, BlockingIOError):
            why = "another process is training it"
            raise UsageError(f"cannot train into {quoted(run)}", why, "wait for it, or choose another -o") from e


def facts(path: Path) -> dict[str, Any]:
    """What resume/state.json of a snapshot says. Raises OSError or ValueError."""
    return json.loads((path / "resume" / "state.json").read_text())


def _planned(path: Path) -> bool:
    try:
        return facts(path).get("planned", True)
    except (OSError, ValueError, AttributeError):
        return True
