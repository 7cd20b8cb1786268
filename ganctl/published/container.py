"""The networks a foreign file holds, each under its key, and what the file tells of their training."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ganctl.io.pickle_records import PersistedModule, TfNetwork
from ganctl.published import openmmlab, rosinality
from ganctl.published.openmmlab_translation import translators

Held = Mapping[str, Tensor] | PersistedModule | TfNetwork
"""A state dict, or one of NVIDIA's networks with its arguments."""

WRAPPERS = (
    *("module", "model", "G", "D", "netG", "netD", "generator", "discriminator"),
    *("G_ema", "g_ema", "netG_ema", "generator_ema"),
)
"""Prefixes under which a file may hold a whole network: DataParallel's, and those of several networks in one dict."""
MAX_DEPTH = 4
TUPLE = ("G", "D", "G_ema")
"""NVIDIA's TensorFlow pickles: generator, discriminator, the generator's moving average (Gs)."""

DOMAINS = {"a", "b"}
"""MUNIT's files: one network in two parts, one for each domain."""


def networks_in(value: Any, *, bgr: bool = True, key: str = "", depth: int = 0) -> Iterator[tuple[str, Held]]:
    """Every network in a file with its key, prefixes of wrappers taken off: the outer one first.

    Each is in RGB order: `bgr` tells the order of those in OpenMMLab's layouts.
    """
    if isinstance(value, PersistedModule) and "_init_kwargs" not in value.state:
        # A plain class pickle has no arguments: a state dict like any other.
        value = value.tensors()
    if isinstance(value, PersistedModule | TfNetwork):
        yield key, value
        return
    if depth > MAX_DEPTH or not isinstance(value, dict | list | tuple):
        return
    items = dict(value if isinstance(value, dict) else enumerate(value))
    if isinstance(value, tuple) and len(items) == len(TUPLE) and all(isinstance(v, TfNetwork) for v in value):
        items = dict(zip(TUPLE, value, strict=True))
    if set(items) == DOMAINS and all(isinstance(v, dict) for v in items.values()):
        items = {f"{side}.{k}": v for side, own in items.items() for k, v in own.items()}
    found = {k: v for k, v in items.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if found:
        yield key, openmmlab.rgb(found) if bgr else found
        for name, state in translators(found, bgr=bgr):
            yield f"{key}.{name}".lstrip("."), state
        for prefix in dict.fromkeys(k.partition(".")[0] for k in found):
            inner = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{prefix}.")}
            # The StyleGAN2 that e4e and pSp find codes for lies in their files as a whole.
            if of_encoder := prefix == "decoder" and rosinality.is_generator(inner):
                inner |= {k: v for k, v in found.items() if k == "latent_avg"}
            if (prefix in WRAPPERS or of_encoder) and inner:
                yield from networks_in(inner, bgr=bgr, key=f"{key}.{prefix}".lstrip("."), depth=depth + 1)
    for k, v in items.items():
        if isinstance(k, str | int) and isinstance(v, dict | list | tuple | PersistedModule | TfNetwork):
            # rosinality's files hold the mean style beside the networks, as do e4e's and pSp's.
            with_mean = k in ("g", "g_ema", "state_dict") and "latent_avg" in found
            inner = {**v, "latent_avg": found["latent_avg"]} if isinstance(v, dict) and with_mean else v
            yield from networks_in(inner, bgr=bgr, key=f"{key}.{k}".lstrip("."), depth=depth + 1)


def training_card(value: Any) -> dict[str, Any]:
    """What an NVIDIA snapshot tells of its training, for a card: the data's name, the augmentations."""
    if not isinstance(value, dict):
        return {}
    card: dict[str, Any] = {}
    data = value.get("training_set_kwargs")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        # The name alone: the folders are those of somebody's machine.
        card["trained_on"] = PurePosixPath(data["path"].replace("\\", "/")).stem[:100] or "unknown"
    pipe = value.get("augment_pipe")
    if isinstance(pipe, PersistedModule):
        on = {k: v for k, v in pipe.init_kwargs.items() if isinstance(v, int | float) and v}
        card["augment"] = on
    return card
