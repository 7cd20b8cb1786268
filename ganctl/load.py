"""From a reference to a network: zoo name, org/repo[@rev], bundle, run or snapshot folder."""

import importlib
import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ganctl.config import parse
from ganctl.errors import DeviceError, UsageError, WeightsError, did_you_mean, quoted
from ganctl.io.bundle import Bundle
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


def pick_device(device: str = "auto") -> "torch.device":
    """auto | cpu | cuda[:N] | mps. Raises DeviceError when it is not there."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UsageError(f"cannot use --device {quoted(device)}", "it is none of auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"cannot use --device {device}", "this PyTorch sees no CUDA device", "see: ganctl doctor")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"cannot use --device {device}", f"there are {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("cannot use --device mps", "this machine has no Metal device", "use --device cpu")
    return torch.device(device)


def network(bundle: Bundle, net: str) -> Any:
    """Builds one network of a bundle and fills it, in evaluation mode, on the CPU."""
    import torch

    from ganctl.io.tensors import load_into

    module = family(bundle.model)
    cfg = parse(module.Config, bundle.config, where=f"the config in {quoted(bundle.path / 'model.json')}")
    # On the meta device nothing is initialised only to be thrown away.
    with torch.device("meta"):
        built = getattr(module.build(cfg), net.removesuffix("_ema"))
    load_into(built, bundle.state(net), where=f"{quoted(bundle.path)} ({net})")
    return built.eval().requires_grad_(False)


def load(ref: str, *, device: str = "auto", reporter: Reporter = SILENT) -> Model:
    """Loads the network users get (its EMA where there is one) and puts it on a device.

    Raises UsageError (unknown name, with the nearest), WeightsError (unavailable, damaged, other network), DeviceError.
    """
    where = pick_device(device)
    bundle, revision = open_bundle(ref, reporter=reporter)
    name = public_net(family(bundle.model))
    ema = f"{name}_ema"
    net = network(bundle, ema if ema in bundle.nets else name)
    return Model(net.to(where), ref, bundle.model, revision, bundle.card, where)
