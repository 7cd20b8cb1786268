"""StyleGAN3's published layouts: NVIDIA's snapshots, and state dicts as NVIDIA or OpenMMLab name them.

The discriminator is StyleGAN2's, and read as such.
"""

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.published import stylegan2
from ganctl.published.arguments import arguments_of
from ganctl.published.names import Networks


def is_stylegan3(state: Mapping[str, Tensor]) -> bool:
    return "synthesis.input.freqs" in state


def from_nvidia(net: PersistedModule | TfNetwork) -> Networks | None:
    """`training.networks_stylegan3.Generator`, or a discriminator: what is not set has the defaults of that code."""
    if isinstance(net, TfNetwork):
        return None
    if net.class_name == "Discriminator":
        return _discriminator(stylegan2.from_nvidia(net))
    tensors = net.tensors()
    if net.class_name != "Generator" or not is_stylegan3(tensors):
        return None
    a = arguments_of(net, "its Generator")
    mapping = a.part("mapping_kwargs")
    cfg = {
        "resolution": a.take("img_resolution"),
        "channels": a.take("img_channels"),
        "classes": a.take("c_dim", 0) or None,
        "z_dim": a.take("z_dim"),
        "w_dim": a.take("w_dim"),
        "mapping_layers": mapping.take("num_layers", 2),
        "channel_base": a.take("channel_base", 32768),
        "channel_max": a.take("channel_max", 512),
        "num_layers": a.take("num_layers", 14),
        "num_critical": a.take("num_critical", 2),
        "first_cutoff": a.take("first_cutoff", 2),
        "first_stopband": a.take("first_stopband", 2**2.1),
        "last_stopband_rel": a.take("last_stopband_rel", 2**0.3),
        "margin": a.take("margin_size", 10),
        "output_scale": a.take("output_scale", 0.25),
        "kernel": a.take("conv_kernel", 3),
        "filter_size": a.take("filter_size", 6),
        "lrelu_upsampling": a.take("lrelu_upsampling", 2),
        "radial_filters": a.take("use_radial_filters", False),
        "clamp": a.take("conv_clamp", 256),
        "num_fp16_res": a.take("num_fp16_res", 4),
        "magnitude_ema_beta": a.take("magnitude_ema_beta", 0.999),
        "w_beta": mapping.take("w_avg_beta", 0.998),
    }
    mapping.fixed(lr_multiplier=0.01)
    mapping.done()
    a.done()
    return cfg, {"G": tensors}


def _discriminator(found: Networks | None) -> Networks | None:
    """StyleGAN2's discriminator in the words of StyleGAN3's config."""
    if found is None or list(found[1]) != ["D"]:
        return None
    cfg = found[0]
    if (cfg["d_architecture"], cfg.get("mbstd_channels", 1), cfg.get("d_mapping_layers", 8)) != ("resnet", 1, 8):
        return None
    same = {k: cfg[k] for k in ("resolution", "channels", "classes", "clamp", "mbstd_group") if k in cfg}
    return {**same, "d_channel_base": cfg["channel_base"], "d_channel_max": cfg["channel_max"]}, found[1]


def from_state(state: Mapping[str, Tensor]) -> Networks | None:
    """NVIDIA's names, or OpenMMLab's (`style_mapping.`): the sizes are read off the layers' names and tensors."""
    if not any(k.startswith("synthesis.") for k in state):
        return _discriminator(stylegan2.from_state(state))
    tensors = {re.sub(r"^style_mapping\.", "mapping.", k): t for k, t in state.items()}
    layers = {
        int(m[1]): (int(m[2]), int(m[3]))
        for k in tensors
        if (m := re.fullmatch(r"synthesis\.L(\d{1,3})_(\d{1,5})_(\d{1,5})\.weight", k))
    }
    shapes = {k: tuple(t.shape) for k, t in tensors.items()}
    first, to_rgb = layers.get(0), layers.get(len(layers) - 1)
    mapping = sorted(int(m[1]) for k in tensors if (m := re.fullmatch(r"mapping\.fc(\d{1,2})\.weight", k)))
    z, w = shapes.get("mapping.fc0.weight"), shapes.get("mapping.w_avg")
    if not is_stylegan3(tensors) or first is None or to_rgb is None or len(layers) < 4 or not mapping:
        return None
    if z is None or len(z) != 2 or w is None or len(w) != 1 or sorted(layers) != list(range(len(layers))):
        return None
    classes = shapes.get("mapping.embed.weight")
    kernel = shapes[f"synthesis.L0_{first[0]}_{first[1]}.weight"]
    down = [s for k, s in shapes.items() if k.endswith(".down_filter")]
    resolution, widest = to_rgb[0], max(c for _, c in layers.values())
    last_width = layers[len(layers) - 2][1]
    cfg = {
        "resolution": resolution,
        "channels": to_rgb[1],
        "classes": classes[1] if classes and len(classes) == 2 else None,
        "z_dim": z[1] - (w[0] if classes else 0),
        "w_dim": w[0],
        "mapping_layers": len(mapping),
        "channel_base": last_width * resolution,
        "channel_max": widest,
        "num_layers": len(layers) - 1,
        "margin": (first[0] - _first_rate(resolution)) // 2,
        "kernel": kernel[-1] if len(kernel) == 4 else 0,
        "radial_filters": any(len(s) == 2 for s in down),
        "clamp": 256.0,
    }
    return cfg, {"G": tensors}


def _first_rate(resolution: int) -> int:
    """The sampling rate of the first layer: twice its stopband of 2^2.1, to the next power of 2."""
    return int(2 ** np.ceil(np.log2(min(2 * 2**2.1, resolution))))
