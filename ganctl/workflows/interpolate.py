"""`ganctl interpolate`: a walk through latent space as a GIF, a video, frames, or a y4m stream."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import DeviceError, UsageError, quoted
from ganctl.io.outputs import status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import MAX_SEEDS
from ganctl.io.video import MAX_GIF_FPS, need_av, write_gif, write_video, write_y4m
from ganctl.workflows.targets import STREAM, default_folder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.load import Model

CODECS = {".mp4": "h264", ".webm": "vp9", ".gif": "gif"}
SUFFIXES = {codec: suffix for suffix, codec in CODECS.items()}
DEFAULT_SEEDS = 6
MAX_FRAMES = 1_000_000
MAX_KEPT_SEEDS = 1000
"""Seeds that are listed in the file's request; more are there as a hash alone."""
BATCH_PIXELS = 1 << 22
MAX_BATCH = 64


@config
class InterpolateRequest:
    model: str
    seeds: tuple[int, ...] | None = None
    """Keyframes by seed; None without latents: 0-5, or six for each cell of a grid."""
    latents: tuple[str, ...] = ()
    """Keyframes from .npz files, in order."""
    out: str | None = None
    """x.mp4, x.webm, x.gif, a folder of frames, '-' for y4m; None: out/<model>/interpolate/walk.gif."""
    frames: int = 60
    """From one keyframe to the next."""
    fps: float = 30.0
    method: Literal["lerp", "slerp", "cubic"] = "slerp"
    easing: Literal["linear", "ease-in-out"] = "linear"
    loop: bool = True
    grid: str = "1x1"
    """WxH: several walks side by side."""
    num_keyframes: int | None = None
    """Of each walk; None shares the keyframes out evenly. More than there are: they repeat."""
    shuffle_seed: int | None = None
    codec: Literal["h264", "vp9", "gif", "png"] | None = None
    """None goes by the suffix of `out`."""
    crf: int = 18
    """Quality of h264 and vp9: 0 best … 51 (h264) or 63 (vp9) worst."""
    device: str = "auto"
    overwrite: bool = False


@config
class InterpolateReport:
    path: str
    frames: int
    status: str


@dataclass(frozen=True)
class Target:
    """Where the walk goes and how it is encoded."""

    path: Path | None
    codec: str


@dataclass(frozen=True)
class Walk:
    """Everything needed to compute frames."""

    model: "Model"
    keys: "Tensor"
    """[cells, keyframes, *z], cells row by row."""
    positions: "Tensor"
    """[frames], in units of keyframes."""
    grid: tuple[int, int]
    """(columns, rows)."""
    method: Literal["lerp", "slerp", "cubic"]
    loop: bool


def run(
    request: InterpolateRequest, reporter: Reporter = SILENT, *, stdout: IO[bytes] | None = None
) -> InterpolateReport:
    """Computes and writes the walk; `stdout` takes the y4m stream of out='-'.

    At every keyframe the frame is the picture `sample` makes of that seed. Raises UsageError (options, missing encoder,
    latents of another model, refused overwrite).
    """
    target = check(request)
    from ganctl.load import load
    from ganctl.protocols import Sampler

    model = load(request.model, device=request.device, reporter=reporter)
    if not isinstance(model.net, Sampler):
        what = f"cannot interpolate with {quoted(request.model)}"
        raise UsageError(what, f"{quoted(model.model)} has no latent space to walk through", "see: ganctl zoo list")
    walk = plan_walk(request, model)
    made = request_fields(request, walk, target)
    count = len(walk.positions)
    if target.codec == "png" and target.path is not None:
        return write_frames(target.path, walk, made, request, reporter)
    result = {"path": str(target.path or STREAM), "model": model.name, "revision": model.revision, "frames": count}
    if target.path is not None and status_of(target.path, made, request.overwrite) == "exists":
        reporter.result({**result, "status": "exists"})
        return InterpolateReport(path=str(target.path), frames=count, status="exists")
    pictures = with_progress(render(walk, list(range(count))), count, reporter)
    if target.path is None:
        assert stdout is not None
        write_y4m(stdout, pictures, fps=request.fps)
    elif target.codec == "gif":
        write_gif(target.path, pictures, count=count, fps=request.fps, request=made)
    else:
        write_video(target.path, pictures, fps=request.fps, codec=target.codec, crf=request.crf, request=made)
    reporter.result({**result, "status": "written"})
    return InterpolateReport(path=str(target.path or STREAM), frames=count, status="written")


