"""Train a recipe on data: from the first image to the last snapshot, across kills and restarts."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.config import config
from ganctl.errors import DivergedError, UsageError, did_you_mean, quoted
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.shards import is_there
from ganctl.workflows.recipe import Recipe, find, resolve, structural_change
from ganctl.workflows.stopping import Stop, StopNow, asked_to_stop

if TYPE_CHECKING:
    from torch import nn

    from ganctl.data import Dataset
    from ganctl.train.loop import State
    from ganctl.workflows.session import Session

LOGS = ("jsonl", "tensorboard")
"""What a run's numbers can be written as; log.jsonl always is, because resuming and the report read it."""
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
    """Threads that decode images."""
    tf32: bool = True
    """Whether a GPU may round the factors of products to 10 bits; scores never do."""
    resume: str = "auto"
    """auto: the run goes on; never: it must be new; else a run or snapshot whose exact state a new run begins from."""
    max_seconds: float | None = None
    log: tuple[str, ...] = ()
    """What is written beside log.jsonl: tensorboard."""
    overwrite: bool = False
    """A run of other settings is replaced."""
    estimate: bool = False


@config
class TrainReport:
    run: str
    snapshot: str
    """The newest one."""
    nimg: int
    metrics: dict[str, float]
    seconds: float


@config
class Plan:
    recipe: Recipe
    run: Path
    replace: bool
    """A run of other settings is there and is to go."""


def precheck(request: TrainRequest) -> Path:
    """What can be refused before torch is loaded: names, paths, permissions. Gives the run's folder.

    Raises UsageError.
    """
    name, file = find(request.recipe)
    first, second = request.changes.get("data.path"), request.changes.get("data.path_b")
    if request.data and first:
        why = f"{quoted(request.data)} and {quoted(first)}"
        raise UsageError("two sources of training data", why, "give DATA, --data-a or --data-pairs")
    for path in filter(None, (request.data, first, second)):
        check_path(path)
    if request.workers < 1:
        raise UsageError(f"cannot use --workers {request.workers}", "it must be 1 or more")
    if request.resume not in ("auto", "never") and not Path(request.resume).is_dir():
        raise UsageError(f"cannot resume from {quoted(request.resume)}", "it is no run or snapshot folder")
    check_log(request.log)
    if request.outdir:
        run = Path(request.outdir)
    elif file and file == Path(request.recipe) / "recipe.yaml":
        run = file.parent
    else:
        run = Path("runs") / name
    check_folder(run)
    return run


def check_log(names: tuple[str, ...]) -> None:
    """Raises UsageError for a log that is not known, or whose package is missing."""
    for name in names:
        if name not in LOGS:
            why = f"the logs are {', '.join(LOGS)}"
            raise UsageError(f"cannot log as {quoted(name)}", why, did_you_mean(name, LOGS))
    if "tensorboard" in names:
        from ganctl.io.events import check_tensorboard

        check_tensorboard()


def check_path(path: str) -> None:
    if not path.startswith("toy:") and not is_there(path):
        raise UsageError(f"cannot read {quoted(path)}", "there is no such file or folder")


