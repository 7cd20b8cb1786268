"""Moving pictures: GIF through Pillow, mp4 and webm through PyAV where it is installed, y4m for a pipe."""

import importlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganctl.errors import GanctlError, UsageError, printable, quoted
from ganctl.io.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})
FORMATS = {"h264": ("mp4", "libx264"), "vp9": ("webm", "libvpx-vp9")}
"""Codec → container and FFmpeg's encoder."""
SOUND_CODECS = {"mp4": ("", "aac", "mp3", "ac3", "eac3", "alac", "opus"), "webm": ("", "opus", "vorbis")}
"""Container → sound that can be copied into it and is played by common players."""
MAX_GIF_FPS = 50.0
MAX_GIF_BYTES = 2 << 30
"""Pillow keeps all frames of a GIF, one byte per pixel, until it is written."""
MAX_FRAME_PIXELS = 64 << 20
MAX_COMMENT_BYTES = 64 << 10


def need_av(what: str) -> Any:
    """PyAV. Raises UsageError starting with `what`, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module("av")
    except ImportError as e:
        raise UsageError(
            what,
            "video needs PyAV, which is not installed",
            "pip install 'ganctl[video]', or write a .gif or a folder of frames instead (-o frames/)",
        ) from e


def write_gif(
    path: Path, frames: "Iterable[np.ndarray]", *, count: int, fps: float, request: Mapping[str, Any] | None = None
) -> None:
    """Writes `count` uint8 frames [H, W, C], C = 1, 3 or 4, as an endless GIF, atomically.

    Grey frames are kept exactly, colours are reduced to 256 per frame, alpha is laid over white. GIF counts time in
    1/100 s: single durations are rounded so that the mean rate is right. `fps` is at most 50, since viewers slow faster
    ones down. The request is kept in a comment. Raises UsageError for more than 50 fps or 2 GiB of frames.
    """
    from PIL import Image

    if fps > MAX_GIF_FPS:
        raise UsageError(f"cannot write {quoted(path)}", f"a GIF shows at most {MAX_GIF_FPS:.0f} frames per second")

    def pictures() -> Iterator[Image.Image]:
        for frame in frames:
            frame = opaque(frame)
            if frame.size // frame.shape[2] * count > MAX_GIF_BYTES:
                size = f"{count} frames of {frame.shape[1]}x{frame.shape[0]}"
                raise UsageError(f"cannot write {quoted(path)}", f"{size} are too many for a GIF", "write an .mp4")
            if frame.shape[2] == 1:
                yield Image.fromarray(frame[:, :, 0])
            else:
                yield Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)

    ticks = [round(i * 100 / fps) * 10 for i in range(count + 1)]
    made = pictures()
    first = next(made)
    options: dict[str, Any] = {"loop": 0, "duration": [b - a for a, b in itertools.pairwise(ticks)]}
    if request is not None:
        options["comment"] = _comment(request).encode()
    with atomic_write(path) as stream:
        first.save(stream, "GIF", save_all=True, append_images=made, **options)


def write_video(
    path: Path,
    frames: "Iterable[np.ndarray]",
    *,
    fps: float,
    codec: str,
    crf: int = 18,
    request: Mapping[str, Any] | None = None,
    sound: Path | None = None,
) -> str:
    """Writes uint8 frames [H, W, C] as h264 (mp4) or vp9 (webm), atomically.

    Odd sides grow by one pixel, which 4:2:0 colour needs; alpha is laid over white. The request is kept in the
    container's comment. `sound` is a video whose first sound track is copied as it is, where the container takes its
    codec: the codec left out is returned, '' when none was. Raises UsageError without PyAV or its encoder,
    GanctlError when encoding fails.
    """
    av = need_av(f"cannot write {quoted(path)}")
    container_format, encoder = FORMATS[codec]
    if encoder not in av.codecs_available:
        hint = "write a .gif or a folder of frames instead (-o frames/)"
        raise UsageError(f"cannot write {quoted(path)}", f"this PyAV has no {encoder} encoder", hint)
    try:
        with (
            atomic_write(path) as raw,
            av.open(raw, "w", format=container_format) as container,
            _Sound(av, sound, container) as track,
        ):
            if request is not None:
                container.metadata["comment"] = _comment(request)
            stream: Any = None
            for count, frame in enumerate(frames):
                picture = _even(_rgb(opaque(frame)))
                if stream is None:
                    stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    # VP9 reads crf as constant quality only at bit rate 0.
                    stream.options = {"crf": str(crf)} | ({"b": "0"} if codec == "vp9" else {})
                    track.join()
                track.until(count / fps)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
            track.until(float("inf"))
            return track.left_out
    except av.FFmpegError as e:
        raise GanctlError(f"cannot write {quoted(path)}", f"the {encoder} encoder failed: {printable(e)}") from e


class _Sound:
    """The first sound track of a video, copied packet by packet beside the pictures; nothing when there is none."""

    def __init__(self, av: Any, path: Path | None, container: Any) -> None:
        self.av, self.container = av, container
        self.source: Any = av.open(str(path)) if path else None
        self.track: Any = next((s for s in self.source.streams if s.type == "audio"), None) if path else None
        name = self.track.codec_context.codec.canonical_name if self.track else ""
        self.left_out = "" if name in SOUND_CODECS[container.format.name] else name
        self.packets: Any = iter(())
        self.waiting: Any = None

    def join(self) -> None:
        """Adds the track to the container, after the pictures' own."""
        if self.track is None or self.left_out:
            return
        self.copy = self.container.add_stream_from_template(self.track)
        # Pictures begin at 0: the sound keeps its distance to them.
        first = next(s for s in self.source.streams if s.type == "video")
        began = float(first.start_time * first.time_base) if first.start_time else 0.0
        self.shift = round(began / self.track.time_base)
        self.packets = (p for p in self.source.demux(self.track) if p.dts is not None)

    def __enter__(self) -> "_Sound":
        return self

    def __exit__(self, *_: object) -> None:
        if self.source is not None:
            self.source.close()

    def until(self, seconds: float) -> None:
        """Copies what is heard up to a picture's time, so that neither waits for the other in memory."""
        try:
            self.waiting = self.waiting or next(self.packets, None)
            while self.waiting is not None and float(self.waiting.dts * self.waiting.time_base) <= seconds:
                packet, self.waiting = self.waiting, None
                packet.dts, packet.pts = packet.dts - self.shift, (packet.pts or packet.dts) - self.shift
                packet.stream = self.copy
                self.container.mux(packet)
                self.waiting = next(self.packets, None)
        except self.av.error.EOFError:
            self.packets = iter(())


