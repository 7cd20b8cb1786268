"""How far D overfits, by images that it was never trained with."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ganctl.phase import Batch, Nets, Phase, Progress, area
from ganctl.train.ada import r_v
from ganctl.train.loop import State, TrainConfig, augmentation, networks, split

Logits = Callable[[Nets, Batch, Progress], tuple[Tensor, Tensor]]
"""D's logits of a batch's real images and of as many generated ones, as in training."""


def answers(phase: Phase) -> Logits:
    """What D answers in its phase, where its loss tells it."""

    def logits(n: Nets, b: Batch, p: Progress) -> tuple[Tensor, Tensor]:
        # A penalty of the family's own asks for gradients.
        with torch.enable_grad():
            phase.loss(n, b, p)
        return p.answers.pop()

    return logits


@torch.no_grad()
def measure(state: State, logits: Logits, cfg: TrainConfig, train: Batch, held: Batch) -> dict[str, float]:
    """r_v  (Karras et al. 2020, 2006.06676, eq. 1) of D as it stands, from equally many images of each kind, and how
    well D tells those held out from generated ones: log loss and area under the ROC curve.

    Every rank computes it of the same images, and of random numbers that only it draws: training goes on as if it had
    not been asked. What is not finite is left out: r_v where D tells nothing apart.
    """
    p = state.progress
    probe = Progress(p.nimg, p.step, torch.Generator().manual_seed(cfg.seed), p.device)
    probe.augment = augmentation(replace(state, progress=probe), cfg)
    size = cfg.batch_gpu or cfg.batch // p.world

    def sides(batch: Batch) -> tuple[Tensor, Tensor]:
        parts = [logits(state.nets, part, probe) for part in split(batch, size, p.device)]
        return torch.cat([real for real, _ in parts]).float(), torch.cat([fake for _, fake in parts]).float()

    # Running statistics move in training mode, and are put back.
    buffers = [b for net in networks(state.nets).values() for b in net.buffers()]
    before = [b.clone() for b in buffers]
    (seen, first), (unseen, second) = sides(train), sides(held)
    for b, old in zip(buffers, before, strict=True):
        b.copy_(old)
    found = {
        "r_v": r_v(float(seen.mean()), float(unseen.mean()), float(first.mean() + second.mean()) / 2),
        "D_auc_held": float(area(unseen, second)),
        "D_log_loss_held": float(F.softplus(-unseen).mean() + F.softplus(second).mean()) / 2,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}
