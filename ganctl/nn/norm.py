"""Batch normalisation whose statistics cover the whole batch, however many ranks hold it."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

CACHED = 1 << 17
"""Values that are kept in a processor's cache from one pass to the next."""


class BatchNorm(nn.Module):
    """Ioffe & Szegedy 2015, alg. 1, over every axis but 1. Parameters and buffers carry PyTorch's names.

    Training mode uses this batch's statistics over all ranks, so two ranks equal one process of twice the batch.
    Evaluation mode uses the stored ones, unless `batch_statistics` is set (pix2pix's test time), which updates nothing.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum, self.batch_statistics = eps, momentum, False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        if self.training:
            self.get_buffer("num_batches_tracked").add_(1)
            if dist.is_initialized() and dist.get_world_size() > 1:
                return self._over_ranks(x)
        elif self.batch_statistics:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, self.momentum, self.eps)
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def _over_ranks(self, x: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (x.ndim - 2)]
        y = over_ranks(x, self.get_buffer("running_mean"), self.get_buffer("running_var"), self.momentum, self.eps)
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


def over_ranks(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> Tensor:
    """x normalised with the statistics of every rank's rows, in float32, whatever autocast makes of it.

    The running statistics move as F.batch_norm moves them.
    """
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    n = x.numel() // x.shape[1] * dist.get_world_size()
    x = x.float()
    mean = AllReduce.apply(x.sum(axes)) / n
    centred = x - mean.view(shape)
    var = AllReduce.apply(centred.square().sum(axes)) / n
    with torch.no_grad():
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * n / (n - 1), momentum)
    return centred * (var + eps).rsqrt().view(shape)


class ConditionalBatchNorm(nn.Module):
    """BN(x) · (1 + gain(y)) + bias(y)  (Dumoulin et al. 2017, eq. 5; Miyato & Koyama 2018), y of each image.

    `gain` and `bias` make [n, channels] of y: an embedding of a class, or a linear map of a vector. Statistics are over
    all ranks in training, the stored ones in evaluation; `rows` of them where a network was published with a table over
    truncation 0 … 1, of which `psi` chooses.
    """

    passes: int | None
    """Of standing statistics that were taken so far; None while none are."""

    def __init__(
        self,
        channels: int,
        gain: nn.Module,
        bias: nn.Module,
        *,
        eps: float = 1e-5,
        rows: int = 1,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.gain, self.bias, self.eps, self.momentum = gain, bias, eps, momentum
        _add_statistics(self, channels, rows)

    def forward(self, x: Tensor, y: Tensor, psi: float = 1.0) -> Tensor:
        shape = [x.shape[0], -1, *[1] * (x.ndim - 2)]
        return _normalized(self, x, psi) * (1 + self.gain(y)).view(shape) + self.bias(y).view(shape)


class GainNorm(nn.Module):
    """BN(x) · gain + bias: batch norm under the names, and with the rows, of `ConditionalBatchNorm`."""

    passes: int | None

    def __init__(self, channels: int, *, eps: float = 1e-5, rows: int = 1, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        _add_statistics(self, channels, rows)

    def forward(self, x: Tensor, psi: float = 1.0) -> Tensor:
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return _normalized(self, x, psi) * self.gain.view(shape) + self.bias.view(shape)


def _add_statistics(norm: ConditionalBatchNorm | GainNorm, channels: int, rows: int) -> None:
    norm.passes = None
    shape = (channels,) if rows == 1 else (rows, channels)
    norm.register_buffer("stored_mean", torch.zeros(shape))
    norm.register_buffer("stored_var", torch.ones(shape))


def _normalized(norm: ConditionalBatchNorm | GainNorm, x: Tensor, psi: float) -> Tensor:
    mean, var = norm.get_buffer("stored_mean"), norm.get_buffer("stored_var")
    if norm.passes is not None:
        axes = [0, *range(2, x.ndim)]
        mean.lerp_(x.mean(axes), 1 / (norm.passes + 1))
        var.lerp_(x.var(axes), 1 / (norm.passes + 1))
        return F.batch_norm(x, None, None, None, None, True, norm.momentum, norm.eps)
    if norm.training and dist.is_initialized() and dist.get_world_size() > 1:
        return over_ranks(x, mean, var, norm.momentum, norm.eps).to(x.dtype)
    if mean.ndim > 1:
        mean, var = at_truncation(mean, psi), at_truncation(var, psi)
    return F.batch_norm(x, mean, var, None, None, norm.training, norm.momentum, norm.eps)


@torch.no_grad()
def standing_statistics(net: nn.Module, draw: Callable[[], object], passes: int) -> None:
    """What the norms of conditional networks store becomes the mean over so many calls of `draw`, batches of the
    network's own pictures; nothing else changes (Brock et al. 2019, appendix C). On this rank alone.
    """
    norms = [m for m in net.modules() if isinstance(m, ConditionalBatchNorm | GainNorm)]
    for done in range(passes):
        for norm in norms:
            norm.passes = done
        draw()
    for norm in norms:
        norm.passes = None


def at_truncation(table: Tensor, psi: float) -> Tensor:
    """[rows, c] → [c]: statistics for a truncation from 0 to 1, the table's first and last row.

    Between two rows the weights are exchanged against linear interpolation; the published networks were made for it.
    """
    place = round(psi * (len(table) - 1), 9)  # 0.58 · 50 is 29
    low = min(int(place), len(table) - 1)
    part = place - low
    if part == 0 or low == len(table) - 1:
        return table[low]
    return table[low] * part + table[low + 1] * (1 - part)


class AllReduce(torch.autograd.Function):
    """The sum over ranks, differentiable any number of times: its gradient is again the sum over ranks."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return AllReduce.apply(grad)  # type: ignore[return-value]


