"""The generators of MUNIT and FUNIT in their authors' files, which number every layer: names and sizes."""

import re
from collections.abc import Mapping

from torch import Tensor

from ganctl.nn.norm import without_statistics

PARTS = {"enc_content": "content", "enc_style": "style", "enc_class_model": "style", "mlp": "mlp", "dec": "decoder"}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One generator under the names of `nn.content_style`. AdaIN's buffers, which nothing reads, are left out."""
    return {_name(k): v for k, v in without_statistics(state).items()}


def _name(key: str) -> str:
    part, _, rest = key.partition(".")
    # enc_content.model.3.model.0.model.1.conv → content.3.0.convs.1.conv
    rest = re.sub(r"(?<=\d\.)model\.([01])\.conv\.", r"convs.\1.conv.", rest).replace("model.", "")
    if part == "mlp":
        # Activations lie between the layers.
        rest = re.sub(r"^(\d{1,3})\.fc\.", lambda m: f"{2 * int(m[1])}.", rest)
    if part == "dec":
        rest = re.sub(r"^0\.", "blocks.", rest) if rest.startswith("0.") else _up(rest)
    return f"{PARTS.get(part, part)}.{rest}"


def _up(rest: str) -> str:
    """The layers after the blocks, counted from themselves on."""
    return re.sub(r"^([1-9]\d{0,2})\.", lambda m: f"up.{int(m[1]) - 1}.", rest)


def sizes(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """What the shapes of one generator tell; None where it is none.

    channels, ngf, content_downs, style_downs, style_dim, mlp_dim, mlp_layers, res_blocks.
    """
    first, code = state.get("enc_content.model.0.conv.weight"), state.get("mlp.model.0.fc.weight")
    if first is None or first.ndim != 4 or code is None or code.ndim != 2:
        return None
    style = "enc_style" if any(k.startswith("enc_style.") for k in state) else "enc_class_model"
    return {
        "channels": first.shape[1],
        "ngf": first.shape[0],
        "content_downs": _count(state, r"enc_content\.model\.\d{1,3}\.conv\.weight") - 1,
        "style_downs": _count(state, rf"{style}\.model\.\d{{1,3}}\.conv\.weight") - 1,
        "style_dim": code.shape[1],
        "mlp_dim": code.shape[0],
        "mlp_layers": _count(state, r"mlp\.model\.\d{1,3}\.fc\.weight"),
        "res_blocks": _count(state, r"dec\.model\.0\.model\.\d{1,3}\.model\.0\.conv\.weight"),
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, k) is not None for k in state)
