"""A chart as a picture: points of several series, the value on a logarithmic axis."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 640, 400, 74, 52, 16, 16
COLOURS = ((37, 99, 235), (234, 88, 12), (22, 163, 74), (147, 51, 234), (220, 38, 38), (13, 148, 136), (113, 113, 122))
INK, LINES = (24, 24, 27), (228, 228, 231)
SIZE = 14
"""Of the letters in pixels."""

Points = Sequence[tuple[float, float]]


def chart(series: Mapping[str, Points], across: str, upwards: str) -> "np.ndarray":
    """uint8 [400, 640, 3]: a colour for each series, decades as lines; `across` and `upwards` name the axes.

    Values that are not above 0 cannot be shown.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    shown = {name: [(x, y) for x, y in points if y > 0] for name, points in series.items()}
    xs = [x for points in shown.values() for x, _ in points] or [0.0, 1.0]
    ys = [math.log10(y) for points in shown.values() for _, y in points] or [0.0, 1.0]
    x0, x1 = 0.0, max(*xs, 1e-9) * 1.02
    y0, y1 = math.floor(min(ys)), max(math.ceil(max(ys)), math.floor(min(ys)) + 1)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(SIZE)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BELOW - (y - y0) / (y1 - y0) * (HEIGHT - BELOW - ABOVE),
        )

    for decade in range(y0, y1 + 1):
        pen.line([at(x0, decade), at(x1, decade)], LINES)
        pen.text((LEFT - 8, at(x0, decade)[1]), f"1e{decade}", INK, font, anchor="rm")
    for tick in ticks(x1):
        pen.text((at(tick, y0)[0], HEIGHT - BELOW + 6), f"{tick:g}", INK, font, anchor="mt")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), across, INK, font, anchor="mb")
    _write_upwards(canvas, upwards, font)
    for i, (name, points) in enumerate(shown.items()):
        colour = COLOURS[i % len(COLOURS)]
        for x, y in points:
            u, v = at(x, math.log10(y))
            pen.ellipse([u - 3, v - 3, u + 3, v + 3], colour)
        pen.text((LEFT + 12, HEIGHT - BELOW - 14 - 20 * (len(shown) - 1 - i)), name, colour, font, anchor="lm")
    return np.asarray(canvas)


def ticks(end: float) -> list[float]:
    """Round numbers from 0 on, four to ten of them."""
    step = 10 ** math.floor(math.log10(end))
    step = next(step * f for f in (0.1, 0.2, 0.5, 1.0) if end / (step * f) <= 10)
    return [step * i for i in range(int(end / step) + 1)]


def _write_upwards(canvas: Any, text: str, font: Any) -> None:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (HEIGHT - BELOW, 20), "white")
    ImageDraw.Draw(strip).text((strip.width / 2, 10), text, INK, font, anchor="mm")
    canvas.paste(strip.rotate(90, expand=True), (4, 4))
