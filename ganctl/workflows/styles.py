"""What a model's pictures take besides their latents: a class, and of a style-based model truncation and noise.

Options that a model has no use for are refused in a sentence, by the option's name.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ganctl.errors import UsageError, did_you_mean, quoted
from ganctl.io.seeds import MAX_SEEDS, seed_text

if TYPE_CHECKING:
    from ganctl.load import Model
    from ganctl.nn.drawing import Drawing

MAX_TRUNC = 100.0
MAX_SHIFT = 100.0
MAX_TURN = 36_000.0
ALL = "all"


@dataclass(frozen=True)
class Style:
    """What was asked of a style-based model; None: not given."""

    trunc: float | None = None
    trunc_cutoff: int | None = None
    noise_mode: Literal["const", "random", "none"] | None = None
    noise_layers: str | None = None
    """The only ones that add noise, as '0-7'."""
    translate: str | None = None
    """'X,Y' in sides of the picture, right and down."""
    rotate: float | None = None
    """Degrees, counter-clockwise."""

    def options(self) -> list[str]:
        """The options that were given, as they are written."""
        given = {
            "--trunc": self.trunc, "--trunc-cutoff": self.trunc_cutoff, "--noise-mode": self.noise_mode,
            "--noise-layers": self.noise_layers, "--translate": self.translate, "--rotate": self.rotate,
        }  # fmt: skip
        return [option for option, value in given.items() if value is not None]

    def check(self) -> None:
        """Raises UsageError for numbers that no model takes."""
        if self.trunc is not None and not (math.isfinite(self.trunc) and abs(self.trunc) <= MAX_TRUNC):
            why = f"it must be a number from -{MAX_TRUNC:g} to {MAX_TRUNC:g}"
            raise UsageError(f"cannot use --trunc {self.trunc:g}", why, "usual are 0.5 to 1")
        if self.trunc_cutoff is not None and self.trunc_cutoff < 0:
            raise UsageError(f"cannot use --trunc-cutoff {self.trunc_cutoff}", "it is a number of layers")
        if parse_layers(self.noise_layers, "--noise-layers") and self.noise_mode == "none":
            raise UsageError("cannot use --noise-layers with --noise-mode none", "no layer adds noise then", "keep one")
        self.shift()
        if self.rotate is not None and not (math.isfinite(self.rotate) and abs(self.rotate) <= MAX_TURN):
            raise UsageError(f"cannot use --rotate {self.rotate:g}", f"it is degrees, -{MAX_TURN:g} to {MAX_TURN:g}")

    def shift(self) -> tuple[float, float]:
        """--translate as numbers; (0, 0) where it is not given. Raises UsageError."""
        if self.translate is None:
            return 0.0, 0.0
        what = f"cannot use --translate {quoted(self.translate[:60])}"
        try:
            x, y = (float(part) for part in self.translate.split(","))
        except ValueError as e:
            raise UsageError(
                what, "it is not X,Y", "right and down in sides of the picture, as --translate 0.25,0"
            ) from e
        if not (abs(x) <= MAX_SHIFT and abs(y) <= MAX_SHIFT):
            raise UsageError(what, f"each is -{MAX_SHIFT:g} to {MAX_SHIFT:g} sides of the picture")
        return x, y

    def psi(self, card: Mapping[str, Any]) -> float:
        """Truncation: as given, else the model card's, else none."""
        if self.trunc is not None:
            return self.trunc
        usual = card.get("trunc")
        proper = isinstance(usual, int | float) and not isinstance(usual, bool) and abs(usual) <= MAX_TRUNC
        return float(usual) if proper else 1.0  # type: ignore[arg-type]

    def record(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """What a style-based model's file keeps of it."""
        noise = None if self.noise_mode == "const" else self.noise_mode
        x, y = self.shift()
        moved = {"translate": f"{x:g},{y:g}" if x or y else None, "rotate": self.rotate or None}
        layers = parse_layers(self.noise_layers, "--noise-layers")
        noises = {"noise_mode": noise, "noise_layers": seed_text(layers) if layers else None}
        return {"trunc": self.psi(card), "trunc_cutoff": self.trunc_cutoff, **noises, **moved}

    def drawing(self, model: "Model") -> "Drawing | None":
        """How to draw; None for a model that truncates nothing. A movement of the picture is set in the network itself.

        Raises UsageError where it cannot be done with this model.
        """
        from ganctl.load import family
        from ganctl.nn.drawing import Drawing, noise_maps
        from ganctl.protocols import StyleSampler, TruncatedSampler

        if isinstance(model.net, TruncatedSampler):
            return self._of_prior(model)
        if not isinstance(model.net, StyleSampler):
            if given := self.options():
                raise without_w(given[0], model)
            return None
        if self.trunc_cutoff is not None and self.trunc_cutoff > (layers := shapes(model)["w"][0]):
            why = f"{quoted(model.name)} has {layers} layers"
            raise UsageError(f"cannot use --trunc-cutoff {self.trunc_cutoff}", why)
        psi, count = self.psi(model.card), len(noise_maps(model.net))
        if self.trunc_cutoff is not None and psi == 1:
            hint = "pass --trunc too, such as 0.7"
            raise UsageError(f"cannot use --trunc-cutoff {self.trunc_cutoff}", "nothing is truncated", hint)
        noise = f"--noise-mode {self.noise_mode}" if self.noise_layers is None else "--noise-layers"
        if not count and (self.noise_layers is not None or self.noise_mode in ("random", "none")):
            raise UsageError(f"cannot use {noise}", f"{quoted(model.name)} adds no noise", "leave it out")
        if self.translate is not None or self.rotate is not None:
            transformed = getattr(family(model.model), "transformed", None)
            if transformed is None:
                what = f"cannot use {'--rotate' if self.translate is None else '--translate'}"
                why = f"{quoted(model.name)} is a {model.model}, whose layers are bound to the pixels"
                raise UsageError(what, why, "leave it out: it is for StyleGAN3")
            transformed(model.net, self.shift(), self.rotate or 0.0)
        layers = parse_layers(self.noise_layers, "--noise-layers")
        if layers is not None and layers[-1] >= count:
            why = f"{quoted(model.name)} has {count} layers with noise"
            raise UsageError(f"cannot use --noise-layers {quoted(self.noise_layers)}", why)
        return Drawing(psi, self.trunc_cutoff, self.noise_mode or "const", layers)

    def _of_prior(self, model: "Model") -> "Drawing":
        """Truncation alone, of z. Raises UsageError for other options, and for numbers beyond 0 … 1."""
        from ganctl.nn.drawing import Drawing

        if given := [option for option in self.options() if option != "--trunc"]:
            raise without_w(given[0], model)
        psi = self.psi(model.card)
        if not 0 <= psi <= 1:
            why = f"{quoted(model.name)} truncates its noise: 1 leaves it as it is, and 0 is one picture of each class"
            raise UsageError(f"cannot use --trunc {psi:g}", why, "choose a number from 0 to 1")
        return Drawing(psi)


def parse_layers(text: str | None, option: str) -> tuple[int, ...] | None:
    """'0-3,7' → (0, 1, 2, 3, 7), None → None. Raises UsageError."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:-\s*([0-9]{1,3})\s*)?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            why = f"{quoted(part[:60])} is neither a layer nor a range a-b"
            raise UsageError(f"cannot use {option} {quoted(text[:60])}", why, f"write it as {option} 0-6")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(sorted(set(found)))


def without_w(option: str, model: "Model") -> UsageError:
    """The refusal of an option that needs a space W."""
    why = f"{quoted(model.name)} is of the family {model.model}, which has no latent space W"
    return UsageError(f"cannot use {option}", why, "leave it out: it is for the StyleGAN family")


def shapes(model: "Model") -> dict[str, tuple[int, ...]]:
    """The shape of one latent in each of a sampler's spaces, W before Z where it has both."""
    import torch

    from ganctl.protocols import StyleSampler, classes_of

    z = model.net.prior([0])
    found = {"z": tuple(z.shape[1:])}
    if not isinstance(model.net, StyleSampler):
        return found
    c = None if classes_of(model.net) is None else torch.zeros(1, dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        return {"w": tuple(model.net.map(z.to(model.device), c).shape[1:]), **found}


def class_count(text: str) -> int | None:
    """How many classes a --class names, without knowing the model; None for all of them."""
    if text.strip() == ALL:
        return None
    spans = [(int(m[1]), int(m[2])) for part in text.split(",") if (m := _range(part))]
    return len(text.split(",")) + sum(max(0, last - first) for first, last in spans)


def pick_classes(text: str | None, model: "Model") -> tuple[int, ...] | None:
    """The classes that --class names: '207', 'tabby,8', '0-9', 'all'; None where it is not given.

    Raises UsageError: out of range, an unknown name, a model without classes.
    """
    if text is None:
        return None
    from ganctl.protocols import classes_of

    label = classes_of(model.net) or refuse_classes(text, model)
    if text.strip() == ALL:
        return tuple(range(label.n))
    found: list[int] = []
    for part in text.split(","):
        match = _range(part)
        first, last = (int(match[1]), int(match[2])) if match else (None, None)
        if first is None or last is None:
            found.append(one_class(part, label.n, label.names))
            continue
        if last < first:
            raise UsageError(f"cannot use --class {quoted(text)}", f"the range {first}-{last} runs backwards")
        one_class(str(last), label.n, label.names)
        found += range(first, last + 1)
    if len(found) > MAX_SEEDS:
        raise UsageError(f"cannot use --class {quoted(text[:60])}", f"it names more than {MAX_SEEDS:,} classes")
    return tuple(dict.fromkeys(found))


def refuse_classes(text: str, model: "Model") -> NoReturn:
    why = f"{quoted(model.name)} was not trained on classes"
    raise UsageError(f"cannot use --class {quoted(text[:60])}", why, "leave it out")


def one_class(text: str, n: int, names: tuple[str, ...]) -> int:
    """A class by its number or name. Raises UsageError."""
    text = text.strip()
    if re.fullmatch(r"-?[0-9]{1,20}", text):
        if not 0 <= int(text) < n:
            raise UsageError(f"class {text} out of range 0-{n - 1}", hint="see: ganctl zoo info MODEL")
        return int(text)
    lower = [name.casefold() for name in names]
    if text in names:
        return names.index(text)
    if lower.count(text.casefold()) == 1:
        return lower.index(text.casefold())
    why = f"the model's are numbers, 0-{n - 1}" if not names else f"it has {n} of them, such as {', '.join(names[:5])}"
    raise UsageError(f"unknown class {quoted(text[:80])}", why, did_you_mean(text, names))


def _range(part: str) -> "re.Match[str] | None":
    return re.fullmatch(r"\s*([0-9]{1,9})\s*-\s*([0-9]{1,9})\s*", part)
