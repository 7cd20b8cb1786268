"""The moving average of the generator that users get (Karras et al. 2018, sec. 4.1; Yazıcı et al. 2019)."""

import torch
from torch import Tensor, nn


def beta_of(half_life: float, batch: int) -> float:
    """Decay for one step of `batch` images, half of the average being left after `half_life`; 0: it remembers nothing.

    Networks without learning-rate warm-up move far at first, and their average must not remember that for long: the
    loop begins with short half-lives (`ema_rampup`, `burn_in_kimg`).
    """
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update(ema: nn.Module, net: nn.Module, beta: float) -> None:
    """ema ← beta · ema + (1 - beta) · net for parameters; buffers (batch norm's statistics) are copied."""
    mine: list[Tensor] = list(ema.parameters())
    theirs: list[Tensor] = list(net.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]
    for b_ema, b in zip(ema.buffers(), net.buffers(), strict=True):
        b_ema.copy_(b)
