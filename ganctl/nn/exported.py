"""Networks as plain graphs, tensors in and tensors out: what `torch.export` and ONNX can hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.errors import UsageError
from ganctl.nn.features.inception import Inception
from ganctl.nn.features.vgg import VGG16
from ganctl.protocols import Autoencoder, Classifier, Sampler, Styled, StyleSampler, Translator, classes_of
from ganctl.spec import Image

Values = Mapping[str, Tensor]
Shapes = dict[str, list[int | str]]
REFUSED = "cannot export this network"
SIDE = 64
"""Pixels of a picture of any size that is traced, or more where a network's stride is larger."""
ROWS, OTHER_ROWS = 2, (1, 3)
"""Images that are traced together, and that are compared: other numbers, so that none is baked in."""


@dataclass(frozen=True)
class Ports:
    """A network with named tensors on both sides."""

    graph: nn.Module
    """Its forward takes the inputs by name, and gives the outputs in their order."""
    reference: Callable[[Values], Sequence[Tensor]]
    """The same by the network's own methods, as every other command computes it."""
    inputs: Callable[[int, int, tuple[int, int]], dict[str, Tensor]]
    """Values of them: of so many images, from a seed on, in steps of a picture's (height, width)."""
    outputs: tuple[str, ...]
    told: dict[str, str]
    """What each input and output is, in words."""
    free: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Axes of the inputs that may have any size, as far as the network allows."""
    sides: tuple[int, int] = (1, 1)
    """(height, width) of a traced picture; (1, 1) where there is none."""
    stride: int = 1


class Drawn(nn.Module):
    """z, and a class of a conditional network, to an image."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.net.sample(z) if c is None else self.net.sample(z, c)


class StyleDrawn(nn.Module):
    """z, a class and psi to an image, with truncation as an operation of the graph: w_avg + psi (w - w_avg)."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        w, mean = self.net.map(z, c), self.net.mapping.get_buffer("w_avg")
        return self.net.synthesize(mean + psi * (w - mean))


class Translated(nn.Module):
    """An image, and a style where there is one, to an image."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        return self.net.translate(x) if style is None else self.net.translate(x, style=style)


