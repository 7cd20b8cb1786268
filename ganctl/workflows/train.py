"""Train a recipe on data: from the first image to the last snapshot, across kills and restarts."""

import contextlib
import json
import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl import __version__
from ganctl.config import config, read_yaml, write_yaml
from ganctl.errors import DivergedError, InterruptedRun, StoppedError, UsageError, quoted
from ganctl.io.files import atomic_write
from ganctl.io.progress import SILENT, Reporter
from ganctl.workflows.recipe import Recipe, resolve, structural_change

if TYPE_CHECKING:
    from ganctl.data import Dataset
    from ganctl.train.checkpoint import Best
    from ganctl.train.loop import State, Tick

OnTick = Callable[[Mapping[str, Any]], None]


@config
class TrainRequest:
    recipe: str
    data: str | None = None
    outdir: str | None = None
    """The run's folder; None: runs/<recipe>."""
    changes: dict[str, Any]
    """Named flags as `section.key: value`."""
    settings: tuple[str, ...] = ()
    """--set key=value."""
    device: str = "auto"
    workers: int = 4
    resume: bool = True
    init_from: str | None = None
    max_seconds: float | None = None
    estimate: bool = False


@config
class TrainReport:
    run: str
    snapshot: str
    nimg: int
    metrics: dict[str, float]
    seconds: float


def check(request: TrainRequest) -> tuple[Recipe, Path]:
    """The recipe with every number, and where the run goes. Raises UsageError before anything is touched."""
    recipe = resolve(request.recipe, {"data.path": request.data, **request.changes}, request.settings)
    if request.outdir:
        run = Path(request.outdir)
    elif (Path(request.recipe) / "recipe.yaml").is_file():
        run = Path(request.recipe)
    else:
        run = Path("runs") / recipe.name
    old = run / "recipe.yaml"
    if old.is_file() and not request.estimate:
        if not request.resume:
            raise UsageError(f"{quoted(run)} holds a run already", "--resume never begins anew", "choose another -o")
        change = structural_change(read_yaml(old, where=f"recipe {quoted(old)}").value, recipe.plain())
        if change:
            raise UsageError(
                f"cannot go on with {quoted(run)}",
                f"the recipe has changed: {change}",
                "train into another folder with -o, or give the run's own settings",
            )
    return recipe, run


def run(request: TrainRequest, reporter: Reporter = SILENT, on_tick: OnTick = lambda _: None) -> TrainReport | None:
    """Trains, or goes on training. Results: one object with the final snapshot (or the estimate).

    Raises DivergedError (6), StoppedError (75), InterruptedRun (130), after saving.
    """
    recipe, folder = check(request)
    from ganctl.load import pick_device
    from ganctl.train import distributed

    device = distributed.join(pick_device(request.device))
    try:
        if request.estimate:
            estimate(recipe, request, device, reporter)
            return None
        return _train(recipe, folder, request, device, reporter, on_tick)
    finally:
        distributed.leave()


def _train(
    recipe: Recipe, run: Path, request: TrainRequest, device: Any, reporter: Reporter, on_tick: OnTick
) -> TrainReport:
    from ganctl.train import checkpoint, distributed

    begun = time.monotonic()
    chief = distributed.rank() == 0
    if chief:
        checkpoint.check_free(run)
    data = open_data(recipe, request.workers, reporter)
    state = new_state(recipe, device)
    best = None
    found = checkpoint.newest_whole(run, reporter.warn)
    if found:
        best = checkpoint.restore(found, state)
    elif request.init_from:
        _transfer(request.init_from, state, recipe, reporter)
    session = _Session(recipe, run, state, data, best, reporter, on_tick)
    if chief and found is None:
        session.begin(request)
    elif chief:
        # What a killed process logged after its last snapshot will be logged again.
        session.trim_log()
    distributed.barrier()
    if found is None:
        session.snapshot()
    _fit(session, request)
    if not chief:
        return TrainReport(run=str(run), snapshot="", nimg=0, metrics={}, seconds=0)
    report = TrainReport(
        run=str(run),
        snapshot=str(checkpoint.snapshots(run)[-1]),
        nimg=state.progress.nimg,
        metrics=session.metrics,
        seconds=round(time.monotonic() - begun, 3),
    )
    reporter.result({"path": report.snapshot, **vars(report)})
    return report


