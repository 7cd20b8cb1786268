"""Published layouts at the level of names, axes and arguments: what each reader makes of a file's networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ganctl.config import parse
from ganctl.errors import WeightsError
from ganctl.io.pickle_machine import Refused
from ganctl.io.pickles import PersistedModule, TfNetwork, read_torch
from ganctl.load import family, skeleton
from ganctl.models import progan, stylegan
from ganctl.models import stylegan2 as models
from ganctl.published import stylegan2, stylegan3
from ganctl.published.container import Held, networks_in, training_card
from tests.conftest import golden
from tests.layouts import (
    Thing,
    companion,
    dumps,
    growing_tf,
    openmmlab_names,
    rosinality_discriminator,
    rosinality_generator,
    tf_network,
    tf_pickle,
    write,
)

SG2, SG3 = "stylegan2ada-tiny-r32", "stylegan3-t-tiny-r32"
CONFIG = {
    "resolution": 32, "channels": 3, "classes": None, "z_dim": 32, "w_dim": 32, "mapping_layers": 2,
    "channel_base": 512, "channel_max": 24, "g_architecture": "skip",
}  # fmt: skip
TF = {"resolution": 32, "num_channels": 3, "label_size": 0, "fmap_base": 256, "fmap_max": 24}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert set(found) == set(expected), set(found) ^ set(expected)
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape, key
        assert (found[key] - tensor).abs().max() <= tolerance, key


def held(value: Any, **options: Any) -> dict[str, Held]:
    return dict(networks_in(value, **options))


def read(held: Held) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    for reader in (stylegan2, stylegan3):
        nvidia = isinstance(held, PersistedModule | TfNetwork)
        if (got := (reader.from_nvidia if nvidia else reader.from_state)(held)) is not None:  # type: ignore[arg-type]
            return got
    raise AssertionError("no reader")


@pytest.mark.parametrize("name", [SG2, SG3])
def test_snapshots_give_tensors_and_resolved_arguments(name: str) -> None:
    snapshot = read_torch(golden(f"nvidia-pickle/{name}.pkl"))
    nets = held(snapshot)
    assert set(nets) == {"G", "D", "G_ema", "augment_pipe"}
    for key in ("G", "D", "G_ema"):
        config, states = read(nets[key])
        assert list(states) == [key[0]] and config["resolution"] == 32
        same(states[key[0]], companion(name, key))
    card = training_card(snapshot)
    assert card["trained_on"] == "toy32" and card["augment"]["xflip"] == 1 and len(card["augment"]) == 12


def test_unset_arguments_mean_what_the_code_base_says() -> None:
    """The table of both code bases: the same empty arguments, two networks."""
    ada = read_torch(golden(f"nvidia-pickle/{SG2}.pkl"))
    for part in ("mapping_kwargs", "synthesis_kwargs"):
        ada["G"].init_kwargs[part].clear()
    config, _ = read(ada["G"])
    assert (config["num_fp16_res"], config["clamp"], config["w_beta"], config["mapping_layers"]) == (0, None, 0.995, 8)
    assert (config["channel_base"], config["channel_max"], config["g_architecture"]) == (32768, 512, "skip")
    new, _ = read(read_torch(golden(f"nvidia-pickle/{SG3}.pkl"))["D"])
    assert (new["num_fp16_res"], new["clamp"], new["mbstd_group"], new["d_architecture"]) == (4, 256, 4, "resnet")
    for key in ("num_fp16_res", "conv_clamp"):
        del ada["D"].init_kwargs[key]
    old, _ = read(ada["D"])
    assert (old["num_fp16_res"], old["clamp"]) == (0, None)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"colour": 1}, "its Generator has the argument 'colour', which is not known"),
        ({"mapping_kwargs": 3}, "its Generator's mapping_kwargs has no proper arguments"),
        ({"mapping_kwargs": {"activation": "relu"}}, "has activation relu, and only lrelu is known"),
        ({"mapping_kwargs": {"layer_features": 7}}, "has layer_features 7"),
        ({"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}, r"has resample_filter \[1, 2, 1\]"),
        ({"synthesis_kwargs": {"\x1b[31m": 1}}, "which is not known"),
        ({"synthesis_kwargs": {"resample_filter": torch.ones(4)}}, "has resample_filter"),
        ({"synthesis_kwargs": {"resample_filter": [torch.ones(2)] * 4}}, "has resample_filter"),
    ],
)
def test_arguments_that_are_not_understood_are_refused(change: dict, why: str) -> None:
    G = read_torch(golden(f"nvidia-pickle/{SG2}.pkl"))["G"]
    G.init_kwargs.update(change)
    with pytest.raises(Refused, match=why) as e:
        read(G)
    assert str(e.value).isprintable()


def test_arguments_without_names_are_refused() -> None:
    G = read_torch(golden(f"nvidia-pickle/{SG3}.pkl"))["G"]
    G.state["_init_args"] = (512,)
    with pytest.raises(Refused, match="has arguments without names"):
        read(G)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensorflow_pickles(tmp_path: Path, protocol: int) -> None:
    nets = {key: companion(SG2, key) for key in ("G", "D", "G_ema")}
    file = write(tmp_path / "tf.pkl", tf_pickle(nets["G"], nets["D"], nets["G_ema"], protocol=protocol, **TF))
    found = held(read_torch(file))
    assert list(found) == ["G", "D", "G_ema"]
    for key in found:
        config, states = read(found[key])
        # mod_bias is the bias minus 1, which rounds.
        same(states[key[0]], nets[key], 1e-6)
    config, _ = read(found["G_ema"])
    assert config.items() >= CONFIG.items()
    assert (config["clamp"], config["num_fp16_res"], config["w_beta"]) == (None, 0, 0.995)
    d, _ = read(found["D"])
    assert (d["mbstd_group"], d["d_architecture"], d["channel_base"]) == (4, "resnet", 512)


def test_classes_of_stylegan2_itself(tmp_path: Path) -> None:
    """z and the class's vector are normalised together; D has a logit for each class."""
    sizes = {"z_dim": 6, "w_dim": 6, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}
    nets = models.build(models.Config(resolution=8, classes=3, joint_labels=True, **sizes))
    kwargs = {"resolution": 8, "label_size": 3, "fmap_base": 32, "fmap_max": 8}
    data = tf_pickle(nets.G.state_dict(), nets.D.state_dict(), nets.G.state_dict(), **kwargs)
    found = held(read_torch(write(tmp_path / "tf.pkl", data)))
    (g, G), (d, D) = read(found["G_ema"]), read(found["D"])
    assert g.items() >= {"classes": 3, "joint_labels": True, "z_dim": 6}.items() and d["joint_labels"] is True
    same(G["G"], nets.G.state_dict(), 1e-6)
    same(D["D"], nets.D.state_dict())
    z, c = nets.G.prior([1, 2]), torch.tensor([2, 0])
    with torch.no_grad():
        x = torch.cat([z, G["G"]["mapping.embed.weight"].T[c]], 1)
        x = x / x.square().mean(1, keepdim=True).sqrt()
        for i, inputs in enumerate((12, 6)):
            weight, bias = (0.01 * G["G"][f"mapping.fc{i}.{name}"] for name in ("weight", "bias"))
            x = torch.nn.functional.leaky_relu(x @ weight.T / inputs**0.5 + bias, 0.2) * 2**0.5
        torch.testing.assert_close(nets.G.map(z, c)[:, 0], x)
        image = torch.randn(1, 3, 8, 8)
        logits = [nets.D(image, torch.tensor([k])) for k in range(3)]
        torch.testing.assert_close(torch.cat(logits), nets.D.b4(*nets.D.b8(None, image))[0])
    assert nets.D.mapping is None and len(set(map(float, logits))) == 3


