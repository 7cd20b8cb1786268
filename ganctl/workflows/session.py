"""One process's work on a run: what is written at its begin, at ticks and at snapshots."""

import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl import __version__
from ganctl.config import write_yaml
from ganctl.errors import quoted
from ganctl.io.events import PREFIX, Events
from ganctl.io.files import atomic_write, write_error
from ganctl.io.progress import Reporter
from ganctl.workflows.recipe import Recipe
from ganctl.workflows.report import read_log, write_report
from ganctl.workflows.stopping import duration_text
from ganctl.workflows.watch import Watch, findings

if TYPE_CHECKING:
    from ganctl.data import Dataset
    from ganctl.train.checkpoint import Scores
    from ganctl.train.loop import State, Tick


@dataclass
class Session:
    recipe: Recipe
    run: Path
    state: "State"
    data: "Dataset"
    scores: "Scores"
    reporter: Reporter
    on_tick: Callable[[Mapping[str, Any]], None]
    held: contextlib.ExitStack
    """Keeps other processes off the run until it is closed."""
    tensorboard: bool = False
    """Whether the log is written as an event file too."""
    events: Events | None = None
    """That file, on the first rank, once the run is begun or taken up."""
    real: dict[str, Any] = field(default_factory=dict)
    """Statistics of the training data, by metric."""
    told: set[str] = field(default_factory=set)
    """What was warned of at the last snapshot."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.recipe, self.data)

    def begin(self, device: str, replace: bool) -> None:
        """A new run: recipe.yaml, run.json, reals.png and its first snapshot; an old run is removed before."""
        from ganctl.train import checkpoint, distributed

        if distributed.rank() == 0:
            checkpoint.check_space(self.run, self.state)
            self._measure_real()
            if replace:
                for name in ("snapshots", "samples"):
                    shutil.rmtree(self.run / name, ignore_errors=True)
                pictures = ("reals.png", "codes.png", "points.gif", "gradients.png")
                names = ("log.jsonl", *pictures, "run.json", "report.html")
                for path in (*(self.run / name for name in names), *self.run.glob(f"{PREFIX}*")):
                    path.unlink(missing_ok=True)
            # First: a folder with a recipe.yaml is a run, whatever else it lacks yet.
            with atomic_write(self.run / "recipe.yaml") as f:
                f.write(write_yaml(self.recipe.plain()).encode())
            with atomic_write(self.run / "run.json") as f:
                f.write(json.dumps(self._facts(device), indent=2, ensure_ascii=False).encode())
            from ganctl.workflows.pictures import reals

            reals(self.data, self.run / "reals.png")
            self._tell_again()
            self._draw()
            self._save(planned=True)
        distributed.barrier()

    def go_on(self) -> None:
        """A run that was begun before: what a killed process logged after its last snapshot will be logged again."""
        from ganctl.train import distributed

        if distributed.rank() == 0:
            self._compare_data()
            self._measure_real()
            path = self.run / "log.jsonl"
            kept = []
            for line in path.read_text().splitlines() if path.exists() else []:
                with contextlib.suppress(ValueError):
                    if json.loads(line)["nimg"] <= self.state.progress.nimg:
                        kept.append(line + "\n")
            with atomic_write(path) as f:
                f.write("".join(kept).encode())
            self._tell_again()
        distributed.barrier()

    def _tell_again(self) -> None:
        """Opens the event file, with what the log and the sample grids hold of the time before."""
        if not self.tensorboard:
            return
        from ganctl.train.checkpoint import nimg_of

        grids, now = {}, self.state.progress.nimg
        for path in sorted((self.run / "samples").glob("*.png"), key=lambda path: path.stem):
            if (nimg := nimg_of(path.stem)) is not None and nimg <= now:
                grids[nimg] = path
        self.events = Events(self.run, read_log(self.run / "log.jsonl"), grids)

    def tick(self, tick: "Tick") -> None:
        from ganctl.train.loop import GRADIENT

        terms = {**tick.terms, **self._overfitting(), **self._compared()}
        if self.state.progress.rank:
            return
        left = (self.recipe.train.kimg - tick.nimg / 1000) * tick.sec_per_kimg
        shown = {"kimg": tick.nimg / 1000, "s/kimg": tick.sec_per_kimg, "eta": duration_text(left)}
        names = sorted(terms, key=lambda name: name in ("D_auc", "D_sign"))
        told = {name: terms[name] for name in names if not name.endswith(GRADIENT)}
        used = memory(self.state.progress.device)
        self.on_tick({**shown, **told, **self.scores.metrics, **used})
        pace = {"sec_per_kimg": round(tick.sec_per_kimg, 3), "wait": round(tick.wait, 4)}
        self.log({"step": tick.step, **pace, **terms, **used})

    def _overfitting(self) -> dict[str, float]:
        """D's view of images that were held out. On every rank: networks may talk to each other."""
        if self.data.held is None:
            return {}
        from ganctl.data.loader import as_they_are
        from ganctl.load import family
        from ganctl.train.overfitting import answers, measure

        cfg, held = self.recipe.config, self.data.held
        train, held = (as_they_are(data, len(held), cfg.resolution) for data in (self.data, held))
        module = family(self.recipe.model)
        if hasattr(module, "logits"):
            return measure(self.state, lambda n, b, p: module.logits(n, b, p, cfg), self.recipe.train, train, held)
        return measure(self.state, answers(module.phases(cfg)[0]), self.recipe.train, train, held)

    def _compared(self) -> dict[str, float]:
        """G's gradient by the losses that are to be compared. On every rank, as above."""
        if not (losses := self.recipe.train.compare):
            return {}
        from ganctl.data.loader import as_they_are
        from ganctl.load import family
        from ganctl.train.gradients import measure

        cfg, train = self.recipe.config, self.recipe.train
        phases = {
            loss: family(self.recipe.model).phases(replace(cfg, loss=loss))[-1]
            for loss in dict.fromkeys((*losses, "non_saturating"))
        }
        batch = as_they_are(self.data, min(train.batch, len(self.data)), cfg.resolution)
        return measure(self.state, phases, train, batch)

    def log(self, values: Mapping[str, Any]) -> None:
        """One line of log.jsonl. Raises GanctlError for a full disk."""
        nimg, path = self.state.progress.nimg, self.run / "log.jsonl"
        row = {"nimg": nimg, "kimg": nimg / 1000, "time": round(time.time(), 3), **values}
        try:
            with path.open("a") as f:
                f.write(json.dumps(row) + "\n")
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise write_error(path, e) from e
        if self.events:
            self.events.row(row)

    def snapshot(self) -> None:
        """One of the schedule: a picture of the average's samples, its scores, and everything needed to go on."""
        from ganctl.load import family
        from ganctl.train import checkpoint, distributed

        train, nimg = self.recipe.train, self.state.progress.nimg
        if distributed.rank() == 0:
            checkpoint.check_state(self.state)
            # BigGAN's average has statistics of its own. The next step brings the running ones back.
            if settle := getattr(family(self.recipe.model), "settle", None):
                settle(self.state.ema, self.recipe.config)
            self._draw()
            if seen := self.watch.look(self.state.ema):
                self.log(seen)
            place = int(nimg / (train.snap * 1000))
            if place % train.metric_every == 0 or nimg >= train.kimg * 1000:
                self._score()
            self._save(planned=True)
        distributed.barrier()

    def save_stopped(self) -> None:
        """Training stops between two snapshots of the schedule: saved at once, neither drawn nor scored."""
        from ganctl.train import distributed

        if distributed.rank() == 0:
            self._save(planned=False)
        distributed.barrier()

    def _save(self, *, planned: bool) -> None:
        from ganctl.train import checkpoint

        checkpoint.save(
            self.run,
            self.state,
            model=self.recipe.model,
            config=self.recipe.plain()["config"],
            card={**self.recipe.card, "recipe": self.recipe.name, "kimg": self.state.progress.nimg / 1000},
            scores=self.scores,
            planned=planned,
        )
        if planned:
            checkpoint.prune(self.run, self.recipe.train.keep, self.scores.best)
            found = findings(self.run / "log.jsonl", self.recipe)
            for one in found:
                if one.kind not in self.told:
                    self.reporter.warn(one.words, "", one.hint)
            self.told = {one.kind for one in found}
            write_report(self.run, write_yaml(self.recipe.plain()), found)

    def _draw(self) -> None:
        from ganctl.train.checkpoint import name_of
        from ganctl.workflows.pictures import code_space, gradients, progress_grid
        from ganctl.workflows.plane import animation, frame

        p = self.state.progress
        path = self.run / "samples" / f"{name_of(p.nimg)}.png"
        if losses := self.recipe.train.compare:
            gradients(self.run / "log.jsonl", losses, self.run / "gradients.png")
        if getattr(getattr(self.state.ema, "x", None), "is_point", False):
            frame(self.state.ema, self.state.nets.D, self.data, path, p.device)
            animation(self.run)
        else:
            progress_grid(self.state.ema, self.data, self.recipe, path, p.device)
            code_space(self.state.ema, self.data, self.run / "codes.png", p.device)
        if self.events and path.is_file():
            self.events.grid(p.nimg, path)

    def _score(self) -> None:
        from ganctl.metrics.catalog import METRICS
        from ganctl.train.checkpoint import Best, Scores, name_of
        from ganctl.workflows.pictures import score

        names = self.recipe.train.metrics
        if not names:
            return
        scored = {name: score(name, self.state.ema, self.data, self.recipe, self.real) for name in names}
        found = {part.name: part.value for parts in scored.values() for part in parts}
        self.log(found)
        # Of a metric of two numbers, the first one decides.
        first, best = scored[names[0]][0], self.scores.best
        higher = METRICS[names[0]].higher_is_better
        if best is None or best.metric != first.name or (first.value > best.value) == higher:
            best = Best(first.name, first.value, name_of(self.state.progress.nimg))
        self.scores = Scores(found, best)

    def _measure_real(self) -> None:
        """The real side of every metric: a network that is missing is found now, not after the first hour."""
        from ganctl.metrics.catalog import METRICS
        from ganctl.workflows.pictures import real_side

        for name in self.recipe.train.metrics:
            if METRICS[name].two_sided:
                self.reporter.note(f"measuring the training data for {name}")
            self.real[name] = real_side(name, self.data, self.state.progress.device, self.reporter)

    def _facts(self, device: str) -> dict[str, Any]:
        import torch

        p = self.state.progress
        return {
            "ganctl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "argv": sys.argv[1:],
            "seed": self.recipe.train.seed,
            "device": str(p.device) if device == "auto" else device,
            "gpus": p.world,
            "data": {"path": self.recipe.data.path, "images": len(self.data), "sha256": self.data.fingerprint()},
            "classes": list(self.data.classes),
            "skipped": [{"name": what, "why": why} for what, why in self.data.skipped],
        }

    def _compare_data(self) -> None:
        try:
            then = json.loads((self.run / "run.json").read_text())["data"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if then.get("sha256") != self.data.fingerprint():
            self.reporter.warn(
                f"the data of {quoted(self.run)} have changed",
                f"{then.get('images')} images when it began, {len(self.data)} now, or not the same pixels",
                "it goes on, and is no longer the run that it was",
            )


def memory(device: Any) -> dict[str, float]:
    """The most memory used so far, in GiB: the GPU's, or else this process's."""
    if device.type == "cuda":
        import torch

        return {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    # getrusage's peak would do everywhere, but on Linux a process inherits that of the one that started it.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return {"memory_gib": round(int(status.partition("VmHWM:")[2].split()[0]) / 2**20, 2)}
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_gib": round(peak / (2**30 if sys.platform == "darwin" else 2**20), 2)}