def check_folder(run: Path) -> None:
    """Whether a run can be written there. Raises UsageError."""
    there = next(p for p in (run, *run.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise UsageError(f"cannot train into {quoted(run)}", f"{quoted(there)} is no folder", "choose another -o")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {quoted(run)}", "permission denied", "choose another place with -o")
    foreign = [name for name in ("run.json", "log.jsonl", "reals.png", "samples", "snapshots") if (run / name).exists()]
    if foreign and not (run / "recipe.yaml").is_file():
        why = f"it holds {', '.join(foreign)} and no recipe.yaml, so it is no run"
        raise UsageError(f"cannot train into {quoted(run)}", why, "choose another -o")


def check(request: TrainRequest) -> Plan:
    """The recipe with every number, and where the run goes. Raises UsageError before anything is touched."""
    run = precheck(request)
    recipe = resolve(request.recipe, {"data.path": request.data, **request.changes}, request.settings)
    if recipe.data.path is None:
        why = "neither DATA nor the recipe's data.path names any"
        raise UsageError("no training data", why, "pass a folder, zip, tars or IDX file")
    for path in filter(None, (recipe.data.path, recipe.data.path_b)):
        check_path(path)
    if request.estimate or not (run / "recipe.yaml").is_file():
        return Plan(recipe=recipe, run=run, replace=False)
    if request.resume == "never":
        if not request.overwrite:
            hint = "choose another -o, or replace it with --overwrite"
            raise UsageError(f"{quoted(run)} holds a run already", "--resume never begins anew", hint)
        return Plan(recipe=recipe, run=run, replace=True)
    # The old recipe is read as a recipe, so that settings newer than the run have their defaults.
    change = structural_change(resolve(str(run / "recipe.yaml"), {}, ()).plain(), recipe.plain())
    if change and not request.overwrite:
        raise UsageError(
            f"cannot go on with {quoted(run)}",
            f"the recipe has changed: {change}",
            "train into another folder with -o, give the run's own settings, or replace it with --overwrite",
        )
    return Plan(recipe=recipe, run=run, replace=change is not None)


def described(request: TrainRequest) -> dict[str, Any]:
    """What would be done, for --dry-run: the run's folder and the recipe with every number."""
    plan = check(request)
    begins = "replaces a run" if plan.replace else "goes on" if (plan.run / "recipe.yaml").is_file() else "anew"
    return {"run": str(plan.run), "begins": begins, **plan.recipe.plain()}


def run(request: TrainRequest, reporter: Reporter = SILENT, on_tick: OnTick = lambda _: None) -> TrainReport | None:
    """Trains, or goes on training. Results: one object with the final snapshot, or the estimate.

    Raises DivergedError (6), StoppedError (75), InterruptedRun (130), after saving.
    """
    begun = time.monotonic()
    with asked_to_stop(request.max_seconds) as stop:
        try:
            return _run(request, stop, reporter, on_tick, begun)
        except StopNow:
            hint = "run the same command again"
            raise stop.error("training stopped before its first step", "nothing new to save", hint) from None


def _run(request: TrainRequest, stop: Stop, reporter: Reporter, on_tick: OnTick, begun: float) -> TrainReport | None:
    plan = check(request)
    from ganctl.load import pick_device
    from ganctl.nn.precision import products
    from ganctl.train import distributed

    if not request.estimate and not plan.replace and (done := _finished(plan, reporter)):
        return done
    with distributed.job(pick_device(request.device)) as device, products(tf32=request.tf32):
        if request.estimate:
            from ganctl.workflows.estimate import estimate

            data, state = open_data(plan.recipe, request.workers, reporter), new_state(plan.recipe, device)
            stop.training = True
            reporter.result(estimate(plan.recipe, data, state, lambda: bool(stop.reason)))
            return None
        session = _open(plan, request, device, reporter, on_tick)
        with session.held:
            _fit(session, stop)
        return _report(session.run, session.state.progress.nimg, session.scores.metrics, begun, reporter)


def _finished(plan: Plan, reporter: Reporter) -> TrainReport | None:
    """The report of a run that has nothing left to do, without opening its data."""
    from ganctl.train import checkpoint

    found = checkpoint.newest_whole(plan.run, reporter.warn)
    if found is None:
        return None
    facts = checkpoint.facts(found)
    if facts["nimg"] < round(plan.recipe.train.kimg * 1000):
        return None
    return _report(plan.run, facts["nimg"], facts.get("metrics", {}), time.monotonic(), reporter)


def _report(run: Path, nimg: int, metrics: dict[str, float], begun: float, reporter: Reporter) -> TrainReport:
    from ganctl.train import checkpoint

    snapshot, seconds = str(checkpoint.snapshots(run)[-1]), round(time.monotonic() - begun, 3)
    report = TrainReport(run=str(run), snapshot=snapshot, nimg=nimg, metrics=metrics, seconds=seconds)
    reporter.result(vars(report))
    return report


def _open(plan: Plan, request: TrainRequest, device: Any, reporter: Reporter, on_tick: OnTick) -> "Session":
    """Data, networks and what was trained before, ready for the next step; a new run has its first snapshot."""
    from ganctl.load import family
    from ganctl.nn.precision import computes_in
    from ganctl.train import checkpoint, distributed
    from ganctl.workflows.given import fill, prepare
    from ganctl.workflows.session import Session

    held = contextlib.ExitStack()
    with contextlib.ExitStack() as undo:
        undo.push(held)
        if distributed.rank() == 0:
            held.enter_context(checkpoint.hold(plan.run))
        data, state = open_data(plan.recipe, request.workers, reporter), new_state(plan.recipe, device)
        if plan.recipe.train.dtype == "bf16" and not computes_in("bf16", device) and distributed.rank() == 0:
            what = "training in bf16 takes many times longer here than in fp32"
            reporter.warn(what, "this processor has no such arithmetic", "pass --dtype fp32")
        found = None if plan.replace else checkpoint.newest_whole(plan.run, reporter.warn)
        start, scores = found or _other(request.resume, reporter), checkpoint.Scores()
        fill(family(plan.recipe.model), plan.recipe.config, state, resumed=start is not None, reporter=reporter)
        if start:
            scores = checkpoint.restore(start, state)
        elif plan.recipe.train.init_from:
            transfer(plan.recipe.train.init_from, state, plan.recipe, reporter)
        else:
            prepare(family(plan.recipe.model), plan.recipe, state, data)
        events = "tensorboard" in request.log
        session = Session(plan.recipe, plan.run, state, data, scores, reporter, on_tick, held, events)
        # Nothing is written before every rank has read what is there.
        distributed.barrier()
        if found:
            session.go_on()
        else:
            session.begin(request.device, plan.replace)
        undo.pop_all()
    return session


def _other(resume: str, reporter: Reporter) -> Path | None:
    """The snapshot of another run that this one begins from."""
    from ganctl.train import checkpoint

    if resume in ("auto", "never"):
        return None
    path = Path(resume)
    if (path / "model.json").is_file():
        fault = checkpoint.damage(path)
        if fault:
            raise UsageError(f"cannot resume from {quoted(path)}", fault, "give its run: the one before is taken then")
        return path
    found = checkpoint.newest_whole(path, reporter.warn)
    if found is None:
        raise UsageError(f"cannot resume from {quoted(path)}", "it holds no snapshot", "give a run or a snapshot")
    return found


def _fit(session: "Session", stop: Stop) -> None:
    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train.checkpoint import snapshots
    from ganctl.train.loop import adapted, fit

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
    stop.training = True
    try:
        finished = fit(
            session.state,
            adapted(family(recipe.model).phases(recipe.config), recipe.train),
            stream,
            recipe.train,
            on_tick=session.tick,
            on_snapshot=session.snapshot,
            on_stop=session.save_stopped,
            stop=lambda: bool(stop.reason),
        )
    except DivergedError as e:
        good = snapshots(session.run)[-1]
        rates = " ".join(f"--set {name}=…" for name in ("glr", "dlr", "lr") if hasattr(recipe.config, name))
        hint = f"the last good snapshot is {good}; go on from it more slowly with -o NEW --resume {good} {rates}"
        raise DivergedError(e.what, e.why, hint) from e
    if not finished:
        where = f"training stopped at {p.nimg / 1000:g} of {recipe.train.kimg:g} kimg"
        hint = f"run the same command again, or: ganctl train {session.run}"
        raise stop.error(where, "a snapshot was saved", hint)


def open_data(recipe: Recipe, workers: int, reporter: Reporter) -> "Dataset":
    """The recipe's data as its model takes it; images left out are warned of. Raises UsageError."""
    from ganctl.data import few_labels, held_out, open_dataset
    from ganctl.data.decode import some

    cfg = recipe.config
    classes = getattr(cfg, "classes", None)
    data = open_dataset(
        recipe.data,
        resolution=cfg.resolution,
        channels=cfg.channels,
        source_channels=getattr(cfg, "source_channels", None),
        label_nc=getattr(cfg, "label_nc", None),
        labels=classes is not None,
        workers=workers,
        on_progress=reporter.progress,
    )
    if data.c is not None and classes is not None and data.c.max() >= classes:
        raise UsageError(
            f"{quoted(recipe.data.path)} has {len(data.classes)} classes",
            f"{recipe.model} is set to {classes}",
            f"pass --set classes={len(data.classes)}",
        )
    styles = getattr(cfg, "styles", None)
    if styles is not None and data.y is not None and len(data.y) != styles:
        what = f"{len(data.y)} pictures of styles"
        raise UsageError(what, f"{recipe.model} is set to {styles}", f"pass --set styles={len(data.y)}")
    if data.skipped:
        what = f"{len(data.skipped)} of {len(data) + len(data.skipped)} images in {quoted(recipe.data.path)} left out"
        reporter.warn(what, some(data.skipped), "all are listed in the run's run.json")
    for told in data.notes:
        reporter.note(told)
    if recipe.data.labels is not None:
        return few_labels(data, recipe.data.labels)
    return held_out(data, recipe.data.holdout) if recipe.data.holdout else data


def memory_order(net: "nn.Module", device: Any) -> Any:
    """Channels last on a CPU, whose convolutions are faster so; instance norm's gradient is slower than that gains."""
    import torch

    last = device.type == "cpu" and not any(isinstance(m, torch.nn.InstanceNorm2d) for m in net.modules())
    return torch.channels_last if last else torch.preserve_format


def new_state(recipe: Recipe, device: Any) -> "State":
    """Networks from the recipe's seed, their average, their optimisers; nothing seen yet."""
    import copy

    import torch

    from ganctl.load import family
    from ganctl.phase import Progress
    from ganctl.train import distributed, optim
    from ganctl.train.ada import Ada
    from ganctl.train.loop import State, asked, augmentation, equip, networks, strength, variation

    module = family(recipe.model)
    world = distributed.world()
    if recipe.train.batch % world or (recipe.train.batch // world) % (recipe.train.batch_gpu or 1):
        raise UsageError(
            f"cannot share a batch of {recipe.train.batch} among {world} GPUs",
            f"batch_gpu is {recipe.train.batch_gpu or 'not set'}",
            "choose --batch as a multiple of GPUs x --batch-gpu",
        )
    torch.manual_seed(recipe.train.seed)
    nets = module.build(recipe.config)
    equip(nets, recipe.train, getattr(module, "HEAD", None))
    for net in vars(nets).values():
        if net is not None:
            net.train().to(device, memory_format=memory_order(net, device))
    average = copy.deepcopy(next(iter(networks(nets).values()))).eval().requires_grad_(False)
    # In the order that it is loaded in, so that it draws the same bits.
    average.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    specs = module.optimizers(recipe.config)
    optimizers = {name: optim.make(spec, getattr(nets, name)) for name, spec in specs.items()}
    rng = torch.Generator().manual_seed(recipe.train.seed)
    progress = Progress(0, 0, rng, device, distributed.rank(), world)
    kept = frozen(module, nets, recipe.train.freezed)
    state = State(nets, average, optimizers, progress, Ada(p=strength(recipe.train, 0)), kept, specs=specs)
    progress.augment, progress.vary = augmentation(state, recipe.train), variation(progress, recipe.train)
    progress.asked = asked(recipe.train)
    return state


def frozen(module: Any, nets: Any, count: int) -> list[Any]:
    """The layers of D that keep their weights. Raises UsageError when D has fewer."""
    layers = module.first_layers(nets.D) if count else []
    if count > len(layers):
        raise UsageError(f"cannot freeze {count} layers of D", f"{len(layers)} can be", f"pass --freezed {len(layers)}")
    return layers[:count]


def transfer(reference: str, state: "State", recipe: Recipe, reporter: Reporter) -> None:
    from ganctl.load import family, open_networks
    from ganctl.train import checkpoint

    bundle, states = open_networks(reference, reporter=reporter)
    if bundle.model != recipe.model:
        why = f"it is a {bundle.model}"
        raise UsageError(f"cannot start {recipe.model} from {quoted(reference)}", why, "choose weights of its family")
    if bundle.config.get("resolution") != recipe.plain()["config"].get("resolution"):
        for net in getattr(family(recipe.model), "COUNTED", ()):
            states.pop(net, None)
    found = checkpoint.copy_matching(state, states)
    loaded = ", ".join(f"{len(taken)} tensors of {net}" for net, (taken, _) in found.items() if taken)
    new = [f"{net}.{name}" for net, (taken, left) in found.items() if taken for name in left]
    bare = [net for net, (taken, _) in found.items() if not taken]
    listed = ", ".join([*(f"all of {net}" for net in bare), *new[:5]])
    listed += f" and {len(new) - 5} more" if new[5:] else ""
    reporter.note(f"started from {quoted(reference)}: loaded {loaded}; new: {listed or 'none'}")
    if bare:
        why = f"{', '.join(bare)} begins untrained, and undoes at first what the other has learned"
        reporter.warn(f"{quoted(reference)} brings no {', '.join(bare)} that fits", why, "a run's folder has both")
    if new and (wanted := _settings_of(bundle.config, recipe)):
        reporter.warn(f"{quoted(reference)} has other sizes", f"{len(new)} tensors begin as new", f"pass {wanted}")


def _settings_of(config: Mapping[str, Any], recipe: Recipe) -> str:
    """The --set that give a recipe's networks the shapes of a bundle's, its images and classes apart."""
    from ganctl.config import parse
    from ganctl.load import family, skeleton
    from ganctl.train.loop import networks

    module = family(recipe.model)

    def shapes(cfg: Any) -> Any:
        return [{k: t.shape for k, t in net.state_dict().items()} for net in networks(skeleton(module, cfg)).values()]

    own, plain, found = shapes(recipe.config), recipe.plain()["config"], []
    # Training from coarse to fine, some differ on purpose.
    for key in config.keys() & plain.keys() - {"resolution", "channels", "classes", *getattr(module, "GROWN", ())}:
        if config[key] != plain[key]:
            with contextlib.suppress(UsageError):
                other = parse(module.Config, {**plain, key: config[key]}, where="the bundle's config")
                found += [f"--set {key}={config[key]}"] if shapes(other) != own else []
    return " ".join(sorted(found))
