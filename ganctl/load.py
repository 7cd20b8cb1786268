"""From a reference to a network: zoo name, org/repo[@rev], bundle, run or snapshot folder."""

import hashlib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ganctl import catalog
from ganctl.config import parse, to_plain
from ganctl.errors import DeviceError, UsageError, WeightsError, did_you_mean, quoted
from ganctl.io import hub
from ganctl.io.bundle import Bundle, is_bundle, read_bundle, write_bundle
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Model:
    """A network ready to use, in evaluation mode, and where it came from."""

    net: Any
    """Satisfies one or more of `protocols`."""
    name: str
    """As the user wrote it."""
    model: str
    """The file in `ganctl/models/`."""
    revision: str
    """A Hub commit, or a digest of the weights that were read."""
    card: dict[str, Any]
    device: "torch.device"


def model_names() -> list[str]:
    """Every model family: the files of `ganctl/models/`."""
    return sorted(p.stem for p in (Path(__file__).parent / "models").glob("[a-z]*.py"))


def family(model: str) -> ModuleType:
    """The module `ganctl/models/<model>.py`. Raises UsageError with the nearest name."""
    if model not in model_names():
        near = did_you_mean(model, model_names())
        raise UsageError(f"unknown model family {quoted(model)}", f"known: {', '.join(model_names())}", near)
    return importlib.import_module(f"ganctl.models.{model}")


def public_net(module: ModuleType) -> str:
    """The network users get: the first field of the family's Nets."""
    return fields(module.Nets)[0].name


def best_net(bundle: Bundle) -> str:
    """The network of a bundle that users get: the public one's moving average where there is one.

    Only the public network has an average, so that its name is enough, and torch is not loaded for it. Networks of no
    family of ours, such as Inception, are alone in their bundle.
    """
    averages = [net for net in bundle.nets if net.endswith("_ema")]
    if len(averages) == 1:
        return averages[0]
    if bundle.model not in model_names() and len(bundle.nets) == 1:
        return next(iter(bundle.nets))
    return public_net(family(bundle.model))


def read_published(module: ModuleType, held: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What a family makes of a network in a foreign file: a config and {net: tensors}; None if it does not know it.

    `held` is a state dict, or one of NVIDIA's networks with its arguments. Raises WeightsError for a network that the
    family knows but cannot be.
    """
    from ganctl.io.pickle_machine import Refused

    reader = getattr(module, "from_upstream" if isinstance(held, dict) else "from_nvidia", None)
    try:
        return reader(held) if reader else None
    except Refused as e:
        raise WeightsError(where, str(e), "see the layouts that are known: ganctl convert --list") from e


def pick_device(device: str = "auto") -> "torch.device":
    """auto | cpu | cuda[:N] | mps. Raises DeviceError when it is not there."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UsageError(
            f"cannot use --device {quoted(device)}", "it is none of auto, cpu, cuda, cuda:N, mps", "see: ganctl doctor"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"cannot use --device {device}", "this PyTorch sees no CUDA device", "see: ganctl doctor")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"cannot use --device {device}", f"there are {torch.cuda.device_count()} CUDA devices", "see: ganctl doctor"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("cannot use --device mps", "this machine has no Metal device", "use --device cpu")
    return torch.device(device)


def network(bundle: Bundle, net: str) -> Any:
    """Builds one network of a bundle and fills it, in evaluation mode, on the CPU."""
    from ganctl.io.tensors import load_into

    try:
        module = family(bundle.model)
        cfg = parse(module.Config, bundle.config, where=f"the config in {quoted(bundle.path / 'model.json')}")
        built = getattr(skeleton(module, cfg), net.removesuffix("_ema"))
        state = bundle.state(net)
        _as_trained(built, state)
    except UsageError as e:
        hint = "the bundle is damaged, or of another ganctl version"
        raise WeightsError(f"cannot use bundle {quoted(bundle.path)}", f"{e.what}: {e.why}", hint) from e
    load_into(built, state, where=f"{quoted(bundle.path)} ({net})")
    return built.eval().requires_grad_(False)


