"""What `ganctl train` learns from: every layout of images, and every fault in one."""

import gzip
import json
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.config import parse
from ganctl.data import DataConfig, Dataset, open_dataset
from ganctl.errors import UsageError
from ganctl.io.images import read_image
from ganctl.workflows.recipe import resolve
from tests.cli.runs import pictures, request, train

FEW = ("kimg=0.016", "tick=0.008", "snap=0.016")


def opened(path: Path, resolution: int = 16, channels: int = 1, **options: object) -> Dataset:
    known = {"source_channels", "labels"}
    given = {k: v for k, v in options.items() if k in known}
    cfg = parse(DataConfig, {"path": str(path), **{k: v for k, v in options.items() if k not in known}}, where="test")
    return open_dataset(cfg, resolution=resolution, channels=channels, **given)  # type: ignore[arg-type]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def zipped(folder: Path, name: str = "data.zip") -> Path:
    with zipfile.ZipFile(folder.parent / name, "w") as z:
        for file in sorted(folder.rglob("*.png")):
            z.write(file, file.relative_to(folder).as_posix())
    return folder.parent / name


def test_folder_zip_and_idx_files_hold_the_same_images(tmp_path: Path):
    folder = pictures(tmp_path / "images", n=12)
    pixels = np.stack([read_image(p.read_bytes(), name=p.name).pixels[..., 0] for p in sorted(folder.glob("*.png"))])
    plain = tmp_path / "some-images-idx3-ubyte"
    plain.write_bytes(idx(pixels))
    packed = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(idx(pixels)))
    (packed.parent / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(12, dtype=np.uint8) % 3)))
    (packed.parent / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[:2])))
    sources = [folder, zipped(folder), plain, packed, packed.parent]
    found = [opened(source) for source in sources]
    for data in found:
        assert data.x.dtype == np.uint8 and np.array_equal(data.x[..., 0], pixels) and data.skipped == []
    assert [data.classes for data in found] == [(), (), (), ("0", "1", "2"), ("0", "1", "2")]
    assert found[4].c is not None and found[4].c.tolist() == [0, 1, 2] * 4
    # Each of them trains, and to the same network: same pixels, same run.
    ends = [train(request("gan", s, tmp_path / f"run{i}", *FEW)).snapshot for i, s in enumerate(sources)]
    assert len({(Path(e) / "G.safetensors").read_bytes() for e in ends}) == 1
    facts = json.loads((tmp_path / "run4" / "run.json").read_text())
    assert facts["data"]["images"] == 12 and facts["classes"] == ["0", "1", "2"]


def test_size_and_channels_come_from_the_data_unless_given(tmp_path: Path):
    def config(folder: Path, *settings: str, model: str = "dcgan"):
        return resolve(model, {"data.path": str(folder)}, settings).config

    grey = config(pictures(tmp_path / "grey", n=2, size=(40, 36)))
    assert (grey.resolution, grey.channels) == (32, 1)
    colour = config(pictures(tmp_path / "colour", n=2, size=(28, 28), mode="RGB"))
    assert (colour.resolution, colour.channels) == (28, 3)
    assert config(tmp_path / "colour", "resolution=16", "channels=1").resolution == 16
    pairs = config(pictures(tmp_path / "pairs", n=2, size=(70, 35), mode="RGB"), "num_downs=4", model="pix2pix")
    assert pairs.resolution == 32
    # A first image that is broken says nothing about the others.
    (tmp_path / "colour" / "000.png").write_bytes(b"no image")
    assert config(tmp_path / "colour").resolution == 28


