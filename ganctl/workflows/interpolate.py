"""`ganctl interpolate`: a walk through latent space as a GIF, a video, frames, or a y4m stream."""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import UsageError, quoted
from ganctl.io.outputs import check_writable, default_folder, request_for, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import parse_seeds, seed_text
from ganctl.io.video import MAX_FRAME_PIXELS, MAX_GIF_FPS, need_av, write_gif, write_video, write_y4m
from ganctl.workflows.generate import half_precision, load_sampler, pictures
from ganctl.workflows.pipeline import in_order
from ganctl.workflows.targets import STREAM

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.load import Model

CODECS = {".mp4": "h264", ".webm": "vp9", ".gif": "gif"}
SUFFIXES = {codec: suffix for suffix, codec in CODECS.items()}
DEFAULT_SEEDS = 6
MAX_FRAMES = 1_000_000
MAX_KEYFRAMES = 1_000_000


@config
class InterpolateRequest:
    model: str
    seeds: str | None = None
    """Keyframes by seed, as in '3,85,100-104'; None without latents: 0-5, or six for each cell of a grid."""
    latents: tuple[str, ...] = ()
    """Keyframes from .npz files, in order."""
    out: str | None = None
    """x.mp4, x.webm, x.gif, a folder of frames, '-' for y4m; None: out/<model>/interpolate/walk.gif."""
    frames: int = 60
    """From one keyframe to the next."""
    fps: float = 30.0
    space: Literal["z"] = "z"
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
    dtype: str = "auto"
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

    request: InterpolateRequest
    model: "Model"
    keys: "Tensor"
    """[cells, keyframes, *z], cells row by row."""
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
    given, digest = _keyframes(request, model)
    walk = _plan_walk(request, model, given, half)
    made = _fields(request, target, model.revision, digest, half)
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
    from ganctl.load import open_bundle

    _, revision = open_bundle(request.model, reporter=reporter)
    if status_of(path, _fields(request, target, revision, None, None)) != "exists":
        return None
    _, _, count = _counts(request, len(_seeds(request)))
    return _tell(request, path, count, revision, "exists", reporter)


def _tell(
    request: InterpolateRequest, path: Path, frames: int, revision: str, status: str, reporter: Reporter
) -> InterpolateReport:
    name = shown_name(request.model)
    reporter.result({"path": str(path), "frames": frames, "model": name, "revision": revision, "status": status})
    return InterpolateReport(path=str(path), frames=frames, status=status)


def check(request: InterpolateRequest) -> Target:
    """The cheap checks: options that go together, a known target and its encoder, files there. Raises UsageError."""
    parse_grid(request.grid)
    if not 0.01 <= request.fps <= 1000:  # NaN is neither
        raise UsageError(f"cannot use --fps {request.fps}", "it must be 0.01 to 1000")
    if request.frames < 1:
        raise UsageError(f"cannot use --frames {request.frames}", "it must be at least 1")
    if request.seeds is not None and request.latents:
        raise UsageError("cannot use --seeds with --latents", "both give the keyframes", "keep one")
    missing = [p for p in request.latents if not Path(p).is_file()]
    if missing:
        raise UsageError(f"cannot use --latents {quoted(missing[0])}", f"no such file ({len(missing)} missing)")
    if not request.latents:
        _counts(request, len(_seeds(request)))
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
    check_name(request.model)
    if target.path is not None:
        check_writable(target.path, folder=target.codec == "png")
    return target


def resolve(request: InterpolateRequest) -> InterpolateRequest:
    """The checked request with every default filled in: what --dry-run prints. Raises UsageError."""
    target = check(request)
    codec = None if target.path is None else target.codec
    out = str(target.path or STREAM)
    if request.latents:
        return replace(request, out=out, codec=codec)
    seeds = _seeds(request)
    _, keyframes, _ = _counts(request, len(seeds))
    return replace(request, out=out, codec=codec, seeds=seed_text(seeds), num_keyframes=keyframes)


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
    if not request.out.strip():
        raise UsageError("cannot use -o ''", "the name is empty")
    path = Path(request.out).expanduser()
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
    return Target(path, codec)