def _fit(session: "_Session", request: TrainRequest) -> None:
    from ganctl.data.loader import batches
    from ganctl.train.loop import fit

    p, recipe = session.state.progress, session.recipe
    stream = batches(
        session.data,
        recipe.data,
        size=recipe.train.batch,
        resolution=recipe.config.resolution,
        seed=recipe.train.seed,
        start=p.nimg,
        rank=p.rank,
        world=p.world,
    )
    from ganctl.load import family

    phases = family(recipe.model).phases(recipe.config)
    resume = f"run the same command again, or: ganctl train {session.run}"
    with _signals(request.max_seconds) as stop:
        try:
            finished = fit(
                session.state,
                phases,
                stream,
                recipe.train,
                on_tick=session.tick,
                on_snapshot=session.snapshot,
                stop=lambda: bool(stop),
            )
        except DivergedError as e:
            from ganctl.train.checkpoint import snapshots

            good = snapshots(session.run)
            hint = f"the last good snapshot is {good[-1]}; try a lower learning rate (--glr, --dlr)"
            raise DivergedError(e.what, e.why, hint) from e
    if not finished:
        where = f"training stopped at {p.nimg / 1000:g} of {recipe.train.kimg:g} kimg"
        if stop[0] == "Ctrl-C":
            raise InterruptedRun(where, "Ctrl-C; a snapshot was saved", resume)
        raise StoppedError(where, f"{stop[0]}; a snapshot was saved", resume)


def open_data(recipe: Recipe, workers: int, reporter: Reporter) -> "Dataset":
    """The recipe's data as its model takes it; unreadable images are warned of."""
    from ganctl.data import open_dataset
    from ganctl.load import family, public_net

    cfg = recipe.config
    data = open_dataset(
        recipe.data,
        resolution=cfg.resolution,
        channels=cfg.channels,
        source_channels=getattr(cfg, "source_channels", None),
        labels=public_net(family(recipe.model)) == "C",
        workers=workers,
        on_progress=reporter.progress,
    )
    if data.skipped:
        first = "; ".join(f"{what}: {why}" for what, why in data.skipped[:5])
        reporter.warn(f"{len(data.skipped)} images were skipped", first, "all are listed in the run's run.json")
    return data


