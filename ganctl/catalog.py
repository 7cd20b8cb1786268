"""The catalogue of pretrained networks: `zoo.yaml`, read strictly, without torch, numpy or pydantic."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ganctl.config import Located, read_yaml
from ganctl.errors import UsageError, did_you_mean, printable, quoted

TASKS = ("sample", "translate", "classify", "features")
UPSTREAM_FORMATS = ("torch-state-dict", "torch-checkpoint", "nvidia-pickle")
FOREIGN_SUFFIXES = (".pkl", ".pth", ".pt", ".ckpt", ".bin", ".tar")

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,249}")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_FAULTS = 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_PATTERNS = {
    "model": (re.compile(r"[a-z][a-z0-9_]*"), "the name of a model family (lower case letters, digits, _)"),
    "builtin": (NAME, "a name of lower case letters, digits and -"),
    "repo": (REPO, "a Hub repository org/name"),
    "revision": (COMMIT, "a full commit of 40 hex digits (0-9a-f)"),
    "file": (re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors"), "a .safetensors file name without folders"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "a full sha256 of 64 hex digits (0-9a-f)"),
    "prefix": (re.compile(r"[0-9a-f]{7,64}"), "a sha256, or its published beginning of at least 7 hex digits (0-9a-f)"),
    "net": (re.compile(r"[A-Za-z_][\w.]*"), "the name of a network"),
}
_CARD: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "license": str,
    "license_url": str,
    "noncommercial": bool,
    "paper": str,
    "authors": str,
    "source": str,
    "trained_on": str,
    "notes": str,
    "align": str,
    "recipe": str,
    "resolution": int,
    "channels": int,
    "classes": int,
    "trunc": (int, float),
    "metrics": dict,
    "measured": dict,
    "checks": dict,
}

NUMBERS = ("metrics", "measured", "checks")
"""Card fields that map names to numbers: published scores, our own, and the seed-0 checksum."""


@dataclass(frozen=True)
class HubFile:
    """One .safetensors file at one commit of one Hub repository."""

    repo: str
    revision: str
    file: str
    sha256: str
    bytes: int
    net: str
    """The network the file holds; by default the file's stem."""


@dataclass(frozen=True)
class Upstream:
    """The authors' own file, converted once, as data."""

    url: str
    sha256: str
    """Full, or its published beginning, or empty where none was published: the first download is then remembered."""
    format: str
    bytes: int = 0
    net: str = ""
    """Which of a file's networks: its key, parts joined by dots; `G_ema` of an nvidia-pickle. Empty: the one users get,
    or its moving average."""
    beside: str = ""
    """An entry whose file has the rest of this network: `with` in zoo.yaml."""


@dataclass(frozen=True)
class ZooEntry:
    """A pinned, hashed, licensed pointer to weights."""

    name: str
    model: str
    builtin: str = ""
    builtin_sha256: str = ""
    """Of the built-in network's weight file, when it is pinned."""
    hub: HubFile | None = None
    upstream: Upstream | None = None
    config: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.card["task"]


def zoo_path() -> Path:
    """`$GANCTL_ZOO`, or zoo.yaml in the package (a wheel), or at the root of a checkout."""
    given = os.environ.get("GANCTL_ZOO")
    if given:
        return Path(given).expanduser()
    package = Path(__file__).parent
    inside = package / "zoo.yaml"
    return inside if inside.is_file() else package.parent / "zoo.yaml"


def entries(path: Path | None = None) -> dict[str, ZooEntry]:
    """Every entry of the zoo, or of another file, by name, in its order.

    Raises UsageError listing every fault with its line.
    """
    path = path or zoo_path()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as e:
        raise UsageError(f"cannot read zoo {quoted(path)}", e.strerror or str(e), "check --zoo and GANCTL_ZOO") from e
    return _entries(path, stamp)


