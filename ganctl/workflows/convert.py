"""`convert`: weights of any known origin into a Bundle. Foreign files are read as data; nothing in them is executed."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ganctl import catalog
from ganctl.config import config, parse, read_yaml, to_plain
from ganctl.errors import GanctlError, UsageError, WeightsError, did_you_mean, printable, quoted
from ganctl.io.bundle import Bundle, fill_bundle, is_bundle, read_bundle
from ganctl.io.files import atomic_folder, sha256
from ganctl.io.outputs import check_writable, default_folder, request_for, settle, shown_name
from ganctl.io.progress import SILENT, Reporter
from ganctl.published.others import TENSORFLOW, named

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.published.container import Held

SEE = "see the layouts that are known: ganctl convert --list"
INCOMPLETE = f"give the sizes with --set key=value, a second file with --with FILE, or {SEE}"
READERS = ("from_upstream", "from_nvidia")
"""A family's functions for a state dict, and for one of NVIDIA's networks with its arguments."""
PLACEHOLDER = "num_batches_tracked"
"""A counter that files older than torch 0.4.1 lack; no output depends on it."""


@config
class ConvertRequest:
    source: str
    """A foreign file, or a MODEL: bundle, snapshot, run, zoo name, org/repo."""
    out: str | None = None
    beside: str = ""
    """A second file, where a network's tensors are kept in two."""
    model: str = ""
    """The family, where the layout alone does not tell."""
    net: str = ""
    """The one to take where a file holds several generators: its key, parts joined by dots."""
    settings: tuple[str, ...] = ()
    """key=value of the family's Config, where the tensors cannot tell."""
    channel_order: str = ""
    """rgb or bgr, for OpenMMLab's layouts; by default what the file's name tells."""
    license: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class Found:
    """What a bundle is made of."""

    model: str
    config: dict[str, Any]
    states: "dict[str, Mapping[str, Tensor]]"
    card: dict[str, Any]


@dataclass
class Match:
    """One family that knows some of a file's states: {net: (key in the file, config, tensors)}."""

    module: ModuleType
    nets: "dict[str, list[tuple[str, dict[str, Any], Mapping[str, Tensor]]]]" = field(default_factory=dict)


