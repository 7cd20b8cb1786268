"""What a run shows of itself: real images, samples over time, scores."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.errors import GanctlError, UsageError
from ganctl.io.files import cache_root
from ganctl.io.images import grid, to_pixels, write_image
from ganctl.io.label_maps import coloured
from ganctl.io.progress import SILENT, Reporter
from ganctl.workflows.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from ganctl.data import Dataset
    from ganctl.metrics.score import Score
    from ganctl.metrics.statistics import Stats

CELLS = 64
STEP = 250
"""Images that are scored at a time."""
PAIRS = 8


def reals(data: "Dataset", path: Path) -> None:
    """The first 64 images; of two sides, the first eight of each beside one another. Of a toy, its points."""
    from ganctl.data.toy import POINT
    from ganctl.workflows.plane import real_frame

    if data.x.shape[1:] == POINT:
        real_frame(data, path)
    elif data.y is None:
        write_image(path, grid(list(data.x[:CELLS]), 8))
    else:
        shown = min(PAIRS, len(data.x), len(data.y))
        x = coloured(data.x[:shown]) if data.numbers else data.x[:shown]
        cells = [a for pair in zip(x, data.y[:shown], strict=True) for a in pair]
        write_image(path, grid(cells, 2))


def progress_grid(net: Any, data: "Dataset", recipe: Recipe, path: Path, device: Any) -> None:
    """Samples of seeds 0 to 63; of a translator, rows of source, result and target. A classifier shows nothing.

    Of one with a way back, rows of x, G(x), F(G(x)), y, F(y), G(F(y)).
    Of one that needs a style, rows of source, style and result.
    Of super-resolution, whose data have no source, it is the target made smaller, shown in the target's size.
    """
    from ganctl.io.images import from_pixels
    from ganctl.nn.drawing import of_seeds
    from ganctl.nn.precision import inference
    from ganctl.nn.shrink import shrink
    from ganctl.protocols import Sampler, Styled, Translator

    with inference(device):
        if isinstance(net, Sampler):
            images = of_seeds(net, range(CELLS), device)
            write_image(path, grid(list(to_pixels(images, net.x.range)), 8))
        elif isinstance(net, Styled) and not net.style_prior:
            write_image(path, grid(styled_rows(net, data, recipe.config.resolution, device), 3))
        elif isinstance(net, Translator):
            side, shown = recipe.config.resolution, min(PAIRS, len(data.x))
            if data.y is None:
                y, scale = data.x[:shown, :side, :side], getattr(net, "scale", 1)
                low = shrink(from_pixels(y, net.source.range), scale)
                made = to_pixels(net.translate(low.to(device)), net.target.range)
                x = to_pixels(low, net.source.range).repeat(scale, 1).repeat(scale, 2)
                write_image(path, grid([a for row in zip(x, made, y, strict=True) for a in row], 3))
                return
            shown = min(shown, len(data.y))
            x, y = data.x[:shown, :side, :side], data.y[:shown, :side, :side]

            def through(first: Any, pixels: Any, *more: Any) -> list[Any]:
                made = from_pixels(pixels, first.source.range).to(device)
                columns = [coloured(pixels) if first.source.numbers else pixels]
                for way in (first, *more):
                    made = way.translate(made)
                    columns.append(to_pixels(made, way.target.range))
                return columns

            back = getattr(net, "reverse", None)
            columns = [*through(net, x), y] if back is None else [*through(net, x, back), *through(back, y, net)]
            write_image(path, grid([a for row in zip(*columns, strict=True) for a in row], len(columns)))


def styled_rows(net: Any, data: "Dataset", side: int, device: Any) -> list[Any]:
    """Source, style and result, eight times. Where styles are images of another class, that is one half the data on."""
    from ganctl.data import evenly
    from ganctl.io.images import from_pixels

    shown = min(PAIRS, len(data.x), len(data.x if data.y is None else data.y))
    rows = evenly(len(data.x), shown)
    x = data.x[rows, :side, :side]
    y = (data.x[(rows + len(data.x) // 2) % len(data.x)] if data.y is None else data.y[:shown])[:, :side, :side]
    style = net.encode_style(from_pixels(y, net.target.range).to(device))
    made = net.translate(from_pixels(x, net.source.range).to(device), style=style)
    return [a for row in zip(x, y, to_pixels(made, net.target.range), strict=True) for a in row]


CODES = 5000
"""In the picture of the code space."""
SIDE, DOT, INSIDE = 512, 2, 0.995
"""Of that picture in pixels; radius of a dot; share of the codes that its sides leave room for."""
COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
"""Of the classes in their order, and again from the first after the tenth."""


def code_space(net: Any, data: "Dataset", path: Path, device: Any) -> None:
    """The codes of up to 5,000 training images, each a dot in the colour of its class: of an autoencoder with
    two-dimensional codes (Makhzani et al. 2016, fig. 2). Of any other network there is nothing to draw."""
    import numpy as np
    import torch

    from ganctl.data import evenly
    from ganctl.io.images import from_pixels
    from ganctl.nn.precision import inference
    from ganctl.protocols import Autoencoder

    if not isinstance(net, Autoencoder) or getattr(net, "z_dim", None) != 2:
        return
    # Where classes are known of few images, y are those.
    source = data.x if data.y is None else data.y
    rows = evenly(len(source), min(CODES, len(source)))
    side = net.x.size[0]  # pyright: ignore[reportOptionalSubscript]
    with inference(device):
        parts = [from_pixels(source[part][:, :side, :side], net.x.range) for part in np.array_split(rows, 20)]
        z = torch.cat([net.encode(part.to(device)) for part in parts]).float().cpu().numpy()
    c = np.zeros(len(rows), int) if data.c is None else data.c[rows]
    reach = float(np.quantile(np.abs(z), INSIDE)) * 1.05 + 1e-9
    # Upwards is more, as in every diagram.
    at = np.rint((z * [1, -1] / reach + 1) / 2 * (SIDE - 1)).astype(int)
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    ring = [(u, v) for u in range(-DOT, DOT + 1) for v in range(-DOT, DOT + 1) if u * u + v * v <= DOT * DOT]
    for u, v in ring:
        x, y = (at + np.array([u, v])).T
        seen = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        canvas[y[seen], x[seen]] = np.array(COLOURS, np.uint8)[c[seen] % len(COLOURS)]
    write_image(path, canvas)


def gradients(log: Path, losses: Sequence[str], path: Path) -> None:
    """The norm of G's gradient by each loss against how sure D was, a dot for each tick (Arjovsky & Bottou 2017)."""
    from ganctl.train.gradients import SURE
    from ganctl.train.loop import GRADIENT
    from ganctl.workflows.chart import chart
    from ganctl.workflows.report import read_log

    names, rows = {loss: f"G_{loss}{GRADIENT}" for loss in losses}, read_log(log)
    series = {loss: [(row[SURE], row[name]) for row in rows if name in row] for loss, name in names.items()}
    write_image(path, chart(series, "-E log D(G(z)), nats: how sure D is", "norm of G's gradient"))


