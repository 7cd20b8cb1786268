"""The residual generators of SNGAN, SAGAN and BigGAN in OpenMMLab's (mmgen) and StudioGAN's files.

All become rows: `blocks.I.0` a block, `blocks.I.1` attention after it, in the names of Brock et al. 2019's PyTorch
code, with `linear`, `shared` (the embedding of classes), `norm` and `out` (the last ones).
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganctl.published.biggan import divided

MAX_BLOCKS = 32
EPS = 1e-4
"""ε of batch norms in StudioGAN's networks, and in OpenMMLab's SNGAN and SAGAN."""
PARTS = (
    (r"^noise2feat\.|^linear0\.", "linear."),
    (r"^shared_embedding\.", "shared."),
    (r"^(to_rgb|output_layer)\.bn\.|^bn4\.", "norm."),
    (r"^(to_rgb|output_layer)\.conv\.|^conv2d5\.", "out."),
    (r"\.(theta|phi|g|o|shortcut|conv_?\d)\.conv\.", r".\1."),
    (r"\.conv1x1_(theta|phi|g)\.", r".\1."),
    (r"\.conv1x1_attn\.", ".o."),
    (r"\.sigma$", ".gamma"),
    (r"\.(shortcut|conv2d0)\.", ".conv_sc."),
    (r"\.conv(?:_|2d)(\d)\.", r".conv\1."),
    (r"\.norm_(\d)\.weight_embedding\.", r".bn\1.gain."),
    (r"\.norm_(\d)\.bias_embedding\.", r".bn\1.bias."),
    (r"\.norm_(\d)\.norm\.|\.bn(\d)\.bn\.", r".bn\1\2."),
)
"""What is replaced in a key, one after the other."""
COUNTER = "num_batches_tracked"
TABLE = r"\.bn\d\.(gain|bias)\.weight$"


def kind(state: Mapping[str, Tensor]) -> str:
    """Whose G it is: sngan's, sagan's (with spectral norm), biggan's, biggan_deep's (blocks with a fourth layer); empty
    for other networks.
    """
    if not {f"{name}.weight{end}" for name in ("noise2feat", "linear0") for end in ("", "_orig")} & set(state):
        return ""
    if "shared_embedding.weight" in state or "shared.weight" in state:
        return "biggan_deep" if any(re.search(r"\.conv(2d)?4\.", k) for k in state) else "biggan"
    return "sagan" if any(k.endswith(".weight_orig") for k in state) else "sngan"


def rows(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """G's tensors; None for other networks. Where weights carry u and v they are divided by σ = uᵀ W v.

    PyTorch's spectral norm uses stored u and v as they are, ours takes a step of power iteration first.
    """
    mmgen, studio = (any(k.startswith(f"{name}.weight") for k in state) for name in ("noise2feat", "linear0"))
    inner = r"conv_blocks\.(\d{1,3})\.(.+)" if mmgen else r"blocks\.(\d{1,3})\.0\.(.+)"
    tensors = {k: v for k, v in divided(state).items() if not k.endswith(".sv0")}
    found = {}
    places = _places(tensors, inner)
    if not places:
        return None
    for key, tensor in tensors.items():
        match = re.fullmatch(inner, key)
        name = f"{places[int(match[1])]}.{match[2]}" if match else key
        for pattern, replacement in PARTS:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.squeeze() if name.endswith(".gamma") else tensor
    if studio and "shared.weight" not in found:
        # Linear maps of a class's unit vector: tables of classes, turned.
        found = {k: v.T.contiguous() if re.search(TABLE, k) and v.ndim == 2 else v for k, v in found.items()}
    # Norms with a scale and a shift for each condition name what they store otherwise than plain ones.
    conditional = {k.removesuffix(".gain.weight") for k in found if k.endswith(".gain.weight")}
    found = {_stored(k) if k.rpartition(".")[0] in conditional else k: v for k, v in found.items()}
    return {k: v for k, v in found.items() if k.rpartition(".")[0] not in conditional or not k.endswith(COUNTER)}


def _places(tensors: Mapping[str, Tensor], inner: str) -> dict[int, str]:
    """`blocks.I.0` or `blocks.I.1` of each numbered module; empty where they cannot be such."""
    kinds: dict[int, bool] = {}
    for key in tensors:
        if match := re.fullmatch(inner, key):
            kinds[int(match[1])] = kinds.get(int(match[1]), False) or match[2] in ("gamma", "sigma")
    places, block = {}, -1
    if sorted(kinds) != list(range(len(kinds))) or len(kinds) > 2 * MAX_BLOCKS:
        return {}
    for number in range(len(kinds)):
        if kinds[number] and block < 0:
            return {}
        block += not kinds[number]
        places[number] = f"blocks.{block}.{int(kinds[number])}"
    return places


def _stored(name: str) -> str:
    return name.replace("running_", "stored_")


def sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """G's number of blocks, the last one's width, the first layer's inputs, the image's channels, the blocks that
    attention follows. None where shapes are no network's."""
    linear, out = tensors.get("linear.weight"), tensors.get("out.weight")
    numbers = {int(m[1]) for k in tensors if (m := re.fullmatch(r"blocks\.(\d{1,3})\.0\.conv1\.weight", k))}
    if linear is None or out is None or linear.ndim != 2 or out.ndim != 4 or numbers != set(range(len(numbers))):
        return None
    follows = [i for i in range(len(numbers)) if f"blocks.{i}.1.gamma" in tensors]
    ends = {"width": out.shape[1], "channels": out.shape[0], "inputs": linear.shape[1]}
    return {"blocks": len(numbers), "follows": follows, **ends}


def last_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the last norm and convolution as BigGAN's `output_layer`."""
    ends = {"weight": "gain", "running_mean": "stored_mean", "running_var": "stored_var"}
    found = {}
    for key, tensor in tensors.items():
        part, _, end = key.partition(".")
        place = {"norm": f"output_layer.0.{ends.get(end, end)}", "out": f"output_layer.2.{end}"}
        if end != COUNTER:
            found[place.get(part, key)] = tensor
    return found
