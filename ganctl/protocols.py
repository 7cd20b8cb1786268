"""What a network must offer to serve a task. Structural: a network inherits nothing but nn.Module."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ganctl.spec import Image, Spec


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
class StyleSampler(Sampler, Protocol):
    """z → w → x: a sampler with a second latent space, which its mapping network makes of the prior."""

    def map(self, z: Float[Tensor, "n *z"]) -> Float[Tensor, "n l w"]:
        """One style w per layer of the synthesis network."""
        ...

    def synthesize(self, w: Float[Tensor, "n l w"]) -> Float[Tensor, "n c h w2"]:
        """Images in `x.range`, with the network's constant noise: `sample(z)` is `synthesize(map(z))`."""
        ...


@runtime_checkable
class Translator(Protocol):
    """y = F(x): one image in, one out. Input sides must be multiples of `stride`."""

    source: Image
    target: Image
    stride: int

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h2 w2"]: ...


@runtime_checkable
class Autoencoder(Protocol):
    """encode and decode; encode gives the code's mean, so it is repeatable."""

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
