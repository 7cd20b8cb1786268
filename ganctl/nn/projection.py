"""The residual blocks and the projection discriminator that SNGAN, SAGAN and BigGAN share (Miyato & Koyama 2018).

Keys are those of Brock et al. 2019's PyTorch code, which builds all three of them from the same parts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.errors import UsageError
from ganctl.nn.attention import SelfAttention
from ganctl.nn.layers import halvings, numbered_blocks
from ganctl.nn.spectral import SNConv2d, SNEmbedding, SNLinear

Conv = Callable[..., nn.Module]
"""(inputs, outputs, kernel) → a convolution of the same size."""
Norm = Callable[[int], nn.Module]
"""(channels) → a normalisation of x by y, forward(x, y)."""

WIDTHS = {
    1: (4, 4), 2: (4, 4, 4), 3: (4, 4, 4, 4), 4: (16, 16, 8, 4, 2), 5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1), 7: (16, 16, 8, 8, 4, 2, 1, 1),
}  # fmt: skip
"""By the number of doublings, from the first layer to the last: feature maps of G's stages, in units of `ngf`.

32 px is Miyato et al. 2018, table 4; 128 px Miyato & Koyama 2018, fig. 14; the others Brock et al. 2019, tables 4 to 9,
and their code (64 px).
"""


def widths(model: str, resolution: int) -> tuple[int, ...]:
    """`WIDTHS` of a side. Raises UsageError for one that the papers' networks do not come to."""
    n, base = halvings(resolution)
    if n not in WIDTHS:
        why = f"its sides are {base} px doubled up to 7 times"
        raise UsageError(f"cannot build {model} for {resolution} px", why, "choose another --resolution")
    return WIDTHS[n]


def attended(model: str, resolution: int, sides: Sequence[int] | None) -> set[int]:
    """The sides at which attention stands: as given, or at 64 px, in smaller networks at half the resolution.

    Raises UsageError for a side at which the networks have no feature maps.
    """
    n, base = halvings(resolution)
    known = {base << i for i in range(1, n + 1)}
    found = {min(64, resolution // 2)} & known if sides is None else set(sides)
    if strange := sorted(found - known):
        why = f"its feature maps are of {', '.join(map(str, sorted(known)))} px"
        raise UsageError(f"cannot put attention of {model} at {strange[0]} px", why, "choose one of these")
    return found


class UpBlock(nn.Module):
    """To twice the size: norm, ReLU, nearest × 2, 3 × 3, norm, ReLU, 3 × 3; the shortcut × 2, then 1 × 1."""

    def __init__(self, inputs: int, outputs: int, *, conv: Conv, norm: Norm) -> None:
        super().__init__()
        self.bn1, self.conv1 = norm(inputs), conv(inputs, outputs, 3)
        self.bn2, self.conv2 = norm(outputs), conv(outputs, outputs, 3)
        self.conv_sc = conv(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "n i h w"], y: Tensor | None) -> Float[Tensor, "n o h2 w2"]:
        h = F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2.0)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2.0))


