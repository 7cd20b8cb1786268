"""OpenMMLab's CycleGAN and pix2pix (mmgen, mmagic): `generators.<domain>.` for each domain that is drawn.

`generators.zebra` makes zebras. Under the names of the authors' PyTorch code, in RGB: its pipelines read images as BGR.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

PREFIX = "generators."
MAX_BLOCKS = 64


def translators(state: Mapping[str, Tensor], *, bgr: bool) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Generators by their keys: `generators` where there is one, else `generators.<domain>` of each domain.

    CycleGAN's has the way back too, `AtoB.` being what draws the domain and `BtoA.` the other.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if key.startswith(PREFIX):
            domain, _, name = key.removeprefix(PREFIX).partition(".")
            parts.setdefault(domain, {})[name] = tensor
    found = {domain: named for domain, part in parts.items() if (named := _named(part, bgr))}
    for domain, named in found.items():
        others = [other for name, other in found.items() if name != domain]
        if len(others) == 1 and "model.1.weight" in named:
            both = {"AtoB": named, "BtoA": others[0]}
            yield f"{PREFIX}{domain}", {f"{way}.{k}": t for way, part in both.items() for k, t in part.items()}
        else:
            yield f"{PREFIX}{domain}" if others else PREFIX[:-1], named


def _named(part: Mapping[str, Tensor], bgr: bool) -> dict[str, Tensor]:
    resnet = any(re.fullmatch(r"model\.\d{1,3}\.block\.0\.conv\.weight", k) for k in part)
    named = _resnet(part) if resnet else _unet(part)
    if not bgr or not named:
        return named
    # The first convolution's inputs and the last one's outputs; the U-Net's last one is transposed: inputs first.
    first = "model.1.weight" if resnet else "model.model.0.weight"
    last = f"model.{max(int(k.split('.')[1]) for k in named)}" if resnet else "model.model.3"
    axes = {first: 1, f"{last}.weight": 0 if resnet else 1, f"{last}.bias": 0}
    return {k: torch.flip(t, (axes[k],)) if k in axes and t.ndim > axes[k] else t for k, t in named.items()}


def _resnet(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """c7s1, two halvings, blocks, two doublings, c7s1, one module each; a norm's name is `in` or `bn`."""
    blocks = sorted({int(m[1]) for k in part if (m := re.match(r"model\.(\d{1,3})\.block\.", k))})
    if blocks != list(range(3, 3 + len(blocks))) or len(blocks) > MAX_BLOCKS:
        return {}
    after = 3 + len(blocks)
    places = {0: 1, 1: 4, 2: 7, after: 7 + after, after + 1: 10 + after, after + 2: 14 + after}
    out = {}
    for key, tensor in part.items():
        if m := re.fullmatch(r"model\.(\d{1,3})\.block\.(\d)\.(conv|in|bn)\.(\w+)", key):
            inside = (1 if m[2] == "0" else 5) + (m[3] != "conv")
            out[f"model.{7 + int(m[1])}.conv_block.{inside}.{m[4]}"] = tensor
        elif (m := re.fullmatch(r"model\.(\d{1,3})\.(conv|in|bn)\.(\w+)", key)) and int(m[1]) in places:
            out[f"model.{places[int(m[1])] + (m[2] != 'conv')}.{m[3]}"] = tensor
        else:
            return {}
    return out


def _unet(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One module down, the level below, one module up: `model.model.1.model.0.conv`."""
    out = {}
    for key, tensor in part.items():
        m = re.fullmatch(r"model\.model((?:\.1\.model)*)\.([012])\.(conv|in|bn)\.(\w+)", key)
        if m is None:
            return {}
        depth = m[1].count(".1.model")
        up = m[2] != "0"
        # Below the first level an activation stands before each convolution.
        place = (3 if up else 0) if depth == 0 else (5 if up else 1)
        if depth and up and m[2] == "1":
            place = 3  # the innermost level has nothing below it
        levels = ".model.1" + ".model.3" * (depth - 1) if depth else ""
        out[f"model{levels}.model.{place + (m[3] != 'conv')}.{m[4]}"] = tensor
    return out