def test_sub_folders_are_classes_and_splits_are_respected(tmp_path: Path):
    for label in ("cat", "dog"):
        pictures(tmp_path / "data" / "train" / label, n=4, size=(28, 28), seed=len(label))
        pictures(tmp_path / "data" / "test" / label, n=3, size=(28, 28))
    data = opened(tmp_path / "data", 28)
    assert data.classes == ("cat", "dog") and data.c is not None and data.c.tolist() == [0] * 4 + [1] * 4
    report = train(request("lenet", tmp_path / "data" / "train", tmp_path / "r", *FEW, "classes=2", "tick=0.008"))
    assert report.nimg == 16
    assert json.loads((tmp_path / "r" / "run.json").read_text())["classes"] == ["cat", "dog"]
    with pytest.raises(UsageError, match=r"has 2 classes. lenet is set to 1") as e:
        train(request("lenet", tmp_path / "data" / "train", tmp_path / "s", *FEW, "classes=1"))
    assert "--set classes=2" in e.value.hint
    with pytest.raises(UsageError, match="no classes in"):
        train(request("lenet", pictures(tmp_path / "flat", n=4), tmp_path / "t", *FEW))


def left_right(folder: Path, n: int = 6) -> Path:
    """Pairs side by side: a dark half and a bright one, marked by their number."""
    folder.mkdir(parents=True)
    for i in range(n):
        a = np.full((16, 16, 3), 10 + i, np.uint8)
        b = np.full((16, 16, 3), 200 + i, np.uint8)
        Image.fromarray(np.concatenate([a, b], axis=1)).save(folder / f"{i}.png")
    return folder


def test_pairs_side_by_side_in_two_folders_and_grey_to_colour(tmp_path: Path):
    beside = opened(left_right(tmp_path / "beside"), channels=3, source_channels=3)
    assert beside.y is not None
    assert beside.x[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14, 15]
    assert beside.y[:, 0, 0, 0].tolist() == [200, 201, 202, 203, 204, 205]
    back = opened(tmp_path / "beside", channels=3, source_channels=3, direction="BtoA")
    assert np.array_equal(back.x, beside.y) and back.y is not None and np.array_equal(back.y, beside.x)
    # Two folders pair by name; what has no partner is told.
    for side in "AB":
        (tmp_path / "two" / f"train{side}").mkdir(parents=True)
        for i in range(6):
            half = Image.open(tmp_path / "beside" / f"{i}.png").crop(
                (16 * (side == "B"), 0, 16 + 16 * (side == "B"), 16)
            )
            half.save(tmp_path / "two" / f"train{side}" / f"{i}.{'png' if side == 'A' else 'bmp'}")
    shutil.copy(tmp_path / "two" / "trainA" / "0.png", tmp_path / "two" / "trainA" / "lonely.png")
    two = opened(tmp_path / "two", channels=3, source_channels=3)
    assert np.array_equal(two.x, beside.x) and two.y is not None and np.array_equal(two.y, beside.y)
    assert [(Path(name).name, why) for name, why in two.skipped] == [
        ("lonely.png", "no image of that name in 'trainB'")
    ]
    named = opened(tmp_path / "two" / "trainA", channels=3, source_channels=3, path_b=str(tmp_path / "two" / "trainB"))
    assert np.array_equal(named.x, two.x)
    # Colouring needs no pairs.
    colour = pictures(tmp_path / "colour", n=6, mode="RGB")
    grey = opened(colour, channels=3, source_channels=1, pairs="grey")
    assert grey.y is not None and grey.x.shape == (6, 16, 16, 1) and grey.y.shape == (6, 16, 16, 3)
    luma = grey.y.astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(luma - grey.x[..., 0]).max() <= 1.5
    for name, data, settings in (
        ("beside", tmp_path / "beside", ()),
        ("two", tmp_path / "two", ()),
        ("grey", colour, ("pairs=grey", "source_channels=1")),
    ):
        end = train(request("pix2pix", data, tmp_path / f"run-{name}", *FEW, "jitter=2", *settings))
        assert end.nimg == 16
        with Image.open(tmp_path / f"run-{name}" / "reals.png") as reals:
            assert reals.size[0] >= 2 * 16
    with pytest.raises(UsageError, match=r"no pairs in 'trainA' and 'trainB'. of 7 and 6 images no two share a name"):
        for file in (tmp_path / "two" / "trainB").iterdir():
            file.rename(file.with_name(f"x{file.name}"))
        opened(tmp_path / "two", channels=3, source_channels=3)
    with pytest.raises(UsageError, match="it does not learn from pairs"):
        train(request("gan", tmp_path / "two" / "trainA", tmp_path / "u", f"path_b={tmp_path / 'two' / 'trainB'}"))