class Classified(nn.Module):
    """An image to features and logits."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _classified(self.net, x)


def _classified(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(net, Inception):
        features = net(x)
        return features, net.logits(features)
    features = net.features(x)
    return features, net.head(features)


def ports(net: Any) -> Ports:
    """The inputs and outputs of a network, by what it can do. Raises UsageError for what has no plain graph."""
    if isinstance(net, Sampler):
        return _sampler(net)
    if isinstance(net, Translator):
        return _translator(net)
    if isinstance(net, Classifier | Inception):
        return _classifier(net)
    if isinstance(net, VGG16):
        x = Image((224, 224), 3)
        told = {"x": "RGB less ImageNet's mean, by its deviation: [n, 3, 224, 224]", "features": "[n, 4096]"}
        return Ports(net, lambda i: [net(**i)], _pictures(x), ("features",), told, {"x": (0,)}, (224, 224))
    what = "it is an autoencoder without a prior" if isinstance(net, Autoencoder) else "its layers are read one by one"
    raise UsageError(REFUSED, f"{what}: no plain graph from tensors to tensors", "see: docs/export.md")


def _sampler(net: Any) -> Ports:
    label, styled = classes_of(net), isinstance(net, StyleSampler)

    def inputs(rows: int, seed: int, _: tuple[int, int]) -> dict[str, Tensor]:
        values = {"z": net.prior(range(seed, seed + rows))}
        values |= {"psi": torch.tensor(0.7 if seed else 0.5)} if styled else {}
        return values | ({} if label is None else {"c": torch.arange(seed, seed + rows) % label.n})

    def reference(values: Values) -> list[Tensor]:
        options = {"psi": float(values["psi"])} if styled else {}
        return [net.sample(*(values[k] for k in ("z", "c") if k in values), **options)]

    told = {"z": "as sample draws it of a seed, such as N(0, I)"}
    if styled:
        told["psi"] = "truncation: 1 for none, 0 for the mean face"
    if label is not None:
        told["c"] = f"classes, 0 … {label.n - 1}"
    free = {k: (0,) for k in told if k != "psi"}
    graph = StyleDrawn(net) if styled else Drawn(net)
    return Ports(graph, reference, inputs, ("x",), {**told, "x": _image(net.x)}, free)


def _translator(net: Any) -> Ports:
    if net.source.numbers:
        raise UsageError(REFUSED, "its input is a label map, not an image", "use: ganctl translate")
    styled, side = isinstance(net, Styled), max(net.stride, SIDE)
    side += -side % net.stride
    sides = net.source.size or (side, side)
    pictures, targets = _pictures(net.source), _pictures(net.target)

    def inputs(rows: int, seed: int, size: tuple[int, int]) -> dict[str, Tensor]:
        values = pictures(rows, seed, size)
        if not styled:
            return values
        seeds = range(seed, seed + rows)
        drawn = net.draw_style(seeds) if net.style_prior else net.encode_style(targets(rows, seed, size)["x"])
        return values | {"style": drawn}

    if not styled:
        x = pictures(1, 0, sides)["x"]
        with torch.inference_mode():
            if not torch.equal(net.translate(x, seed=0), net.translate(x, seed=1)):
                why = "its pictures depend on a seed (noise that it draws as it runs), and a graph draws none"
                raise UsageError(REFUSED, why, "use: ganctl translate")
    told = {"x": f"{_image(net.source)}; sides: multiples of {net.stride}"}
    told |= {"style": "a code, as encode_style or draw_style gives it"} if styled else {}
    free = {"x": (0,) if net.source.size else (0, 2, 3), **({"style": (0,)} if styled else {})}
    reference: Callable[[Values], list[Tensor]] = lambda i: [net.translate(**i)]  # noqa: E731
    return Ports(Translated(net), reference, inputs, ("y",), {**told, "y": _image(net.target)}, free, sides, net.stride)


def _classifier(net: Any) -> Ports:
    x = Image((299, 299), 3) if isinstance(net, Inception) else net.x
    sides, outputs = x.size or (SIDE, SIDE), ("features", "logits")
    told = {"x": _image(x), "features": "of the last layer but one", "logits": "of the classes"}
    return Ports(Classified(net), lambda i: _classified(net, i["x"]), _pictures(x), outputs, told, {"x": (0,)}, sides)


def _pictures(image: Image) -> Callable[[int, int, tuple[int, int]], dict[str, Tensor]]:
    """Pictures drawn evenly from an image's range."""

    def inputs(rows: int, seed: int, size: tuple[int, int]) -> dict[str, Tensor]:
        low, high = image.range
        x = torch.rand(rows, image.channels, *size, generator=torch.Generator().manual_seed(seed))
        return {"x": low + (high - low) * x}

    return inputs


def _image(image: Image) -> str:
    low, high = image.range
    size = "h, w" if image.size is None else f"{image.size[0]}, {image.size[1]}"
    kind = {1: "grey", 3: "RGB"}.get(image.channels, f"{image.channels} channels")
    return f"images [n, {image.channels}, {size}], {kind} on [{low:g}, {high:g}]"


def trace(p: Ports) -> torch.export.ExportedProgram:
    """The network's graph, every free axis left free where the network allows it.

    With gradients on, as if it were trained: the faster ways of `nn.winograd`, of channels kept last and of one's own
    threads are for pictures alone, and would be baked in.
    """
    values = p.inputs(ROWS, 0, p.sides)
    shapes = {k: dict.fromkeys(p.free.get(k, ()), torch.export.Dim.AUTO) for k in values}
    with torch.enable_grad():
        return torch.export.export(p.graph.eval(), (), kwargs=values, dynamic_shapes=shapes, strict=False)


def shapes_of(program: torch.export.ExportedProgram, p: Ports) -> tuple[Shapes, Shapes]:
    """Shapes of inputs and outputs by name, a free size by a letter: n images, h rows, w columns."""
    found: list[list[Any]] = []
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    for name in (*program.graph_signature.user_inputs, *program.graph_signature.user_outputs):
        found.append(list(nodes[str(name)].shape))
    names = list(p.inputs(1, 0, p.sides))
    letters = dict(enumerate("n" if p.sides == (1, 1) else "nchw"))
    told = [[s if isinstance(s, int) else letters.get(i, "?") for i, s in enumerate(shape)] for shape in found]
    return dict(zip(names, told[: len(names)], strict=True)), dict(zip(p.outputs, told[len(names) :], strict=True))