def rank_mean(x: Tensor) -> Tensor:
    """The mean of every rank's x; x itself where there is one process. Differentiable any number of times."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return AllReduce.apply(x) / dist.get_world_size()  # type: ignore[operator]
    return x


@torch.no_grad()
def from_all_ranks(x: Tensor) -> Tensor:
    """The rows of every rank's x, in the order of the whole batch; x itself where there is one process.

    Of that order each rank has every world-th row. Without gradients.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)
    return x


def whole_batch(x: Tensor) -> Tensor:
    """`from_all_ranks` for a loss that every rank takes of the whole batch; x itself where there is one process.

    The gradient reaches the rows of this rank, world-fold: averaged over ranks, it is that of one process.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        world = dist.get_world_size()
        y = from_all_ranks(x).clone()
        y[dist.get_rank() :: world] = x.detach() + world * (x - x.detach())
        return y
    return x


class InstanceNorm(nn.InstanceNorm2d):
    """Ulyanov et al. 2016, without affine parameters: nothing to store, statistics always come from the image."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        # torch's own copies maps whose channels are last, there and back.
        if not torch.is_grad_enabled() and x.dtype == torch.float32 and x.device.type == "cpu" and is_channels_last(x):
            y = torch.empty_like(x)
            for image, out in zip(x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1), strict=True):
                _normalize(image.flatten(0, 1), self.eps, out.view(-1, x.shape[1]))
            return y
        return super().forward(x)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _normalize(x: Tensor, eps: float, out: Tensor) -> None:
    """(x - E x) / √(Var x + eps) over the rows of x [positions, channels].

    Some rows at a time, as many as stay in the cache; their moments are joined (Chan, Golub & LeVeque 1983).
    """
    parts = x.split(max(1, CACHED // x.shape[1]))
    n = torch.tensor([[len(part)] for part in parts], dtype=x.dtype)
    means = torch.stack([part.mean(0) for part in parts])
    squares = torch.stack([(part - mean).square_().sum(0) for part, mean in zip(parts, means, strict=True)])
    mean = (n * means).sum(0) / len(x)
    var = (squares + n * (means - mean).square()).sum(0) / len(x)
    scale = (var + eps).rsqrt()
    torch.addcmul(-mean * scale, x, scale, out=out)


def without_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what instance norms of old versions of PyTorch programs stored and never used."""
    return {k: v for k, v in state.items() if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))}


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": BatchNorm, "instance": InstanceNorm}