def test_a_network_that_once_grew_has_the_plain_architecture(tmp_path: Path) -> None:
    """Configs B to D name the image's layers by their level of detail; only level 0 is left when they have grown."""
    state = companion(SG2, "G_ema")
    parts: dict[str, Any] = dict(tf_pickle_parts(state))
    synthesis = parts["synthesis"].state
    variables = dict(synthesis["variables"])
    for end in ("weight", "bias", "mod_weight", "mod_bias"):
        for level, side in enumerate((32, 16, 8, 4)):
            variables[f"ToRGB_lod{level}/{end}"] = variables.pop(f"{side}x{side}/ToRGB/{end}")
    synthesis["variables"] = list(variables.items())
    G = read_torch(write(tmp_path / "x.pkl", dumps(tf_network("Gs", "G_main", TF, parts["own"], **networks(parts)))))
    config, states = read(G)
    assert config["g_architecture"] == "orig"
    assert set(states["G"]) == {k for k in state if "torgb" not in k or ".b32." in k}


def tf_pickle_parts(state: dict[str, Tensor]) -> dict[str, Any]:
    from tests.layouts import tf_generator

    net = tf_generator("Gs", state, TF)
    return {**net.state["components"], "own": dict(net.state["variables"])}


def networks(parts: dict[str, Any]) -> dict[str, Thing]:
    return {k: v for k, v in parts.items() if isinstance(v, Thing)}