def test_unpaired_sides_of_any_number_and_name(tmp_path: Path):
    pictures(tmp_path / "two" / "trainA", n=3, mode="RGB", seed=1)
    b = pictures(tmp_path / "two" / "trainB", n=5, mode="RGB", seed=2)
    pictures(tmp_path / "two" / "testA", n=2, mode="RGB", seed=3)
    for file in list(b.iterdir()):
        file.rename(file.with_name(f"x{file.name}"))
    options = {"channels": 3, "source_channels": 1, "pairs": "unpaired"}
    two = opened(tmp_path / "two", **options)
    assert two.unpaired and two.y is not None and (two.x.shape, two.y.shape) == ((3, 16, 16, 1), (5, 16, 16, 3))
    assert np.array_equal(two.y, opened(b, channels=3).x) and two.skipped == []
    back = opened(tmp_path / "two" / "trainA", path_b=str(b), direction="BtoA", **options)
    assert back.y is not None and (len(back.x), len(back.y)) == (5, 3)
    beside = opened(pictures(tmp_path / "beside", n=4, size=(32, 16), mode="RGB"), **options)
    assert beside.y is not None and (len(beside.x), len(beside.y)) == (4, 4)
    end = train(request("cyclegan", tmp_path / "two", tmp_path / "run", *FEW, "jitter=2"))
    assert end.nimg == 16
    with Image.open(next((tmp_path / "run" / "samples").glob("*.png"))) as shown:
        assert shown.size == (6 * 18 - 2, 3 * 18 - 2)
    with pytest.raises(UsageError, match="cannot use unpaired images with pix2pix"):
        train(request("pix2pix", tmp_path / "two", tmp_path / "u", "pairs=unpaired"))


def test_images_of_many_classes_each_beside_one_of_another(tmp_path: Path):
    for label in "abc":
        pictures(tmp_path / "many" / label, n=4, mode="RGB", seed=ord(label))
    end = train(request("funit", tmp_path / "many", tmp_path / "run", *FEW, "classes=3"))
    assert end.nimg == 16
    # Eight rows of a content image, a class image, and the one as of the other's class.
    with Image.open(next((tmp_path / "run" / "samples").glob("*.png"))) as shown:
        assert shown.size == (3 * 18 - 2, 8 * 18 - 2)
        pixels = np.asarray(shown.convert("RGB"))
    data = opened(tmp_path / "many", channels=3)
    rows = [pixels[18 * i : 18 * i + 16] for i in range(8)]
    found = [[np.flatnonzero((data.x == row[:, 18 * k : 18 * k + 16]).all((1, 2, 3))) for k in (0, 1)] for row in rows]
    assert data.c is not None and all(data.c[x[0]] != data.c[y[0]] for x, y in found)
    assert opened(tmp_path / "many", channels=3, pairs="classes", jitter=2).x.shape == (12, 18, 18, 3)
    train(request("funit", tmp_path / "many", tmp_path / "crops", *FEW, "classes=3", "jitter=2"))
    with pytest.raises(UsageError, match="cannot use jitter with gan"):
        resolve("gan", {}, ("jitter=2",))
    with pytest.raises(UsageError, match=r"3 classes. funit is set to 2"):
        train(request("funit", tmp_path / "many", tmp_path / "u", *FEW))
    with pytest.raises(UsageError, match="no classes in"):
        train(request("funit", tmp_path / "many" / "a", tmp_path / "u", *FEW))
    one = np.full((4, 28, 28), 7, np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(one))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(UsageError, match="all are of one class"):
        train(request("funit", tmp_path / "train-images-idx3-ubyte", tmp_path / "u", *FEW, "channels=1"))
    for model, pairs in (("gan", "classes"), ("funit", "files"), ("cyclegan", "classes"), ("funit", "unpaired")):
        with pytest.raises(UsageError, match=rf"cannot use (pairs = {pairs}|unpaired images) with {model}"):
            resolve(model, {}, (f"pairs={pairs}",))


