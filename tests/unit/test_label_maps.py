"""Label maps: how numbers are read, and how folders of them become training data."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.config import parse
from ganctl.data import DataConfig, Dataset, open_dataset
from ganctl.errors import UsageError
from ganctl.io.images import BadImage, center_crop_resize, read_image
from ganctl.io.label_maps import coloured


def saved(pixels: np.ndarray, mode: str | None = None, format: str = "PNG") -> bytes:
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels, "L")
        image.putpalette([i % 256 for i in range(768)])
    elif mode:
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def numbers(data: bytes) -> np.ndarray:
    return read_image(data, name="map", numbers=True).pixels


SMALL = np.array([[0, 7, 34], [255, 1, 2]], np.uint8)


@pytest.mark.parametrize("mode", [None, "P", "RGB"])
def test_a_number_below_a_thousand_is_a_class_and_its_own_object(mode: str | None) -> None:
    found = numbers(saved(SMALL, mode))
    assert found.dtype == np.uint8 and np.array_equal(found[..., 0], SMALL)
    assert np.array_equal(found[..., 2], SMALL) and not found[..., 1].any()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_thousands_of_a_larger_number_are_its_class(format: str) -> None:
    value = np.array([[26001, 26002], [33000, 7]], np.uint16)
    found = numbers(saved(value, format=format)).astype(int)
    assert found[..., 0].tolist() == [[26, 26], [33, 7]]
    assert (found[..., 1] * 256 + found[..., 2]).tolist() == value.tolist()


def test_what_is_no_label_map_is_refused() -> None:
    with pytest.raises(BadImage, match="its pixels are colours"):
        numbers(saved(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)))
    with pytest.raises(BadImage, match="class 300 is beyond 255"):
        numbers(saved(np.array([[300]], np.uint16)))


def test_numbers_are_never_mixed_and_have_colours_to_be_looked_at() -> None:
    found = numbers(saved(SMALL))
    assert set(np.unique(center_crop_resize(found, (9, 9), "nearest")[..., 0])) <= set(SMALL.ravel().tolist())
    shown = coloured(found)
    assert shown.shape == found.shape and len({tuple(c) for c in shown.reshape(-1, 3)}) == 6
    assert shown[0, 0].tolist() == [0, 0, 0] and shown[1, 0].tolist() == [255, 255, 255]


def opened(path: Path, path_b: Path | None = None, label_nc: int | None = 5, **options: object) -> Dataset:
    given = {"path": str(path), "path_b": path_b and str(path_b), "max_bad": 0.0, **options}
    cfg = parse(DataConfig, given, where="test")
    return open_dataset(cfg, resolution=8, channels=3, source_channels=3, label_nc=label_nc)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(pixels))


def authors(root: Path, *, objects: bool = True) -> Path:
    """Two scenes under Cityscapes' names, in the folders of pix2pixHD's authors."""
    for i, city in enumerate(("aachen_000000_000019", "ulm_000001_000019")):
        labels = np.full((8, 8), i + 1, np.uint8)
        write(root / f"train_label/{city}_gtFine_labelIds.png", labels)
        write(root / f"train_img/{city}_leftImg8bit.png", np.full((8, 8, 3), 100 * i, np.uint8))
        if objects:
            write(root / f"train_inst/{city}_gtFine_instanceIds.png", np.full((8, 8), 1000 * (i + 1) + 3, np.uint16))
    return root


def test_the_authors_folders(tmp_path: Path) -> None:
    data = opened(authors(tmp_path / "city"))
    assert data.numbers and data.y is not None and data.x.shape == data.y.shape == (2, 8, 8, 3)
    assert data.x[:, 0, 0].tolist() == [[1, 1003 // 256, 1003 % 256], [2, 2003 // 256, 2003 % 256]]
    assert data.y[:, 0, 0, 0].tolist() == [0, 100]
    alone = opened(authors(tmp_path / "plain", objects=False))
    assert alone.x[:, 0, 0].tolist() == [[1, 0, 1], [2, 0, 2]]


def test_two_folders_of_which_instance_files_say_more(tmp_path: Path) -> None:
    root = authors(tmp_path / "city")
    for file in (root / "train_inst").iterdir():
        file.rename(root / "train_label" / file.name)
    write(root / "train_img/alone_leftImg8bit.png", np.zeros((8, 8, 3), np.uint8))
    data = opened(root / "train_label", root / "train_img")
    assert data.x[:, 0, 0, 0].tolist() == [1, 2] and data.x[:, 0, 0, 1].tolist() == [1003 // 256, 2003 // 256]
    assert [Path(what).name for what, _ in data.skipped] == ["alone_leftImg8bit.png"]
    turned = opened(root / "train_img", root / "train_label", direction="BtoA")
    assert np.array_equal(turned.x, data.x)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    root = authors(tmp_path / "city")
    with pytest.raises(UsageError, match=r"class 2.*label_nc is 2: classes 0 to 1") as e:
        opened(root, label_nc=2)
    assert "label_nc=3" in e.value.hint
    with pytest.raises(UsageError, match="holds label maps"):
        opened(root, label_nc=None)
    with pytest.raises(UsageError, match="no folders train_label and train_img"):
        opened(root / "train_img")
    with pytest.raises(UsageError, match="pairs=grey"):
        opened(root, pairs="grey")
    write(tmp_path / "other/else.png", SMALL)
    with pytest.raises(UsageError, match="share a name"):
        opened(root / "train_label", tmp_path / "other")