def _as_trained(net: Any, state: Mapping[str, Any]) -> None:
    """Spectral normalisation, where a training put it on a network of a family that has none."""
    import torch

    from ganctl.nn.spectral import divide, is_divided

    if is_divided(state):
        with torch.device("meta"):
            divide(net)


def skeleton(module: ModuleType, cfg: Any) -> Any:
    """A family's networks without values, on the meta device: nothing is drawn only to be thrown away."""
    import torch

    with torch.device("meta"), _no_init():
        return module.build(cfg)


def _no_init() -> Any:
    """Skips torch.nn.init: on the meta device its draws change nothing and cost a second's imports."""
    from torch.overrides import TorchFunctionMode

    class NoInit(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    return NoInit()


def load(ref: str, *, device: str = "auto", reporter: Reporter = SILENT) -> Model:
    """Loads the network users get (its EMA where there is one) and puts it on a device.

    Raises UsageError (unknown name, with the nearest), WeightsError (unavailable, damaged, other network), DeviceError.
    """
    catalog.check_name(ref)
    entry = catalog.entries().get(catalog.split_revision(ref)[0])
    if entry is not None and entry.task == "features":
        # Said before its hundreds of megabytes are fetched.
        why = "it is a feature network: metrics use it, and it makes nothing of its own"
        raise UsageError(f"cannot use {quoted(ref)} as a model", why, "see: ganctl zoo list")
    where = pick_device(device)
    bundle, revision = open_bundle(ref, reporter=reporter)
    net = network(bundle, best_net(bundle))
    if getattr(getattr(net, "x", None), "is_point", False):
        why = "it makes points of a plane, and no pictures"
        raise UsageError(f"cannot use {quoted(ref)} as a model", why, "see points.gif in its run's folder")
    return Model(net.to(where), ref, bundle.model, revision, bundle.card, where)


def open_bundle(ref: str, *, reporter: Reporter = SILENT) -> tuple[Bundle, str]:
    """Finds the bundle behind a reference: built-in, local path, Hub cache, Hub, the authors' own file.

    Gives it with its revision: the Hub's commit, or a short digest of the weight files. Raises UsageError for what is
    no model, WeightsError for weights that are unavailable or not the ones that were published.
    """
    catalog.check_name(ref)
    name, wanted = catalog.split_revision(ref)
    entry = catalog.entries().get(name)
    if entry is not None:
        return _open_entry(entry, wanted, reporter)
    path = Path(ref).expanduser()
    if path.exists():
        bundle = _open_path(path, reporter)
        return bundle, digest(bundle)
    folder, commit = hub.fetch_repo(ref, name, wanted, reporter=reporter)
    return read_bundle(folder), commit


def digest(bundle: Bundle) -> str:
    """12 hex digits that name a bundle's weights: a sha256 over its networks' names and files."""
    parts = [f"{net} {hub.file_digest(weight_file(bundle, net))}" for net in sorted(bundle.nets)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def weight_file(bundle: Bundle, net: str) -> Path:
    """The file of one network. Raises WeightsError when it is missing."""
    path = bundle.path / bundle.nets[net]
    if not path.is_file():
        raise WeightsError(
            f"cannot use bundle {quoted(bundle.path)}", f"it lacks {quoted(bundle.nets[net])}", "copy the whole folder"
        )
    return path


def builtin_path(entry: catalog.ZooEntry) -> Path:
    """The folder of a built-in bundle inside the package."""
    return Path(__file__).parent / "weights" / entry.builtin


def _open_entry(entry: catalog.ZooEntry, wanted: str, reporter: Reporter) -> tuple[Bundle, str]:
    bundle, revision = _entry_bundle(entry, reporter)
    if wanted and not (len(wanted) >= 7 and revision.startswith(wanted)):
        raise UsageError(
            f"cannot use revision {quoted(wanted)} of {entry.name}",
            f"the zoo pins it at {revision}",
            f"use {entry.name}" + (f", or {entry.hub.repo}@{wanted}" if entry.hub else ""),
        )
    return bundle, revision


def _entry_bundle(entry: catalog.ZooEntry, reporter: Reporter) -> tuple[Bundle, str]:
    if entry.builtin and is_bundle(builtin_path(entry)):
        bundle = read_bundle(builtin_path(entry))
        pinned = entry.builtin_sha256
        if pinned and pinned != hub.file_digest(weight_file(bundle, best_net(bundle))):
            raise WeightsError(
                f"cannot use the built-in {entry.name}", "its sha256 differs from the zoo's", "reinstall ganctl"
            )
        return replace(bundle, card={**bundle.card, **entry.card}), digest(bundle)
    if entry.hub:
        path = hub.fetch_hub(entry.name, entry.hub, reporter=reporter)
        nets = {entry.hub.net: path.name}
        return Bundle(path.parent, entry.model, entry.config, nets, entry.card), entry.hub.revision
    if entry.upstream:
        folder = hub.upstream_bundle(entry)
        if not is_bundle(folder):
            file = hub.fetch_upstream(entry.name, entry.upstream, reporter=reporter)
            rest = open_bundle(entry.upstream.beside, reporter=reporter)[0] if entry.upstream.beside else None
            _convert(entry, file, folder, rest)
        bundle = read_bundle(folder)
        return bundle, digest(bundle)
    raise WeightsError(
        f"{entry.name} has no weights here", "this copy of ganctl lacks its built-in bundle", "reinstall ganctl"
    )


def _convert(entry: catalog.ZooEntry, file: Path, folder: Path, rest: Bundle | None = None) -> None:
    """The authors' file, read as data, becomes a bundle in the cache. Two processes write the same bytes.

    `rest` is what another file of theirs became, of which the network needs a part.
    """
    from ganctl.io.pickles import read_torch
    from ganctl.io.tensors import load_into
    from ganctl.published.container import networks_in
    from ganctl.published.openmmlab import order_of

    assert entry.upstream is not None
    where, wanted = f"cannot use weights {quoted(file.name)}", entry.upstream.net
    value = read_torch(file)
    if entry.task == "features":
        states = {"features": _inside(value, wanted, where) if entry.upstream.format == "torch-checkpoint" else value}
        write_bundle(folder, model=entry.model, config=entry.config, states=states, card=entry.card)
        return
    held = dict(networks_in(value, bgr=order_of(file.name) == "bgr"))
    module = family(entry.model)
    wanted = wanted or _public_key(module, held, where)
    if wanted not in held:
        raise WeightsError(where, f"it holds no {quoted(wanted)}", "report this")
    got = read_published(module, held[wanted], where)
    if got is None:
        raise WeightsError(where, f"{entry.model} knows no such layout", "see: ganctl convert -h")
    if rest is not None:
        got = whole(module, got, rest.state(best_net(rest)), where)
    cfg = parse(module.Config, {**got[0], **entry.config}, where=f"the config of {entry.name}")
    nets, states = skeleton(module, cfg), {}
    for net, state in got[1].items():
        load_into(getattr(nets, net), state, where=f"{quoted(file.name)} ({net})")
        states[average_name(net, wanted, public_net(module))] = getattr(nets, net).state_dict()
    write_bundle(folder, model=entry.model, config=to_plain(cfg), states=states, card=entry.card)


def whole(module: ModuleType, got: Any, rest: Any, where: str) -> Any:
    """What a family made of one file, with what it makes of the rest of it: networks whose tensors come in two files.

    Raises WeightsError where the family knows no such layout.
    """
    other = read_published(module, rest, where)
    if other is None:
        name = module.__name__.rpartition(".")[2]
        raise WeightsError(where, f"{name} knows no such layout of the file with it", "see: ganctl convert --list")
    nets = {net: {**got[1].get(net, {}), **other[1].get(net, {})} for net in {**got[1], **other[1]}}
    return {**other[0], **got[0]}, nets


def open_networks(ref: str, *, reporter: Reporter = SILENT) -> tuple[Bundle, "dict[str, dict[str, torch.Tensor]]"]:
    """The bundle behind a reference, and the tensors of every network that training could go on from.

    A zoo entry's bundle has only the network users get; the others are read from the authors' own file again. Raises
    what `open_bundle` does.
    """
    bundle, _ = open_bundle(ref, reporter=reporter)
    states = {net: bundle.state(net) for net in bundle.nets}
    entry = catalog.entries().get(catalog.split_revision(ref)[0])
    if entry is not None and entry.upstream and bundle.path == hub.upstream_bundle(entry):
        file = hub.fetch_upstream(entry.name, entry.upstream, reporter=reporter)
        states = {**_published(entry, file), **states}
    return bundle, states


def _published(entry: catalog.ZooEntry, file: Path) -> "dict[str, dict[str, torch.Tensor]]":
    """The networks of an entry's family in the authors' file, under our names; of several alike, the first."""
    from ganctl.io.pickles import read_torch
    from ganctl.published.container import networks_in
    from ganctl.published.openmmlab import order_of

    where, module = f"cannot use weights {quoted(file.name)}", family(entry.model)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, held in networks_in(read_torch(file), bgr=order_of(file.name) == "bgr"):
        got = read_published(module, held, where)
        for net, state in (got[1] if got else {}).items():
            found.setdefault(average_name(net, key, public_net(module)), state)
    if bad := [net for net, state in found.items() if not all(bool(t.isfinite().all()) for t in state.values())]:
        raise WeightsError(where, f"{', '.join(bad)} holds NaN or infinity", "use another file")
    return found


def average_name(net: str, key: str, public: str) -> str:
    """The name of a network in a bundle: the public one under a key such as `G_ema` or `avgG` is a moving average.

    FUNIT's files call it `gen_test`.
    """
    return f"{net}_ema" if net == public and re.search(r"ema|avg|smooth|gen_test", key, re.IGNORECASE) else net


def _public_key(module: ModuleType, held: Mapping[str, Any], where: str) -> str:
    """The key of the network users get where a file may hold it alone, or with its moving average: then that one's."""
    public = public_net(module)
    known = [k for k, state in held.items() if (got := read_published(module, state, where)) and public in got[1]]
    return max(known, key=lambda k: average_name(public, k, public) != public, default="")


def _inside(value: Any, keys: str, where: str) -> Any:
    for key in filter(None, keys.split(".")):
        if not isinstance(value, dict) or key not in value:
            raise WeightsError(where, f"it holds no {quoted(keys)}", "report this")
        value = value[key]
    return value


def _open_path(path: Path, reporter: Reporter) -> Bundle:
    """A bundle, a file inside one, or a run: then its newest snapshot that can be read."""
    if path.is_file():
        return _only(read_bundle(path.parent), path.name)
    if is_bundle(path):
        return read_bundle(path)
    fault = None
    for snapshot in catalog.snapshots(path):
        try:
            bundle = read_bundle(snapshot)
            for net in bundle.nets:
                bundle.state(net)
            return bundle
        except WeightsError as e:
            fault = fault or e
            reporter.warn(f"skipping the damaged snapshot {quoted(snapshot)}", e.message, "the one before is used")
    raise fault or WeightsError(f"cannot use run {quoted(path)}", "it has no snapshot", "train on: ganctl train")


def _only(bundle: Bundle, file: str) -> Bundle:
    """The bundle reduced to the network in one of its files."""
    nets = {net: name for net, name in bundle.nets.items() if name == file}
    if not nets:
        raise UsageError(
            f"cannot use {quoted(file)} as a model", "the model.json beside it names no such network", "give the folder"
        )
    return replace(bundle, nets=nets)
