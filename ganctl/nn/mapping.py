"""The mapping network of StyleGAN 2 and 3: z and class to w, and what truncation makes of w."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.nn.equalized import EqualizedLinear
from ganctl.nn.layers import class_given
from ganctl.nn.norm import rank_mean


def one_hot(c: Tensor | None, classes: int | None) -> Tensor | None:
    """Class indices [n] as rows [n, classes]; None for a network without classes. Raises UsageError for no class."""
    if classes is None:
        return None
    return F.one_hot(class_given(c, classes), classes).float()


def normalized(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """To length √d."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z and class to w: both normalised, joined, through fully connected layers (Karras et al. 2019, fig. 1b).

    `lr` is their learning rate as a share of the others', `beta` the decay of w_avg, the running mean of w. A
    discriminator's mapping of the class has no z (`z_dim` 0) and no running mean (`beta` None). `joint`: the class has
    a vector of z's dimension, and both are normalised together.
    """

    def __init__(
        self,
        z_dim: int,
        classes: int | None,
        w_dim: int,
        layers: int,
        lr: float,
        beta: float | None = None,
        *,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.layers, self.beta, self.joint = classes, layers, beta, joint
        if classes:
            self.embed = nn.Linear(classes, z_dim, bias=False) if joint else EqualizedLinear(classes, w_dim)
            if joint:
                nn.init.normal_(self.embed.weight)
        inputs = z_dim + (self.embed.weight.shape[0] if classes else 0)
        for i in range(layers):
            self.add_module(f"fc{i}", EqualizedLinear(w_dim if i else inputs, w_dim, lr=lr, activation="lrelu"))
        if beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Float[Tensor, "n z"] | None, c: Int[Tensor, " n"] | None = None, *, track: bool = False
    ) -> Float[Tensor, "n w"]:
        """`track` moves the running mean towards the batch's, over all ranks."""
        y = one_hot(c, self.classes)
        parts = [part for part in (z, None if y is None else self.embed(y)) if part is not None]
        x = normalized(torch.cat(parts, 1)) if self.joint else torch.cat([normalized(part) for part in parts], 1)
        for i in range(self.layers):
            x = self.get_submodule(f"fc{i}")(x)
        if track and self.beta is not None:
            w_avg = self.get_buffer("w_avg")
            w_avg.copy_(rank_mean(x.detach().mean(0)).lerp(w_avg, self.beta))
        return x

    def truncated(
        self, w: Float[Tensor, "n w"], layers: int, psi: float, cutoff: int | None
    ) -> Float[Tensor, "n {layers} w"]:
        """w for each of so many layers: w_avg + psi (w - w_avg) for the first `cutoff` of them (None: for all).

        (Karras et al. 2019, appendix B.)
        """
        if psi == 1:
            return w[:, None].repeat(1, layers, 1)
        short = self.get_buffer("w_avg").lerp(w, psi)
        return torch.stack([short if cutoff is None or i < cutoff else w for i in range(layers)], 1)