@lru_cache(maxsize=4)
def _entries(path: Path, _stamp: int) -> dict[str, ZooEntry]:
    where = f"zoo {quoted(path)}"
    faults: list[str] = []
    doc = read_yaml(path, where=where, faults=faults)
    if doc.value is not None and not isinstance(doc.value, dict):
        raise UsageError(f"cannot use {where}", "line 1: it is not a mapping of names to entries", "see docs/zoo.md")
    reader = _Reader(doc, faults)
    found = {name: reader.entry(name, value) for name, value in (doc.value or {}).items()}
    if faults:
        faults.sort(key=lambda f: int(f.removeprefix("line ").partition(":")[0]))
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise UsageError(
            f"cannot use {where}", "\n".join(faults[:MAX_FAULTS] + more), "correct these lines, see docs/zoo.md"
        )
    return {name: entry for name, entry in found.items() if entry is not None}


def names(task: str | None = None) -> list[str]:
    """The names of the zoo, for completion, by its lines alone: reading it strictly would take most of the time that a
    Tab key has. Empty where there is no zoo to read.
    """
    try:
        parts = re.split(r"^([a-z0-9][a-z0-9-]*):", zoo_path().read_text(encoding="utf-8"), flags=re.MULTILINE)
    except (OSError, ValueError):
        return []
    own = task or r"\w+"
    return [n for n, text in zip(parts[1::2], parts[2::2], strict=True) if re.search(rf"\btask:\s*{own}\b", text)]


def entry(name: str) -> ZooEntry:
    """One entry. Raises UsageError with the nearest name."""
    known = entries()
    if name in known:
        return known[name]
    near = did_you_mean(name, known)
    raise UsageError(
        f"unknown model {quoted(name)}",
        "the zoo has no entry of this name" + ("" if "/" in name else ", and there is no such file or folder"),
        f"{near} see: ganctl zoo list".lstrip(),
    )


def split_revision(ref: str) -> tuple[str, str]:
    """`name@revision` as two parts; the revision may be empty."""
    name, at, revision = ref.rpartition("@")
    return (name, revision) if at and name else (ref, "")


