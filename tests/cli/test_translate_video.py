import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ganctl.errors import PartialError, UsageError
from ganctl.io.progress import Reporter
from ganctl.io.video import read_video, request_of_video
from ganctl.workflows.translate import TranslateRequest, run

from ..conftest import Tiny

av = pytest.importorskip("av")

SMALL = {"resolution": 32, "num_downs": 4, "ngf": 4, "ndf": 4}


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    film("in.mp4", "libx264", "aac")
    return tmp_path


def film(path: str, codec: str, sound: str, frames: int = 12, rate: str = "24000/1001") -> None:
    """A small video whose frames grow brighter, and a second of a tone."""
    with av.open(path, "w") as container:
        video = container.add_stream(codec, rate=Fraction(rate))
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream(sound, rate=48000) if sound else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.float32)
            whole = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            whole.rate = 48000
            to = audio.codec_context
            split = av.AudioResampler(format=to.format, layout=to.layout, rate=48000, frame_size=to.frame_size)
            for part in [*split.resample(whole), *split.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))


def streams(path: str) -> dict[str, tuple[str, int, list[bytes]]]:
    """Kind → codec, decoded frames, packets."""
    found = {}
    with av.open(path) as container:
        kinds = {s.type: s.codec_context.codec.canonical_name for s in container.streams}
    for kind, codec in kinds.items():
        with av.open(path) as container:
            packets = [bytes(p) for p in container.demux(**{kind: 0}) if p.size]
        with av.open(path) as container:
            found[kind] = (codec, sum(1 for _ in container.decode(**{kind: 0})), packets)
    return found


def test_frames_rate_and_sound_are_kept_and_a_second_run_skips(clip: Path, tiny: Tiny):
    bundle = tiny("pix2pix", **SMALL, test_time="stored")
    results: list[dict] = []
    request = TranslateRequest(model=str(bundle), inputs=("in.mp4",), out="out.mp4", device="cpu")
    run(request, Reporter(result=lambda r: results.append(dict(r))))
    assert results[0]["size"] == [48, 32] and results[0]["ms"] > 0 and "notes" not in results[0]
    before, after = streams("in.mp4"), streams("out.mp4")
    assert after["video"][:2] == ("h264", 12) and after["audio"] == before["audio"]
    with av.open("out.mp4") as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)
        assert [s.type for s in container.streams] == ["video", "audio"]
        begun = [float(s.start_time * s.time_base) for s in container.streams]
        assert max(map(abs, begun)) < 0.05
    made = request_of_video(Path("out.mp4"))
    assert made and made["verb"] == "translate" and made["model"] == bundle.name
    # The pictures are the network's, as far as H.264 keeps them.
    from ganctl.load import load
    from ganctl.workflows.translate_way import Way, translate

    model = load(str(bundle), device="cpu")
    for frame, got in zip(read_video(Path("in.mp4")).frames, read_video(Path("out.mp4")).frames, strict=True):
        (want,) = translate(Way((model.net,)), [frame], model.device, 0)
        assert abs(float(got.mean()) - float(want.mean())) < 6
    stamp = Path("out.mp4").stat().st_mtime_ns
    results.clear()
    run(request, Reporter(result=lambda r: results.append(dict(r))))
    assert [r["status"] for r in results] == ["exists"] and Path("out.mp4").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="refused to overwrite"):
        run(TranslateRequest(model=str(bundle), inputs=("in.mp4",), out="out.mp4", seed=1, device="cpu"))


def test_frames_go_there_and_back_in_tiles(clip: Path, tiny: Tiny):
    bundle = str(tiny("cyclegan", resolution=32, ngf=4, ndf=4, res_blocks=1))
    results: list[dict] = []
    request = TranslateRequest(
        model=bundle, inputs=("in.mp4",), out="out.mp4", device="cpu", tile=32, tile_overlap=8, cycle=True, concat=True
    )
    run(request, Reporter(result=lambda r: results.append(dict(r))))
    assert results[0]["size"] == [144, 32] and results[0]["notes"][0].startswith("translated in tiles")
    frames = list(read_video(Path("out.mp4")).frames)
    assert len(frames) == 12 and frames[0].shape == (32, 144, 3)


def test_other_containers_and_sound_that_does_not_fit(clip: Path, tiny: Tiny):
    bundle = str(tiny("pix2pix", **SMALL, test_time="stored"))
    film("tone.webm", "libvpx-vp9", "libopus", 4)
    film("pcm.mkv", "libx264", "pcm_s16le", 4)
    film("silent.mov", "libx264", "", 4)
    from PIL import Image

    Image.new("RGB", (20, 20)).save("still.png")
    results: list[dict] = []
    notes: list[str] = []
    reporter = Reporter(result=lambda r: results.append(dict(r)), note=notes.append)
    names = ("tone.webm", "pcm.mkv", "still.png", "silent.mov")
    run(TranslateRequest(model=bundle, inputs=names, out="o", device="cpu", concat=True), reporter)
    assert [r["path"] for r in results] == ["o/tone.webm", "o/pcm.mp4", "o/still.png", "o/silent.mp4"]
    assert [r["size"] for r in results] == [[96, 32], [96, 32], [40, 20], [96, 32]]
    found = {Path(r["path"]).name: streams(r["path"]) for r in results if "still" not in r["path"]}
    assert found["tone.webm"]["audio"] == streams("tone.webm")["audio"] and found["tone.webm"]["video"][:2] == (
        "vp9",
        4,
    )
    assert "audio" not in found["pcm.mp4"] and "audio" not in found["silent.mp4"]
    assert notes == ["1 of 4 inputs: its sound is left out: .mp4 does not take pcm_s16le"]


def test_a_damaged_video_fails_alone_and_leaves_no_file(clip: Path, tiny: Tiny):
    bundle = str(tiny("pix2pix", **SMALL, test_time="stored"))
    whole = Path("in.mp4").read_bytes()
    Path("bad.mp4").write_bytes(b"no video")
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])
    Path("empty.mp4").write_bytes(b"")
    results: list[dict] = []
    request = TranslateRequest(
        model=bundle, inputs=("bad.mp4", "cut.mp4", "empty.mp4", "in.mp4"), out="o", device="cpu"
    )
    with pytest.raises(PartialError, match="3 of 4 inputs failed"):
        run(request, Reporter(result=lambda r: results.append(dict(r))))
    assert [r["status"] for r in results] == ["failed", "failed", "failed", "written"]
    assert all("\n" not in r["error"] for r in results[:3]) and "not a video FFmpeg can read" in results[0]["error"]
    assert [p.name for p in Path("o").iterdir()] == ["in.mp4"]
    assert json.loads(json.dumps(results))