@pytest.mark.parametrize(
    "change, why",
    [
        ({"version": 3}, "has version 3: networks before StyleGAN2"),
        ({"static_kwargs": {**TF, "colour": 1}}, "has the argument 'colour'"),
        ({"static_kwargs": {**TF, "fmap_decay": 2.0}}, "has fmap_decay 2.0"),
        ({"static_kwargs": {**TF, "fmap_base": "x"}}, "has fmap_base x, which no network has"),
        ({"static_kwargs": {**TF, "fmap_base": 1 << 60}}, "which no network has"),
        ({"static_kwargs": {**TF, "resample_kernel": [1, 2, 1]}}, "has resample_kernel"),
        ({"components": {}}, None),
    ],
)
def test_tensorflow_networks_that_are_not_understood(tmp_path: Path, change: dict, why: str | None) -> None:
    parts = tf_pickle_parts(companion(SG2, "G"))
    thing = tf_network("G", "G_main", TF, parts["own"], **networks(parts))
    thing.state.update(change)
    net = read_torch(write(tmp_path / "x.pkl", dumps(thing)))
    if why is None:
        assert stylegan2.from_nvidia(net) is None
    else:
        with pytest.raises(Refused, match=why):
            stylegan2.from_nvidia(net)


@pytest.mark.parametrize(
    "variables, why",
    [
        ({"4x4/Surprise/weight": np.ones(3, np.float32)}, "has the variable 'synthesis/4x4/Surprise/weight'"),
        ({"4x4/Conv/weight": np.ones(3, np.float32)}, r"has synthesis/4x4/Conv/weight of shape \(3,\)"),
    ],
)
def test_tensorflow_variables_that_no_layer_has(tmp_path: Path, variables: dict, why: str) -> None:
    parts = tf_pickle_parts(companion(SG2, "G"))
    synthesis = parts["synthesis"].state
    synthesis["variables"] = list({**dict(synthesis["variables"]), **variables}.items())
    net = read_torch(write(tmp_path / "x.pkl", dumps(tf_network("G", "G_main", TF, parts["own"], **networks(parts)))))
    with pytest.raises(Refused, match=why):
        stylegan2.from_nvidia(net)


@pytest.mark.parametrize(
    "state, why",
    [
        ({"name": 3}, "without its arguments or variables"),
        ({"variables": [("a", "text")]}, "no array under a name"),
        ({"variables": [("a", 1.0), ("a", 2.0)]}, "no array under a name"),
        ({"components": {"mapping": 3}}, "has a part that is none"),
        ({"variables": {}}, "without its arguments or variables"),
    ],
)
def test_records_that_are_no_tensorflow_network(tmp_path: Path, state: dict, why: str) -> None:
    thing = tf_network("G", "G_main", {}, {})
    thing.state.update(state)
    with pytest.raises(WeightsError, match=why):
        read_torch(write(tmp_path / "x.pkl", dumps(thing)))


def rosinality(average: bool = True) -> dict[str, Any]:
    G, D = companion(SG2, "G_ema"), companion(SG2, "D")
    file: dict[str, Any] = {"g_ema": rosinality_generator(G), "d": rosinality_discriminator(D)}
    return {**file, "latent_avg": G["mapping.w_avg"][None]} if average else file


def test_rosinalitys_names() -> None:
    found = held(rosinality())
    config, states = read(found["g_ema"])
    same(states["G"], companion(SG2, "G_ema"))
    assert config.items() >= CONFIG.items() and config["clamp"] is None
    config, states = read(found["d"])
    same(states["D"], companion(SG2, "D"))
    assert (config["resolution"], config["d_architecture"], config["channel_base"]) == (32, "resnet", 512)


def test_a_missing_mean_style_is_computed() -> None:
    """It is that of w over many z: near the mean that the mapping has over others."""
    state = read(held(rosinality(average=False))["g_ema"])[1]["G"]
    z = torch.randn(4000, 32, generator=torch.Generator().manual_seed(5))
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for i in range(2):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        x = x @ (weight * 0.01 / 32**0.5).T + bias * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    assert (state["mapping.w_avg"] - x.mean(0)).abs().max() < 0.1 * x.std()
    assert torch.equal(state["mapping.w_avg"], read(held(rosinality(average=False))["g_ema"])[1]["G"]["mapping.w_avg"])


