"""A style-mixing sheet (Karras et al. 2019, fig. 3): rows' pictures that take some layers' styles from the columns'."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ganctl.errors import UsageError
from ganctl.workflows.sample_plan import Mix
from ganctl.workflows.styles import shapes, without_w

if TYPE_CHECKING:
    import numpy as np

    from ganctl.load import Model
    from ganctl.nn.drawing import Latent

USUAL = 7
"""Layers 0 to 6 of 1024 px: up to 32 px, pose and features; the later ones have colours and texture."""

Draw = Callable[[Sequence["Latent"]], Iterable[tuple["Latent", "np.ndarray"]]]
"""Pictures of latents, in order: (with its w, uint8 [H, W, C])."""


def mixed_layers(mix: Mix, model: "Model") -> tuple[int, ...]:
    """The layers whose styles come from the columns. Raises UsageError: the model has no W, or not so many layers."""
    from ganctl.protocols import StyleSampler

    if not isinstance(model.net, StyleSampler):
        raise without_w("--rows", model)
    count = shapes(model)["w"][0]
    if mix.layers is None:
        return tuple(range(min(USUAL, count // 2)))
    if mix.layers[-1] >= count:
        why = f"the model has {count} layers"
        raise UsageError(f"style {mix.layers[-1]} out of range 0-{count - 1}", why, f"--styles 0-{count // 2 - 1}")
    return mix.layers


def mixing_sheet(mix: Mix, layers: Sequence[int], latent: "Callable[[int], Latent]", draw: Draw) -> "list[np.ndarray]":
    """The cells of a sheet, row by row: a white corner and the columns' pictures; then each row's own, and its mixes.

    `latent` gives a seed's. A mix has its row's noise.
    """
    import numpy as np

    seeds = list(dict.fromkeys([*mix.cols, *mix.rows]))
    made = dict(zip(seeds, draw([latent(seed) for seed in seeds]), strict=True))
    mixes = iter(draw([_mixed(made[r][0], made[c][0], layers) for r in mix.rows for c in mix.cols]))
    corner = np.full_like(made[seeds[0]][1], 255)
    cells = [corner, *(made[c][1] for c in mix.cols)]
    for row in mix.rows:
        cells += [made[row][1], *(next(mixes)[1] for _ in mix.cols)]
    return cells


def _mixed(row: "Latent", column: "Latent", layers: Sequence[int]) -> "Latent":
    assert row.w is not None and column.w is not None
    w = row.w.clone()
    w[list(layers)] = column.w[list(layers)]
    return replace(row, w=w)
