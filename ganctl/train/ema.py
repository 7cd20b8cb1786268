"""The moving average of the generator that users get (Karras et al. 2018, sec. 4.1; Yazıcı et al. 2019)."""

import torch
from torch import Tensor, nn


def beta_of(kimg: float, batch: int, nimg: int, rampup: float = 0.05) -> float:
    """Decay for one step whose half-life is `kimg` thousand images, shorter at the start (StyleGAN2's code).

    At most `rampup` of the images seen so far: an average must not remember the initial noise for long.
    """
    half_life = min(kimg * 1000, max(nimg, 1) * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update(ema: nn.Module, net: nn.Module, beta: float) -> None:
    """ema ← beta · ema + (1 - beta) · net for parameters; buffers (batch norm's statistics) are copied."""
    mine: list[Tensor] = list(ema.parameters())
    theirs: list[Tensor] = list(net.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]
    for b_ema, b in zip(ema.buffers(), net.buffers(), strict=True):
        b_ema.copy_(b)