def new_state(recipe: Recipe, device: Any) -> "State":
    """Networks from the recipe's seed, their average, their optimisers; nothing seen yet."""
    import copy

    import torch

    from ganctl.load import family
    from ganctl.phase import Progress
    from ganctl.train import distributed, optim
    from ganctl.train.loop import State, networks

    module = family(recipe.model)
    world = distributed.world()
    if recipe.train.batch % world or (recipe.train.batch // world) % (recipe.train.batch_gpu or 1):
        raise UsageError(
            f"cannot share a batch of {recipe.train.batch} among {world} GPUs",
            f"batch_gpu is {recipe.train.batch_gpu}",
            "choose --batch as a multiple of GPUs x --batch-gpu",
        )
    torch.manual_seed(recipe.train.seed)
    nets = module.build(recipe.config)
    for net in networks(nets).values():
        net.train().to(device)
    average = copy.deepcopy(next(iter(networks(nets).values()))).eval().requires_grad_(False)
    specs = module.optimizers(recipe.config)
    optimizers = {name: optim.make(spec, getattr(nets, name)) for name, spec in specs.items()}
    rng = torch.Generator().manual_seed(recipe.train.seed)
    return State(nets, average, optimizers, Progress(0, 0, rng, device, distributed.rank(), world))


def _transfer(reference: str, state: "State", recipe: Recipe, reporter: Reporter) -> None:
    from ganctl.load import open_bundle
    from ganctl.train import checkpoint

    bundle, _ = open_bundle(reference, reporter=reporter)
    if bundle.model != recipe.model:
        raise UsageError(
            f"cannot start {recipe.model} from {quoted(reference)}",
            f"it is a {bundle.model}",
            "choose weights of the same family",
        )
    taken, new = checkpoint.copy_matching(state, {net: bundle.state(net) for net in bundle.nets})
    listed = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
    reporter.warn(f"started from {quoted(reference)}", f"{taken} tensors loaded, new: {listed or 'none'}", "")


class _Session:
    """One process's work on a run: what happens at its begin, at ticks and at snapshots."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        state: "State",
        data: "Dataset",
        best: "Best | None",
        reporter: Reporter,
        on_tick: OnTick,
    ) -> None:
        self.recipe, self.run, self.state, self.data = recipe, run, state, data
        self.best, self.reporter, self.on_tick = best, reporter, on_tick
        self.metrics: dict[str, float] = {}
        self.real: dict[str, Any] = {}

    def begin(self, request: TrainRequest) -> None:
        """recipe.yaml, run.json and reals.png of a new run."""
        import torch

        from ganctl.workflows.pictures import reals

        facts = {
            "ganctl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "argv": sys.argv[1:],
            "seed": self.recipe.train.seed,
            "device": str(self.state.progress.device),
            "gpus": self.state.progress.world,
            "data": {"path": self.recipe.data.path, "images": len(self.data), "sha256": self.data.fingerprint()},
            "classes": list(self.data.classes),
            "skipped": [{"name": what, "why": why} for what, why in self.data.skipped],
        }
        with atomic_write(self.run / "run.json") as f:
            f.write(json.dumps(facts, indent=2, ensure_ascii=False).encode())
        reals(self.data, self.run / "reals.png")
        with atomic_write(self.run / "recipe.yaml") as f:
            f.write(write_yaml(self.recipe.plain()).encode())

    def trim_log(self) -> None:
        path = self.run / "log.jsonl"
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                if json.loads(line)["nimg"] <= self.state.progress.nimg:
                    kept.append(line + "\n")
        with atomic_write(path) as f:
            f.write("".join(kept).encode())

    def tick(self, tick: "Tick") -> None:
        if self.state.progress.rank:
            return
        left = (self.recipe.train.kimg - tick.nimg / 1000) * tick.sec_per_kimg
        shown = {"kimg": tick.nimg / 1000, "s/kimg": tick.sec_per_kimg, "eta": _duration(left)}
        self.on_tick({**shown, **tick.terms, **self.metrics, **_memory(self.state.progress.device)})
        self.log({"step": tick.step, "sec_per_kimg": round(tick.sec_per_kimg, 3), **tick.terms})

    def log(self, values: Mapping[str, Any]) -> None:
        nimg = self.state.progress.nimg
        line = json.dumps({"nimg": nimg, "kimg": nimg / 1000, "time": round(time.time(), 3), **values})
        with (self.run / "log.jsonl").open("a") as f:
            f.write(line + "\n")

    def snapshot(self) -> None:
        """A picture of the average's samples, its scores, and everything needed to go on."""
        from ganctl.train import checkpoint, distributed
        from ganctl.workflows.pictures import progress_grid

        if distributed.rank() == 0:
            p = self.state.progress
            name = checkpoint.name_of(p.nimg)
            progress_grid(self.state.ema, self.data, self.recipe, self.run / "samples" / f"{name}.png", p.device)
            if p.nimg:
                self.score(name)
            checkpoint.save(
                self.run,
                self.state,
                model=self.recipe.model,
                config=self.recipe.plain()["config"],
                card={**self.recipe.card, "recipe": self.recipe.name, "kimg": p.nimg / 1000},
                best=self.best,
            )
            checkpoint.prune(self.run, self.recipe.train.keep, self.best)
        distributed.barrier()

    def score(self, name: str) -> None:
        from ganctl.train.checkpoint import Best
        from ganctl.workflows.pictures import score

        for metric in self.recipe.train.metrics:
            self.metrics[metric] = score(metric, self.state.ema, self.data, self.recipe, self.real)
        if self.metrics:
            self.log(self.metrics)
            first = self.recipe.train.metrics[0]
            value = self.metrics[first]
            if self.best is None or self.best.metric != first or value < self.best.value:
                self.best = Best(first, value, name)


@contextlib.contextmanager
def _signals(max_seconds: float | None) -> Iterator[list[str]]:
    """A list that is empty until an end is asked for, and then holds the reason. A second Ctrl-C ends at once."""
    reasons: list[str] = []

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and reasons:
            raise KeyboardInterrupt
        reasons.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    def late(number: int, frame: object) -> None:
        reasons.append("--max-time is over")

    wanted = {signal.SIGINT: ask, signal.SIGTERM: ask}
    if hasattr(signal, "SIGUSR1"):
        wanted[signal.SIGUSR1] = ask
    if max_seconds is not None:
        wanted[signal.SIGALRM] = late
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    if max_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, max(max_seconds, 1e-3))
    try:
        yield reasons
    finally:
        if max_seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def estimate(recipe: Recipe, request: TrainRequest, device: Any, reporter: Reporter) -> None:
    """Runs a few steps without writing anything: seconds per kimg, memory, time to the end."""
    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train.loop import train_step

    data = open_data(recipe, request.workers, reporter)
    state = new_state(recipe, device)
    cfg = recipe.train
    size = recipe.config.resolution
    stream = batches(data, recipe.data, size=cfg.batch, resolution=size, seed=cfg.seed)
    phases = family(recipe.model).phases(recipe.config)
    train_step(state, phases, stream, cfg)
    begun, first = time.monotonic(), state.progress.nimg
    for _ in range(200):
        train_step(state, phases, stream, cfg)
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        if time.monotonic() - begun > 10:
            break
    rate = (time.monotonic() - begun) / (state.progress.nimg - first) * 1000
    seconds = rate * cfg.kimg
    reporter.result(
        {
            "sec_per_kimg": round(rate, 3),
            "seconds": round(seconds, 1),
            "eta": _duration(seconds),
            "kimg": cfg.kimg,
            **_memory(device),
        }
    )


def _memory(device: Any) -> dict[str, float]:
    if device.type == "cuda":
        import torch

        return {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_gib": round(peak / (2**30 if sys.platform == "darwin" else 2**20), 2)}


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h {m:02d}m" if hours else f"{m}m {s:02d}s"


def parse_duration(text: str) -> float:
    """Seconds of `23h50m`, `90m`, `45s` or a bare number of seconds. Raises UsageError."""
    import re

    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise UsageError(f"cannot read the duration {quoted(text)}", "write it as 23h50m, 90m or 45s")
    return sum(float(a) * units[b] for a, b in parts)
