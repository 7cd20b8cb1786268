"""A few pictures of a model, small enough for a terminal: made once, then kept."""

from typing import TYPE_CHECKING

from ganctl import catalog
from ganctl.errors import GanctlError
from ganctl.io.files import atomic_write, cache_root
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    import numpy as np

SEEDS = (0, 1, 2)
SIDE = 24
"""Pixels of one picture: three, and what is between them, go into 80 columns."""
LARGEST = 64_000_000
"""Bytes of weights above which drawing takes longer than a glance is worth."""


def thumbnail(name: str, reporter: Reporter = SILENT) -> "np.ndarray | None":
    """uint8 [24, 76, 3]: seeds 0, 1 and 2 of a sampler that is on this machine; None for any other entry."""
    from ganctl.load import digest, load
    from ganctl.workflows.zoo import local_bundle

    entry = catalog.entry(name)
    bundle = local_bundle(entry)
    sizes = [(bundle.path / file).stat().st_size for file in bundle.nets.values()] if bundle else []
    if bundle is None or entry.task != "sample" or sum(sizes) > LARGEST:
        return None
    from ganctl.io.images import encode, grid, read_image, resize, to_channels, to_pixels

    path = cache_root() / "thumbnails" / f"{digest(bundle)}.png"
    try:
        return read_image(path.read_bytes(), name=str(path)).pixels
    except (OSError, GanctlError):  # not made yet, or damaged: it is made anew
        pass
    import torch

    from ganctl.nn.drawing import of_seeds

    reporter.progress(f"draw {name}", 0, 0)
    net = load(name, device="cpu").net
    with torch.inference_mode():
        pictures = [to_pixels(of_seeds(net, [seed], torch.device("cpu")), net.x.range)[0] for seed in SEEDS]
    sheet = grid([resize(to_channels(p, 3), (SIDE, SIDE)) for p in pictures], len(pictures))
    with atomic_write(path) as f:
        f.write(encode(sheet))
    return sheet
