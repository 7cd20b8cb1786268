"""ADA's augmentations at fixed percentiles against numbers recorded from the reference program."""

import json
from collections.abc import Mapping

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ganctl.nn.augment import LAWS, SYM6, filter_bank, transform
from tests.conftest import golden
from tests.golden.test_networks import close

FILES = ("ada-augment-rgb24.safetensors", "ada-augment-gray24.safetensors")


def percentile(q: float, n: int, names: Mapping[str, object]) -> dict[str, Tensor]:
    """The variates that the reference takes for percentile q, for every image.

    Its normal ones lack a factor √2, both axes of a translation get one value, the second rotation none.
    """
    p = torch.tensor(q)
    normal, across = torch.erfinv(2 * p - 1), 2 * p - 1
    rows = {"choice": [], "range": [across] * 2, "normal": [normal] * 4, "half_normal": [torch.erfinv(p)]}
    found = {}
    for name in LAWS.keys() & names.keys():
        law = LAWS[name]
        row = [(law.options * p).floor()] if law.kind == "choice" else rows.get(law.kind, [torch.ones(()), p, p])
        found[name] = torch.stack(row[: law.columns]).expand(n, -1).clone()
        if name == "rotate":
            found[name][:, 1] = 0
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_call(name: str) -> None:
    with safe_open(golden(name), "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        calls = json.loads(f.metadata()["calls"])
    assert len(calls) == (51 if "rgb" in name else 6)
    close(torch.tensor(filter_bank()), tensors["weights.Hz_fbank"])
    close(torch.tensor(SYM6) / sum(SYM6), tensors["weights.Hz_geom"])
    x, field = tensors["in.img"], tensors["in.noise"]
    for call, arguments in calls.items():
        assert set(arguments["augment_kwargs"].values()) == {1}
        found = percentile(arguments["debug_percentile"], len(x), arguments["augment_kwargs"])
        assert found.keys() == arguments["augment_kwargs"].keys()
        close(transform(x, found, field), tensors[f"out.{call}"], 2e-5)
