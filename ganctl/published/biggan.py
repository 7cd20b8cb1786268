"""BigGAN-deep in Hugging Face's port of the TF Hub modules (pytorch-pretrained-biggan): `generator.gen_z` …"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NAMES = {
    "bn_0": "bn1", "bn_1": "bn2", "bn_2": "bn3", "bn_3": "bn4", "conv_0": "conv1", "conv_1": "conv2", "conv_2": "conv3",
    "conv_3": "conv4", "scale": "gain", "offset": "bias", "running_means": "stored_mean", "running_vars": "stored_var",
    "snconv1x1_theta": "theta", "snconv1x1_phi": "phi", "snconv1x1_g": "g", "snconv1x1_o_conv": "o",
}  # fmt: skip
COLOURS = 3
"""Of the last convolution's outputs, the first three are the picture."""


def is_theirs(state: Mapping[str, Tensor]) -> bool:
    return "generator.gen_z.weight_orig" in state


def hugging_face(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Config and tensors of G under our names; None for what is no such network.

    Every weight is divided by uᵀ W v with the u and v stored beside it: there they are used as they are, while ours
    take a step of power iteration. Conditions are [class, z] here and [z, class] there; the first map is [c, h, w] here
    and [h, w, c] there.
    """
    tensors = divided(state)
    places = block_names(tensors)
    embedding, first = tensors.get("embeddings.weight"), tensors.get("generator.gen_z.weight")
    table, colours = tensors.get("generator.bn.running_means"), tensors.get("generator.conv_to_rgb.weight")
    if places is None or embedding is None or first is None or table is None or colours is None:
        return None
    if (embedding.ndim, first.ndim, table.ndim, colours.ndim) != (2, 2, 2, 4) or first.shape[0] % 16:
        return None
    z_dim = first.shape[1] - embedding.shape[0]
    found = {"shared.weight": embedding.T.contiguous()}
    for key, tensor in tensors.items():
        turned = turn(tensor, z_dim) if re.search(r"(scale|offset)\.weight$", key) else tensor
        if key.startswith("generator.gen_z."):
            name = f"linear.{key.rpartition('.')[2]}"
            found[name] = class_first(name, tensor, z_dim)
        elif key.startswith("generator.conv_to_rgb."):
            found[f"output_layer.2.{key.rpartition('.')[2]}"] = tensor[:COLOURS].clone()
        elif key.startswith("generator.bn."):
            end = key.rpartition(".")[2]
            found[f"output_layer.0.{'gain' if end == 'weight' else NAMES.get(end, end)}"] = tensor
        elif match := re.fullmatch(r"generator\.layers\.(\d{1,3})\.(.+)", key):
            parts = [NAMES.get(part, part) for part in match[2].split(".")]
            found[f"{places[int(match[1])]}.{'.'.join(parts)}"] = tensor.squeeze() if parts == ["gamma"] else turned
    blocks = [place for place in places.values() if place.endswith(".0")]
    ends = [found.get(f"{block}.{conv}.weight") for block in blocks for conv in ("conv1", "conv4")]
    if not ends or any(end is None or end.ndim != 4 for end in ends):
        return None
    widths: list[int] = [
        found["blocks.0.0.conv1.weight"].shape[1],
        *(found[f"{b}.conv4.weight"].shape[0] for b in blocks),
    ]
    follows = [int(place.split(".")[1]) for place in places.values() if place.endswith(".1")]
    cfg = {
        "resolution": 4 << (len(blocks) // 2), "channels": COLOURS, "classes": embedding.shape[1], "z_dim": z_dim,
        "shared_dim": embedding.shape[0], "g_widths": widths, "ngf": widths[-1], "g_attention": follows,
        "bn_eps": 1e-4, "spectral": False, "statistics": table.shape[0],
    }  # fmt: skip
    return cfg, found


def divided(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Spectrally normalised weights by their σ, in float64; other tensors as they are."""
    found = {}
    for key, tensor in state.items():
        name = key.removesuffix("_orig")
        u, v = state.get(f"{name}_u"), state.get(f"{name}_v")
        if key.endswith("weight_orig") and u is not None and v is not None and tensor.ndim > 1:
            matrix = tensor.flatten(1).double()
            if u.shape == matrix.shape[:1] and v.shape == matrix.shape[1:]:
                found[name] = (tensor.double() / (u.double() @ matrix @ v.double())).to(tensor.dtype)
        elif not key.endswith(("weight_u", "weight_v")):
            found[key] = tensor
    return found


def block_names(tensors: Mapping[str, Tensor]) -> dict[int, str] | None:
    """Of each of `layers.N`: `blocks.K.0` for the Kth block, `blocks.K.1` for attention after it."""
    kinds = {
        int(m[1]): m[2] == "gamma"
        for key in tensors
        if (m := re.fullmatch(r"generator\.layers\.(\d{1,3})\.(gamma|conv_3\.weight)", key))
    }
    numbers = {int(m[1]) for key in tensors if (m := re.fullmatch(r"generator\.layers\.(\d{1,3})\..+", key))}
    found, block = {}, -1
    for number in range(len(kinds)):
        if number not in kinds or (kinds[number] and block < 0):
            return None
        block += not kinds[number]
        found[number] = f"blocks.{block}.{int(kinds[number])}"
    # Blocks come in twos.
    return found if numbers == set(kinds) and block % 2 else None


def class_first(name: str, tensor: Tensor, z_dim: int) -> Tensor:
    """A tensor under our name: conditions [class, z] in place of [z, class], the first map [c, h, w] of [h, w, c]."""
    if name.startswith("linear.") and tensor.ndim and tensor.shape[0] % 16 == 0:
        return turn(tensor, z_dim).unflatten(0, (16, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return turn(tensor, z_dim) if re.search(r"\.(gain|bias)\.weight$", name) else tensor


def turn(weight: Tensor, z_dim: int) -> Tensor:
    """[out, z + class] → [out, class + z]."""
    return torch.cat([weight[:, z_dim:], weight[:, :z_dim]], 1) if weight.ndim == 2 else weight