def samples(net: Any, n: int, step: int) -> "Iterator[np.ndarray]":
    """Pictures uint8 [step, H, W, C] of a sampler's first n seeds, so many at a time, where its weights are."""
    from ganctl.nn.drawing import of_seeds
    from ganctl.nn.precision import inference

    device = next(net.parameters()).device
    for start in range(0, n, step):
        with inference(device):
            images = of_seeds(net, range(start, min(start + step, n)), device)
        yield to_pixels(images, net.x.range)


def score(metric: str, net: Any, data: "Dataset", recipe: Recipe, real: dict[str, Any]) -> "list[Score]":
    """A metric of the sampler's first seeds against the training data, whose side is kept in `real`."""
    from ganctl.metrics import training
    from ganctl.metrics.catalog import METRICS

    device = next(net.parameters()).device
    if METRICS[metric].kind == "ppl":
        return training.path_length(metric, net, device=device)
    # fid5k, kid50k_full and their like fix their number of samples by name.
    n = METRICS[metric].n if METRICS[metric].training else recipe.train.metric_images
    assert n
    if METRICS[metric].moves:
        return training.equivariance(metric, net, n, device=device)

    if metric not in real:
        real[metric] = real_side(metric, data, device)
    return training.score(metric, samples(net, n, STEP), real[metric], device=device)


def stats_path(metric: str, data: "Dataset") -> Path:
    """Where the cache keeps a metric's real side."""
    digest = hashlib.sha256(f"training 2 {metric} {data.fingerprint()}".encode()).hexdigest()
    return cache_root() / "stats" / f"{digest}.npz"


def real_side(metric: str, data: "Dataset", device: Any, reporter: Reporter = SILENT) -> "Stats | None":
    """What is kept of the training data, from the cache where the same data were measured before; None if unneeded.

    Raises WeightsError when the metric's network is not at hand.
    """
    from ganctl.metrics import training
    from ganctl.metrics.catalog import METRICS
    from ganctl.metrics.statistics import read_stats, write_stats

    if METRICS[metric].moves:
        return None
    if METRICS[metric].kind == "ppl":
        from ganctl.metrics.perceptual import open_lpips

        open_lpips("vgg", device=device, reporter=reporter)
        return None
    path = stats_path(metric, data)
    with contextlib.suppress(UsageError):  # absent, or damaged: it is made again
        if training.fits(metric, found := read_stats(path), device=device, reporter=reporter):
            return found
    batches = (data.x[i : i + STEP].copy() for i in range(0, len(data), STEP))
    made = training.prepare(metric, batches, device=device, reporter=reporter)
    if made:
        with contextlib.suppress(GanctlError):  # a cache that cannot be written costs time, nothing else
            write_stats(path, made)
    return made