def test_broken_images_are_named_and_counted_and_too_many_refused(tmp_path: Path):
    data = pictures(tmp_path / "data", n=200)
    (data / "003.png").write_bytes((data / "003.png").read_bytes()[:60])
    (data / "notes.txt").write_text("not an image, and not taken for one")
    warnings: list[str] = []
    train(request("gan", data, tmp_path / "a", *FEW), warnings)
    assert len(warnings) == 1 and warnings[0].startswith("1 of 200 images in ") and "003.png" in warnings[0]
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts["data"]["images"] == 199 and len(facts["skipped"]) == 1 and "003.png" in facts["skipped"][0]["name"]
    for i in range(10, 20):
        (data / f"{i:03d}.png").write_bytes(b"GIF89a nothing")
    with pytest.raises(UsageError) as e:
        train(request("gan", data, tmp_path / "b", *FEW))
    assert re.match(r"11 of 200 images in '.*data' unreadable \(5.5%\), more than the limit of 1.0%", e.value.what)
    assert e.value.why.count(".png") == 5 and e.value.why.endswith("and 6 more")
    assert "--set max_bad=0.06" in e.value.hint
    assert not (tmp_path / "b" / "recipe.yaml").exists()
    assert train(request("gan", data, tmp_path / "b", *FEW, "max_bad=0.06")).nimg == 16
    # A link that leads nowhere is no image and not forgotten.
    (data / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert ("gone.png", "it is a broken link") in opened(data, max_bad=0.5).skipped


def test_labels_must_fit_the_images(tmp_path: Path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(UsageError, match=r"train-labels-idx1-ubyte'. it holds labels of shape \(4,\) for 5 images"):
        opened(tmp_path, 28)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8))[:-1])
    with pytest.raises(UsageError, match="needs 13 bytes, it has 12"):
        opened(tmp_path, 28)
    (tmp_path / "other-train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
    with pytest.raises(UsageError, match="cannot choose from"):
        opened(tmp_path, 28)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", "no images in .*it is empty"),
        ("others", r"no images in .*it holds 2 \.txt, 1 \.bin"),
        ("missing", "cannot read .*there is no such file or folder"),
        ("text", "cannot read|is no image|unreadable|none of its images can be read"),
        ("half", "cannot|damaged|unreadable|not a whole"),
        ("odd pair", "cannot split|unreadable"),
    ],
)
def test_data_that_is_none(what: str, message: str, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    path, model = folder, "gan"
    if what == "others":
        for name in ("a.txt", "b.txt", "c.bin"):
            (folder / name).write_text("x")
    elif what == "missing":
        path = folder / "nothing"
    elif what == "text":
        path = folder / "a.png"
        path.write_text("no picture")
    elif what == "half":
        path = zipped(pictures(folder / "x", n=3))
        path.write_bytes(path.read_bytes()[:100])
    elif what == "odd pair":
        pictures(folder, n=3, size=(15, 16))
        model = "pix2pix"
    with pytest.raises(UsageError, match=f"(?s){message}") as e:
        train(request(model, path, tmp_path / "run", *FEW))
    assert e.value.code == 2
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("setting", ["subset=0", "subset=-3", "max_bad=1", "max_bad=-0.1", "jitter=-1", "subset=x"])
def test_numbers_of_the_data_are_checked(setting: str, tmp_path: Path):
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        train(request("gan", pictures(tmp_path / "data", n=2), tmp_path / "run", setting))
    assert not (tmp_path / "run").exists()


def test_a_subset_is_the_first_images_and_decides_the_run(tmp_path: Path):
    data = pictures(tmp_path / "data", n=20)
    train(request("gan", data, tmp_path / "a", *FEW, "subset=5"))
    few = tmp_path / "few"
    few.mkdir()
    for i in range(5):
        shutil.copy(data / f"{i:03d}.png", few)
    train(request("gan", few, tmp_path / "b", *FEW))
    facts = [json.loads((tmp_path / r / "run.json").read_text())["data"] for r in "ab"]
    assert facts[0]["sha256"] == facts[1]["sha256"] and facts[0]["images"] == 5


def test_photos_of_any_size_are_cropped_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = pictures(tmp_path / "photos", n=3, size=(40, 26), mode="RGB")
    pictures(tmp_path / "photos" / "small", n=1, size=(30, 12), mode="RGB")
    data = opened(folder, channels=3, crop="random", max_bad=0.5)
    assert data.whole is not None and [a.shape for a in data.whole] == [(26, 40, 3)] * 3
    pixels = read_image((folder / "000.png").read_bytes(), name="").pixels
    # What pictures show of them, and scores compare with, is their middle, in its own pixels.
    assert np.array_equal(data.x[0], pixels[5:21, 12:28]) and np.array_equal(data.whole[0], pixels)
    assert [why for _, why in data.skipped] == ["it is 30x12, and crops are 16 px"]
    one = Dataset(data.x, whole=[*data.whole[:2], data.whole[2].copy()])
    assert one.fingerprint() == data.fingerprint()
    one.whole[2][0, 0] ^= 1  # type: ignore[index]
    assert one.fingerprint() != data.fingerprint()
    # Half of what they take, and they are refused before all are decoded.
    monkeypatch.setattr("ganctl.data.decode.MAX_DECODED_BYTES", 4000)
    with pytest.raises(UsageError, match=r"cannot hold 4 images of .*; the cache has .* GiB free"):
        opened(folder, channels=3, crop="random", max_bad=0.5)


def test_idx_images_are_cropped_at_random_too(tmp_path: Path):
    array = np.random.default_rng(0).integers(0, 256, (4, 20, 18), dtype=np.uint8)
    path = tmp_path / "some-images-idx3-ubyte"
    path.write_bytes(idx(array))
    data = opened(path, crop="random")
    assert data.whole is not None and np.array_equal(np.stack(data.whole)[..., 0], array)
    assert np.array_equal(data.x[..., 0], array[:, 2:18, 1:17])
    with pytest.raises(UsageError, match="cannot crop 32 px of the images"):
        opened(path, resolution=32, crop="random")


def test_super_resolution_takes_crops_of_the_papers_size(tmp_path: Path):
    folder = pictures(tmp_path / "photos", n=2, size=(120, 100), mode="RGB")
    recipe = resolve("srgan", {"data.path": str(folder)}, ())
    assert (recipe.config.resolution, recipe.config.channels, recipe.data.crop) == (96, 3, "random")
    with pytest.raises(UsageError, match="cannot crop at random for pix2pix"):
        resolve("pix2pix", {"data.path": str(folder)}, ("crop=random", "resolution=64", "num_downs=4"))
    with pytest.raises(UsageError, match="crop random takes its place"):
        resolve("srgan", {"data.path": str(folder)}, ("jitter=4",))
    # A held-out photo leaves the crops too.
    from ganctl.data import held_out

    whole = opened(folder, resolution=64, channels=3, crop="random")
    rest = held_out(whole, 1)
    assert rest.held is not None and rest.whole is not None and rest.held.whole is not None
    assert np.array_equal(rest.whole[0], whole.whole[0]) and np.array_equal(rest.held.whole[0], whole.whole[1])  # type: ignore[index]
