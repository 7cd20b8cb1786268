"""What a network must offer to serve a task. Structural: a network inherits nothing but nn.Module."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Generator, Tensor

from ganctl.spec import Image, Label, Spec

Noise = Literal["const", "none"] | Sequence[Generator]
"""Of a synthesis network: its stored maps, nothing, or fresh ones, drawn for each image by a generator of its own."""


@runtime_checkable
class Sampler(Protocol):
    """z ~ p(z), x = G(z)."""

    x: Image

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n *z"]:
        """One z per seed, each from a generator of its own, on the CPU: a picture never depends on its batch."""
        ...

    def sample(self, z: Float[Tensor, "n *z"]) -> Float[Tensor, "n c h w"]:
        """Images in `x.range`."""
        ...


@runtime_checkable
class ConditionalSampler(Sampler, Protocol):
    """z, c → x = G(z, c): a sampler that was trained on classes. One that was not has no `c`, or None."""

    c: Label | None

    def sample(self, z: Float[Tensor, "n *z"], c: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n c h w"]:
        """Images in `x.range` of the classes `c`, 0 … c.n - 1."""
        ...


@runtime_checkable
class CodedSampler(Sampler, Protocol):
    """A sampler of whose z the last coordinates are codes: each stands for something of its own (Chen et al. 2016)."""

    code_count: int


@runtime_checkable
class TruncatedSampler(Sampler, Protocol):
    """A sampler whose z may come from a truncated prior (Brock et al. 2019, sec. 3.1): it has no W to truncate."""

    def truncated(self, z: Float[Tensor, "n *z"], psi: float) -> Float[Tensor, "n *z"]:
        """z of the prior, as the prior truncated by psi, 0 … 1, has it; 1 leaves it as it is."""
        ...

    def sample(
        self, z: Float[Tensor, "n *z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n c h w"]:
        """Images in `x.range` of `truncated(z, psi)`."""
        ...


@runtime_checkable
class StyleSampler(Sampler, Protocol):
    """z → w → x: a sampler with a second latent space, which its mapping network makes of the prior (and of a class).

    The mean of w over the prior, which truncation draws towards, is the buffer `mapping.w_avg`.
    """

    def map(
        self,
        z: Float[Tensor, "n *z"],
        c: Int[Tensor, " n"] | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "n l w"]:
        """One style w per layer of the synthesis network; the first `cutoff` layers (None: all) truncated by psi."""
        ...

    def synthesize(self, w: Float[Tensor, "n l w"], *, noise: Noise = "const") -> Float[Tensor, "n c h w2"]:
        """Images in `x.range`."""
        ...

    def sample(
        self, z: Float[Tensor, "n *z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n c h w"]:
        """`synthesize(map(z, c, psi=psi))`, with the network's constant noise."""
        ...


def classes_of(net: Any) -> Label | None:
    """What a conditional network is conditioned on; None of any other."""
    c = getattr(net, "c", None)
    return c if isinstance(c, Label) else None


@runtime_checkable
class Translator(Protocol):
    """y = F(x): one image in, one out. Input sides must be multiples of `stride`."""

    source: Image
    target: Image
    stride: int

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h2 w2"]: ...


@runtime_checkable
class Styled(Translator, Protocol):
    """y = F(x, s): a translator that is told the style of its output by a code s.

    Codes are linear: the weighted mean of several, from pictures or drawn, is a style between them. `reverse`, where a
    network has it, is one too, with styles of its own.
    """

    style_prior: bool
    """Whether styles can be drawn: there is `draw_style(seeds) -> [n, *s]`, one code per seed, each from a generator of
    its own, on the CPU; and without a style `translate` takes that of its seed."""
    own_style: bool
    """Whether `encode_style` understands an input too, whose own style can then be blended with another. Where none is
    drawn, `translate` takes it without a style."""

    def encode_style(self, x: Float[Tensor, "n k h w"]) -> Float[Tensor, "n *s"]:
        """Codes of pictures on `target.range`, of any size."""
        ...

    def translate(
        self, x: Float[Tensor, "n c h w"], *, seed: int = 0, style: Float[Tensor, "m *s"] | None = None
    ) -> Float[Tensor, "n k h2 w2"]:
        """Of `style` there is one code for each image, or one for all."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """encode and decode; encode gives the code's mean, so it is repeatable.

    One with classes in its code (`classes_of`) has `logits(x)` of them too, and is a ConditionalSampler.
    """

    x: Image

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n z"]: ...

    def decode(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n c h w"]: ...


@runtime_checkable
class Classifier(Protocol):
    """Class logits and the features under them (for a Fréchet distance over a domain of one's own)."""

    x: Image
    c: Spec

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]: ...

    def head(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Class logits from features."""
        ...

    def logits(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]: ...
