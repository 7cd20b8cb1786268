"""Files in the layouts of published networks, written here from tensors under our names by the inverse rules."""

import io
import math
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from tests.conftest import golden


def companion(name: str, net: str) -> dict[str, Tensor]:
    """One network's tensors from the file beside a golden pickle."""
    with safe_open(golden(f"nvidia-pickle/{name}.safetensors"), "pt") as f:
        prefix = f"weights.{net}."
        return {k.removeprefix(prefix): f.get_tensor(k) for k in f.keys() if k.startswith(prefix)}  # noqa: SIM118


def recorded(name: str) -> dict[str, Tensor]:
    """The golden inputs and outputs beside a pickle."""
    with safe_open(golden(f"nvidia-pickle/{name}.safetensors"), "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys() if not k.startswith("weights.")}  # noqa: SIM118


class Thing:
    """An object of a class that exists nowhere on this machine: its full name, its attributes, its base's items."""

    def __init__(self, name: str, state: Mapping[str, Any]) -> None:
        self.name, self.state = name, dict(state)


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Thing):
            super().save(obj, save_persistent_id)
            return
        module, _, name = obj.name.rpartition(".")
        self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n)\x81")  # GLOBAL, EMPTY_TUPLE, NEWOBJ
        super().save(obj.state)
        self.write(b"b")  # BUILD


def dumps(value: Any, protocol: int = 3) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return out.getvalue()


# NVIDIA's TensorFlow pickles


def tf_pickle(
    G: Mapping[str, Tensor], D: Mapping[str, Tensor], Gs: Mapping[str, Tensor], protocol: int = 3, **kwargs: Any
) -> bytes:
    """(G, D, Gs) of StyleGAN2 as `dnnlib.tflib.network.Network` objects of version 4."""
    g = {"latent_size": len(G["mapping.w_avg"]), "dlatent_size": len(G["mapping.w_avg"]), "mapping_layers": 2}
    nets = [tf_generator("G", G, {**g, **kwargs}), tf_discriminator(D, kwargs), tf_generator("Gs", Gs, {**g, **kwargs})]
    return dumps(tuple(nets), protocol)


def tf_network(
    name: str, function: str, kwargs: Mapping[str, Any], variables: Mapping[str, Any], **parts: Thing
) -> Thing:
    state = {
        "version": 4, "name": name, "static_kwargs": dict(kwargs), "components": parts,
        "build_module_src": "raise SystemExit('executed')", "build_func_name": function,
        "variables": list(variables.items()),
    }  # fmt: skip
    return Thing("dnnlib.tflib.network.Network", state)


