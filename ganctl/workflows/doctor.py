"""What works on this machine: each part is looked at by using it, and says what is missing and how to get it."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ganctl import __version__, catalog
from ganctl.config import config
from ganctl.errors import DeviceError, GanctlError, UsageError, quoted
from ganctl.io import hub
from ganctl.io.files import cache_root
from ganctl.io.progress import SILENT, Reporter

OK, MISSING, BROKEN = "ok", "missing", "broken"
"""A part that is missing costs a feature; a broken one must be put right."""
HUB_SECONDS = 3.0
LOW_SPACE_BYTES = 1 << 30

Finding = dict[str, Any]


@config
class DoctorRequest:
    device: str = "auto"
    """The device to be used, as --device or GANCTL_DEVICE say."""


def run(request: DoctorRequest, reporter: Reporter = SILENT) -> list[Finding]:
    """One finding per part: {check, status, value, hint}.

    Raises GanctlError at the end when a part is broken, DeviceError when only the device is.
    """
    findings = []
    for check in (_ganctl, _python, _torch, lambda: _device(request.device), _video, _zoo, _builtin, *_caches(), _hub):
        finding = check()
        reporter.result(finding)
        findings.append(finding)
    broken = [f["check"] for f in findings if f["status"] == BROKEN]
    if broken:
        kind = DeviceError if broken == ["device"] else GanctlError
        raise kind("ganctl is not ready on this machine", f"broken: {', '.join(broken)}", "follow the hints above")
    return findings


def _finding(check: str, status: str, value: str, hint: str = "") -> Finding:
    return {"check": check, "status": status, "value": value, "hint": hint}


def _ganctl() -> Finding:
    return _finding("ganctl", OK, f"{__version__} in {Path(__file__).parents[1]}")


def _python() -> Finding:
    return _finding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as e:
        return _finding("torch", BROKEN, f"cannot be imported: {e}", "pip install --force-reinstall torch")
    return _finding("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _device(asked: str) -> Finding:
    """The device that will be used, proved by a small product on it, and the others there are."""
    try:
        import torch

        from ganctl.load import pick_device

        device = pick_device(asked)
        if float(torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum()) != 512:
            return _finding("device", BROKEN, f"{device} computes wrong numbers", "use --device cpu")
    except GanctlError as e:
        return _finding("device", BROKEN, f"{e.what}: {e.why}", "use --device cpu, or unset GANCTL_DEVICE")
    except (ImportError, OSError, RuntimeError) as e:
        cause = (str(e).splitlines() or [""])[0][:200]
        return _finding("device", BROKEN, f"{type(e).__name__}: {cause}", "use --device cpu")
    names = ["cpu"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        info = torch.cuda.get_device_properties(i)
        names.append(f"cuda:{i} ({info.name}, {info.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        names.append("mps")
    return _finding("device", OK, f"{device} will be used; there are: {', '.join(names)}")


def _video() -> Finding:
    from ganctl.io.video import FORMATS

    if importlib.util.find_spec("av") is None:
        return _finding("video", MISSING, "gif and frames only: PyAV is not installed", "pip install 'ganctl[video]'")
    try:
        import av
    except (ImportError, OSError) as e:
        return _finding("video", MISSING, f"gif and frames only: PyAV cannot be imported: {e}", "pip install -U av")
    here = [suffix for suffix, encoder in FORMATS.values() if encoder in av.codecs_available]
    lacks = [f"{encoder} for .{suffix}" for suffix, encoder in FORMATS.values() if encoder not in av.codecs_available]
    value = f"{', '.join(['gif', *here])}, by PyAV {av.__version__}"
    if lacks:
        return _finding("video", MISSING, f"{value}; no encoder {', '.join(lacks)}", "pip install -U av")
    return _finding("video", OK, value)


def _zoo() -> Finding:
    try:
        entries = catalog.entries()
    except UsageError as e:
        first, *others = e.why.split("\n")
        more = f"; and {len(others)} more" if others else ""
        return _finding("zoo", BROKEN, f"{e.what}: {first}{more}", "see every fault: ganctl zoo list")
    from ganctl.workflows.zoo import row

    here = 0
    for entry in entries.values():
        try:
            here += row(entry)["cached"]
        except GanctlError:  # told of by the check of the built-in models, or by zoo verify
            continue
    return _finding("zoo", OK, f"{len(entries)} models, {here} on this machine, from {quoted(catalog.zoo_path())}")


def _builtin() -> Finding:
    """The models inside the package, each loaded."""
    from ganctl.io.bundle import is_bundle
    from ganctl.load import builtin_path, load, open_bundle

    try:
        entries = [e for e in catalog.entries().values() if e.builtin]
    except UsageError:
        return _finding("built-in models", BROKEN, "unknown, for the zoo cannot be read", "see the zoo above")
    absent = [e.name for e in entries if not is_bundle(builtin_path(e))]
    loaded, faults = [], []
    for entry in entries:
        if entry.name in absent:
            continue
        try:
            if entry.task == "features":  # parts of a metric, such as LPIPS's heads: no model of their own
                bundle, _ = open_bundle(entry.name)
                for net in bundle.nets:
                    bundle.state(net)
            else:
                load(entry.name, device="cpu")
            loaded.append(entry.name)
        except (GanctlError, ImportError, OSError) as e:
            faults.append(f"{entry.name}: {' '.join(str(e).split())}")
    if faults:
        return _finding("built-in models", BROKEN, "; ".join(faults), "pip install --force-reinstall ganctl")
    value = ", ".join(loaded) or "none"
    if absent:
        hint = "pip install --force-reinstall ganctl"
        return _finding("built-in models", MISSING, f"{value}; not in this copy: {', '.join(absent)}", hint)
    return _finding("built-in models", OK, value)


def _caches() -> Iterator[Callable[[], Finding]]:
    yield lambda: _cache("Hub cache", hub.hub_cache(), "HF_HOME or HF_HUB_CACHE")
    yield lambda: _cache("ganctl cache", cache_root(), "GANCTL_CACHE")


def _cache(check: str, folder: Path, variable: str) -> Finding:
    there = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    hint = f"set {variable} to a folder that can be written"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return _finding(check, MISSING, f"{quoted(folder)} cannot be written", hint)
    free = shutil.disk_usage(there).free
    value = f"{quoted(folder)}, {free / 1e9:.1f} GB free"
    if free < LOW_SPACE_BYTES:
        return _finding(check, MISSING, value, f"free some space, or {hint}")
    return _finding(check, OK, value)


def _hub() -> Finding:
    """Makes no request when that is forbidden, and waits no longer than HUB_SECONDS."""
    from ganctl.io.network import UnreachableError, offline, ping

    if offline():
        return _finding("Hub", OK, "offline by --offline or HF_HUB_OFFLINE: nothing is asked")
    from huggingface_hub import get_token

    token = "with a token" if get_token() else "without a token"
    try:
        return _finding("Hub", OK, f"{ping(HUB_SECONDS)} answers, {token}")
    except UnreachableError as e:
        hint = "check the connection and the proxy variables; what is on this machine works without"
        return _finding("Hub", MISSING, f"{e.what}: {e.why}", hint)
