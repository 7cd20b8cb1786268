"""Published ProGANs and StyleGANs through `ganctl convert`: recorded weights, in the container that each code base writes."""  # noqa: E501

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ganctl.config import parse
from ganctl.errors import WeightsError
from ganctl.io.bundle import read_bundle
from ganctl.load import family, load
from ganctl.models import progan, stylegan
from tests.cli.test_convert import convert, saved
from tests.conftest import golden
from tests.golden.test_networks import close, read
from tests.layouts import one_thing_wrong

State = dict[str, Tensor]


def louder(state: State) -> State:
    """Another network of the same layout: filters are constants."""
    return {k: v if "blur" in k or "kernel" in k else v * 1.25 for k, v in state.items()}


class BaseConfig:
    """Stands for pytorch_GAN_zoo's settings: says so if anything builds it."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("code in the file was executed")


def gan_zoo(path: Path, **networks: State) -> Path:
    """Writes a file as pytorch_GAN_zoo does: an instance of its settings class beside the networks."""
    settings = BaseConfig()
    settings.__dict__ |= {"depthOtherScales": [20, 16, 12], "attribKeysOrder": None, "alpha": 0}
    modules = {name: ModuleType(name) for name in ("models", "models.utils", "models.utils.config")}
    modules["models.utils.config"].BaseConfig = BaseConfig  # type: ignore[attr-defined]
    with patch.dict(sys.modules, modules), patch.object(BaseConfig, "__module__", "models.utils.config"):
        torch.save({"config": settings, **networks}, path, _use_new_zipfile_serialization=False)
    return path


@torch.no_grad()
def test_genforces_progan(tmp_path: Path) -> None:
    weights, inputs, outputs, _ = read(golden("progan-genforce-g-r32.safetensors"))
    D = read(golden("progan-genforce-d-r32.safetensors"))[0]
    file = saved(
        tmp_path / "pggan.pth", {"generator": louder(weights), "discriminator": D, "generator_smooth": weights}
    )
    result = convert(file, tmp_path / "b", license="CC-BY-NC-4.0")
    assert (result["model"], set(result["nets"])) == ("progan", {"G", "D", "G_ema"})
    close(load(str(tmp_path / "b"), device="cpu").net.sample(inputs["z"]), outputs["lod0.img"].clamp(-1, 1))
    assert torch.equal(load_file(tmp_path / "b" / "D.safetensors")["layer8.weight"], D["layer8.weight"])
    config = read_bundle(tmp_path / "b").config
    assert (config["resolution"], config["z_dim"], config["widths"]) == (32, 24, [24, 24, 24, 16])


@torch.no_grad()
def test_gan_zoos_progan_with_its_settings_unread(tmp_path: Path) -> None:
    weights, inputs, outputs, _ = read(golden("progan-zoo-g-r32.safetensors"))
    D, images, logits, _ = read(golden("progan-zoo-d-r32.safetensors"))
    result = convert(gan_zoo(tmp_path / "x.pth", netG=louder(weights), netD=D, avgG=weights), tmp_path / "b")
    assert (result["model"], set(result["nets"])) == ("progan", {"G", "D", "G_ema"})
    close(load(str(tmp_path / "b"), device="cpu").net.sample(inputs["z"]), outputs["alpha000.img"].clamp(-1, 1))
    bundle = read_bundle(tmp_path / "b")
    critic = progan.build(parse(progan.Config, bundle.config, where="test")).D
    critic.load_state_dict(bundle.state("D"))
    close(critic(images["img"]), logits["alpha000.logits"].squeeze(1))


@torch.no_grad()
def test_openmmlabs_progan(tmp_path: Path) -> None:
    weights, inputs, outputs, _ = read(golden("progan-openmmlab-g-r16.safetensors"))
    both = {f"generator.{k}": v for k, v in louder(weights).items()}
    both |= {f"generator_ema.{k}": v for k, v in weights.items()}
    both["discriminator.decision.linear0.weight_orig"] = torch.ones(4, 4)
    file = saved(tmp_path / "pggan_8_1234abcd.pth", {"meta": {"iter": 3}, "state_dict": both})
    assert set(convert(file, tmp_path / "b")["nets"]) == {"G", "G_ema"}
    close(load(str(tmp_path / "b"), device="cpu").net.sample(inputs["z"]), outputs["full.img"].flip(1).clamp(-1, 1))


@torch.no_grad()
def test_genforces_stylegan_with_its_discriminator(tmp_path: Path) -> None:
    weights, inputs, outputs, _ = read(golden("stylegan1-g-r32.safetensors"))
    D = read(golden("stylegan1-d-r32.safetensors"))[0]
    file = saved(
        tmp_path / "stylegan.pth", {"generator": louder(weights), "discriminator": D, "generator_smooth": weights}
    )
    result = convert(file, tmp_path / "b")
    assert (result["model"], set(result["nets"])) == ("stylegan", {"G", "D", "G_ema"})
    G = load(str(tmp_path / "b"), device="cpu").net
    close(G.synthesize(G.map(inputs["z"], psi=0.7, cutoff=4)), outputs["lod0_psi07_l4.img"].clamp(-1, 1))
    assert not any("blur" in k for k in load_file(tmp_path / "b" / "D.safetensors"))


@torch.no_grad()
def test_a_stylegan_whose_layers_are_all_transposed(tmp_path: Path) -> None:
    """What a file cannot tell is given; without, its kernels are taken for the others, and the pictures differ."""
    weights, inputs, outputs, _ = read(golden("stylegan1-g-tiny-r16.safetensors"))
    file = saved(tmp_path / "x.pth", {"generator_smooth": weights})
    convert(file, tmp_path / "b", settings=("fused_from=4",))
    G = load(str(tmp_path / "b"), device="cpu").net
    close(G.sample(inputs["z"]), outputs["lod0.img"].clamp(-1, 1))
    convert(file, tmp_path / "c")
    other = load(str(tmp_path / "c"), device="cpu").net
    assert not torch.allclose(other.sample(inputs["z"]), G.sample(inputs["z"]), atol=1e-2)


@torch.no_grad()
def test_gan_zoos_stylegan(tmp_path: Path) -> None:
    weights, inputs, outputs, _ = read(golden("stylegan1-zoo-g-r16.safetensors"))
    result = convert(gan_zoo(tmp_path / "x.pth", netG=louder(weights), netD={}, avgG=weights), tmp_path / "b")
    assert (result["model"], set(result["nets"])) == ("stylegan", {"G", "G_ema"})
    G = load(str(tmp_path / "b"), device="cpu").net
    noise = iter([inputs[f"noise{i}"] for i in range(6)])
    close(G.synthesis(G.map(inputs["z"], psi=0.7), noise=lambda *shape: next(noise)), outputs["psi07.img"])
    # It draws its noise anew for each picture; the stored maps are ours, and always the same.
    convert(saved(tmp_path / "y.pth", weights), tmp_path / "c")
    assert torch.equal(G.sample(inputs["z"]), load(str(tmp_path / "c"), device="cpu").net.sample(inputs["z"]))


@torch.no_grad()
def test_openmmlabs_stylegan(tmp_path: Path) -> None:
    """Its pictures are blue first, too; a name that says rgb is believed."""
    weights, inputs, outputs, _ = read(golden("stylegan1-openmmlab-g-r16.safetensors"))
    both = {f"generator.{k}": v for k, v in louder(weights).items()}
    both |= {f"generator_ema.{k}": v for k, v in weights.items()}
    for name, channels in (("styleganv1_1234abcd.pth", [2, 1, 0]), ("styleganv1_cvt-rgb.pth", [0, 1, 2])):
        result = convert(saved(tmp_path / name, {"meta": {}, "state_dict": both}), tmp_path / f"{name}-b")
        assert (result["model"], set(result["nets"])) == ("stylegan", {"G", "G_ema"})
        G = load(result["path"], device="cpu").net
        close(G.sample(inputs["z"]), outputs["full.img"][:, channels].clamp(-1, 1))


def test_another_class_beside_the_networks_is_refused(tmp_path: Path) -> None:
    weights = read(golden("stylegan1-zoo-g-r16.safetensors"))[0]
    data = gan_zoo(tmp_path / "x.pth", avgG=weights).read_bytes()
    (tmp_path / "x.pth").write_bytes(data.replace(b"BaseConfig", b"EvilConfig"))
    with pytest.raises(WeightsError, match=r"models.utils.config.EvilConfig, which is code and not data"):
        convert(tmp_path / "x.pth", tmp_path / "b")


def own(model: str) -> State:
    """A new network's state, whose names are the converted official networks'."""
    module = family(model)
    small = {"resolution": 8, "channels": 1, "z_dim": 3, "width": 3, "grow_from": 4}
    small |= {"w_dim": 3, "mapping_width": 3, "mapping_layers": 2} if model == "stylegan" else {}
    torch.manual_seed(1)
    state = dict(module.build(module.Config(**small)).G.state_dict())
    return {k.replace("mapping.w_avg", "truncation.w_avg"): v for k, v in state.items()}


def gan_zoo_progan() -> State:
    g = torch.Generator().manual_seed(3)
    shapes = {
        "formatLayer": (48, 3), "groupScale0.0": (3, 3, 3, 3), "scaleLayers.0.0": (2, 3, 3, 3),
        "scaleLayers.0.1": (2, 2, 3, 3), "toRGBLayers.0": (1, 3, 1, 1), "toRGBLayers.1": (1, 2, 1, 1),
    }  # fmt: skip
    state = {f"{k}.module.weight": torch.randn(s, generator=g) for k, s in shapes.items()}
    return state | {f"{k}.module.bias": torch.randn(s[0], generator=g) for k, s in shapes.items()}


LAYOUTS: dict[str, Callable[[], Mapping[str, Tensor]]] = {
    "progan": lambda: own("progan"),
    "stylegan": lambda: own("stylegan"),
    "progan, gan zoo": gan_zoo_progan,
    "stylegan, gan zoo": lambda: read(golden("stylegan1-zoo-g-r16.safetensors"))[0],
    "stylegan, openmmlab": lambda: read(golden("stylegan1-openmmlab-g-r16.safetensors"))[0],
    "progan, openmmlab": lambda: read(golden("progan-openmmlab-g-r16.safetensors"))[0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_dict_with_one_thing_wrong(tmp_path: Path, layout: str) -> None:
    """A tensor reshaped, retyped, renamed, left out or added: a bundle that loads, or one error and no folder."""
    whole, model = dict(LAYOUTS[layout]()), layout.partition(",")[0]
    assert convert(saved(tmp_path / "whole.pth", whole), tmp_path / "whole")["model"] == model
    rng, refused = random.Random(11), 0
    for i in range(25):
        state = dict(whole)
        one_thing_wrong(state, rng, ("", "x", "layer99.weight", "output7.weight", "…"))
        out = tmp_path / str(i)
        try:
            convert(saved(tmp_path / "x.pth", state), out)
            assert load(str(out), device="cpu").model == model
        except WeightsError as e:
            refused += 1
            assert e.why and e.hint and not out.exists()
    assert refused > 5


def test_filters_that_are_not_the_papers() -> None:
    weights = read(golden("stylegan1-g-tiny-r16.safetensors"))[0]
    assert stylegan.from_upstream(weights) is not None
    assert stylegan.from_upstream({**weights, "synthesis.layer2.blur.kernel": torch.ones(6, 1, 3, 3) / 9}) is None
