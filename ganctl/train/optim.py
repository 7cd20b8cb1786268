"""Optimisers from a recipe's numbers, and their state as named tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.errors import UsageError, WeightsError
from ganctl.phase import SGD, Adam, Optimizer, RMSprop


def make(spec: Optimizer, net: nn.Module) -> torch.optim.Optimizer:
    """With the numbers of a run's beginning. Raises UsageError for numbers that the optimiser refuses."""
    kinds = {Adam: torch.optim.Adam, SGD: torch.optim.SGD, RMSprop: torch.optim.RMSprop}
    try:
        return kinds[type(spec)](net.parameters(), **_options(spec, 0, 1))
    except ValueError as e:
        raise UsageError("cannot make the optimiser", str(e).rstrip("."), "choose other learning numbers") from e


def adjust(optimizer: torch.optim.Optimizer, spec: Optimizer, nimg: int, total: int) -> None:
    """Sets the numbers that hold after `nimg` of a run's `total` images; the moments stay."""
    for group in optimizer.param_groups:
        group.update(_options(spec, nimg, total))


def _options(spec: Optimizer, nimg: int, total: int) -> dict[str, Any]:
    numbers = {name: value(nimg, total) if callable(value) else value for name, value in vars(spec).items()}
    if isinstance(spec, Adam):
        numbers["betas"] = (numbers.pop("beta1"), numbers.pop("beta2"))
    return numbers


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
            # In the parameter's order in memory, as they were: another would move the last bits.
            like = parameters[index]
            entries[index] = {k: torch.empty_like(like).copy_(v) if v.ndim else v for k, v in found.items()}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
