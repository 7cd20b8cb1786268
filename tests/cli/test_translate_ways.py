"""`translate --tile`, `--direction` and `--cycle`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.images import from_pixels, request_of, to_pixels
from ganctl.io.progress import Reporter
from ganctl.load import load
from ganctl.workflows.translate import TranslateRequest, run

from ..conftest import Shell, Tiny
from .test_translate import SMALL, here, picture, pixels_of, translated

__all__ = ["here"]
CYCLE = {"resolution": 32, "ngf": 4, "ndf": 4, "res_blocks": 1}


@pytest.mark.parametrize(
    ("family", "numbers"),
    [
        ("esrgan", {"network": "compact", "scale": 2, "width": 4, "num_blocks": 2}),
        ("esrgan", {"network": "rrdb", "scale": 2, "width": 4, "growth": 4, "num_blocks": 1}),
        ("srgan", {"scale": 4, "width": 4, "num_blocks": 1}),
    ],
    ids=["compact", "rrdb", "srgan"],
)
def test_tiles_of_a_local_network_are_the_whole_picture(family: str, numbers: dict, tiny: Tiny, here: Path):
    bundle = str(tiny(family, resolution=32, **numbers))
    net = load(bundle, device="cpu").net
    # Smooth, as photographs are: what the zeros beyond a border do is seen far from it.
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    from PIL import Image

    Image.fromarray(coarse).resize((145, 122), Image.Resampling.BICUBIC).save("in.png")
    (plain,) = translated("in.png", model=bundle, out="whole.png")
    overlap = 2 * net.halo + net.stride
    (row,) = translated("in.png", model=bundle, out="tiled.png", tile=2 * overlap, tile_overlap=overlap)
    assert row["size"] == plain["size"] == [145 * net.scale, 122 * net.scale] and "notes" not in row
    whole, made = (pixels_of(name).astype(int) for name in ("whole.png", "tiled.png"))
    # Sums in another order may move a value over the edge between two levels.
    assert np.abs(whole - made).max() <= 1 and (whole != made).mean() < 1e-3
    assert whole[..., :3].std() > 5
    translated("in.png", model=bundle, out="narrow.png", tile=64, tile_overlap=4)
    narrow = pixels_of("narrow.png").astype(int)
    inner = (slice(None, (64 - 12 - net.halo) * net.scale),) * 2
    assert np.abs(whole - narrow)[inner].max() <= 1 and inner[0].stop > 10
    assert request_of(Path("narrow.png"))["tile"] == [64, 4]  # type: ignore[index]
    assert translated("in.png", model=bundle, out="narrow.png", tile=64, tile_overlap=4)[0]["status"] == "exists"
    with pytest.raises(UsageError, match="tile was"):
        translated("in.png", model=bundle, out="narrow.png")


def test_a_network_that_looks_at_the_whole_picture_says_so(tiny: Tiny, here: Path):
    bundle = str(tiny("cyclegan", **CYCLE))
    picture("in/large.png", (50, 90))
    picture("in/small.png", (30, 32), seed=1)
    rows: list[dict] = []
    notes: list[str] = []
    request = TranslateRequest(model=bundle, inputs=("in",), out="tiles", tile=30, tile_overlap=8, device="cpu")
    run(request, Reporter(result=lambda r: rows.append(dict(r)), note=notes.append))
    assert [r.get("notes", [""])[0][:19] for r in rows] == ["translated in tiles", ""]
    assert len(notes) == 1 and notes[0].startswith("1 of 2 inputs: translated in tiles by a network that looks at")
    translated("in", model=bundle, out="whole")
    assert (pixels_of("tiles/small.png") == pixels_of("whole/small.png")).all()
    large, whole = pixels_of("tiles/large.png"), pixels_of("whole/large.png")
    assert large.shape == whole.shape and (large != whole).any()


def by_hand(bundle: str, pixels: np.ndarray, *ways: str) -> list[np.ndarray]:
    """The outputs of G ('AtoB') and F ('BtoA'), one after another, of a picture whose sides fit the stride."""
    net, found = load(bundle, device="cpu").net, []
    y = from_pixels(pixels[None], (-1, 1))
    with torch.inference_mode():
        for way in ways:
            y = getattr(net, way).translate(y)
            found.append(to_pixels(y, (-1, 1))[0])
    return found


def test_both_directions_and_cycles(tiny: Tiny, here: Path):
    bundle = str(tiny("cyclegan", **CYCLE))
    pixels = picture("a.png", (24, 32))
    ways = {
        ("AtoB", False): ["AtoB"],
        (None, True): ["AtoB", "BtoA"],
        ("BtoA", False): ["BtoA"],
        ("BtoA", True): ["BtoA", "AtoB"],
    }
    for k, ((direction, cycle), chain) in enumerate(ways.items()):
        want = by_hand(bundle, pixels, *chain)
        translated("a.png", model=bundle, out=f"{k}.png", direction=direction, cycle=cycle)
        assert (pixels_of(f"{k}.png") == want[-1]).all()
        translated("a.png", model=bundle, out=f"{k}c.png", direction=direction, cycle=cycle, concat=True)
        assert (pixels_of(f"{k}c.png") == np.concatenate([pixels, *want], 1)).all()
    shown = [request_of(Path(f"{k}.png")) or {} for k in range(4)]
    assert [(r.get("direction"), r.get("cycle")) for r in shown] == [
        (None, None),
        (None, True),
        ("BtoA", None),
        ("BtoA", True),
    ]
    # AtoB is what is done without the option.
    (row,) = translated("a.png", model=bundle, out="0.png")
    assert row["status"] == "exists"
    with pytest.raises(UsageError, match="direction was not given and is now 'BtoA'"):
        translated("a.png", model=bundle, out="0.png", direction="BtoA")


def test_domains_of_different_channels_and_tiles_go_round(tiny: Tiny, here: Path):
    bundle = str(tiny("cyclegan", **CYCLE, source_channels=1))
    picture("grey.png", (24, 32), channels=1)
    picture("colour.png", (24, 32), channels=4, seed=1)
    (row,) = translated("grey.png", model=bundle, out="g.png", cycle=True)
    assert pixels_of(row["path"]).shape == (24, 32, 1)
    translated("grey.png", model=bundle, out="gc.png", cycle=True, concat=True)
    both = pixels_of("gc.png")
    assert both.shape == (24, 96, 3) and (both[:, 64:] == pixels_of("g.png")).all()
    (row,) = translated("colour.png", model=bundle, out="c.png", direction="BtoA", cycle=True, tile=24, tile_overlap=8)
    assert pixels_of(row["path"]).shape == (24, 32, 4) and row["notes"]
    assert (pixels_of("c.png")[..., 3] == pixels_of("colour.png")[..., 3]).all()


def test_a_model_of_one_direction_refuses_the_others(tiny: Tiny, here: Path):
    picture("a.png")
    one = str(tiny("cyclegan", **CYCLE, both_ways=False))
    for bundle in (one, str(tiny("pix2pix", **SMALL))):
        for options, words in (({"direction": "AtoB"}, "--direction AtoB"), ({"cycle": True}, "--cycle")):
            with pytest.raises(UsageError, match="one way only") as e:
                translated("a.png", model=bundle, out="b.png", **options)
            assert words in e.value.what and e.value.hint and not Path("b.png").exists()


def test_the_command(ganctl: Shell, tiny: Tiny):
    picture(ganctl.folder / "a.png", (24, 32))
    bundle = tiny("cyclegan", **CYCLE)
    done = ganctl.ok(
        "translate", bundle, "a.png", "--direction", "BtoA", "--cycle", "--concat", "--tile", 24, "--tile-overlap", 8
    )
    assert pixels_of(ganctl.folder / done.lines[0]).shape == (24, 96, 3)
    assert "1 of 1 inputs: translated in tiles by a network that looks at the whole picture" in done.err
    done = ganctl("translate", bundle, "a.png", "--tile", 40, PYTHONPROFILEIMPORTTIME="1")
    assert done.code == 2 and "cannot use --tile 40 with --tile-overlap 32" in done.err and " torch\n" not in done.err
