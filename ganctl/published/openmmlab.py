"""OpenMMLab's checkpoints (mmgen, mmagic): `generator.`, `generator_ema.`, `discriminator.` in one state dict.

Its pipelines read images as BGR, so its networks draw BGR; files converted to RGB say so in their name ("rgb").
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

ChannelOrder = Literal["rgb", "bgr"]
AUGMENT = "ada_aug."
"""An augmentation's numbers inside the discriminator."""


def is_theirs(state: Mapping[str, Tensor]) -> bool:
    """Whether it is the state of a generator or a StyleGAN2 discriminator."""
    style = any(k.startswith("style_mapping.") for k in state) or "convs.0.0.conv.weight_orig" in state
    return style or _of_noise(state)


def _of_noise(state: Mapping[str, Tensor]) -> bool:
    """Whether it is the state of a DCGAN, LSGAN, WGAN-GP, SNGAN, SAGAN or BigGAN generator.

    ProGAN's begins so too; its family knows that it draws BGR.
    """
    begins = any(k.startswith(("noise2feat.", "noise2feat_head.")) for k in state)
    return begins and not any(k.startswith("torgb_layers.") for k in state)


def order_of(name: str) -> ChannelOrder:
    """The order that a file's name tells, for files in this layout."""
    return "rgb" if "rgb" in name.lower() else "bgr"


def rgb(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same with the channels of the layers next to the image reversed; other layouts come back as they are."""
    if not is_theirs(state):
        return state
    if _of_noise(state):
        return _turned_end(state)
    last = max((int(m[1]) for k in state if (m := re.match(r"synthesis\.L(\d{1,3})_", k))), default=-1)
    out = rf"to_rgb(1|s\.\d+)\.(conv\.weight|(conv\.)?bias)|synthesis\.L{last}_\d+_\d+\.(weight|bias)"

    def turned(key: str, tensor: Tensor) -> Tensor:
        if re.fullmatch(out, key.removesuffix("_orig")):
            # [1, out, in, k, k], [1, out, 1, 1], [out, in, k, k] or [out].
            return _flip(tensor, 1 if tensor.ndim > 1 and tensor.shape[0] == 1 and "to_rgb" in key else 0)
        if key == "convs.0.0.conv.weight_orig":
            return _flip(tensor, 1)
        return tensor

    return {k: turned(k, t) for k, t in state.items()}


def _turned_end(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the outputs of the last convolution reversed, and with them the u of its spectral norm."""
    last = max((int(m[1]) for k in state if (m := re.match(r"conv_blocks\.(\d{1,3})\.", k))), default=-1)
    ends = ("output_layer.conv.", "to_rgb.conv.")
    prefix = next((end for end in ends if any(k.startswith(end) for k in state)), f"conv_blocks.{last}.conv.")
    # Transposed convolutions, of DCGAN and LSGAN, are [in, out, k, k].
    transposed = any(k.startswith(("noise2feat.conv.", "noise2feat_head.")) for k in state)
    axes = {"weight": int(transposed), "weight_orig": 0, "bias": 0, "weight_u": 0, "u0": 1}
    names = {f"{prefix}{end}": axis for end, axis in axes.items()}
    return {k: _flip(t, names[k]) if k in names else t for k, t in state.items()}


def _flip(tensor: Tensor, axis: int) -> Tensor:
    return torch.flip(tensor, (axis,)) if tensor.ndim > axis else tensor


def rosinality_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """StyleGAN2 under the names of the implementation that OpenMMLab's follows."""
    found = {}
    for key, tensor in state.items():
        if key.startswith(AUGMENT) or key == "log_buffer":
            continue
        name = key.removesuffix("_orig").replace("style_modulation", "modulation").replace("noise_injector", "noise")
        name = name.replace(".linear.", ".").replace("constant_input.", "input.")
        name = re.sub(r"^style_mapping\.", "style.", name)
        name = re.sub(r"^injected_noise_", "noises.noise_", name)
        # D's convolutions stand one level deeper: convs.N.conv1.0.conv.weight.
        name = re.sub(r"(\.\d+)\.conv\.weight$", r"\1.weight", name) if _in_discriminator(key) else name
        found[name] = tensor
    return found


def _in_discriminator(key: str) -> bool:
    return re.match(r"convs\.0\.\d|convs\.\d+\.(conv\d|skip)\.|final_conv\.", key) is not None