def check(request: InterpolateRequest) -> Target:
    """The cheap checks: options that go together, a known target and its encoder, files there. Raises UsageError."""
    parse_grid(request.grid)
    if not (math.isfinite(request.fps) and 0 < request.fps <= 1000):
        raise UsageError(f"cannot use --fps {request.fps}", "it must be more than 0 and at most 1000")
    if request.frames < 1:
        raise UsageError(f"cannot use --frames {request.frames}", "it must be at least 1")
    if request.seeds is not None and request.latents:
        raise UsageError("cannot use --seeds with --latents", "both give the keyframes")
    missing = [p for p in request.latents if not Path(p).is_file()]
    if missing:
        raise UsageError(f"cannot use --latents {quoted(missing[0])}", f"no such file ({len(missing)} missing)")
    target = pick_target(request)
    name = quoted(target.path or STREAM)
    if target.codec in ("h264", "vp9"):
        need_av(f"cannot write {name}")
        worst = 51 if target.codec == "h264" else 63
        if not 0 <= request.crf <= worst:
            raise UsageError(f"cannot use --crf {request.crf}", f"{target.codec} takes 0 … {worst}")
    if target.codec == "gif" and request.fps > MAX_GIF_FPS:
        why = f"a GIF shows at most {MAX_GIF_FPS:.0f} frames per second, --fps is {request.fps:g}"
        raise UsageError(f"cannot write {name}", why, f"--fps {MAX_GIF_FPS:.0f}")
    return target


def pick_target(request: InterpolateRequest) -> Target:
    """File, folder or stream, and its codec. Raises UsageError when suffix and --codec disagree."""
    if request.out == STREAM:
        if request.codec:
            raise UsageError(f"cannot use --codec {request.codec} with -o -", "the stream is y4m", "pipe it to ffmpeg")
        return Target(None, "y4m")
    if request.out is None:
        folder = default_folder(request.model, "interpolate")
        codec = request.codec or "gif"
        return Target(folder if codec == "png" else folder / f"walk{SUFFIXES[codec]}", codec)
    path = Path(request.out)
    suffix = "" if path.is_dir() or request.out.endswith("/") else path.suffix.lower()
    by_suffix = CODECS.get(suffix)
    if suffix in (".png", ".jpg", ".jpeg", ".webp", ".zip", ".mov", ".avi", ".mkv", ".m4v"):
        why = f"a walk is written as {', '.join(CODECS)} or a folder of frames"
        raise UsageError(f"cannot write {quoted(request.out)}", why, "for example -o walk.gif, or -o frames/")
    if request.codec and request.codec != (by_suffix or "png"):
        wanted = SUFFIXES.get(request.codec, "/")
        why = f"its name means {by_suffix or 'a folder of png frames'}, --codec says {request.codec}"
        raise UsageError(f"cannot write {quoted(request.out)}", why, f"-o {path.stem}{wanted}")
    codec = by_suffix or "png"
    if codec == "png" and path.exists() and not path.is_dir():
        raise UsageError(f"cannot write {quoted(request.out)}", "it is a file; frames go into a folder")
    return Target(path, codec)