def layouts(reporter: Reporter = SILENT) -> list[dict[str, str]]:
    """The families that read published files, and what each says of the layouts it knows. Imports none of them."""
    rows = []
    for path in sorted((Path(__file__).parents[1] / "models").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in READERS:
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                rows.append({"model": path.stem, "layout": " ".join(first.split())})
    for r in rows:
        reporter.result(r)
    return rows


def check(request: ConvertRequest) -> tuple[Literal["file", "model"], Path]:
    """What can be refused before torch is loaded. Gives the kind of the source and the folder to write."""
    from ganctl.load import model_names

    if not request.source.strip():
        raise UsageError("nothing to convert", "no file is given", "ganctl convert IN.pth -o BUNDLE/")
    if request.model and request.model not in model_names():
        near = did_you_mean(request.model, model_names())
        raise UsageError(f"unknown --model {quoted(request.model)}", f"known: {', '.join(model_names())}", near or SEE)
    if len(request.license) > 100 or not request.license.isprintable():
        raise UsageError(
            f"cannot use --license {quoted(request.license[:100])}", "it is no licence's name", "such as: --license MIT"
        )
    if request.channel_order not in ("", "rgb", "bgr"):
        what = f"cannot use --channel-order {quoted(request.channel_order)}"
        raise UsageError(what, "it is neither rgb nor bgr", "leave it out, or: rgb, bgr")
    for text in request.settings:
        _setting(text)
    kind = _kind(request)
    stem = re.sub(r"\.\w+$", "", request.source) if kind == "file" else request.source
    out = Path(request.out or default_folder(stem, "convert")).expanduser()
    where = f"cannot write {quoted(out)}"
    if out.suffix in (".safetensors", *catalog.FOREIGN_SUFFIXES):
        raise UsageError(where, "a bundle is a folder, and this is a file's name", "give a folder: -o BUNDLE/")
    if out.exists() and not out.is_dir():
        raise UsageError(where, "it is a file", "choose another folder with -o")
    check_writable(out)
    _check_replaceable(out)
    _check_apart(out, Path(request.source).expanduser())
    return kind, out


def _kind(request: ConvertRequest) -> Literal["file", "model"]:
    path = Path(request.source).expanduser()
    beside = path.suffix == ".safetensors" and is_bundle(path.parent)
    if path.is_file() and not beside:
        if TENSORFLOW.fullmatch(path.name):
            where = f"cannot use weights {quoted(request.source)}"
            raise WeightsError(where, "it is a part of a TensorFlow 1 checkpoint, which TensorFlow alone reads", SEE)
        return "file"
    if path.suffix.lower() in catalog.FOREIGN_SUFFIXES and not path.is_dir():
        why = "it is not a regular file" if path.exists() else "there is no such file"
        raise UsageError(f"cannot read {quoted(request.source)}", why, "give the path of a .pth, .pt, .ckpt or .pkl")
    given: dict[str, Any] = {"--model": request.model, "--net": request.net, "--channel-order": request.channel_order}
    given |= {"--with": request.beside, "--set": request.settings}
    if option := next((o for o, v in given.items() if v), ""):
        raise UsageError(f"cannot use {option} with {quoted(request.source)}", "a bundle says itself what it is", SEE)
    catalog.check_name(request.source)
    return "model"


def _check_apart(out: Path, source: Path) -> None:
    if out.exists() and source.exists() and out.resolve() in (source.resolve(), source.resolve().parent):
        raise UsageError(f"cannot write {quoted(out)}", "the input is there", "choose another folder with -o")


def _check_replaceable(out: Path) -> None:
    """Only a bundle is ever replaced: a folder that holds anything else is somebody's."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    where = f"refused to overwrite {quoted(out)}"
    strange = next((p.name for p in sorted(out.iterdir()) if not _of_bundle(p)), None)
    if strange is not None:
        raise UsageError(
            where, f"it holds {quoted(strange)}, which is no part of a bundle", "choose another folder with -o"
        )
    if not is_bundle(out):
        raise UsageError(where, "it holds weights without a model.json", "choose another folder with -o")


def _of_bundle(path: Path) -> bool:
    return path.is_file() and (path.name in ("model.json", "README.md") or path.suffix == ".safetensors")


def run(request: ConvertRequest, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Writes the bundle, after its network was built, filled and has drawn a finite picture.

    Raises UsageError (no such file, refused overwrite), WeightsError (unknown layout, damaged, does not fit).
    """
    kind, out = check(request)
    given = {"license": request.license or None, "model_family": request.model or None, "net": request.net or None}
    given["channel_order"] = request.channel_order or None
    options = {**given, "set": list(request.settings) or None}
    if kind == "file":
        digest = sha256(_regular(Path(request.source).expanduser()))
        options["with"] = sha256(_regular(Path(request.beside).expanduser())) if request.beside else None
        record = request_for("convert", Path(request.source).name, digest, **options)
        if _is_there(out, record, request.overwrite):
            return _report(request, read_bundle(out), "exists", reporter)
        found = _foreign(request, digest, reporter)
    else:
        from ganctl.load import open_bundle

        bundle, revision = open_bundle(request.source, reporter=reporter)
        _check_apart(out, bundle.path)
        record = request_for("convert", shown_name(request.source), revision, **options)
        if _is_there(out, record, request.overwrite):
            return _report(request, read_bundle(out), "exists", reporter)
        found = _best(bundle, request.license)
    if not request.license and str(found.card.get("license", "unknown")).lower() == "unknown":
        why = "the file does not name one, and others must know what they may do with it"
        reporter.warn(f"the licence of {quoted(request.source)} is unknown", why, "name it: --license ID")
    return _report(request, _write(request, out, found, record), "written", reporter)


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"cannot read {quoted(path)}", "it is not a regular file", "give the path of a weights file")
    return path


