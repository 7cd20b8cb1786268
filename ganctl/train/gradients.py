"""How strongly G would learn from D as it stands, by several losses: the vanishing gradient of the lectures.

Arjovsky & Bottou, Towards Principled Methods for Training Generative Adversarial Networks, 2017. arXiv:1701.04862.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from ganctl.phase import Batch, Phase, Progress
from ganctl.train.loop import GRADIENT, State, TrainConfig, augmentation, networks, split

SURE = "D_sure"
"""-E log D(G(z)) in nats: how sure D is of generated images; log 2 = 0.69 where it guesses."""


def measure(state: State, phases: Mapping[str, Phase], cfg: TrainConfig, batch: Batch) -> dict[str, float]:
    """‖∇ L‖ of G's parameters, of each loss by its name, and how sure D is  (fig. 2 and 3).

    `phases`: G's phase by each loss, the non-saturating one among them. All see the same z, of random numbers that
    nobody else draws, and running statistics are put back: training goes on as if it had not been asked.
    """
    p = state.progress
    buffers = [b for net in networks(state.nets).values() for b in net.buffers()]
    before = [b.clone() for b in buffers]
    (part, *_) = split(batch, cfg.batch_gpu or cfg.batch // p.world, p.device)
    found: dict[str, float] = {}
    for loss, phase in phases.items():
        probe = Progress(p.nimg, p.step, torch.Generator().manual_seed(cfg.seed), p.device)
        probe.augment = augmentation(replace(state, progress=probe), cfg)
        for name, net in networks(state.nets).items():
            net.requires_grad_(name in phase.updates)
        parameters = [q for name in phase.updates for q in getattr(state.nets, name).parameters()]
        value = phase.loss(state.nets, part, probe)["G_loss"]
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        found[f"G_{loss}{GRADIENT}"] = float(torch.nn.utils.get_total_norm([g for g in grads if g is not None]))
        if loss == "non_saturating":
            found[SURE] = float(value.detach())
    with torch.no_grad():
        for b, old in zip(buffers, before, strict=True):
            b.copy_(old)
    return found