def tf_generator(name: str, state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> Thing:
    own: dict[str, Any] = {"lod": np.float32(0)}
    mapping: dict[str, Any] = {}
    synthesis: dict[str, Any] = {}
    for key, tensor in state.items():
        value = tensor.numpy()
        layer = re.fullmatch(r"synthesis\.b(\d+)\.(conv\d|torgb)\.(.+)", key)
        if key == "mapping.w_avg":
            own["dlatent_avg"] = value
        elif match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", key):
            mapping[f"Dense{match[1]}/{match[2]}"] = value.T
        elif key == "mapping.embed.weight":  # classes as StyleGAN2 itself has them
            mapping["LabelConcat/weight"] = value.T
        elif key == "synthesis.b4.const":
            synthesis["4x4/Const/const"] = value[None]
        elif layer and layer[3] == "noise_const":
            side = math.log2(int(layer[1]))
            synthesis[f"noise{int(2 * side) - (5 if layer[2] == 'conv0' else 4)}"] = value[None, None]
        elif layer and layer[3] != "resample_filter":
            part = {"conv0": "Conv0_up", "conv1": "Conv" if layer[1] == "4" else "Conv1", "torgb": "ToRGB"}[layer[2]]
            scope = f"{layer[1]}x{layer[1]}/{part}"
            if layer[3] == "weight":
                synthesis[f"{scope}/weight"] = _tf_kernel(value[:, :, ::-1, ::-1] if layer[2] == "conv0" else value)
            elif layer[3].startswith("affine"):
                end = layer[3].removeprefix("affine.")
                synthesis[f"{scope}/mod_{end}"] = value.T if end == "weight" else value - 1
            else:  # TensorFlow gives numbers as numpy scalars
                synthesis[f"{scope}/{layer[3]}"] = value[()] if value.ndim == 0 else value
    parts = {
        "mapping": tf_network("G_mapping", "G_mapping", kwargs, mapping),
        "synthesis": tf_network("G_synthesis", "G_synthesis_stylegan2", kwargs, synthesis),
    }
    return tf_network(name, "G_main", kwargs, own, **parts)


def tf_discriminator(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> Thing:
    names = {"conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "fromrgb": "FromRGB"}
    last = {"b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output"}
    found = {}
    for key, tensor in state.items():
        layer, _, end = key.rpartition(".")
        match = re.fullmatch(r"b(\d+)\.(conv0|conv1|skip|fromrgb)", layer)
        if end in ("weight", "bias"):
            scope = f"{match[1]}x{match[1]}/{names[match[2]]}" if match else last[layer]
            value = tensor.numpy()
            found[f"{scope}/{end}"] = _tf_kernel(value) if value.ndim == 4 else value.T
    return tf_network("D", "D_stylegan2", kwargs, found)


def _tf_kernel(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0))


# rosinality's and OpenMMLab's StyleGAN2


def rosinality_generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the mean style, which lies beside the network."""
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer = re.fullmatch(r"synthesis\.b(\d+)\.(conv\d|torgb)\.(.+)", key)
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", key):
            out[f"style.{int(match[1]) + 1}.{match[2]}"] = tensor
        elif key == "synthesis.b4.const":
            out["input.input"] = tensor[None]
        elif layer:
            level = int(math.log2(int(layer[1]))) - 3
            if level < 0:
                name = "conv1" if layer[2] == "conv1" else "to_rgb1"
            else:
                name = f"to_rgbs.{level}" if layer[2] == "torgb" else f"convs.{2 * level + int(layer[2][-1])}"
            torgb = layer[2] == "torgb"
            if layer[3] == "noise_const":
                index = 0 if level < 0 else 2 * level + 1 + int(layer[2][-1])
                out[f"noises.noise_{index}"] = tensor[None, None]
            elif layer[3] == "noise_strength":
                out[f"{name}.noise.weight"] = tensor.reshape(1)
            elif layer[3] == "weight":
                out[f"{name}.conv.weight"] = tensor[None]
            elif layer[3].startswith("affine"):
                out[f"{name}.conv.modulation.{layer[3].removeprefix('affine.')}"] = tensor
            elif layer[3] == "bias":
                out[f"{name}.{'bias' if torgb else 'activate.bias'}"] = tensor[None, :, None, None] if torgb else tensor
            if layer[2] == "conv0":
                out[f"{name}.conv.blur.kernel"] = kernel * 4
            if torgb and level >= 0:
                out[f"{name}.upsample.kernel"] = kernel * 4
    return out


def rosinality_discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    side = max(int(m[1]) for k in state if (m := re.match(r"b(\d+)\.", k)))
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, end = key.rpartition(".")
        match = re.fullmatch(r"b(\d+)\.(conv0|conv1|skip|fromrgb)", layer)
        if end not in ("weight", "bias"):
            continue
        if match and match[2] == "fromrgb":
            out[f"convs.0.{0 if end == 'weight' else 1}.{end}"] = tensor
        elif match:
            part = {"conv0": "conv1", "conv1": "conv2", "skip": "skip"}[match[2]]
            name = f"convs.{int(math.log2(side / int(match[1]))) + 1}.{part}"
            down = int(match[2] != "conv0")
            out[f"{name}.{down + (end == 'bias')}.{end}"] = tensor
            if down:
                out[f"{name}.0.kernel"] = kernel
        elif layer == "b4.conv":
            out[f"final_conv.{0 if end == 'weight' else 1}.{end}"] = tensor
        else:
            out[f"final_linear.{0 if layer == 'b4.fc' else 1}.{end}"] = tensor
    return out


def openmmlab_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """rosinality's names as OpenMMLab has them, images in BGR order."""
    out = {}
    for key, tensor in state.items():
        if re.search(r"to_rgb.*(conv\.weight|\d\.bias)$", key):
            tensor = tensor.flip(1)
        if key == "convs.0.0.weight":
            tensor = tensor.flip(1)
        name = key.replace("modulation.weight", "style_modulation.linear.weight_orig")
        name = name.replace("modulation.bias", "style_modulation.bias").replace("style_style_", "style_")
        name = re.sub(r"^style\.(\d+)\.weight", r"style_mapping.\1.linear.weight_orig", name)
        name = re.sub(r"^style\.(\d+)\.bias", r"style_mapping.\1.bias", name)
        name = re.sub(r"^noises\.noise_", "injected_noise_", name).replace(".noise.weight", ".noise_injector.weight")
        name = name.replace("input.input", "constant_input.input")
        name = re.sub(r"^((?:conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.conv\.weight)$", r"\1_orig", name)
        name = re.sub(r"^(convs\.0\.0|convs\.\d+\.\w+\.\d|final_conv\.0)\.weight$", r"\1.conv.weight_orig", name)
        name = re.sub(r"^(final_linear\.\d)\.weight$", r"\1.linear.weight_orig", name)
        out[name] = tensor
    return out


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# R3GAN's plain class pickles


def plain_module(name: str, state: Mapping[str, Tensor]) -> Thing:
    """A module of that class whose parts, named by the dots in the tensors' names, are containers."""
    parameters = {k: t for k, t in state.items() if "." not in k and k != "Kernel"}
    buffers = {k: t for k, t in state.items() if k == "Kernel"}
    parts = {
        part: plain_module(
            "torch.nn.modules.container.ModuleList",
            {k.partition(".")[2]: t for k, t in state.items() if k.startswith(f"{part}.")},
        )
        for part in dict.fromkeys(k.partition(".")[0] for k in state if "." in k)
    }
    return Thing(name, {"training": False, "_parameters": parameters, "_buffers": buffers, "_modules": parts})


def r3gan_pickle(G: Mapping[str, Tensor], D: Mapping[str, Tensor], **more: Any) -> bytes:
    nets = {"G": plain_module("training.networks.Generator", G)}
    nets |= {"D": plain_module("training.networks.Discriminator", D), "G_ema": nets["G"]}
    return dumps({**nets, "training_set_kwargs": {"path": "/data/ffhq-256x256.zip"}, "cur_nimg": 5, **more})


# ProGAN and StyleGAN in TensorFlow, from GenForce's names


def growing_tf(name: str, function: str, state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> Thing:
    """One network of the TensorFlow programs; StyleGAN's generator has its two parts."""
    is_g, style = name != "D", function in ("G_style", "D_basic")
    levels = max(int(m[1]) for k in state if (m := re.search(r"(?:output|input)(\d+)\.", k)))
    own: dict[str, Any] = {"lod": np.float32(0)}
    parts: dict[str, dict[str, Any]] = {"mapping": {}, "synthesis": {}}
    for key, tensor in state.items():
        value, short = tensor.numpy(), key.removeprefix("synthesis.")
        if key.endswith(("lod", "blur.kernel")):
            continue
        if key == "truncation.w_avg":
            own["dlatent_avg"] = value
        elif match := re.fullmatch(r"mapping\.dense(\d+)\.(\w+)", key):
            parts["mapping"][f"Dense{match[1]}/{match[2]}"] = value.T
        else:
            at = parts["synthesis"] if style and is_g else own
            at |= dict([_growing_variable(short, value, levels, is_g=is_g, style=style)])
    nets = {k: tf_network(f"G_{k}", f"G_{k}", kwargs, v) for k, v in parts.items() if v}
    thing = tf_network(name, function, kwargs, own, **nets)
    thing.name = "dnnlib.tflib.network.Network" if style else "tfutil.Network"
    thing.state["version"] = 3 if style else 2
    return thing


def _growing_variable(key: str, value: np.ndarray, levels: int, *, is_g: bool, style: bool) -> tuple[str, np.ndarray]:
    kind, number, rest = re.fullmatch(r"(layer|output|input)(\d+)\.(.+)", key).groups()  # type: ignore[union-attr]
    n = int(number)
    if kind != "layer":
        colours = f"ToRGB_lod{levels - n}" if is_g else f"FromRGB_lod{n}"
        return f"{colours}/{rest}", _tf_kernel(value) if value.ndim == 4 else value
    if rest == "apply_noise.noise":
        return f"noise{n}", value
    block = min(n // 2, levels) if not is_g else n // 2
    side = 4 << (block if is_g else levels - block)
    first = {True: "Const" if style else "Dense", False: "Conv"}[is_g]
    names = [first, "Conv" if is_g else "Dense0", "Dense1"] if side == 4 else ["Conv0", "Conv1"]
    scope = f"{side}x{side}/{names[n - 2 * block]}"
    if style and scope.endswith("Conv0" if is_g else "Conv1"):
        scope += "_up" if is_g else "_down"
    rest = rest.replace("style.", "StyleMod/").replace("apply_noise.", "Noise/")
    if scope == "4x4/Dense" and rest == "weight":
        return f"{scope}/{rest}", value[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(value.shape[1], -1)
    if value.ndim == 4 and rest == "weight":
        return f"{scope}/{rest}", _tf_kernel(value)
    return f"{scope}/{rest}", value.T if value.ndim == 2 else value


def one_thing_wrong(state: dict[str, Tensor], rng: random.Random, names: Sequence[str]) -> None:
    """A tensor reshaped, replaced, retyped, given one of these names, left out, or given twice."""
    key = rng.choice(list(state))
    match rng.randrange(6):
        case 0:
            state[key] = state[key].reshape(-1)
        case 1:
            state[key] = torch.zeros([rng.choice((0, 1, 2, 3))] * rng.randrange(6))
        case 2:
            state[key] = state[key].to(rng.choice((torch.int32, torch.float64, torch.bool, torch.float16)))
        case 3:
            state[rng.choice(names)] = state.pop(key)
        case 4:
            del state[key]
        case _:
            state[f"{key}.{key}"] = state[key]