def test_no_mean_is_computed_of_an_endless_mapping() -> None:
    state = {**held(rosinality(average=False))["g_ema"], "style.1.weight": torch.zeros(1, 1 << 20)}  # type: ignore[dict-item]
    with pytest.raises(Refused, match="wider than 4096"):
        read(state)
    state["style.1.weight"] = torch.zeros(1, 32)
    with pytest.raises(Refused, match="do not fit together"):
        read(state)


def test_openmmlabs_names_and_channel_order() -> None:
    theirs = {f"generator_ema.{k}": t for k, t in openmmlab_names(rosinality(False)["g_ema"]).items()}
    theirs |= {f"discriminator.{k}": t for k, t in openmmlab_names(rosinality(False)["d"]).items()}
    theirs |= {"discriminator.ada_aug.log_buffer": torch.zeros(2)}
    found = held({"meta": {}, "state_dict": theirs})
    config, states = read(found["state_dict.generator_ema"])
    G, D = companion(SG2, "G_ema"), companion(SG2, "D")
    assert config.items() >= CONFIG.items()
    same({**states["G"], "mapping.w_avg": G["mapping.w_avg"]}, G)
    same(read(found["state_dict.discriminator"])[1]["D"], D)
    # A file that is RGB is left as it is: read as BGR, it would have red and blue exchanged.
    as_is = read(held({"state_dict": theirs}, bgr=False)["state_dict.generator_ema"])[1]["G"]
    assert torch.equal(as_is["synthesis.b8.torgb.weight"], G["synthesis.b8.torgb.weight"].flip(0))
    assert torch.equal(as_is["synthesis.b8.torgb.bias"], G["synthesis.b8.torgb.bias"].flip(0))
    wrapped = {f"generator_ema.module.{k.removeprefix('generator_ema.')}": t for k, t in theirs.items() if "ema" in k}
    averaged = held({"state_dict": {**wrapped, "generator_ema.steps": torch.tensor(3)}})
    same(read(averaged["state_dict.generator_ema.module"])[1]["G"], states["G"])


def test_stylegan3_by_its_tensors_alone() -> None:
    G = companion(SG3, "G_ema")
    given, _ = read(read_torch(golden(f"nvidia-pickle/{SG3}.pkl"))["G_ema"])
    bgr = {
        k: t.flip(0) if k.startswith("synthesis.L14_32_3.") and k[-4:] in ("ight", "bias") else t for k, t in G.items()
    }
    bgr |= {k: t for k, t in G.items() if ".affine." in k}
    theirs = {k.replace("mapping.", "style_mapping."): t for k, t in bgr.items()}
    for state in (G, held({"generator_ema": theirs})["generator_ema"]):
        config, states = read(state)  # type: ignore[arg-type]
        same(states["G"], G)
        assert config.items() <= given.items()


