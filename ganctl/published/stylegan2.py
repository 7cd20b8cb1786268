"""StyleGAN2's published layouts: NVIDIA's snapshots, and state dicts of NVIDIA, rosinality and OpenMMLab."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganctl.io.pickle_machine import Refused
from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.published import openmmlab, rosinality
from ganctl.published.arguments import Arguments, arguments_of
from ganctl.published.names import FILTER, Networks
from ganctl.published.stylegan2_tf import from_tensorflow

ADA = {"num_fp16_res": 0, "conv_clamp": None, "w_avg_beta": 0.995}
"""What arguments mean that stylegan2-ada-pytorch was not given …"""
STYLEGAN3 = {"num_fp16_res": 4, "conv_clamp": 256, "w_avg_beta": 0.998}
"""… and the same in stylegan3's `networks_stylegan2`."""


def is_generator(state: Mapping[str, Tensor]) -> bool:
    return "mapping.fc0.weight" in state and "synthesis.b4.const" in state


def is_discriminator(state: Mapping[str, Tensor]) -> bool:
    return "b4.out.weight" in state and "b4.conv.weight" in state


# NVIDIA's PyTorch snapshots


def from_nvidia(net: PersistedModule | TfNetwork) -> Networks | None:
    """A generator or discriminator with its arguments; those that are not set mean what the file's code base says."""
    if isinstance(net, TfNetwork):
        return from_tensorflow(net)
    tensors = net.tensors()
    if net.class_name == "Generator" and is_generator(tensors):
        return _generator(arguments_of(net, "its Generator"), _code_base(net)), {"G": tensors}
    if net.class_name == "Discriminator" and is_discriminator(tensors):
        return _discriminator(arguments_of(net, "its Discriminator"), _code_base(net)), {"D": tensors}
    return None


def _code_base(net: PersistedModule) -> dict[str, Any]:
    """stylegan3's layers keep their `in_features`; those of stylegan2-ada-pytorch do not."""
    part, layer = ("mapping", "fc0") if net.class_name == "Generator" else ("b4", "fc")
    record: Any = net.state.get("_modules", {}).get(part)
    record = record.state.get("_modules", {}).get(layer) if isinstance(record, PersistedModule) else None
    return STYLEGAN3 if isinstance(record, PersistedModule) and "in_features" in record.state else ADA


def _generator(a: Arguments, base: Mapping[str, Any]) -> dict[str, Any]:
    """Of `Generator`: stylegan2-ada-pytorch hands the synthesis its arguments in a dict, stylegan3 flat."""
    mapping = a.part("mapping_kwargs")
    synthesis = a.part("synthesis_kwargs") if base is ADA else a
    cfg = {
        "resolution": a.take("img_resolution"),
        "channels": a.take("img_channels"),
        "classes": a.take("c_dim", 0) or None,
        "z_dim": a.take("z_dim"),
        "w_dim": a.take("w_dim"),
        "mapping_layers": mapping.take("num_layers", 8),
        "mapping_lr": mapping.take("lr_multiplier", 0.01),
        "w_beta": mapping.take("w_avg_beta", base["w_avg_beta"]),
        **_common(synthesis, base),
        "g_architecture": synthesis.take("architecture", "skip"),
        "noise": synthesis.take("use_noise", True),
    }
    synthesis.fixed(resample_filter=FILTER, activation="lrelu")
    synthesis.ignore("fused_modconv_default")
    mapping.fixed(activation="lrelu", embed_features=None, layer_features=None)
    for part in (mapping, synthesis, a):
        part.done()
    return cfg


def _common(a: Arguments, base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "channel_base": a.take("channel_base", 32768),
        "channel_max": a.take("channel_max", 512),
        "clamp": a.take("conv_clamp", base["conv_clamp"]),
        "num_fp16_res": a.take("num_fp16_res", base["num_fp16_res"]),
    }


