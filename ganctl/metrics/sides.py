"""What every comparison of two sets of features asks of them."""

import numpy as np
from jaxtyping import Float


def check_sides(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], least: int, what: str) -> None:
    """Raises ValueError, with the reason as a sentence, unless both sides are finite matrices of one width and each
    has `least` rows, as `what` needs.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or not real.shape[1]:
        raise ValueError(f"shapes do not fit: {real.shape} and {fake.shape}")
    if min(len(real), len(fake)) < least:
        raise ValueError(
            f"{what} needs at least {least} images on each side; there are {len(real)} real and {len(fake)} generated"
        )
    # A row at fault shows in its sum, which takes no second array of the features' size.
    with np.errstate(over="ignore", invalid="ignore"):
        if not all(np.isfinite(side.sum(1, dtype=np.float64)).all() for side in (real, fake)):
            raise ValueError("features hold NaN or infinity, or are too large for a number")
