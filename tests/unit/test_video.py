import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.video import need_av, opaque, read_video, request_of_video, write_gif, write_video, write_y4m

HAVE_AV = importlib.util.find_spec("av") is not None
needs_av = pytest.mark.skipif(not HAVE_AV, reason="PyAV is not installed")
REQUEST = {"verb": "interpolate", "model": "é", "seeds": list(range(200))}


def moving(count: int = 7, size: tuple[int, int] = (28, 30), channels: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, channels), dtype=np.uint8) for _ in range(count)]


def gif_frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    from PIL import Image, ImageSequence

    with Image.open(path) as gif:
        pairs = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(gif)]
    return [p for p, _ in pairs], [d for _, d in pairs]


def test_a_grey_gif_keeps_every_pixel_the_rate_and_the_request(tmp_path: Path):
    frames = moving(60)
    write_gif(tmp_path / "a.gif", iter(frames), count=60, fps=30, request=REQUEST)
    read, durations = gif_frames(tmp_path / "a.gif")
    assert len(read) == 60 and sum(durations) == 2000
    for a, b in zip(read, frames, strict=True):
        assert (a == b).all()
    assert request_of_video(tmp_path / "a.gif") == REQUEST


def test_colour_and_alpha_gifs_are_close(tmp_path: Path):
    ramp = np.linspace(0, 255, 30 * 28, dtype=np.uint8).reshape(28, 30, 1)
    colour = np.concatenate([ramp, ramp[::-1], 255 - ramp, ramp], 2)
    for channels in (3, 4):
        frame = colour[:, :, :channels]
        write_gif(tmp_path / "c.gif", [frame, frame[::-1]], count=2, fps=10)
        read, _ = gif_frames(tmp_path / "c.gif")
        assert np.abs(read[0].astype(int) - opaque(frame)).mean() < 6
    assert request_of_video(tmp_path / "c.gif") is None


def test_a_gif_that_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(UsageError, match="50 frames"):
        write_gif(tmp_path / "a.gif", moving(), count=7, fps=60)
    with pytest.raises(UsageError, match="too many"):
        write_gif(tmp_path / "a.gif", moving(), count=10_000_000, fps=30)

    def broken():
        yield from moving(2)
        raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        write_gif(tmp_path / "a.gif", broken(), count=7, fps=30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"GIF89a" + bytes(7), b"GIF89a" + bytes(7) + b"!\xfe\x05{]", b"PNG"])
def test_a_damaged_gif_has_no_request(tmp_path: Path, data: bytes):
    (tmp_path / "a.gif").write_bytes(data)
    assert request_of_video(tmp_path / "a.gif") is None
    assert request_of_video(tmp_path / "absent.gif") is None


def test_y4m_has_the_sizes_its_header_says_and_the_right_colours():
    stream = io.BytesIO()
    grey = np.array([[[0], [255]], [[128], [64]]], np.uint8)
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    write_y4m(stream, [grey, colours], fps=30)
    header, rest = stream.getvalue().split(b"\n", 1)
    assert header == b"YUV4MPEG2 W2 H2 F30:1 Ip A1:1 C444"
    assert len(rest) == 2 * (6 + 12)
    assert list(rest[6:18]) == [16, 235, 126, 71] + [128] * 8
    # BT.601 75 %-free primaries: the usual table of Y', Cb, Cr for red, green, blue, white.
    assert list(rest[24:]) == [81, 145, 41, 235, 90, 54, 240, 128, 240, 34, 110, 128]


def test_without_pyav_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "av").is_dir()])
    monkeypatch.delitem(sys.modules, "av", raising=False)
    for call in (
        lambda: need_av("cannot write 'x.mp4'"),
        lambda: write_video(tmp_path / "x.mp4", moving(), fps=30, codec="h264"),
        lambda: read_video(tmp_path / "x.mp4"),
    ):
        with pytest.raises(UsageError) as e:
            call()
        assert "PyAV" in e.value.why and "pip install 'ganctl[video]'" in e.value.hint and ".gif" in e.value.hint


@needs_av
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9")])
def test_video_round_trip(tmp_path: Path, name: str, codec: str):
    smooth = [np.full((33, 47, 3), 20 * i + 20, np.uint8) for i in range(9)]
    write_video(tmp_path / name, iter(smooth), fps=25, codec=codec, crf=10, request=REQUEST)
    video = read_video(tmp_path / name)
    frames = list(video.frames)
    assert video.fps == 25 and len(frames) == 9 and frames[0].shape == (34, 48, 3)
    for a, b in zip(frames, smooth, strict=True):
        assert abs(int(a[5, 5, 0]) - int(b[5, 5, 0])) <= 3
    assert request_of_video(tmp_path / name) == REQUEST
    assert [p.name for p in tmp_path.iterdir()] == [name]


@needs_av
def test_y4m_is_read_back_by_ffmpeg(tmp_path: Path):
    with (tmp_path / "a.y4m").open("wb") as f:
        write_y4m(f, [np.full((16, 16, 3), (200, 100, 50), np.uint8)] * 3, fps=30)
    frames = list(read_video(tmp_path / "a.y4m").frames)
    assert len(frames) == 3 and np.abs(frames[0].astype(int) - (200, 100, 50)).max() <= 3


@needs_av
@pytest.mark.parametrize("data", [b"", b"not a video", bytes(1000)])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(UsageError):
        list(read_video(tmp_path / "a.mp4").frames)
    with pytest.raises(UsageError, match="no such file"):
        read_video(tmp_path / "absent.mp4")
    assert request_of_video(tmp_path / "a.mp4") is None
