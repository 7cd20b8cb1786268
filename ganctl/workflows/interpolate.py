"""`ganctl interpolate`: a walk through latent space as a GIF, a video, frames, or a y4m stream."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganctl.config import config
from ganctl.errors import UsageError, quoted
from ganctl.io.outputs import request_for, request_in, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import seed_class, seed_text
from ganctl.io.video import MAX_FRAME_PIXELS, write_gif, write_video, write_y4m
from ganctl.workflows.generate import half_precision, load_sampler, pictures
from ganctl.workflows.interpolate_plan import (
    InterpolateRequest,
    Target,
    check,
    counts,
    keyframe_seeds,
    parse_grid,
    resolve,
)
from ganctl.workflows.pipeline import in_order
from ganctl.workflows.sample_items import check_settled
from ganctl.workflows.styles import one_class, refuse_classes, shapes, without_w
from ganctl.workflows.targets import STREAM

__all__ = ["InterpolateReport", "InterpolateRequest", "check", "resolve", "run"]

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.load import Model
    from ganctl.nn.drawing import Drawing
    from ganctl.nn.interpolation import Method


@config
class InterpolateReport:
    path: str
    frames: int
    status: str


@dataclass(frozen=True)
class Way:
    """Where the path runs and how."""

    space: str
    method: "Method"
    drawing: "Drawing | None"
    """Of a style-based model."""


@dataclass(frozen=True)
class Keys:
    """The given keyframes."""

    rows: "Tensor"
    """[n, *z] or [n, l, w]"""
    classes: "Sequence[int | None]"
    """Of each."""
    digest: str | None = None
    """Of what came from files."""


@dataclass(frozen=True)
class Walk:
    """Everything needed to compute frames."""

    request: InterpolateRequest
    model: "Model"
    way: Way
    keys: "Tensor"
    """[cells, keyframes, *z] or, in w, [cells, keyframes, l, w], cells row by row."""
    classes: "Sequence[int | None]"
    """Of each cell, in z."""
    positions: "Tensor"
    """[frames], in units of keyframes."""
    half: str | None
    """fp16 | bf16, or None: fp32."""


def run(
    request: InterpolateRequest, reporter: Reporter = SILENT, *, stdout: IO[bytes] | None = None
) -> InterpolateReport:
    """Computes and writes the walk; `stdout` takes the y4m stream of out='-'.

    At every keyframe the frame is the picture `sample` makes of that seed. Raises UsageError (options, missing encoder,
    latents of another model, refused overwrite).
    """
    target = check(request)
    if done := _is_there(request, target, reporter):
        return done
    model = load_sampler(request.model, request.device, reporter)
    half = half_precision(model, request.dtype, reporter)
    way = _way(request, model)
    keys = _keyframes(request, model, way)
    walk = _plan_walk(request, model, way, keys, half)
    style = request.style.record(model.card) if way.drawing else {}
    made = _fields(request, target, model.revision, way, style, latents=keys.digest, half=half)
    if target.codec == "png" and target.path is not None:
        return _write_frames(target.path, walk, made, reporter)
    count = len(walk.positions)
    if target.path is None:
        assert stdout is not None
        write_y4m(stdout, render(walk, range(count), reporter), fps=request.fps)
        return InterpolateReport(path=STREAM, frames=count, status="written")
    status = "exists"
    if status_of(target.path, made, request.overwrite) == "write":
        status, frames = "written", render(walk, range(count), reporter)
        if target.codec == "gif":
            write_gif(target.path, frames, count=count, fps=request.fps, request=made)
        else:
            write_video(target.path, frames, fps=request.fps, codec=target.codec, crf=request.crf, request=made)
    return _tell(request, target.path, count, model.revision, status, reporter)


def _is_there(request: InterpolateRequest, target: Target, reporter: Reporter) -> InterpolateReport | None:
    """The report of a video that the same request wrote, found without loading torch."""
    path = target.path
    if path is None or not path.is_file() or request.overwrite or request.latents or request.dtype in ("fp16", "bf16"):
        return None
    # A file of the same request knows whether its model is a style-based one.
    styled = "trunc" in (request_in(path) or {})
    if request.classes is not None or (not styled and (request.space == "w" or request.style.options())):
        return None
    from ganctl.load import open_bundle

    bundle, revision = open_bundle(request.model, reporter=reporter)
    style = request.style.record(bundle.card) if styled else {}
    if status_of(path, _fields(request, target, revision, _chosen(request, styled), style)) != "exists":
        return None
    _, _, count = counts(request, len(keyframe_seeds(request)))
    return _tell(request, path, count, revision, "exists", reporter)


def _tell(
    request: InterpolateRequest, path: Path, frames: int, revision: str, status: str, reporter: Reporter
) -> InterpolateReport:
    name = shown_name(request.model)
    reporter.result({"path": str(path), "frames": frames, "model": name, "revision": revision, "status": status})
    return InterpolateReport(path=str(path), frames=frames, status=status)


def _chosen(request: InterpolateRequest, styled: bool) -> Way:
    space = request.space or ("w" if styled else "z")
    return Way(space, request.method or ("cubic" if space == "w" else "slerp"), None)


def _way(request: InterpolateRequest, model: "Model") -> Way:
    """Raises UsageError for w and truncation of a model without W."""
    from ganctl.protocols import StyleSampler

    styled = isinstance(model.net, StyleSampler)
    if request.space == "w" and not styled:
        raise without_w("--space w", model)
    return replace(_chosen(request, styled), drawing=request.style.drawing(model))


def _keyframes(request: InterpolateRequest, model: "Model", way: Way) -> Keys:
    """The given keyframes, each of its own class where the model has classes; in w, mapped one by one as `sample` does.

    Raises UsageError for --class and --trunc that do not go with the model or with a w that comes from a file.
    """
    import torch

    from ganctl.io.latents import read_latents
    from ganctl.nn.drawing import Drawing, Latent, styles
    from ganctl.nn.precision import inference
    from ganctl.protocols import classes_of

    label, chosen = classes_of(model.net), _classes(request, model)
    latents: list[Latent] = []
    digest = None
    if request.latents:
        wanted = {space: shape for space, shape in shapes(model).items() if way.space == "w" or space == "z"}
        files = read_latents(request.latents, model=shown_name(model.name), revision=model.revision, shapes=wanted)
        check_settled(files, {"--class": request.classes, "--trunc": request.trunc})
        for file in files:
            for i, row in enumerate(file.rows):
                c = one_class(str(file.c[i]), label.n, label.names) if file.c and label else None
                one = torch.from_numpy(row.copy())
                latents.append(Latent(len(latents), c=c, w=one) if file.space == "w" else Latent(len(latents), one, c))
        data = b"".join(file.rows.tobytes() + str(file.c or "").encode() for file in files)
        digest = hashlib.sha256(data).hexdigest()[:32]
    else:
        seeds = keyframe_seeds(request)
        latents = [Latent(seed, z=z) for seed, z in zip(seeds, model.net.prior(seeds), strict=True)]
    if label is not None:
        for i, latent in enumerate(latents):
            c = chosen[i % len(chosen)] if chosen else latent.c
            latents[i] = replace(latent, c=seed_class(latent.seed, label.n) if c is None else c)
    rows = [latent.z for latent in latents]
    if way.space == "w":
        with inference(model.device):
            rows = [styles(model.net, [one], way.drawing or Drawing(), model.device)[0].cpu() for one in latents]
    return Keys(torch.stack([row for row in rows if row is not None]), [latent.c for latent in latents], digest)


def _classes(request: InterpolateRequest, model: "Model") -> list[int] | None:
    """The classes of --class A[,B], in order. Raises UsageError: out of range, unknown, a model without classes."""
    from ganctl.protocols import classes_of

    if request.classes is None:
        return None
    label = classes_of(model.net) or refuse_classes(request.classes, model)
    return [one_class(part, label.n, label.names) for part in request.classes.split(",")]


def _plan_walk(request: InterpolateRequest, model: "Model", way: Way, given: Keys, half: str | None) -> Walk:
    """Keyframes shared out to the cells. Raises UsageError as `_counts` does, and when a frame would be too large."""
    import numpy as np
    import torch

    from ganctl.nn.interpolation import positions

    cells, keyframes, _ = counts(request, len(given.rows))
    columns, rows = parse_grid(request.grid)
    height, width = model.net.x.size
    if columns * width * rows * height > MAX_FRAME_PIXELS:
        why = f"a frame would have {columns * width} x {rows * height} pixels, more than {MAX_FRAME_PIXELS:,}"
        raise UsageError(f"cannot use --grid {request.grid}", why, "use a smaller grid")
    # The order of Karras et al.'s gen_video: seeds repeat when there are too few, then are shuffled.
    order = np.arange(cells * keyframes) % len(given.rows)
    if request.shuffle_seed is not None:
        np.random.RandomState(request.shuffle_seed).shuffle(order)
    keys = given.rows[torch.from_numpy(order)].reshape(cells, keyframes, *given.rows.shape[1:])
    classes = [given.classes[i] for i in order[::keyframes]]
    if request.classes is not None and way.space == "z":
        chosen = _classes(request, model) or []
        if len(chosen) > cells:
            told = "there is 1 walk" if cells == 1 else f"there are {cells} walks"
            why = f"a walk in z has one class, and {told} for {len(chosen)}"
            raise UsageError(f"cannot use --class {quoted(request.classes)}", why, "use --space w, or a --grid")
        classes = [chosen[i % len(chosen)] for i in range(cells)]
    times = positions(keyframes, request.frames, easing=request.easing, loop=request.loop)
    return Walk(request, model, way, keys, classes, times, half)


def _fields(
    request: InterpolateRequest,
    target: Target,
    revision: str,
    way: Way,
    style: Mapping[str, Any],
    *,
    latents: str | None = None,
    half: str | None = None,
) -> dict[str, Any]:
    """What the file depends on; kept inside it."""
    return request_for(
        "interpolate",
        request.model,
        revision,
        seeds=None if request.latents else seed_text(keyframe_seeds(request)),
        latents=latents,
        frames=request.frames,
        fps=None if target.codec == "png" else request.fps,
        space="w" if way.space == "w" else None,
        method=way.method,
        **{"class": request.classes},
        **style,
        easing=request.easing,
        loop=request.loop,
        grid=request.grid,
        num_keyframes=request.num_keyframes,
        shuffle_seed=request.shuffle_seed,
        codec=target.codec,
        crf=request.crf if target.codec in ("h264", "vp9") else None,
        dtype=half,
    )


def render(walk: Walk, wanted: "range | list[int]", reporter: Reporter) -> "Iterator[np.ndarray]":
    """The frames of the given numbers as uint8 [H, W, C], cells side by side."""
    import numpy as np

    from ganctl.nn.drawing import Latent
    from ganctl.nn.interpolation import walk as path

    way = walk.way
    paths = [path(keys, way.method, loop=walk.request.loop) for keys in walk.keys]
    # One position at a time, so that a frame does not depend on which others are still missing.
    cells = list(zip(paths, walk.classes, strict=True))
    points = ((p(walk.positions[i : i + 1])[0], c) for i in wanted for p, c in cells)
    latents = (Latent(w=one) if way.space == "w" else Latent(z=one, c=c) for one, c in points)
    drawn = pictures(walk.model, latents, drawing=way.drawing, half=walk.half, reporter=reporter)
    made = (pixels for _, pixels in drawn)
    columns, _ = parse_grid(walk.request.grid)
    for done in range(1, len(wanted) + 1):
        rows = [np.concatenate(list(itertools.islice(made, columns)), 1) for _ in range(len(paths) // columns)]
        reporter.progress("frames", done, len(wanted))
        yield np.concatenate(rows, 0)


def _write_frames(folder: Path, walk: Walk, made: dict[str, Any], reporter: Reporter) -> InterpolateReport:
    """frame00000.png …, only those that are not there yet."""
    from ganctl.io.images import write_image

    count = len(walk.positions)
    paths = [folder / f"frame{i:05d}.png" for i in range(count)]
    states = [status_of(path, {**made, "frame": i}, walk.request.overwrite) for i, path in enumerate(paths)]
    if (folder / f"frame{count:05d}.png").exists():
        reporter.warn(f"{quoted(folder)} holds more frames than this walk's {count}", "another walk left them", "")
    pictures = render(walk, [i for i, state in enumerate(states) if state == "write"], reporter)
    stamp = {"model": shown_name(walk.request.model), "revision": walk.model.revision}

    def write(numbered: "tuple[int, np.ndarray | None]") -> dict[str, Any]:
        i, pixels = numbered
        if pixels is not None:
            write_image(paths[i], pixels, request={**made, "frame": i})
        return {"path": str(paths[i]), "frame": i, **stamp, "status": "exists" if pixels is None else "written"}

    frames = ((i, next(pictures) if state == "write" else None) for i, state in enumerate(states))
    for result in in_order(write, frames):
        reporter.result(result)
    status = "written" if "write" in states else "exists"
    return InterpolateReport(path=str(folder), frames=count, status=status)
