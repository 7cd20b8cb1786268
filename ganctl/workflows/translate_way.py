"""What happens to one picture: the networks it passes, in which pieces, and how the result is laid out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ganctl.errors import DeviceError, UsageError, quoted
from ganctl.io.images import from_pixels, resize, to_channels, to_pixels
from ganctl.io.label_maps import coloured
from ganctl.workflows.translate_tiles import WHOLE, tiled

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ganctl.load import Model
    from ganctl.protocols import Translator
    from ganctl.spec import Image


@dataclass(frozen=True)
class Way:
    """One network, or there and back."""

    nets: "tuple[Translator, ...]"
    every: bool = False
    """Whether all their outputs are kept, one behind the other in the channels, or the last one only."""
    tile: int = 0
    overlap: int = 0
    style: Mapping[str, Any] = field(default_factory=dict)
    """What requests record of the style that the first network is told."""

    @property
    def source(self) -> "Image":
        return self.nets[0].source

    @property
    def stride(self) -> int:
        return math.lcm(*(net.stride for net in self.nets))

    @property
    def halo(self) -> int | None:
        """How far from a pixel of the output the view of the networks ends, in the input; None: it does not."""
        halos: list[Any] = [getattr(net, "halo", None) for net in self.nets]
        return None if None in halos else sum(halos)

    def translate(
        self, images: "Sequence[np.ndarray]", device: "torch.device", seed: int, half: str | None = None
    ) -> "list[np.ndarray]":
        """Images uint8 [H, W, C] of one size → uint8 [H', W', K], whole or in tiles; errors as `translate` has them."""
        if not self.tile:
            return translate(self, images, device, seed, half)

        def one(part: "np.ndarray") -> "np.ndarray":
            return translate(self, [part], device, seed, half)[0]

        return [tiled(image, one, self.tile, self.overlap, self.stride, self.halo) for image in images]

    def told(self, image: "np.ndarray") -> tuple[str, ...]:
        """What was done to a picture of this size, in words."""
        larger = max(image.shape[:2]) > self.tile + -self.tile % self.stride
        return (WHOLE,) if self.tile and larger and self.halo is None else ()

    def shown(self, image: "np.ndarray") -> "np.ndarray":
        """An input to be looked at."""
        return coloured(image) if self.source.numbers else image

    def split(self, made: "np.ndarray") -> "list[np.ndarray]":
        """The outputs that lie behind one another in the channels."""
        import numpy as np

        channels = [net.target.channels for net in (self.nets if self.every else self.nets[-1:])]
        return np.split(made, np.cumsum(channels)[:-1], axis=2)


def find_way(model: "Model", direction: str | None, cycle: bool, every: bool) -> Way:
    """Raises UsageError for a direction, or a cycle, where the model has one direction."""
    net, back = model.net, getattr(model.net, "reverse", None)
    if back is None and (direction or cycle):
        what = f"cannot use {'--cycle' if cycle else f'--direction {direction}'} with {quoted(model.name)}"
        raise UsageError(what, "it translates one way only", "leave the option out, or choose a model of both ways")
    nets: Any = (net, back) if direction != "BtoA" else (back, net)
    return Way(nets if cycle else nets[:1], every)


def translate(
    way: Way, images: "Sequence[np.ndarray]", device: "torch.device", seed: int, half: str | None = None
) -> "list[np.ndarray]":
    """Images uint8 [H, W, C] of one size → uint8 [H', W', K], through reflection up to the stride and back.

    Raises GanctlError for NaN in the result and DeviceError when memory runs out.
    """
    import numpy as np
    import torch

    from ganctl.nn.precision import inference

    source, stride = way.source, way.stride
    height, width = images[0].shape[:2]
    flat = np.stack([to_channels(image, source.channels) for image in images])
    below, right = -height % stride, -width % stride
    # numpy's reflection goes on past the image's own size, which torch's does not.
    padded = np.pad(flat, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")
    outputs = []
    try:
        with inference(device, half):
            y = from_pixels(padded, source.range).to(device)
            for net in way.nets:
                y = net.translate(y, seed=seed)
                if way.every or net is way.nets[-1]:
                    outputs.append(to_pixels(y, net.target.range))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        # The CPU's allocator has no exception of its own.
        if type(e) is RuntimeError and "allocate" not in str(e):
            raise
        why = f"{len(images)} of {width}x{height} pixels do not fit into the memory of {device}"
        hint = f"try --tile {max(64, min(512, width // 2, height // 2))}, a smaller --size, or --device cpu"
        raise DeviceError("cannot translate the image", why, hint) from e
    pixels = np.concatenate(outputs, axis=3)
    scale_h, scale_w = pixels.shape[1] / padded.shape[1], pixels.shape[2] / padded.shape[2]
    return list(pixels[:, : round(height * scale_h), : round(width * scale_w)])


def finish(source: "np.ndarray", outputs: "Sequence[np.ndarray]", concat: bool) -> "np.ndarray":
    """The outputs with the input's alpha, side by side, after the input if asked."""
    import numpy as np

    size = outputs[0].shape[:2]
    if source.shape[2] == 4:
        alpha = resize(source[:, :, 3:], size)
        outputs = [np.concatenate([to_channels(output, 3), alpha], 2) for output in outputs]
    if concat:
        outputs = [resize(source, size), *outputs]
    channels = max(output.shape[2] for output in outputs)
    return np.concatenate([to_channels(output, channels) for output in outputs], 1)
