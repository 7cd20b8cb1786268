"""StyleGAN2 in NVIDIA's TensorFlow pickles: variables under TensorFlow's names, arrays in its order of axes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganctl.errors import printable
from ganctl.io.pickle_machine import Refused
from ganctl.io.pickle_records import TfNetwork
from ganctl.published.arguments import Arguments
from ganctl.published.names import FILTER, Networks, noise_name, with_filters


def from_tensorflow(net: TfNetwork) -> Networks | None:
    """`G_main` with its parts, or `D_stylegan2`/`D_main`, of version 4: arrays moved to PyTorch's order of axes."""
    found = net.variables()
    what = f"its network {printable(net.name[:80])}"
    is_g = any(k.startswith("synthesis/") and k.endswith("/mod_weight") for k in found)
    if not is_g and not ("4x4/Dense0/weight" in found and "Output/weight" in found):
        return None
    if net.version < 4:
        raise Refused(f"{what} has version {net.version}: networks before StyleGAN2 (version 4) are other networks")
    a = Arguments({k: v for k, v in net.kwargs.items() if v is not None}, what)
    side = a.count("resolution", 1024)
    cfg = _generator_config(a, found, side) if is_g else _discriminator_config(a, net.function, found, side)
    # StyleGAN2-ADA embeds classes; StyleGAN2 itself concatenated them in G, and gave D a logit for each.
    if cfg["classes"]:
        embedded = any("LabelEmbed" in key for key in found)
        cfg["joint_labels"] = "mapping/LabelConcat/weight" in found if is_g else not embedded
    a.done()
    return cfg, {"G": _generator(found, side, what)} if is_g else {"D": _discriminator(found, side, what)}


def _common(a: Arguments, side: int) -> dict[str, Any]:
    a.fixed(nonlinearity="lrelu", resample_kernel=FILTER, fmap_decay=1.0, fmap_min=1, dtype="float32")
    a.ignore("structure", "conditioning", "fused_modconv", "randomize_noise")
    return {
        "resolution": side,
        "channels": a.take("num_channels", 3),
        "classes": a.take("label_size", 0) or None,
        "channel_base": 2 * a.count("fmap_base", 16384),
        "channel_max": a.take("fmap_max", 512),
        "clamp": a.take("conv_clamp"),
        "num_fp16_res": a.take("num_fp16_res", 0),
    }


def _generator_config(a: Arguments, found: Mapping[str, Tensor], side: int) -> dict[str, Any]:
    a.fixed(mapping_nonlinearity="lrelu", normalize_latents=True)
    a.ignore("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob")
    a.ignore("mapping_fmaps", "label_fmaps", "mapping_func", "synthesis_func")
    beta = a.take("w_avg_beta", a.take("dlatent_avg_beta", 0.995))
    orig = any("ToRGB_lod" in k for k in found)
    return {
        **_common(a, side),
        "z_dim": a.take("latent_size", 512),
        "w_dim": a.take("dlatent_size", 512),
        "mapping_layers": a.take("mapping_layers", 8),
        "mapping_lr": a.take("mapping_lrmul", 0.01),
        "w_beta": beta,
        "g_architecture": "orig" if orig else a.take("architecture", "skip"),
        "noise": a.take("use_noise", True),
    }


def _discriminator_config(a: Arguments, function: str, found: Mapping[str, Tensor], side: int) -> dict[str, Any]:
    lr, layers = a.take("mapping_lrmul", 0.1), a.take("mapping_layers", 0)
    common = _common(a, side)
    if common["classes"] and layers and lr != 0.01:
        raise Refused("its discriminator maps classes at another learning rate than 0.01, which none here does")
    a.ignore("freeze_layers", "mapping_fmaps")
    orig = any("FromRGB_lod" in k for k in found)
    # StyleGAN2's own discriminators have groups of 4; StyleGAN2-ADA's take the whole batch.
    group = None if function == "D_main" else 4
    return {
        **common,
        "d_architecture": "orig" if orig else a.take("architecture", "resnet"),
        "mbstd_group": a.take("mbstd_group_size", group),
        "mbstd_channels": a.take("mbstd_num_features", 1),
        "d_mapping_layers": layers or 8,
    }


def conv(t: Tensor) -> Tensor:
    """[k, k, in, out] → [out, in, k, k]."""
    return t.permute(3, 2, 0, 1)


def _turned(t: Tensor) -> Tensor:
    """The same for a transposed convolution: TensorFlow's kernel is turned by half a circle."""
    return conv(t).flip(2, 3)


def _same(t: Tensor) -> Tensor:
    return t


Rule = tuple[str, str, Callable[[Tensor], Tensor]]
"""A TensorFlow variable (regular expression), our name for it, and what becomes of the array."""