def write_y4m(stream: IO[bytes], frames: "Iterable[np.ndarray]", *, fps: float) -> None:
    """Writes uint8 frames [H, W, C] to a stream as YUV4MPEG2, 4:4:4, for `| ffmpeg -i - …`.

    Studio range and the colour matrix of ITU-R BT.601, which readers assume for y4m; alpha is laid over white.
    """
    import numpy as np

    # BT.601-7, sec. 2.5.3: digital Y' 16 … 235 and C 16 … 240 from R'G'B' 0 … 255.
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    rate = Fraction(fps).limit_denominator(1001)
    begun = False
    for frame in frames:
        picture = _rgb(opaque(frame))
        if not begun:
            height, width = picture.shape[:2]
            stream.write(f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A1:1 C444\n".encode())
            begun = True
        planes = np.einsum("kc,hwc->khw", matrix, picture) + np.array([16.0, 128.0, 128.0])[:, None, None]
        stream.write(b"FRAME\n" + np.rint(planes).clip(0, 255).astype(np.uint8).tobytes())
    stream.flush()


@dataclass(frozen=True)
class Video:
    """A video to read: its rate, its frame count (0 where the file does not say), and its frames, once."""

    fps: float
    count: int
    frames: "Iterator[np.ndarray]"
    """uint8 [H, W, 3], turned the way it was filmed."""


def read_video(path: Path) -> Video:
    """Opens a video; frames are decoded as they are taken. Raises UsageError without PyAV or for a damaged file."""
    where = f"cannot read {quoted(path)}"
    av = need_av(where)
    if not path.is_file():
        raise UsageError(where, "it is not a regular file" if path.exists() else "there is no such file")
    try:
        container = av.open(str(path))
        stream = next((s for s in container.streams if s.type == "video"), None)
    except (av.FFmpegError, OSError, ValueError) as e:
        raise UsageError(where, "it is not a video FFmpeg can read") from e
    if stream is None:
        container.close()
        raise UsageError(where, "it holds no pictures")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        container.close()
        raise UsageError(where, f"its frames are {stream.width}x{stream.height}, more than {MAX_FRAME_PIXELS} pixels")
    return Video(float(stream.average_rate or 30), int(stream.frames), _decode(av, container, stream, where))


def _decode(av: Any, container: Any, stream: Any, where: str) -> "Iterator[np.ndarray]":
    import numpy as np

    try:
        with container:
            for frame in container.decode(stream):
                picture = frame.to_ndarray(format="rgb24")
                # FFmpeg counts the display matrix's angle counter-clockwise, as rot90 does.
                yield np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    except (av.FFmpegError, OSError, ValueError) as e:
        raise UsageError(where, "the video is damaged or cut short") from e


def request_of_video(path: Path) -> dict[str, Any] | None:
    """The request kept in a GIF, mp4 or webm that ganctl wrote; None for any other file."""
    if not path.is_file():
        return None
    if path.suffix.lower() == ".gif":
        text = _gif_comment(path)
    else:
        try:
            av: Any = importlib.import_module("av")
        except ImportError:
            return None
        try:
            with av.open(str(path)) as container:
                tags = {key.lower(): value for key, value in container.metadata.items()}
        except (av.FFmpegError, OSError, ValueError):
            return None
        text = tags.get("comment", "")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _gif_comment(path: Path) -> str:
    """The first comment extension of a GIF (GIF89a specification, sec. 24), or an empty string."""
    with path.open("rb") as f:
        data = f.read(1 << 20)
    if data[:4] != b"GIF8" or len(data) < 13:
        return ""
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while at + 1 < len(data) and data[at] == 0x21:  # extensions before the first picture
        label, at, text = data[at + 1], at + 2, b""
        while at < len(data) and data[at]:
            text += data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
        at += 1
        if label == 0xFE:
            return text.decode("utf-8", errors="replace")
    return ""


def opaque(frame: "np.ndarray") -> "np.ndarray":
    """uint8 [H, W, 1 or 3]: alpha laid over white, other frames as they are."""
    import numpy as np

    if frame.shape[2] != 4:
        return frame
    alpha = frame[:, :, 3:].astype(np.float32) / 255
    return np.rint(frame[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _rgb(frame: "np.ndarray") -> "np.ndarray":
    return frame.repeat(3, axis=2) if frame.shape[2] == 1 else frame


def _even(frame: "np.ndarray") -> "np.ndarray":
    import numpy as np

    height, width = frame.shape[:2]
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _comment(request: Mapping[str, Any]) -> str:
    text = json.dumps(dict(request), sort_keys=True, ensure_ascii=True)
    if len(text) > MAX_COMMENT_BYTES:
        raise UsageError("cannot keep the request in the file", f"it is longer than {MAX_COMMENT_BYTES} characters")
    return text