def check_name(ref: str) -> None:
    """Refuses what cannot be a MODEL, in milliseconds: an unknown name, a missing path, a pickle.

    Passes zoo names, existing bundles, runs and .safetensors files, and org/repo[@rev] without asking the Hub.
    """
    path = Path(ref).expanduser()
    if not ref.strip():
        raise UsageError("no model given", "the name is empty", "see: ganctl zoo list")
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise UsageError(
            f"cannot use {quoted(ref)} as a model",
            f"{path.suffix} files can hold code, and ganctl runs none from files",
            f"ganctl convert {printable(ref)} -o BUNDLE/",
        )
    if _exists(path):
        if split_revision(ref)[0] not in entries():
            _check_local(path, ref)
        return
    if "://" in ref:
        raise UsageError(f"cannot use {quoted(ref)} as a model", "it is an address", "a model on the Hub is org/repo")
    name, revision = split_revision(ref)
    if ref.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".safetensors":
        raise UsageError(f"no such model {quoted(ref)}", "there is no such file or folder", "see: ganctl zoo list")
    if "/" not in name:
        entry(name)
    elif not REPO.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            f"cannot use {quoted(ref)} as a model",
            "it is no path, and no org/repo[@revision] on the Hub either",
            "see: ganctl zoo list",
        )
    elif revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(
            f"cannot use {quoted(ref)} as a model",
            f"{quoted(revision)} is no branch, tag or commit",
            f"leave it out, or see the branches and commits of {name} on the Hub",
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _check_local(path: Path, ref: str) -> None:
    if path.is_file():
        if path.suffix != ".safetensors" or not (path.parent / "model.json").is_file():
            raise UsageError(
                f"cannot use {quoted(ref)} as a model",
                "it is no .safetensors file with a model.json beside it",
                "give a bundle folder, a run folder, or a name of: ganctl zoo list",
            )
    elif not (path / "model.json").is_file() and not snapshots(path):
        raise UsageError(
            f"cannot use folder {quoted(ref)} as a model",
            "it holds no model.json and no snapshots/",
            "give a bundle folder, a run folder, or a name of: ganctl zoo list",
        )


def snapshots(run: Path) -> list[Path]:
    """A run's whole snapshots, newest first."""
    folder = run / "snapshots"
    if not folder.is_dir():
        return []
    # 000512, or 000512.300 where the batch does not divide a thousand images: names sort by age.
    found = [p for p in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)?", p.name) and (p / "model.json").is_file()]
    return sorted(found, key=lambda p: float(p.name), reverse=True)


class _Reader:
    """Checks entries one by one and collects every fault as 'line N: …'."""

    def __init__(self, doc: Located, faults: list[str]) -> None:
        self.lines, self.faults = doc.lines, faults

    def fault(self, path: tuple[str | int, ...], text: str) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        self.faults.append(f"line {self.lines.get(path, 1)}: {text}")

    def keys(self, path: tuple, value: Any, known: Mapping[str, Any] | tuple, required: tuple[str, ...]) -> dict | None:
        if not isinstance(value, dict):
            self.fault(path, f"{_label(path)} must be a mapping, not {_kind(value)}")
            return None
        for key in value:
            if key not in known:
                near = did_you_mean(key, known) or f"known: {', '.join(known)}"
                self.fault((*path, key), f"{_label(path)} has the unknown key {quoted(key)} ({near})")
        for key in required:
            if key not in value:
                self.fault(path, f"{_label(path)} lacks {quoted(key)}")
        return value

    def text(self, path: tuple, value: Any, pattern: str) -> str:
        regex, meaning = _PATTERNS[pattern]
        if not isinstance(value, str):
            self.fault(path, f"{_label(path)} must be text, not {_kind(value)} {quoted(value)}: put it in quotes")
        elif not regex.fullmatch(value) or ".." in value:
            self.fault(path, f"{_label(path)} must be {meaning}, not {quoted(value[:80])}")
        else:
            return value
        return ""

    def size(self, path: tuple, value: Any) -> int:
        if type(value) is int and value > 0:
            return value
        self.fault(path, f"{quoted('.'.join(path))} must be a positive number of bytes, not {quoted(value)}")
        return 0

    def entry(self, name: str, value: Any) -> ZooEntry | None:
        if not NAME.fullmatch(name):
            self.fault((name,), f"the name {quoted(name)} must be lower case letters, digits and -")
        if self.keys((name,), value, ("model", "config", "weights", "card"), ("model", "weights", "card")) is None:
            return None
        model = self.text((name, "model"), value["model"], "model") if "model" in value else ""
        config = value.get("config", {})
        if not isinstance(config, dict):
            self.fault((name, "config"), f"'{name}.config' must be a mapping, not {_kind(config)}")
            config = {}
        self.plain((name, "config"), config)
        card = self.card((name, "card"), value["card"]) if "card" in value else {}
        weights = self.weights((name, "weights"), value["weights"]) if "weights" in value else {}
        return ZooEntry(name=name, model=model, config=config, card=card, **weights)

    def weights(self, path: tuple, value: Any) -> dict[str, Any]:
        if self.keys(path, value, ("builtin", "sha256", "hub", "upstream"), ()) is None:
            return {}
        out: dict[str, Any] = {}
        if not value.keys() & {"builtin", "hub", "upstream"}:
            self.fault(path, f"{quoted('.'.join(path))} names none of builtin, hub, upstream")
        if "builtin" in value:
            out["builtin"] = self.text((*path, "builtin"), value["builtin"], "builtin")
        if "sha256" in value:
            out["builtin_sha256"] = self.text((*path, "sha256"), value["sha256"], "sha256")
            if "builtin" not in value:
                self.fault((*path, "sha256"), f"{quoted('.'.join(path))} has a sha256 of its own without builtin")
        if "hub" in value:
            out["hub"] = self.hub((*path, "hub"), value["hub"])
        if "upstream" in value:
            out["upstream"] = self.upstream((*path, "upstream"), value["upstream"])
        return out

    def hub(self, path: tuple, value: Any) -> HubFile | None:
        required = ("repo", "revision", "file", "sha256", "bytes")
        if self.keys(path, value, (*required, "net"), required) is None:
            return None
        got = {k: self.text((*path, k), value.get(k), k) for k in required[:4] if k in value}
        size = self.size((*path, "bytes"), value["bytes"]) if "bytes" in value else 0
        file = got.get("file", "")
        net = self.text((*path, "net"), value["net"], "net") if "net" in value else file.removesuffix(".safetensors")
        if "--" in got.get("repo", ""):
            self.fault((*path, "repo"), f"'{'.'.join(path)}.repo' must not contain --")
        return HubFile(got.get("repo", ""), got.get("revision", ""), file, got.get("sha256", ""), size, net)

    def upstream(self, path: tuple, value: Any) -> Upstream | None:
        if self.keys(path, value, ("url", "sha256", "format", "bytes", "net", "with"), ("url", "format")) is None:
            return None
        url, form = value.get("url"), value.get("format")
        if "url" in value and (why := url_fault(url)):
            self.fault((*path, "url"), f"'{'.'.join(path)}.url' {why}")
        if "format" in value and form not in UPSTREAM_FORMATS:
            self.fault((*path, "format"), f"unknown format {quoted(form)}; known: {', '.join(UPSTREAM_FORMATS)}")
        digest = self.text((*path, "sha256"), value["sha256"], "prefix") if "sha256" in value else ""
        size = self.size((*path, "bytes"), value["bytes"]) if "bytes" in value else 0
        net = self.text((*path, "net"), value["net"], "net") if "net" in value else ""
        beside = self.text((*path, "with"), value["with"], "builtin") if "with" in value else ""
        return Upstream(str(url), digest, str(form), size, net, beside)

    def card(self, path: tuple, value: Any) -> dict[str, Any]:
        if self.keys(path, value, _CARD, ("task", "license")) is None:
            return {"task": ""}
        for key, item in value.items():
            kind = _CARD.get(key, object)
            if not isinstance(item, kind) or (isinstance(item, bool) and kind not in (bool, object)):
                wanted = _kind_name(kind)
                quotes = ": put it in quotes" if wanted == "text" else ""
                self.fault((*path, key), f"'{'.'.join(path)}.{key}' must be {wanted}, not {_kind(item)}{quotes}")
            elif isinstance(item, str) and not item.strip():
                self.fault((*path, key), f"'{'.'.join(path)}.{key}' is empty")
            elif isinstance(item, int) and kind is int and item < 1:
                self.fault((*path, key), f"'{'.'.join(path)}.{key}' must be 1 or more, not {item}")
            else:
                self.plain((*path, key), item)
        if isinstance(value.get("task"), str) and value["task"] not in TASKS:
            self.fault((*path, "task"), f"unknown task {quoted(value['task'])}; known: {', '.join(TASKS)}")
        for group in NUMBERS:
            numbers = value.get(group)
            for key, number in numbers.items() if isinstance(numbers, dict) else ():
                if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                    text = f"{group} has {quoted(key)}, which must be a finite number, not {quoted(number)}"
                    self.fault((*path, group, key), text)
        return value if "task" in value else {**value, "task": ""}

    def plain(self, path: tuple, value: Any) -> None:
        """Values are text, numbers, booleans, lists and mappings; YAML's dates and times are not."""
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self.plain((*path, key), item)
        elif not (value is None or isinstance(value, str | bool | int | float)):
            self.fault(path, f"{quoted(value)} is read as a {type(value).__name__}: put it in quotes")
        elif isinstance(value, float) and not math.isfinite(value) and not set(NUMBERS) & set(path):
            self.fault(path, f"{quoted(value)} is not a finite number")


def _label(path: tuple[str | int, ...]) -> str:
    return quoted(".".join(map(printable, path)))


def url_fault(url: Any) -> str:
    """Why an address is refused, or an empty string: https only, http on this machine alone, no credentials."""
    if not isinstance(url, str):
        return f"must be text, not {_kind(url)}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return f"is no address: {quoted(url[:80])}"
    if not url.isprintable() or " " in url or not host:
        return f"is no address: {quoted(url[:80])}"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        return f"must begin with https://, not {quoted(url[:80])}"
    if not re.fullmatch(r"[\w][\w.%+-]*", parts.path.rpartition("/")[2]):
        return "names no file"
    return ""


def _kind(value: Any) -> str:
    return _kind_name(type(value))


def _kind_name(kind: type | tuple[type, ...]) -> str:
    if isinstance(kind, tuple):
        return "a number"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping"}
    return {**names, list: "a list", type(None): "nothing"}.get(kind, f"a {kind.__name__}")