_MODULATED: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("bias", "bias", _same),
    ("noise_strength", "noise_strength", _same),
    ("mod_weight", "affine.weight", torch.t),
    ("mod_bias", "affine.bias", lambda t: t + 1),
)
_TF_GENERATOR: tuple[Rule, ...] = (
    ("dlatent_avg", "mapping.w_avg", _same),
    (r"mapping/LabelEmbed/weight", "mapping.embed.weight", torch.t),
    (r"mapping/LabelConcat/weight", "mapping.embed.weight", torch.t),
    (r"mapping/LabelEmbed/bias", "mapping.embed.bias", _same),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", torch.t),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", _same),
    (r"synthesis/4x4/Const/const", "synthesis.b4.const", lambda t: t[0]),
    (r"synthesis/4x4/Conv/weight", "synthesis.b4.conv1.weight", conv),
    (r"synthesis/(\d+)x\d+/Conv0_up/weight", r"synthesis.b\1.conv0.weight", _turned),
    (r"synthesis/(\d+)x\d+/Conv1/weight", r"synthesis.b\1.conv1.weight", conv),
    (r"synthesis/(\d+)x\d+/ToRGB/weight", r"synthesis.b\1.torgb.weight", conv),
    (r"synthesis/(\d+)x\d+/Skip/weight", r"synthesis.b\1.skip.weight", _turned),
    *(
        (rf"synthesis/(\d+)x\d+/{theirs}/{name}", rf"synthesis.b\1.{ours}.{to}", change)
        for theirs, ours in (("Conv", "conv1"), ("Conv0_up", "conv0"), ("Conv1", "conv1"), ("ToRGB", "torgb"))
        for name, to, change in _MODULATED
    ),
)
_TF_DISCRIMINATOR: tuple[Rule, ...] = (
    (r"LabelEmbed/weight", "mapping.embed.weight", torch.t),
    (r"LabelEmbed/bias", "mapping.embed.bias", _same),
    (r"Mapping(\d+)/weight", r"mapping.fc\1.weight", torch.t),
    (r"Mapping(\d+)/bias", r"mapping.fc\1.bias", _same),
    (r"4x4/Conv/weight", "b4.conv.weight", conv),
    (r"4x4/Conv/bias", "b4.conv.bias", _same),
    (r"4x4/Dense0/weight", "b4.fc.weight", torch.t),
    (r"4x4/Dense0/bias", "b4.fc.bias", _same),
    (r"Output/weight", "b4.out.weight", torch.t),
    (r"Output/bias", "b4.out.bias", _same),
    (r"(\d+)x\d+/FromRGB/weight", r"b\1.fromrgb.weight", conv),
    (r"(\d+)x\d+/FromRGB/bias", r"b\1.fromrgb.bias", _same),
    (r"(\d+)x\d+/Conv0/weight", r"b\1.conv0.weight", conv),
    (r"(\d+)x\d+/Conv0/bias", r"b\1.conv0.bias", _same),
    (r"(\d+)x\d+/Conv1_down/weight", r"b\1.conv1.weight", conv),
    (r"(\d+)x\d+/Conv1_down/bias", r"b\1.conv1.bias", _same),
    (r"(\d+)x\d+/Skip/weight", r"b\1.skip.weight", conv),
)


def _renamed(found: Mapping[str, Tensor], rules: Sequence[Rule], what: str) -> dict[str, Tensor]:
    """Each variable under our name. Raises Refused for one that no rule knows, or whose array has other axes."""
    out: dict[str, Tensor] = {}
    for key, tensor in found.items():
        if key.rpartition("/")[2] == "lod":
            continue
        if noise := re.fullmatch(r"synthesis/noise(\d{1,2})", key):
            out[noise_name(int(noise[1]))] = tensor.reshape(tensor.shape[-2:])
            continue
        for pattern, name, change in rules:
            if match := re.fullmatch(pattern, key):
                try:
                    out[match.expand(name)] = change(tensor).contiguous()
                except (RuntimeError, IndexError) as e:
                    raise Refused(f"{what} has {key} of shape {tuple(tensor.shape)}, which no layer has") from e
                break
        else:
            raise Refused(f"{what} has the variable '{printable(key[:80])}', which is not known")
    return out


def _generator(found: Mapping[str, Tensor], side: int, what: str) -> dict[str, Tensor]:
    tensors = _renamed(_levels(found, "synthesis/", "ToRGB", side), _TF_GENERATOR, what)
    return with_filters(tensors)


def _discriminator(found: Mapping[str, Tensor], side: int, what: str) -> dict[str, Tensor]:
    return with_filters(_renamed(_levels(found, "", "FromRGB", side), _TF_DISCRIMINATOR, what))


def _levels(found: Mapping[str, Tensor], scope: str, layer: str, side: int) -> dict[str, Tensor]:
    """`ToRGB_lod0` of growing networks (configs A to D) by its resolution; those of coarser levels served growing."""
    out = {}
    for key, tensor in found.items():
        if match := re.fullmatch(rf"{scope}{layer}_lod(\d+)/(\w+)", key):
            if match[1] == "0":
                out[f"{scope}{side}x{side}/{layer}/{match[2]}"] = tensor
        else:
            out[key] = tensor
    return out