def r3gan_snapshot(root: str = "R3GAN", networks: str = "training.networks") -> tuple[dict[str, Tensor], bytes]:
    """A small module tree as plain class pickles; its tensors by name."""
    weight, kernel, bias = torch.arange(8.0).reshape(2, 4), torch.ones(4, 4), torch.zeros(3)

    def module(name: str, **attributes: Any) -> Thing:
        plain = {"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}}
        return Thing(name, {**plain, **attributes})

    linear = module("torch.nn.modules.linear.Linear", _parameters={"weight": weight, "bias": None}, in_features=4)
    basis = module(f"{root}.Networks.GenerativeBasis", _modules={"LinearLayer": linear})
    up = module(f"{root}.Resamplers.InterpolativeUpsamplerCUDA", _buffers={"Kernel": kernel})
    act = module(f"{root}.FusedOperators.BiasedActivationCUDA", _parameters={"Bias": bias})
    layers = module("torch.nn.modules.container.ModuleList", _modules={"0": basis, "1": up, "2": act})
    stage = module(f"{root}.Networks.GeneratorStage", _modules={"Layers": layers}, DataType=torch.bfloat16)
    inner = module(f"{root}.Networks.Generator", _modules={"MainLayers": stage})
    outer = module(f"{networks}.Generator", _modules={"Model": inner}, z_dim=4, c_dim=0)
    data = dumps({"G_ema": outer, "training_set_kwargs": {"path": "/home/me/ffhq64.zip"}, "cur_nimg": 5})
    prefix = "Model.MainLayers.Layers"
    return {f"{prefix}.0.LinearLayer.weight": weight, f"{prefix}.1.Kernel": kernel, f"{prefix}.2.Bias": bias}, data


@pytest.mark.parametrize("names", [("R3GAN", "training.networks"), ("BaselineGAN", "training.networks_baseline")])
def test_plain_class_pickles_are_state_dicts(tmp_path: Path, names: tuple[str, str]) -> None:
    tensors, data = r3gan_snapshot(*names)
    snapshot = read_torch(write(tmp_path / "x.pkl", data))
    assert snapshot["G_ema"].class_name == f"{names[1]}.Generator" and snapshot["G_ema"].state["z_dim"] == 4
    same(dict(held(snapshot)["G_ema"]), tensors)  # type: ignore[call-overload]
    assert training_card(snapshot) == {"trained_on": "ffhq64"}


def test_stylegan3_reads_its_discriminator_in_its_own_words() -> None:
    D = read_torch(golden(f"nvidia-pickle/{SG3}.pkl"))["D"]
    found = stylegan3.from_nvidia(D)
    assert found is not None
    assert found[0] == {
        "resolution": 32, "channels": 3, "classes": None, "clamp": 256, "mbstd_group": 4,
        "d_channel_base": 192, "d_channel_max": 12,
    }  # fmt: skip
    same(found[1]["D"], companion(SG3, "D"))
    by_names = stylegan3.from_state(companion(SG3, "D"))
    assert by_names is not None and by_names[0]["d_channel_base"] == 192
    D.init_kwargs["architecture"] = "skip"
    assert stylegan3.from_nvidia(D) is None


def test_other_classes_in_the_container_are_refused(tmp_path: Path) -> None:
    for theirs, other in (
        (b"cR3GAN.Networks\nGeneratorStage", b"cR3GAN.Networks\nGeneratorState"),
        (b"cR3GAN.Networks\nGeneratorStage", b"cos\nsystem"),
        (b"ctorch.nn.modules.container\nModuleList", b"ctorch.nn.modules.container\nSequential"),
        (b"ctraining.networks\nGenerator", b"ctraining.networks\nGenerators"),
    ):
        _, data = r3gan_snapshot()
        assert theirs in data
        with pytest.raises(WeightsError, match="which is code and not data"):
            read_torch(write(tmp_path / "x.pkl", data.replace(theirs, other)))


def test_plain_objects_with_arguments_or_odd_attributes(tmp_path: Path) -> None:
    name = b"ctorch.nn.modules.linear\nLinear\n"
    odd = {
        "with arguments": b"\x80\x02" + name + b"K\x01\x85\x81.",
        "no proper attributes": b"\x80\x02" + name + b")\x81K\x01b.",
        "_parameters": dumps(Thing("torch.nn.modules.linear.Linear", {"_parameters": {"w": "text"}})),
        "is no dict": dumps(Thing("torch.nn.modules.linear.Linear", {"_modules": 3})),
        "cut short": dumps(Thing("torch.nn.modules.linear.Linear", {}))[:-1],
    }
    for why, data in odd.items():
        with pytest.raises(WeightsError, match=why):
            read_torch(write(tmp_path / "x.pkl", data))
    two = b"\x80\x02" + name + b")\x81}b}b."
    with pytest.raises(WeightsError, match="no proper attributes"):
        read_torch(write(tmp_path / "x.pkl", two))
    deep = Thing("torch.nn.modules.container.ModuleList", {"_modules": {}})
    for _ in range(70):
        deep = Thing("torch.nn.modules.container.ModuleList", {"_modules": {"0": deep}})
    with pytest.raises(WeightsError, match="nested deeper"):
        read_torch(write(tmp_path / "x.pkl", dumps(deep)))


GROWING = {
    "stylegan1-g-r32": ("G_style", {"latent_size": 24, "truncation_psi": 0.7, "structure": "auto"}),
    "stylegan1-d-r32": ("D_basic", {"mbstd_group_size": 4}),
    "progan-genforce-g-r32": ("G_paper", {"fused_scale": False, "fmap_base": 512}),
    "progan-genforce-d-r32": ("D_paper", {"fused_scale": False}),
}


def growing(name: str) -> tuple[dict[str, Tensor], Thing]:
    with safe_open(golden(f"{name}.safetensors"), "pt") as f:
        state = {k.removeprefix("weights."): f.get_tensor(k) for k in f.keys() if k.startswith("weights.")}  # noqa: SIM118
    function, kwargs = GROWING[name]
    kwargs = {"num_channels": 3, "resolution": 32, "label_size": 0, **kwargs}
    return state, growing_tf("D" if "-d-" in name else "Gs", function, state, kwargs)


@pytest.mark.parametrize("name", GROWING)
def test_tensorflow_networks_of_progan_and_stylegan(tmp_path: Path, name: str) -> None:
    """They become what the family makes of GenForce's conversion of the same network."""
    state, thing = growing(name)
    net = read_torch(write(tmp_path / "x.pkl", dumps((thing, thing, thing), 4)))[2]
    module, other = (stylegan, progan) if "stylegan" in name else (progan, stylegan)
    found, expected = module.from_nvidia(net), module.from_upstream(state)
    assert found is not None and expected is not None and found[0] == expected[0]
    for key, tensors in expected[1].items():
        same(found[1][key], tensors)
    assert other.from_nvidia(net) is None and stylegan2.from_nvidia(net) is None and stylegan3.from_nvidia(net) is None


@pytest.mark.parametrize(
    "name, kwargs, why",
    [
        ("stylegan1-g-r32", {"label_size": 3}, "has label_size 3"),
        ("stylegan1-g-r32", {"use_pixel_norm": True}, "has use_pixel_norm True"),
        ("stylegan1-d-r32", {"blur_filter": [1, 1]}, "has blur_filter"),
        ("progan-genforce-g-r32", {"colour": 1}, "has the argument 'colour'"),
        ("progan-genforce-g-r32", {"use_pixelnorm": False}, "has use_pixelnorm False"),
    ],
)
def test_other_networks_of_progan_and_stylegan(tmp_path: Path, name: str, kwargs: dict, why: str) -> None:
    thing = growing(name)[1]
    thing.state["static_kwargs"].update(kwargs)
    net = read_torch(write(tmp_path / "x.pkl", dumps(thing)))
    with pytest.raises(Refused, match=why):
        (stylegan if "stylegan" in name else progan).from_nvidia(net)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"8x8/Conv0_up/weight": np.ones((3, 3, 2, 2), np.float32)}, "fuses scaling and convolution"),
        ({"8x8/Other/weight": np.ones(2, np.float32)}, "has the variable '8x8/Other/weight', not known"),
        ({"8x8/Conv1/weight": np.ones(2, np.float32)}, r"it has 8x8/Conv1/weight of shape \(2,\)"),
    ],
)
def test_variables_that_no_growing_network_has(tmp_path: Path, change: dict, why: str) -> None:
    thing = growing("progan-genforce-g-r32")[1]
    thing.state["variables"] = list({**dict(thing.state["variables"]), **change}.items())
    net = read_torch(write(tmp_path / "x.pkl", dumps(thing)))
    with pytest.raises(Refused, match=why):
        progan.from_nvidia(net)