def parse_grid(grid: str) -> tuple[int, int]:
    """'WxH' → (columns, rows). Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,3})[xX×]([0-9]{1,3})", grid)
    if not match or int(match[1]) * int(match[2]) == 0:
        raise UsageError(f"cannot use --grid {quoted(grid)}", "it is not WxH with numbers from 1", "e.g. --grid 3x2")
    return int(match[1]), int(match[2])


def _seeds(request: InterpolateRequest) -> list[int]:
    if request.seeds is not None:
        return parse_seeds(request.seeds)
    columns, rows = parse_grid(request.grid)
    count = (request.num_keyframes or DEFAULT_SEEDS) * columns * rows
    return list(range(min(count, MAX_KEYFRAMES + 1)))


def _counts(request: InterpolateRequest, given: int) -> tuple[int, int, int]:
    """(walks, keyframes of each, frames) for so many given keyframes.

    Raises UsageError when these do not come out even, are fewer than two, or make too many frames.
    """
    columns, rows = parse_grid(request.grid)
    cells = columns * rows
    if max(given, cells * (request.num_keyframes or 0)) > MAX_KEYFRAMES:
        raise UsageError("cannot interpolate", f"these would be more than {MAX_KEYFRAMES:,} keyframes")
    if request.num_keyframes is None and given % cells:
        why = f"{given} keyframes do not share out evenly to {cells} walks"
        hint = f"give a multiple of {cells} seeds, or --num-keyframes"
        raise UsageError(f"cannot use --grid {request.grid}", why, hint)
    keyframes = request.num_keyframes or given // cells
    if keyframes < 2:
        raise UsageError("cannot interpolate", f"a walk needs two keyframes, there is {keyframes}", "--seeds 0-5")
    frames = keyframes * request.frames if request.loop else (keyframes - 1) * request.frames + 1
    if frames > MAX_FRAMES:
        raise UsageError("cannot interpolate", f"these would be {frames:,} frames, more than {MAX_FRAMES:,}")
    return cells, keyframes, frames


def _keyframes(request: InterpolateRequest, model: "Model") -> "tuple[Tensor, str | None]":
    """The given keyframes [n, *z], and a digest of them when they come from files."""
    import numpy as np
    import torch

    from ganctl.io.latents import read_latents

    if not request.latents:
        return model.net.prior(_seeds(request)), None
    shape = tuple(model.net.prior([0]).shape[1:])
    name = shown_name(request.model)
    found = read_latents(request.latents, model=name, revision=model.revision, shape=shape)
    z = np.concatenate([z for _, z in found])
    return torch.from_numpy(z), hashlib.sha256(z.tobytes()).hexdigest()[:32]


def _plan_walk(request: InterpolateRequest, model: "Model", given: "Tensor", half: str | None) -> Walk:
    """Keyframes shared out to the cells. Raises UsageError as `_counts` does, and when a frame would be too large."""
    import numpy as np
    import torch

    from ganctl.nn.interpolation import positions

    cells, keyframes, _ = _counts(request, len(given))
    columns, rows = parse_grid(request.grid)
    height, width = model.net.x.size
    if columns * width * rows * height > MAX_FRAME_PIXELS:
        why = f"a frame would have {columns * width} x {rows * height} pixels, more than {MAX_FRAME_PIXELS:,}"
        raise UsageError(f"cannot use --grid {request.grid}", why, "use a smaller grid")
    # The order of Karras et al.'s gen_video: seeds repeat when there are too few, then are shuffled.
    order = np.arange(cells * keyframes) % len(given)
    if request.shuffle_seed is not None:
        np.random.RandomState(request.shuffle_seed).shuffle(order)
    keys = given[torch.from_numpy(order)].reshape(cells, keyframes, *given.shape[1:])
    return Walk(
        request, model, keys, positions(keyframes, request.frames, easing=request.easing, loop=request.loop), half
    )


def _fields(
    request: InterpolateRequest, target: Target, revision: str, latents: str | None, half: str | None
) -> dict[str, Any]:
    """What the file depends on; kept inside it."""
    return request_for(
        "interpolate",
        request.model,
        revision,
        seeds=None if request.latents else seed_text(_seeds(request)),
        latents=latents,
        frames=request.frames,
        fps=None if target.codec == "png" else request.fps,
        method=request.method,
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

    from ganctl.nn.interpolation import walk as path

    paths = [path(keys, walk.request.method, loop=walk.request.loop) for keys in walk.keys]
    # One position at a time, so that a frame does not depend on which others are still missing.
    latents = (p(walk.positions[i : i + 1])[0] for i in wanted for p in paths)
    made = (pixels for _, pixels in pictures(walk.model, latents, half=walk.half, reporter=reporter))
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
