"""pix2pixHD as it is used: G1 alone on label maps, its enhancer around it, then a photograph of a new map."""

from pathlib import Path

import numpy as np
from PIL import Image

from ganctl.io.images import read_image
from ganctl.io.label_maps import coloured
from tests.cli.runs import log, newest, request, train
from tests.conftest import Shell

CLASSES = ("label_nc=4", "features=true", "encoder_downs=2", "nef=2", "bank=4")
FEW = ("batch=2", "kimg=0.002", "tick=0.002", "snap=0.002", *CLASSES)


def scenes(root: Path, n: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        labels = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
        for folder, pixels in (("train_label", labels), ("train_img", np.stack([labels * 60] * 3, 2))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


def test_from_coarse_to_fine_and_translation(ganctl: Shell, tmp_path: Path) -> None:
    data, warnings, notes = scenes(tmp_path / "city"), [], []
    train(request("pix2pixhd", data, tmp_path / "g1", *FEW), warnings)
    start = {"changes": {"train.init_from": str(tmp_path / "g1")}}
    local = ("network=local", "ngf=1", "resolution=32", "enhancer_kimg=0.001")
    train(request("pix2pixhd", data, tmp_path / "g2", *FEW, *local, **start), warnings, notes)
    assert warnings == []
    # All of G1 but its last layer, and the encoder, are taken over: the width of the finest layer is meant to differ.
    assert "loaded" in notes[0] and "new: G.model1_1.1.weight" in notes[0]
    assert {"D_loss", "G_loss", "G_matching"} <= set(log(tmp_path / "g2")[-1])
    grid = np.asarray(Image.open(next((tmp_path / "g2/samples").glob("*.png"))).convert("RGB"))
    assert grid.shape == (4 * 32 + 3 * 2, 3 * 32 + 2 * 2, 3)
    label = Image.open(data / "train_label/0.png").resize((40, 26), Image.Resampling.NEAREST)
    label.save(ganctl.folder / "label.png")
    ganctl.ok("translate", newest(tmp_path / "g2"), "label.png", "-o", "out", "--concat")
    made = np.asarray(Image.open(ganctl.folder / "out/label.png"))
    assert made.shape == (26, 80, 3)
    numbers = read_image((ganctl.folder / "label.png").read_bytes(), name="label", numbers=True).pixels
    assert np.array_equal(made[:, :40], coloured(numbers))
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(ganctl.folder / "photo.png")
    done = ganctl("translate", newest(tmp_path / "g2"), "photo.png", "-o", "out")
    assert done.code == 3 and "its pixels are colours" in done.err
