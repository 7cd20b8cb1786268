"""Half precision in training: its gradients against those of float32, on the CPU as on a GPU by the same code."""

import copy

import pytest
import torch
from torch import Tensor

from ganctl.load import family
from ganctl.nn.precision import lowered
from ganctl.phase import Batch, Progress
from ganctl.workflows.recipe import resolve
from tests.cli.runs import SMALL

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["stylegan2", "stylegan3"])
def test_gradients_are_near_those_of_float32(model: str) -> None:
    module = family(model)
    # 8 and 16 px, or the layers from rate 8 on, compute in half precision, the rest does not.
    settings = (*SMALL[model], "resolution=16", "num_fp16_res=2")
    cfg = resolve(model, {"train.dtype": "bf16"}, settings).config
    assert cfg.clamp == 256 and cfg.num_fp16_res == 2
    torch.manual_seed(4)
    nets = module.build(cfg)
    x = torch.rand(8, 1, 16, 16) * 2 - 1

    def gradients(dtype: str) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each phase: its loss and all its gradients, in a row."""
        found = {}
        for phase in module.phases(cfg):
            n = copy.deepcopy(nets)
            p = Progress(0, 0, torch.Generator().manual_seed(1), CPU)
            with lowered(CPU, dtype):
                terms = phase.loss(n, Batch(x), p)
            assert all(term.dtype == torch.float32 for term in terms.values())
            total = torch.stack(list(terms.values())).sum()
            total.backward()
            grads = [q.grad for name in phase.updates for q in getattr(n, name).parameters() if q.grad is not None]
            assert all(g.dtype == torch.float32 for g in grads)
            found[phase.name] = total.detach(), torch.cat([g.flatten() for g in grads])
        return found

    exact = gradients("fp32")
    for dtype in ("bf16", "fp16"):
        for name, (loss, grad) in gradients(dtype).items():
            error = ((grad - exact[name][1]).norm() / exact[name][1].norm()).item()
            if name in ("D_r1", "G_pl"):
                assert error == 0, "penalties are computed in float32"
            else:
                assert loss.item() == pytest.approx(exact[name][0].item(), rel=2e-3)
                # Where rounding turns the sign of a leaky ReLU's input, one unit of these few has another gradient.
                assert 0 < error < 0.15, (dtype, name, error)