def _is_there(out: Path, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the same request wrote `out` before, whole. Raises UsageError for another's without --overwrite."""
    if overwrite or not is_bundle(out):
        return False
    try:
        bundle = read_bundle(out)
    except WeightsError:
        settle(out, None, record)
        raise
    settle(out, bundle.request or None, record)
    try:
        for net in bundle.nets:
            bundle.state(net)
    except WeightsError:  # damaged since: the same request makes it whole again
        return False
    return True


def _best(bundle: Bundle, license: str) -> Found:
    """The network users get, alone, as it is; the card is kept."""
    from ganctl.load import best_net

    net = best_net(bundle)
    card = {**bundle.card, **({"license": license} if license else {})}
    return Found(bundle.model, bundle.config, {net: bundle.state(net)}, card)


def _write(request: ConvertRequest, out: Path, found: Found, record: Mapping[str, Any]) -> Bundle:
    from ganctl.load import network
    from ganctl.workflows.zoo import fingerprint

    with atomic_folder(out) as folder:
        fill_bundle(
            folder, model=found.model, config=found.config, states=found.states, card=found.card, request=record
        )
        bundle = read_bundle(folder)
        try:
            for net in bundle.nets:
                network(bundle, net)
            fingerprint(bundle)
        except GanctlError as e:
            raise WeightsError(f"cannot use weights {quoted(request.source)}", e.why or e.what, e.hint or SEE) from e
    return read_bundle(out)


def _report(request: ConvertRequest, bundle: Bundle, status: str, reporter: Reporter) -> dict[str, Any]:
    from ganctl.load import digest

    result = {
        "path": str(bundle.path),
        "input": request.source,
        "model": bundle.model,
        "nets": list(bundle.nets),
        "license": bundle.card.get("license"),
        "revision": digest(bundle),
        "status": status,
    }
    reporter.note(f"{request.source}: {bundle.model}, {', '.join(bundle.nets)}")
    reporter.result(result)
    return result


def _foreign(request: ConvertRequest, digest: str, reporter: Reporter) -> Found:
    from ganctl.io.pickles import read_torch
    from ganctl.io.tensors import read_tensors
    from ganctl.load import public_net, whole
    from ganctl.published.container import networks_in, training_card
    from ganctl.published.openmmlab import order_of

    path = Path(request.source).expanduser()
    where = f"cannot use weights {quoted(request.source)}"

    def read(path: Path) -> Any:
        return read_tensors(path) if path.suffix == ".safetensors" else read_torch(path)

    value = read(path)
    bgr = (request.channel_order or order_of(path.name)) == "bgr"
    held = networks_in(value, bgr=bgr)
    states = {k: v for k, v in held if not request.net or request.net in (k, *k.split("."))}
    if not states:
        none = "it holds no state dict: no tensors under names"
        raise WeightsError(where, f"it holds no network {quoted(request.net)}" if request.net else none, SEE)
    match = _match(request, states, where)
    public = public_net(match.module)
    config_, nets = _assemble(match, public, where)
    if request.beside:
        rest = dict(networks_in(read(Path(request.beside).expanduser()), bgr=bgr))
        for state in rest.values():
            config_, nets = whole(match.module, (config_, nets), state, f"cannot use weights {quoted(request.beside)}")
    for key, text in (_setting(s) for s in request.settings):
        config_[key] = text
    name = match.module.__name__.rpartition(".")[2]
    filled = {}
    for net, state in nets.items():
        try:
            fresh = getattr(_build(match.module, config_, where), net.removesuffix("_ema"))
            filled[net] = _fill(fresh, state, f"{quoted(request.source)} ({net})")
        except WeightsError as e:
            if net.removesuffix("_ema") == public:
                raise
            reporter.warn(f"left out {net} of {quoted(request.source)}", e.why, "the bundle is without it")
    card = {"license": request.license or "unknown", "source": path.name, "source_sha256": digest}
    card |= training_card(value)
    return Found(name, to_plain(_parsed(match.module, config_, where)), filled, card)


def _match(request: ConvertRequest, states: "Mapping[str, Held]", where: str) -> Match:
    """The one family whose public network is among the states."""
    from ganctl.load import family, model_names, public_net, read_published

    names = [request.model] if request.model else model_names()
    matches = []
    for name in names:
        match = Match(family(name))
        for key, state in states.items():
            got = read_published(match.module, state, where)
            for net, tensors in (got[1] if got else {}).items():
                match.nets.setdefault(net, []).append((key, got[0], tensors))  # type: ignore[index]
        matches.append(match)
    whole = [m for m in matches if public_net(m.module) in m.nets]
    if len(whole) == 1:
        return whole[0]
    if whole:
        known = ", ".join(m.module.__name__.rpartition(".")[2] for m in whole)
        raise WeightsError(where, f"its layout is that of several families: {known}", "name one: --model NAME")
    if request.model and not matches[0].nets:
        # The family's own names, at the size that the options give.
        for key, state in states.items():
            if isinstance(state, Mapping):
                return Match(matches[0].module, {public_net(matches[0].module): [(key, {}, state)]})
    for m in matches:
        if m.nets:
            name = m.module.__name__.rpartition(".")[2]
            raise WeightsError(where, f"it holds only {', '.join(m.nets)} of {name}, not the network users get", SEE)
    raise WeightsError(where, _describe(states), SEE)


def _describe(states: "Mapping[str, Held]") -> str:
    """Why no layout fits, with what a reader recognises a network by."""
    plain = [s for s in states.values() if isinstance(s, Mapping)]
    if not plain:
        names = [getattr(s, "class_name", getattr(s, "function", "")) for s in states.values()]
        told = ", ".join(printable(n) for n in dict.fromkeys(names))
        return f"it is an NVIDIA snapshot of {told}: no family here has these networks"
    state = max(plain, key=len)
    if what := named(state):
        return f"it is {what}: no family here is that"
    first = next(iter(state))
    shape = tuple(state[first].shape)
    told = f"no known layout has its {len(state)} tensors; the first is {quoted(first)} of shape {shape}"
    if any(re.search(r"label|class_?emb", k, re.IGNORECASE) for k in state):
        return f"it looks class-conditional, and is of none of the conditional families: {told}"
    return told


def _assemble(match: Match, public: str, where: str) -> "tuple[dict[str, Any], dict[str, Mapping[str, Tensor]]]":
    """The config, the public network's numbers first, and one state per network: EMA told from its key in the file."""
    from ganctl.load import average_name

    nets: dict[str, Mapping[str, Tensor]] = {}
    keys: dict[str, str] = {}
    configs = []
    for net in sorted(match.nets, key=lambda n: n != public):
        for key, cfg, state in match.nets[net]:
            name = average_name(net, key, public)
            if name in nets and nets[name].keys() == state.keys() and keys[name] != key:
                hint = f"choose one: --net {keys[name].rpartition('.')[2] or key}"
                raise WeightsError(where, f"it holds several of {name}: {quoted(keys[name])}, {quoted(key)}", hint)
            nets[name], keys[name] = state, key
            configs.append(cfg)
    merged = {}
    for cfg in reversed(configs):
        merged |= cfg
    return merged, nets


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"cannot use --set {quoted(text)}", "it has no '='", "write --set key=value")
    return key.strip(), read_yaml(value, where=f"--set {quoted(text)}").value


def _parsed(module: ModuleType, values: Mapping[str, Any], where: str) -> Any:
    try:
        return parse(module.Config, values, where="config")
    except UsageError as e:
        raise WeightsError(where, e.why, "correct it with --set key=value") from e


def _build(module: ModuleType, values: Mapping[str, Any], where: str) -> Any:
    from ganctl.load import skeleton

    cfg = _parsed(module, values, where)
    try:
        return skeleton(module, cfg)
    except GanctlError as e:
        raise WeightsError(where, f"{e.what}: {e.why}", "correct it with --set key=value") from e


def _fill(net: Any, state: "Mapping[str, Tensor]", where: str) -> "Mapping[str, Tensor]":
    """The state in the network's own names and dtypes. Raises WeightsError for what does not fit or is not finite."""
    import torch

    from ganctl.io.tensors import load_into

    own = net.state_dict()
    old = {k: torch.zeros((), dtype=torch.long) for k in own if k.endswith(PLACEHOLDER) and k not in state}
    bad = [k for k, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise WeightsError(f"cannot use weights {where}", f"{quoted(bad[0])} holds NaN or infinity", "use another file")
    load_into(net, {**state, **old}, where=where, hint=INCOMPLETE)
    return net.state_dict()
