"""ProGAN and StyleGAN in NVIDIA's TensorFlow pickles (versions 2 and 3), under the names of GenForce's conversions."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ganctl.errors import printable
from ganctl.io.pickle_machine import Refused
from ganctl.io.pickle_records import TfNetwork
from ganctl.published.arguments import Arguments
from ganctl.published.stylegan2_tf import conv

SHARED = {"use_wscale": True, "fmap_decay": 1.0, "dtype": "float32", "label_size": 0}
PROGAN = {
    **SHARED, "normalize_latents": True, "use_pixelnorm": True, "pixelnorm_epsilon": 1e-8,
    "use_leakyrelu": True, "mbstd_group_size": 4,
}  # fmt: skip
STYLEGAN = {
    **SHARED, "fused_scale": "auto", "normalize_latents": True, "use_styles": True, "const_input_layer": True,
    "use_noise": True, "nonlinearity": "lrelu", "use_pixel_norm": False, "use_instance_norm": True,
    "mapping_lrmul": 0.01, "mapping_nonlinearity": "lrelu", "blur_filter": [1, 2, 1], "mbstd_group_size": 4,
    "mbstd_num_features": 1,
}  # fmt: skip
"""Arguments that make another network of it, each with the value that the published ones have."""
SAID_BY_TENSORS = (
    *("num_channels", "resolution", "fmap_base", "fmap_max", "latent_size", "dlatent_size", "mapping_layers"),
    *(
        "mapping_fmaps",
        "structure",
        "fused_scale",
        "randomize_noise",
        "truncation_psi",
        "truncation_cutoff",
        "truncation_psi_val",
    ),
    *("truncation_cutoff_val", "dlatent_avg_beta", "style_mixing_prob"),
)


def progan(net: TfNetwork) -> dict[str, Tensor] | None:
    """`G_paper` or `D_paper`; None for another network."""
    found = net.variables()
    is_g = "4x4/Dense/weight" in found and "ToRGB_lod0/weight" in found
    if not is_g and not (net.function == "D_paper" and "4x4/Dense1/weight" in found):
        return None
    if any("_up/" in k or "_down/" in k for k in found):
        raise Refused(f"its network {printable(net.name[:80])} fuses scaling and convolution, as none here does")
    _check(net, PROGAN)
    return _named(found, is_g, net)


def stylegan(net: TfNetwork) -> dict[str, Tensor] | None:
    """`G_style` or `D_basic`; None for another network."""
    found = {k.removeprefix("synthesis/"): t for k, t in net.variables().items()}
    if "dlatent_avg" in found and "4x4/Const/StyleMod/weight" in found:
        _check(net, STYLEGAN)
        named = _named(found, True, net)
        inside = {k if k.startswith(("mapping.", "truncation.")) else f"synthesis.{k}": t for k, t in named.items()}
        return inside
    if net.function == "D_basic" and "4x4/Dense1/weight" in found:
        _check(net, STYLEGAN)
        row = torch.tensor([1.0, 2.0, 1.0])
        # StyleGAN's discriminator is ProGAN's with this filter, which GenForce keeps and TensorFlow does not.
        return {**_named(found, False, net), "layer1.blur.kernel": torch.outer(row, row)[None, None] / 16}
    return None


def _check(net: TfNetwork, known: Mapping[str, object]) -> None:
    a = Arguments({k: v for k, v in net.kwargs.items() if v is not None}, f"its network {printable(net.name[:80])}")
    a.fixed(**known)
    a.ignore(*SAID_BY_TENSORS)
    a.done()


def _named(found: Mapping[str, Tensor], is_g: bool, net: TfNetwork) -> dict[str, Tensor]:
    sides = [int(m[1]) for k in found if (m := re.fullmatch(r"(\d{1,4})x\d{1,4}/.+", k))]
    levels = int(math.log2(max(sides))) - 2
    out: dict[str, Tensor] = {}
    for key, tensor in found.items():
        if key in ("lod", "synthesis/lod"):
            continue
        name = _name(key, is_g, levels)
        if name is None:
            raise Refused(f"its network {printable(net.name[:80])} has the variable '{printable(key[:80])}', not known")
        try:
            out[name] = _turned(key, tensor).contiguous()
        except (RuntimeError, IndexError) as e:
            raise Refused(f"it has {printable(key[:80])} of shape {tuple(tensor.shape)}, which no layer has") from e
    return out


def _name(key: str, is_g: bool, levels: int) -> str | None:
    """GenForce counts G's layers from 4 px up, two a resolution, and D's from the finest resolution down."""
    if key == "dlatent_avg":
        return "truncation.w_avg"
    if match := re.fullmatch(r"mapping/Dense(\d{1,2})/(weight|bias)", key):
        return f"mapping.dense{match[1]}.{match[2]}"
    if match := re.fullmatch(r"noise(\d{1,2})", key):
        return f"layer{match[1]}.apply_noise.noise"
    if match := re.fullmatch(r"(?:ToRGB|FromRGB)_lod(\d{1,2})/(weight|bias)", key):
        level = int(match[1])
        return f"output{levels - level}.{match[2]}" if is_g else f"input{level}.{match[2]}"
    if match := re.fullmatch(r"(\d{1,4})x\d{1,4}/(\w+)/(?:(StyleMod|Noise)/)?(\w+)", key):
        level = int(match[1]).bit_length() - 3
        block = level if is_g else levels - level
        order = {"Dense": 0, "Const": 0, "Conv0": 0, "Conv0_up": 0, "Conv1": 1, "Conv1_down": 1, "Dense1": 2}
        at = {**order, "Conv": 1 if is_g else 0, "Dense0": 1}.get(match[2])
        part = {"StyleMod": "style.", "Noise": "apply_noise."}.get(match[3] or "", "")
        return None if at is None else f"layer{2 * block + at}.{part}{match[4]}"
    return None


def _turned(key: str, tensor: Tensor) -> Tensor:
    """Fully connected and style weights [in, out] → [out, in], kernels [k, k, in, out] → [out, in, k, k].

    ProGAN's first layer becomes a kernel [out, in, 4, 4], turned by half a circle.
    """
    if key == "4x4/Dense/weight":
        return tensor.reshape(tensor.shape[0], -1, 4, 4).permute(1, 0, 2, 3).flip(2, 3)
    if not key.endswith("/weight") or "/Noise/" in key:
        return tensor
    return tensor.permute(1, 0) if "Dense" in key or "StyleMod" in key else conv(tensor)