def _discriminator(a: Arguments, base: Mapping[str, Any]) -> dict[str, Any]:
    block, mapping, epilogue = (a.part(f"{name}_kwargs") for name in ("block", "mapping", "epilogue"))
    cfg = {
        "resolution": a.take("img_resolution"),
        "channels": a.take("img_channels"),
        "classes": a.take("c_dim", 0) or None,
        **_common(a, base),
        "d_architecture": a.take("architecture", "resnet"),
        "mbstd_group": epilogue.take("mbstd_group_size", 4),
        "mbstd_channels": epilogue.take("mbstd_num_channels", 1),
        "d_mapping_layers": mapping.take("num_layers", 8),
    }
    a.fixed(cmap_dim=None)
    mapping.fixed(activation="lrelu", embed_features=None, layer_features=None, lr_multiplier=0.01)
    block.fixed(activation="lrelu", resample_filter=FILTER)
    block.ignore("freeze_layers")
    epilogue.fixed(activation="lrelu")
    for part in (block, mapping, epilogue, a):
        part.done()
    return cfg


# Other PyTorch layouts


def from_state(state: Mapping[str, Tensor]) -> Networks | None:
    """NVIDIA's names without the arguments; rosinality's names; OpenMMLab's."""
    if openmmlab.is_theirs(state):
        state = openmmlab.rosinality_names(state)
    if rosinality.is_generator(state):
        state = rosinality.with_mean(rosinality.generator(state))
    elif rosinality.is_discriminator(state):
        state = rosinality.discriminator(state)
    if is_generator(state):
        return _generator_sizes(state), {"G": dict(state)}
    if is_discriminator(state):
        return _discriminator_sizes(state), {"D": dict(state)}
    return None


def _generator_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config as far as tensors tell; no clamp, as these layouts compute in float32."""
    sides = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"synthesis\.b(\d{1,5})\.conv1\.weight", k)))
    if not sides:
        raise Refused("its generator has no layers")
    widths = {s: _size(state, f"synthesis.b{s}.conv1.weight", 0) for s in sides}
    labels = "mapping.embed.weight" in state
    w = _size(state, "mapping.w_avg", 0)
    torgb = [s for s in sides if f"synthesis.b{s}.torgb.weight" in state]
    skips = any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", k) for k in state)
    return {
        "resolution": sides[-1],
        "channels": _size(state, f"synthesis.b{sides[-1]}.torgb.weight", 0),
        "classes": _size(state, "mapping.embed.weight", 1) if labels else None,
        "z_dim": _size(state, "mapping.fc0.weight", 1) - (w if labels else 0),
        "w_dim": w,
        "mapping_layers": sum(1 for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)),
        **_channels(widths),
        "g_architecture": "resnet" if skips else "skip" if torgb == sides else "orig",
        "clamp": None,
        "num_fp16_res": 0,
    }


def _discriminator_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    sides = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"b(\d{1,5})\.conv0\.weight", k)))
    widths = {s: _size(state, f"b{s}.conv0.weight", 1) for s in sides} | {4: _size(state, "b4.conv.weight", 0)}
    rgb = sum(1 for k in state if k.endswith(".fromrgb.weight"))
    skips = any(k.endswith(".skip.weight") for k in state)
    labels = "mapping.embed.weight" in state
    return {
        "resolution": sides[-1] if sides else 4,
        "channels": _size(state, f"b{sides[-1] if sides else 4}.fromrgb.weight", 1),
        "classes": _size(state, "mapping.embed.weight", 1) if labels else None,
        **_channels(widths),
        "d_architecture": "resnet" if skips else "skip" if rgb > 1 else "orig",
        "clamp": None,
        "num_fp16_res": 0,
    }


def _channels(widths: Mapping[int, int]) -> dict[str, int]:
    """channel_base and channel_max of `min(base // side, max)`: from the finest side that is below the maximum."""
    widest, finest = max(widths.values()), max(widths)
    return {"channel_base": widths[finest] * finest, "channel_max": widest}


def _size(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    shape = state[name].shape if name in state else ()
    if len(shape) <= axis:
        raise Refused(f"it has no '{name}' of a layer's shape")
    return shape[axis]
