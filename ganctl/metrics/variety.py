"""Whether a generator's images vary as the real ones do, and are not copies of them: what training watches."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist

from ganctl.metrics.neighbours import closer, spacing
from ganctl.metrics.precision_recall import nearest

PAIRED = 1000
"""Images of a side whose distances to each other are averaged."""
ENOUGH = 100
"""Real images, of fewer of which nobody knows what is nearer than 99 % of them."""
RARE = 0.1
"""A kind of which there are fewer than this share of what the real images have counts as missing."""


def variety(
    real: Float[np.ndarray, "n d"],
    fake: Float[np.ndarray, "m d"],
    real_kinds: np.ndarray | None = None,
    fake_kinds: np.ndarray | None = None,
) -> dict[str, float]:
    """Numbers of features of a classifier, and the classes that it gives the images, 0 ….

    variety: the mean distance between generated images, as a share of that between real ones;
    repeats: the share of generated images whose nearest other one is closer than 99 % of the real images' are;
    copies: the same of the nearest real image;
    missing: the share of real images that are of classes which are hardly generated.
    Without repeats and copies where there are few real images; empty where they are all alike.
    """
    scale = float(pdist(real[:PAIRED]).mean()) if len(real) > 1 else 0.0
    if not scale > 0 or len(fake) < 2:
        return {}
    found = {"variety": float(pdist(fake[:PAIRED]).mean()) / scale}
    if len(real) >= ENOUGH:
        own, others = np.arange(len(real)), np.arange(len(fake))
        apart = spacing(real, own, own)
        found["repeats"] = float(closer(spacing(fake, others, others), apart).mean())
        found["copies"] = float(closer(nearest(fake, real, 1)[1][:, 0], apart).mean())
    if real_kinds is not None and fake_kinds is not None:
        count = int(max(real_kinds.max(), fake_kinds.max())) + 1
        of_real, of_fake = (np.bincount(k, minlength=count) / len(k) for k in (real_kinds, fake_kinds))
        found["missing"] = float(of_real[of_fake < RARE * of_real].sum())
    return found
