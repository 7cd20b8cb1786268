"""The zoo's verbs: list, info, pull, path, verify, rm. Only verify needs torch."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ganctl import catalog
from ganctl.catalog import TASKS, ZooEntry
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, UsageError, WeightsError, did_you_mean, quoted
from ganctl.io import hub
from ganctl.io.bundle import Bundle, is_bundle, read_bundle
from ganctl.io.progress import SILENT, Reporter

CHECK_TOLERANCE = 2e-3
"""Of the mean and deviation of a seed-0 picture, in units of the network's range: rounding differs between machines."""

NO_METRICS = ("vgg19-imagenet", "adain-vgg-normalised")
"""Feature networks of losses and of other models, which no metric reads."""


@config
class ListRequest:
    pattern: str = ""
    """A shell pattern, or a part of the name."""
    task: str = ""
    license: str = ""
    cached: bool = False


@config
class NameRequest:
    name: str


@config
class PullRequest:
    names: tuple[str, ...] = ()
    all: bool = False
    task: str = ""
    """Every entry of a task."""
    metrics: bool = False
    """The networks that `ganctl fid` computes features with."""


@config
class VerifyRequest:
    names: tuple[str, ...] = ()
    """Empty: every entry that is on this machine."""


@config
class RemoveRequest:
    names: tuple[str, ...]
    yes: bool = False