SIZES = [
    ("stylegan2", {"resolution": 1024}),
    ("stylegan2", {"resolution": 512, "classes": 10, "mapping_layers": 2}),
    ("stylegan2", {"resolution": 256, "channel_base": 16384, "g_architecture": "resnet", "d_architecture": "skip"}),
    ("stylegan2", {"resolution": 32, "channel_base": 32768, "channel_max": 512, "g_architecture": "orig"}),
    ("stylegan3", {"resolution": 1024}),
    ("stylegan3", {"resolution": 256, "channel_base": 16384, "d_channel_base": 16384}),
    ("stylegan3", {"resolution": 512, "classes": 10}),
    (
        "stylegan3",
        {"resolution": 1024, "channel_base": 65536, "channel_max": 1024, "kernel": 1, "radial_filters": True},
    ),
    ("stylegan3", {"resolution": 256, "channel_base": 32768, "channel_max": 1024, "kernel": 1, "radial_filters": True}),
]


@pytest.mark.parametrize("model, config", SIZES, ids=str)
def test_sizes_are_read_off_the_tensors(model: str, config: dict[str, Any]) -> None:
    """A network of the published sizes, on the meta device, is built again from nothing but its names and shapes."""
    module = family(model)
    nets = skeleton(module, parse(module.Config, config, where="test"))
    for net in ("G", "D"):
        state = getattr(nets, net).state_dict()
        found = module.from_upstream(dict(state))
        assert found is not None
        again = getattr(skeleton(module, parse(module.Config, found[0], where="found")), net).state_dict()
        assert {k: t.shape for k, t in again.items()} == {k: t.shape for k, t in state.items()}
