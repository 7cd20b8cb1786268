"""`ganctl translate --style --like --alpha`: the style that a Styled network is told, as a weighted mean of codes."""

import contextlib
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.errors import DeviceError, UsageError, quoted
from ganctl.io.images import from_pixels, read_image, to_channels
from ganctl.io.listing import expand_inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ganctl.io.listing import ImageRef
    from ganctl.protocols import Styled
    from ganctl.spec import Image
    from ganctl.workflows.translate_way import Way


@dataclass(frozen=True)
class Part:
    """A picture, or a seed, and its share of the style."""

    picture: "ImageRef | None"
    seed: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Told:
    """A network with the style it is told, which is a Translator again."""

    net: "Styled"
    code: "Tensor"
    alpha: float

    @property
    def source(self) -> "Image":
        return self.net.source

    @property
    def target(self) -> "Image":
        return self.net.target

    @property
    def stride(self) -> int:
        return self.net.stride

    @property
    def halo(self) -> int | None:
        """Blended with its own style, a picture is looked at as a whole."""
        return getattr(self.net, "halo", None) if self.alpha == 1 else None

    def translate(self, x: "Tensor", *, seed: int = 0) -> "Tensor":
        """In the style, or between an image's own (alpha 0) and the style (alpha 1)."""
        code = self.code if self.alpha == 1 else self.net.encode_style(x).lerp(self.code, self.alpha)
        return self.net.translate(x, seed=seed, style=code)


def check_style(styles: Sequence[str], likes: Sequence[str], alpha: float | None) -> list[Part]:
    """What can be refused before torch is loaded: pictures that are not there, weights that are none.

    `PICTURE[:WEIGHT]` or `SEED[:WEIGHT]` each, and pictures or folders of weight 1. Raises UsageError.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise UsageError(f"cannot use --alpha {alpha:g}", "it is a share of the style, 0 to 1")
    if alpha is not None and not (styles or likes):
        raise UsageError("cannot use --alpha without a style", "it is the style's share", "pass --style PICTURE")
    parts = [_part(given) for given in styles]
    if likes:
        parts += [Part(i.ref) for i in expand_inputs(likes) if _is_picture(i.ref, "--like")]
    if parts and not any(part.weight for part in parts):
        raise UsageError("cannot use --style with weights of 0 alone", "nothing is left to average")
    return parts


def _is_picture(ref: "ImageRef", option: str) -> bool:
    if ref.source is None:
        raise UsageError(f"cannot use {option} -", "standard input is for pictures to translate", "pass a file")
    return True


def _part(given: str) -> Part:
    name, weight = given, 1.0
    match = re.fullmatch(r"(.+):([0-9.]+(?:e-?[0-9]{1,3})?)", given, re.DOTALL)
    if match and not _exists(given):
        name = match[1]
        try:
            weight = float(match[2])
        except ValueError as e:
            why = f"{quoted(match[2])} is no weight"
            raise UsageError(f"cannot use --style {quoted(given)}", why, "for example --style a.jpg:0.7") from e
        if not math.isfinite(weight):
            raise UsageError(f"cannot use --style {quoted(given)}", "its weight is not finite")
    if re.fullmatch(r"[0-9]{1,10}", name) and not _exists(name):
        if int(name) >= 1 << 32:
            raise UsageError(f"cannot use --style {quoted(given)}", f"seeds end at {(1 << 32) - 1}")
        return Part(None, int(name), weight)
    found = expand_inputs([name])
    if len(found) != 1:
        why = f"it is {len(found)} pictures"
        raise UsageError(f"cannot use --style {quoted(given)}", why, f"for their mean: --like {quoted(name)}")
    _is_picture(found[0].ref, "--style")
    return Part(found[0].ref, weight=weight)


def _exists(path: str) -> bool:
    with contextlib.suppress(OSError):  # a name too long
        return Path(path).exists()
    return False


def with_style(way: "Way", parts: Sequence[Part], alpha: float | None, name: str, device: "torch.device") -> "Way":
    """The way with its first network told the mean of the parts; the way itself where nothing is told.

    Raises UsageError where the model has no styles, draws none from seeds, needs one, or knows no style of an input;
    BadImage for a picture that cannot be read.
    """
    from ganctl.protocols import Styled

    net: Any = way.nets[0]
    what = f"with {quoted(name)}"
    if not isinstance(net, Styled):
        if parts:
            raise UsageError(f"cannot use a style {what}", "it has one style of its own", "leave the option out")
        return way
    if not parts:
        if net.style_prior:
            return way
        raise UsageError(f"cannot translate {what} without a style", "it has none of its own", "pass --style PICTURE")
    seeds = [part.seed for part in parts if part.picture is None]
    if seeds and not net.style_prior:
        why = f"{quoted(str(seeds[0]))} is no file, and this model draws no styles from seeds"
        raise UsageError(f"cannot use --style {seeds[0]} {what}", why, "pass a picture")
    if alpha is not None and not net.own_style:
        raise UsageError(f"cannot use --alpha {what}", "it cannot tell the style of an input", "leave it out")
    code, told = _mean(net, parts, device)
    share = 1.0 if alpha is None else alpha
    told["alpha"] = None if share == 1 else share
    nets: Any = (Told(net, code, share), *way.nets[1:])
    return replace(way, nets=nets, style=told)


def _mean(net: "Styled", parts: Sequence[Part], device: "torch.device") -> "tuple[Tensor, dict[str, Any]]":
    """The weighted mean of the codes, [1, *s], and the parts as a request records them: by content."""
    import torch

    total = sum(part.weight for part in parts)
    mean, told = None, []
    for part in parts:
        if part.picture is None:
            drawn: Any = net
            code, name = drawn.draw_style([part.seed]).to(device), part.seed
        else:
            data = part.picture.read()
            code, name = _code(net, data, part.picture.label, device), hashlib.sha256(data).hexdigest()
        told.append([name, part.weight])
        share = code * (part.weight / total)
        mean = share if mean is None else mean + share
    assert isinstance(mean, torch.Tensor)
    return mean, {"style": told}


def _code(net: "Styled", data: bytes, label: str, device: "torch.device") -> "Tensor":
    """A picture's code, at its own size: upright, its alpha over white."""
    import torch

    from ganctl.nn.precision import inference

    pixels = to_channels(read_image(data, name=label).pixels, net.target.channels)
    try:
        with inference(device):
            return net.encode_style(from_pixels(pixels[None], net.target.range).to(device))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        if type(e) is RuntimeError and "allocate" not in str(e):
            raise
        why = f"its {pixels.shape[1]}x{pixels.shape[0]} pixels do not fit into the memory of {device}"
        raise DeviceError(f"cannot see the style of {quoted(label)}", why, "pass a smaller copy") from e