def parse_grid(grid: str) -> tuple[int, int]:
    """'WxH' → (columns, rows). Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,3})[xX×]([0-9]{1,3})", grid)
    if not match or int(match[1]) * int(match[2]) == 0:
        raise UsageError(f"cannot use --grid {quoted(grid)}", "it is not WxH with numbers from 1", "e.g. --grid 3x2")
    return int(match[1]), int(match[2])


def plan_walk(request: InterpolateRequest, model: "Model") -> Walk:
    """Keyframes shared out to the cells. Raises UsageError when they do not come out even or are fewer than two."""
    import numpy as np
    import torch

    from ganctl.io.latents import read_latents
    from ganctl.nn.interpolation import positions

    columns, rows = parse_grid(request.grid)
    cells = columns * rows
    if request.latents:
        shape = tuple(model.net.prior([0]).shape[1:])
        found = read_latents(request.latents, model=model.name, revision=model.revision, shape=shape)
        given = torch.from_numpy(np.concatenate([z for _, z in found]))
    else:
        given = model.net.prior(keyframe_seeds(request))
    if request.num_keyframes is None and len(given) % cells:
        why = f"{len(given)} keyframes do not share out evenly to {cells} walks"
        hint = f"give a multiple of {cells} seeds, or --num-keyframes"
        raise UsageError(f"cannot use --grid {request.grid}", why, hint)
    per_cell = request.num_keyframes or len(given) // cells
    if per_cell < 2:
        raise UsageError("cannot interpolate", f"a walk needs two keyframes, there is {per_cell}", "--seeds 0-5")
    frames = per_cell * request.frames
    if cells * per_cell > MAX_SEEDS or frames > MAX_FRAMES:
        most = f"at most {MAX_FRAMES:,} frames and {MAX_SEEDS:,} keyframes"
        raise UsageError("cannot interpolate", f"{frames:,} frames, {cells * per_cell:,} keyframes; {most}")
    # The order of Karras et al.'s gen_video: seeds repeat when there are too few, then are shuffled.
    order = np.arange(cells * per_cell) % len(given)
    if request.shuffle_seed is not None:
        np.random.RandomState(request.shuffle_seed).shuffle(order)
    keys = given[torch.from_numpy(order)].reshape(cells, per_cell, *given.shape[1:])
    at = positions(per_cell, request.frames, easing=request.easing, loop=request.loop)
    return Walk(model, keys, at, (columns, rows), request.method, request.loop)


def keyframe_seeds(request: InterpolateRequest) -> list[int]:
    if request.seeds is not None:
        return list(request.seeds)
    columns, rows = parse_grid(request.grid)
    return list(range((request.num_keyframes or DEFAULT_SEEDS) * columns * rows))


def request_fields(request: InterpolateRequest, walk: Walk, target: Target) -> dict[str, Any]:
    """What the file depends on; kept inside it."""
    made: dict[str, Any] = {
        "ganctl": __version__,
        "verb": "interpolate",
        "model": walk.model.name,
        "revision": walk.model.revision,
        "keys_sha256": hashlib.sha256(walk.keys.numpy().tobytes()).hexdigest(),
        "frames": request.frames,
        "fps": request.fps,
        "method": request.method,
        "easing": request.easing,
        "loop": request.loop,
        "grid": request.grid,
        "codec": target.codec,
    }
    if not request.latents and len(keyframe_seeds(request)) <= MAX_KEPT_SEEDS:
        made["seeds"] = keyframe_seeds(request)
    if target.codec in ("h264", "vp9"):
        made["crf"] = request.crf
    return made


def render(walk: Walk, wanted: list[int]) -> "Iterator[np.ndarray]":
    """The frames of the given numbers as uint8 [H, W, C], cells side by side. Raises DeviceError out of memory."""
    import torch

    from ganctl.io.images import to_pixels
    from ganctl.nn.interpolation import walk as path

    paths = [path(keys, walk.method, loop=walk.loop) for keys in walk.keys]
    net, (columns, rows) = walk.model.net, walk.grid
    height, width = net.x.size or (256, 256)
    batch = max(1, min(MAX_BATCH, BATCH_PIXELS // (height * width)))
    step = max(1, batch // len(paths))
    for start in range(0, len(wanted), step):
        at = walk.positions[wanted[start : start + step]]
        z = torch.stack([p(at) for p in paths], 1)  # [frames, cells, *z]
        try:
            with torch.inference_mode():
                x = torch.cat([net.sample(part.to(walk.model.device)).cpu() for part in z.flatten(0, 1).split(batch)])
        except torch.OutOfMemoryError as e:
            raise DeviceError("cannot make the frames", f"{batch} images do not fit into memory", "--device cpu") from e
        pixels = to_pixels(x, net.x.range)
        _, h, w, c = pixels.shape
        sheets = pixels.reshape(-1, rows, columns, h, w, c).transpose(0, 1, 3, 2, 4, 5)
        yield from sheets.reshape(-1, rows * h, columns * w, c)


def with_progress(frames: "Iterator[np.ndarray]", total: int, reporter: Reporter) -> "Iterator[np.ndarray]":
    for i, frame in enumerate(frames):
        yield frame
        reporter.progress("frames", i + 1, total)


def write_frames(
    folder: Path, walk: Walk, made: dict[str, Any], request: InterpolateRequest, reporter: Reporter
) -> InterpolateReport:
    """frame00000.png …, only those that are not there yet."""
    from ganctl.io.images import write_image

    count = len(walk.positions)
    paths = [folder / f"frame{i:05d}.png" for i in range(count)]
    states = [status_of(path, {**made, "frame": i}, request.overwrite) for i, path in enumerate(paths)]
    if (folder / f"frame{count:05d}.png").exists():
        reporter.warn(f"{quoted(folder)} holds more frames than this walk's {count}", "an older walk left them", "")
    missing = [i for i, state in enumerate(states) if state != "exists"]
    pictures = render(walk, missing)
    for i, path in enumerate(paths):
        if states[i] != "exists":
            write_image(path, next(pictures), request={**made, "frame": i})
        status = "exists" if states[i] == "exists" else "written"
        reporter.result(
            {
                "path": str(path),
                "frame": i,
                "model": walk.model.name,
                "revision": walk.model.revision,
                "status": status,
            }
        )
        reporter.progress("frames", i + 1, count)
    return InterpolateReport(path=str(folder), frames=count, status="written" if missing else "exists")
