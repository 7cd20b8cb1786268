"""How far D overfits, by images that it was never trained with."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ganctl.phase import Batch, Nets, Progress
from ganctl.train.ada import r_v
from ganctl.train.loop import State, TrainConfig, augmentation, split

Logits = Callable[[Nets, Batch, Progress], tuple[Tensor, Tensor]]
"""D's logits of a batch's real images and of as many generated ones, as in training."""


@torch.no_grad()
def measure(state: State, logits: Logits, cfg: TrainConfig, train: Batch, held: Batch) -> float:
    """r_v  (Karras et al. 2020, 2006.06676, eq. 1) of D as it stands, from equally many images of each kind.

    Every rank computes it of the same images, and of random numbers that only it draws: training goes on as if it had
    not been asked. NaN where D tells nothing apart.
    """
    p = state.progress
    probe = Progress(p.nimg, p.step, torch.Generator().manual_seed(cfg.seed), p.device)
    probe.augment = augmentation(replace(state, progress=probe), cfg)
    size = cfg.batch_gpu or cfg.batch // p.world

    def means(batch: Batch) -> tuple[float, float]:
        real, fake = zip(*(logits(state.nets, part, probe) for part in split(batch, size, p.device)), strict=True)
        return float(torch.cat(real).mean()), float(torch.cat(fake).mean())

    (seen, first), (unseen, second) = means(train), means(held)
    return r_v(seen, unseen, (first + second) / 2)