def list_models(request: ListRequest, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """The zoo's entries that match, one row each. Reads no weights and makes no request."""
    if request.task:
        _task(request.task)
    rows = [_row(e, reporter) for e in catalog.entries().values() if _matches(e, request)]
    rows = [found for found in rows if found["cached"] or not request.cached]
    for found in rows:
        reporter.result(found)
    if not rows:
        reporter.note("no entry matches")
    return rows


def _row(entry: ZooEntry, reporter: Reporter) -> dict[str, Any]:
    """One damaged bundle must not hide the rest of the zoo."""
    try:
        return row(entry)
    except WeightsError as e:
        reporter.warn(f"{entry.name} is damaged", e.message, f"ganctl zoo verify {entry.name}")
        return row(entry, here=False)


def _task(task: str) -> str:
    """An entry's task. Any sampler can be inverted by optimisation. Raises UsageError with the nearest."""
    known = (*TASKS, "invert")
    if task not in known:
        near = did_you_mean(task, known)
        raise UsageError(f"unknown --task {quoted(task)}", f"known: {', '.join(known)}", near)
    return "sample" if task == "invert" else task


def _matches(entry: ZooEntry, request: ListRequest) -> bool:
    return (
        entry.task == (_task(request.task) if request.task else entry.task)
        and (not request.license or request.license.lower() == str(entry.card.get("license")).lower())
        and (request.pattern in entry.name or fnmatch.fnmatchcase(entry.name, request.pattern))
    )


def row(entry: ZooEntry, *, here: bool = True) -> dict[str, Any]:
    """What `zoo list --json` tells of an entry; None where nobody knows. `here` false: as if it was never pulled."""
    bundle = local_bundle(entry) if here else None
    card = {**(bundle.card if bundle else {}), **entry.card}
    cfg = {**(bundle.config if bundle else {}), **entry.config}
    return {
        "name": entry.name,
        "task": entry.task,
        "model": entry.model,
        "resolution": card.get("resolution") or cfg.get("resolution"),
        "classes": card.get("classes") or cfg.get("classes"),
        "license": card.get("license"),
        "noncommercial": bool(card.get("noncommercial", False)),
        "bytes": _bytes(entry, bundle),
        "builtin": bool(entry.builtin),
        "cached": bundle is not None,
        "hash": _pin(entry)[1] or None,
        "metrics": card.get("metrics", {}),
        "measured": card.get("measured", {}),
    }


def local_bundle(entry: ZooEntry) -> Bundle | None:
    """The entry's bundle when it is on this machine, unverified; None otherwise. Makes no request."""
    from ganctl.load import builtin_path

    folder = builtin_path(entry)
    if entry.builtin and is_bundle(folder):
        return read_bundle(folder)
    if entry.hub:
        pointer = hub.hub_pointer(entry.hub)
        nets = {entry.hub.net: pointer.name}
        return Bundle(pointer.parent, entry.model, entry.config, nets, entry.card) if pointer.is_file() else None
    if entry.upstream and is_bundle(hub.upstream_bundle(entry)):
        return read_bundle(hub.upstream_bundle(entry))
    return None


def _bytes(entry: ZooEntry, bundle: Bundle | None) -> int | None:
    if entry.hub:
        return entry.hub.bytes
    if entry.upstream:
        return entry.upstream.bytes or None
    return sum(f.stat().st_size for f in _files(bundle)) if bundle else None


def _files(bundle: Bundle) -> list[Path]:
    return [p for p in (bundle.path / name for name in bundle.nets.values()) if p.is_file()]


def info(request: NameRequest, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Everything known of one entry: card, source, revision, sha256, where it lies. Makes no request."""
    entry = catalog.entry(request.name)
    bundle = local_bundle(entry)
    facts = {
        **row(entry),
        "source": _source(entry),
        "revision": _revision(entry, bundle),
        "sha256": _pin(entry)[0] or (hub.file_digest(_files(bundle)[0]) if bundle and _files(bundle) else None),
        "path": str(bundle.path) if bundle else None,
        "cite": _citation(entry),
        "config": {**(bundle.config if bundle else {}), **entry.config},
    }
    for key, value in {**(bundle.card if bundle else {}), **entry.card}.items():
        facts.setdefault(key, value)
    reporter.result(facts)
    return facts


def _citation(entry: ZooEntry) -> str | None:
    """The paper of an entry as its family's file cites it; None where the entry names another one, or none."""
    import ast

    file, paper = Path(__file__).parents[1] / "models" / f"{entry.model}.py", entry.card.get("paper")
    if not paper or not file.is_file():
        return None
    first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return first.partition(": ")[2] if paper in first else None


def _source(entry: ZooEntry) -> str:
    if entry.builtin:
        return "built into ganctl"
    if entry.hub:
        return f"{entry.hub.repo}@{entry.hub.revision}/{entry.hub.file}"
    return entry.upstream.url if entry.upstream else ""


def _pin(entry: ZooEntry) -> tuple[str, str]:
    """(sha256 of the file in use or its beginning, how it is known); a built-in file may have none."""
    digest = entry.builtin_sha256 if entry.builtin else entry.hub.sha256 if entry.hub else ""
    if entry.upstream and not entry.hub and not entry.builtin:
        return hub.pin(entry.upstream)
    return digest, "published" if digest else ""


def _revision(entry: ZooEntry, bundle: Bundle | None) -> str | None:
    from ganctl.load import digest

    if entry.hub and not entry.builtin:
        return entry.hub.revision
    return digest(bundle) if bundle else None


def pull(request: PullRequest, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """Brings models to this machine, each hash-checked. One that fails does not stop the others.

    Raises the error itself when one was asked for, PartialError when some of several failed.
    """
    names = list(dict.fromkeys(request.names))
    if request.all:
        names = catalog.names()
    if request.task:
        names += [e.name for e in catalog.entries().values() if e.task == _task(request.task) and e.name not in names]
    if request.metrics:
        names += [n for n in catalog.names("features") if n not in (*names, *NO_METRICS)]
    if not names:
        why = f"the zoo has nothing to {request.task}" if request.task else "no name is given"
        raise UsageError("nothing to pull", why, "ganctl zoo pull NAME, --task TASK, --metrics or --all")
    for name in names:
        catalog.check_name(name)
    return _each(names, lambda name: _pull_one(name, reporter), reporter)


def _pull_one(name: str, reporter: Reporter) -> dict[str, Any]:
    from ganctl.load import open_bundle

    entry = catalog.entries().get(catalog.split_revision(name)[0])
    before = entry is not None and local_bundle(entry) is not None
    if entry and entry.card.get("noncommercial"):
        licence = entry.card.get("license")
        reporter.warn(f"{name} is for non-commercial use only", f"its licence is {licence}", f"ganctl zoo info {name}")
    bundle, revision = open_bundle(name, reporter=reporter)
    size = sum(f.stat().st_size for f in _files(bundle))
    status = "cached" if before else "pulled"
    return {"name": name, "path": str(bundle.path), "revision": revision, "bytes": size, "status": status}


def _each(names: Iterable[str], work: Any, reporter: Reporter) -> list[dict[str, Any]]:
    """Works through names, reports each, and raises at the end when some failed."""
    names, results, faults = list(names), [], []
    for name in names:
        try:
            result = work(name)
        except GanctlError as e:
            if len(names) == 1:
                raise
            faults.append(e)
            result = {"name": name, "input": name, "status": "failed", "error": e.message}
        reporter.result(result)
        results.append(result)
    if faults and len(faults) == len(names):
        raise faults[0]
    if faults:
        raise PartialError(f"{len(faults)} of {len(names)} models failed", "the others are done", "run it again")
    return results


def path(request: NameRequest, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Where a model's weights lie: the file, or the folder of a bundle of several. Raises WeightsError if not here."""
    entry = catalog.entry(request.name)
    bundle = local_bundle(entry)
    if bundle is None or not _files(bundle):
        raise WeightsError(
            f"{entry.name} is not on this machine", "it was never pulled", f"ganctl zoo pull {entry.name}"
        )
    files = _files(bundle)
    found = {"name": entry.name, "path": str(files[0] if len(files) == 1 else bundle.path)}
    reporter.result(found)
    return found


def verify(request: VerifyRequest, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """Reads every byte again, compares the sha256, and the mean and deviation of a seed-0 picture with the card's.

    Raises WeightsError when the only one differs, PartialError when some do.
    """
    for name in request.names:
        catalog.entry(name)
    every = [e.name for e in catalog.entries().values() if local_bundle(e) is not None]
    names = list(dict.fromkeys(request.names)) or every
    return _each(names, _verify_one, reporter)


def _verify_one(name: str) -> dict[str, Any]:
    entry = catalog.entry(name)
    bundle = local_bundle(entry)
    if bundle is None:
        raise WeightsError(f"{name} is not on this machine", "it was never pulled", f"ganctl zoo pull {name}")
    file, found = _hashed(entry, bundle)
    checks, card = fingerprint(bundle), {**bundle.card, **entry.card}
    for key, value in card.get("checks", {}).items():
        if key not in checks or not abs(checks[key] - value) <= CHECK_TOLERANCE:
            raise WeightsError(
                f"{name} does not draw what it should",
                f"{key} of its seed-0 picture is {checks.get(key)}, the card says {value}",
                "run it with another --device or PyTorch; if it stays, report it",
            )
    how = _pin(entry)[1]
    return {
        "name": name,
        "path": str(file),
        "sha256": found,
        "pinned": bool(how),
        "hash": how or None,
        "revision": _revision(entry, bundle),
        "checks": checks,
        "checked": sorted(card.get("checks", {})),
        "status": "ok",
    }


def _hashed(entry: ZooEntry, bundle: Bundle) -> tuple[Path, str]:
    """The pinned file and the sha256 of its bytes, read anew. Raises WeightsError when it is not the zoo's."""
    from ganctl.io.files import sha256
    from ganctl.load import best_net, weight_file

    if entry.upstream and not entry.hub and not entry.builtin:
        # The pin is of the authors' file, not of the bundle converted from it.
        file = hub.upstream_file(entry.upstream)
    else:
        file = weight_file(bundle, best_net(bundle))
    (pinned, how), found = _pin(entry), sha256(file) if file.is_file() else ""
    if found.startswith(pinned) and found:
        return file, found
    raise WeightsError(
        f"{entry.name} is damaged",
        f"its sha256 is {found}, {'the lock file' if 'first seen' in how else 'the zoo'} says {pinned}"
        if found
        else f"{quoted(file)} is gone",
        "reinstall ganctl" if entry.builtin else f"ganctl zoo rm {entry.name} --yes && ganctl zoo pull {entry.name}",
    )


def fingerprint(bundle: Bundle) -> dict[str, float]:
    """Mean and deviation of what the network makes of seed 0, or of a fixed ramp: {mean, std}, rounded to 6 digits.

    Weights of task `features` belong to no family: their tensors are read and checked, and the result is empty.
    """
    import torch

    from ganctl.load import best_net, model_names, network
    from ganctl.nn.drawing import of_seeds
    from ganctl.protocols import Classifier, Sampler, Translator

    for name in bundle.nets:
        bundle.state(name)
    if bundle.model not in model_names():
        return {}
    net = network(bundle, best_net(bundle))
    with torch.inference_mode():
        if isinstance(net, Sampler):
            out = of_seeds(net, [0], torch.device("cpu"))
        elif isinstance(net, Translator):
            out = net.translate(_ramp(net.source, net.stride), seed=0)
        elif isinstance(net, Classifier):
            out = net.logits(_ramp(net.x, 1))
        else:
            return {}
    if not bool(out.isfinite().all()):
        raise WeightsError(
            f"cannot use bundle {quoted(bundle.path)}", "its seed-0 picture holds NaN or infinity", "report this"
        )
    return {"mean": round(float(out.double().mean()), 6), "std": round(float(out.double().std()), 6)}


def _ramp(image: Any, stride: int) -> Any:
    """A fixed picture [1, C, H, W]: a straight ramp through the whole range."""
    import torch

    side = max(stride, 64)
    h, w = image.size or (side, side)
    low, high = image.range
    return torch.linspace(low, high, image.channels * h * w).reshape(1, image.channels, h, w)


def remove(request: RemoveRequest, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """Removes downloads from this machine. Never asks: without `yes` it is refused. Built-in models stay."""
    import shutil

    found = [catalog.entry(name) for name in dict.fromkeys(request.names)]
    fixed = [e.name for e in found if not (e.hub or e.upstream)]
    if fixed:
        raise UsageError(
            f"cannot remove {', '.join(fixed)}", "built-in models are part of ganctl", "see: ganctl zoo list --cached"
        )
    if not request.yes:
        names = " ".join(e.name for e in found)
        raise UsageError(f"not removing {names}", "it needs --yes", f"ganctl zoo rm {names} --yes")
    results = []
    for entry in found:
        freed = 0
        if entry.hub:
            freed += hub.remove_pointer(hub.hub_pointer(entry.hub))
        if entry.upstream:
            for folder in (hub.upstream_bundle(entry), hub.upstream_file(entry.upstream).parent):
                if folder.is_dir():
                    freed += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                    shutil.rmtree(folder)
        result = {"name": entry.name, "bytes": freed, "status": "removed" if freed else "absent"}
        reporter.result(result)
        results.append(result)
    return results