class DownBlock(nn.Module):
    """ReLU, 3 × 3, ReLU, 3 × 3, mean pooling where `down`; a 1 × 1 shortcut where it changes anything.

    `first` has no ReLU before the image and pools its shortcut before the 1 × 1. The hidden layer is as wide as the
    output where `wide` (Brock et al. 2019, appendix B), else as the input.
    """

    def __init__(self, inputs: int, outputs: int, *, conv: Conv, wide: bool, first: bool, down: bool) -> None:
        super().__init__()
        self.first, self.down = first, down
        hidden = outputs if wide else inputs
        self.conv1, self.conv2 = conv(inputs, hidden, 3), conv(hidden, outputs, 3)
        self.conv_sc = conv(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h2 w2"]:
        h = x if self.first else F.relu(x)
        h = self.conv2(F.relu(self.conv1(h)))
        h = F.avg_pool2d(h, 2) if self.down else h
        if self.first and self.down:
            x = F.avg_pool2d(x, 2)
        x = x if self.conv_sc is None else self.conv_sc(x)
        return h + (F.avg_pool2d(x, 2) if self.down and not self.first else x)


class ProjectionDiscriminator(nn.Module):
    """Blocks down to the smallest side, ReLU, sum over the pixels: φ(x); logits [N] = ψ(φ(x)) + yᵀ V φ(x).

    (Miyato & Koyama 2018, eq. 3.) All of it is spectrally normalised; without classes the second term is left out.
    """

    def __init__(
        self,
        channels: int,
        multiples: Sequence[int],
        ndf: int,
        resolution: int,
        classes: int | None,
        *,
        wide: bool = False,
        attention: set[int] = frozenset(),  # type: ignore[assignment]
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.classes = classes

        def conv(inputs: int, outputs: int, kernel: int) -> SNConv2d:
            return SNConv2d(inputs, outputs, kernel, eps=eps)

        rows, width = [], channels
        for i, (out, down, side) in enumerate(plan(multiples, ndf, resolution)):
            row: list[nn.Module] = [DownBlock(width, out, conv=conv, wide=wide, first=i == 0, down=down)]
            if side in attention:
                row.append(SelfAttention(out, eps=eps))
            rows.append(nn.ModuleList(row))
            width = out
        self.blocks = nn.ModuleList(rows)
        self.linear = SNLinear(width, 1, eps=eps)
        self.embed = SNEmbedding(classes, width, eps=eps) if classes else None

    def forward(self, x: Float[Tensor, "n c h w"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        for row in self.blocks:
            for layer in row.children():
                x = layer(x)
        features = F.relu(x).sum((2, 3))
        logits = self.linear(features).squeeze(1)
        if self.embed is None:
            return logits
        if c is None:
            raise UsageError("no class given", f"D was trained on {self.classes} classes", "give data with classes")
        return logits + (self.embed(c) * features).sum(1)


def plan(multiples: Sequence[int], ndf: int, resolution: int) -> list[tuple[int, bool, int]]:
    """(width, whether it halves the size, the side by which attention goes) of D's blocks, of G's `WIDTHS`.

    Up to 32 px two blocks halve and two do not (Miyato et al. 2018, table 4), and attention at half the resolution
    follows each of them (Brock et al. 2019's code); beyond, all but the last halve.
    """
    if len(multiples) <= 4:
        halving = min(2, len(multiples) - 1)
        return [(4 * ndf, i < halving, resolution // 2) for i in range(halving + 2)]
    widths = [*reversed(multiples[1:]), multiples[0]]
    ends = [resolution >> (i + 1) for i in range(len(widths) - 1)]
    return [(k * ndf, i < len(ends), (ends + ends[-1:])[i]) for i, k in enumerate(widths)]


def published_discriminator(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], bool] | None:
    """The config of a D in Brock et al. 2019's PyTorch code (`blocks.0.0.conv1.weight`), and whether it is `wide`.

    None for other networks. Its smallest network, of two halvings, is taken for the one of 32 px.
    """
    count = numbered_blocks(state, r"blocks\.(\d{1,2})\.0\.conv1\.weight")
    first, linear, embed = state.get("blocks.0.0.conv1.weight"), state.get("linear.weight"), state.get("embed.weight")
    if first is None or linear is None or linear.ndim != 2 or not 4 <= count <= 8 or "input_conv.weight" in state:
        return None
    if embed is not None and embed.ndim != 2:
        return None
    small, resolution = count == 4, 32 if count == 4 else 4 << (count - 1)
    rows = [i for i in range(count) if f"blocks.{i}.1.gamma" in state]
    cfg = {
        "resolution": resolution, "channels": first.shape[1], "ndf": linear.shape[1] // (4 if small else 16),
        "classes": None if embed is None else embed.shape[0],
        "attention": sorted({16 if small else resolution >> (i + 1) for i in rows}),
    }  # fmt: skip
    return cfg, first.shape[0] != first.shape[1]
