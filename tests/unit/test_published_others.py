"""Published files that are not read: one sentence says what they are."""

import pickle
from pathlib import Path

import pytest
import torch

from ganctl.errors import WeightsError
from ganctl.workflows.convert import ConvertRequest, run

KEYS = {
    "h_net1.fc.0.weight": "StackGAN++ or AttnGAN",
    "module.img_net2.img.0.weight": "StackGAN++ or AttnGAN",
    "STAGE1_G.fc.0.weight": "a StackGAN, which draws from sentences",
    "encoder.input_layer.0.weight": "e4e or pSp",
    "model.10.conv_block.1.conv.0.weight": "GAN Compression's separable",
}


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as e:
        run(ConvertRequest(source=str(path), out=str(path.parent / "out")))
    assert "\n" not in e.value.why and e.value.hint and not (path.parent / "out").exists()
    return e.value.why


@pytest.mark.parametrize("key", KEYS)
def test_networks_of_no_family_are_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {key: torch.zeros(2, 2), "other.weight": torch.zeros(3)}}, path)
    assert KEYS[key] in refused(path)


@pytest.mark.parametrize("name", ["x.ckpt.data-00000-of-00001", "Hayao-99.ckpt.index", "model.meta", "checkpoint"])
def test_tensorflow_checkpoints(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00" * 64)
    assert "part of a TensorFlow 1 checkpoint" in refused(tmp_path / name)


class Stored:
    """Pickled as a call of a function of dill's, without dill."""

    def __reduce__(self) -> tuple:
        return (here, ())


def here() -> None:
    """Never called."""
    raise AssertionError


def test_dill_and_keras(tmp_path: Path) -> None:
    data = pickle.dumps({"G_ema": Stored()}, 2)
    named = f"c{here.__module__}\nhere\n".encode()
    assert named in data
    (tmp_path / "imagenet256.pkl").write_bytes(data.replace(named, b"cdill._dill\n_create_type\n"))
    assert "written with dill" in refused(tmp_path / "imagenet256.pkl")
    (tmp_path / "generator.pth").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\x00" * 100)
    assert "HDF5 file, as Keras writes them" in refused(tmp_path / "generator.pth")
