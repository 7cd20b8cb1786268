"""What `ganctl interpolate` is asked for, resolved and checked in milliseconds, before torch."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import UsageError, quoted
from ganctl.io.outputs import check_writable, default_folder
from ganctl.io.seeds import parse_seeds, seed_text
from ganctl.io.video import MAX_GIF_FPS, need_av
from ganctl.workflows.styles import Style
from ganctl.workflows.targets import STREAM

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
    space: Literal["z", "w"] | None = None
    """None is w where the model has it, else z."""
    method: Literal["lerp", "slerp", "cubic"] | None = None
    """None is cubic in w, slerp in z."""
    classes: str | None = None
    """'207' or '207,tabby': one after the other from keyframe to keyframe, in z from walk to walk. None: each seed's
    own."""
    trunc: float | None = None
    """Truncation ψ; None is the model card's, or 1.0."""
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

    @property
    def style(self) -> Style:
        return Style(self.trunc)


@dataclass(frozen=True)
class Target:
    """Where the walk goes and how it is encoded."""

    path: Path | None
    codec: str


def check(request: InterpolateRequest) -> Target:
    """The cheap checks: options that go together, a known target and its encoder, files there. Raises UsageError."""
    parse_grid(request.grid)
    request.style.check()
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
        counts(request, len(keyframe_seeds(request)))
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
    seeds = keyframe_seeds(request)
    _, keyframes, _ = counts(request, len(seeds))
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


def keyframe_seeds(request: InterpolateRequest) -> list[int]:
    """As given, repeated where there are more classes; else as many as the walks take."""
    if request.seeds is not None:
        seeds = parse_seeds(request.seeds)
        # One seed through several classes.
        count = max(len(seeds), len(request.classes.split(",")) if request.classes else 1)
        return [seeds[i % len(seeds)] for i in range(count)]
    columns, rows = parse_grid(request.grid)
    count = (request.num_keyframes or DEFAULT_SEEDS) * columns * rows
    return list(range(min(count, MAX_KEYFRAMES + 1)))


def counts(request: InterpolateRequest, given: int) -> tuple[int, int, int]:
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
