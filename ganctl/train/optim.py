"""Optimisers from a recipe's numbers, and their state as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ganctl.errors import UsageError, WeightsError
from ganctl.phase import SGD, Adam, Optimizer


def make(spec: Optimizer, net: nn.Module) -> torch.optim.Optimizer:
    """Raises UsageError for numbers that the optimiser refuses."""
    try:
        return _make(spec, list(net.parameters()))
    except ValueError as e:
        raise UsageError("cannot make the optimiser", str(e).rstrip("."), "choose other learning numbers") from e


def _make(spec: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if isinstance(spec, Adam):
        return torch.optim.Adam(parameters, spec.lr, (spec.beta1, spec.beta2), spec.eps)
    if isinstance(spec, SGD):
        return torch.optim.SGD(parameters, spec.lr, spec.momentum)
    return torch.optim.RMSprop(parameters, spec.lr, spec.alpha)


def state_of(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every moment and step count as `<net>.<parameter index>.<name>`."""
    return {
        f"{net}.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for net, optimizer in optimizers.items()
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore(optimizers: Mapping[str, torch.optim.Optimizer], state: Mapping[str, Tensor]) -> None:
    """The opposite of `state_of`. Raises WeightsError when the state is another network's."""
    for net, optimizer in optimizers.items():
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            owner, index, name = key.split(".", 2)
            if owner == net:
                entries.setdefault(int(index), {})[name] = value
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, found in entries.items():
            shapes = {v.shape for v in found.values() if v.ndim}
            if index >= len(parameters) or shapes - {parameters[index].shape}:
                raise WeightsError("cannot resume", f"the optimiser of {net} belongs to another network")
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
