"""What networks get before a run's first step: the VGG of a perceptual loss, AdaIN's encoder, a look at the data."""

import contextlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ganctl.errors import WeightsError, quoted
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.data import Dataset
    from ganctl.train.loop import State
    from ganctl.workflows.recipe import Recipe

PREFIXES = ("features.", "layers.")
"""Of convolutions beside a classifier: torchvision's, and ours."""
SEEN = 128
"""Images of a look at the data."""


def fill(module: Any, cfg: Any, state: "State", *, resumed: bool, reporter: Reporter = SILENT) -> None:
    """Puts the weights that the family's `given(cfg)` names into its networks: {place in Nets: model}.

    Where a run goes on, its snapshot has what lies inside a network that is saved. Raises WeightsError where weights
    are not at hand, naming the command that brings them, and where they are of another network.
    """
    from ganctl.io.tensors import load_into
    from ganctl.train.loop import networks

    saved = networks(state.nets)
    for place, ref in module.given(cfg).items() if hasattr(module, "given") else ():
        owner = place.partition(".")[0]
        if resumed and owner in saved:
            continue
        net = attrgetter(place)(state.nets)
        found = features(ref, reporter)
        wanted = {k: found[k] for k in net.state_dict() if k in found}
        hint = "choose another model for them, or the config's widths as theirs"
        load_into(net, wanted, where=f"of {quoted(ref)}", hint=hint)
        if owner == next(iter(saved)):
            state.ema.load_state_dict(saved[owner].state_dict())


def prepare(module: Any, recipe: "Recipe", state: "State", data: "Dataset") -> None:
    """Lets a family that asks for it (`prepare`) fit new networks to the first images, the same on all ranks."""
    if not hasattr(module, "prepare"):
        return
    from ganctl.data.loader import batches
    from ganctl.train.loop import networks, split

    side = recipe.config.resolution
    first = next(batches(data, recipe.data, size=SEEN, resolution=side, seed=recipe.train.seed))
    module.prepare(state.nets, *split(first, None, state.progress.device), recipe.config)
    state.ema.load_state_dict(next(iter(networks(state.nets).values())).state_dict())


def features(ref: str, reporter: Reporter = SILENT) -> "dict[str, Tensor]":
    """The convolutions of a classifier or feature network by their numbers: a zoo name, a bundle or a run."""
    from ganctl.load import best_net
    from ganctl.metrics.weights import feature_bundle

    bundle = feature_bundle(ref, reporter)
    net = best_net(bundle)
    for prefix in PREFIXES:
        with contextlib.suppress(WeightsError):  # of VGG-19's file these are a seventh, and no more of it is read
            return {k.removeprefix(prefix): t for k, t in bundle.state(net, prefix=prefix).items()}
    return bundle.state(net)
