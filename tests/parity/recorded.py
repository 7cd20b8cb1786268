"""Every FID that the three tools recorded of the two golden image sets, beside ganctl's.

`python -m tests.parity.recorded` takes three minutes on one core, and so is no part of the suite, which looks at a few
images and at the stored features. Prints a table; exit 1 when a row is off by more than its README allows.
"""

import argparse
import sys

import numpy as np
import torch

from ganctl.metrics.features import inception_extractor
from ganctl.metrics.fid import frechet_distance
from ganctl.metrics.kid import kernel_distance
from ganctl.metrics.statistics import Moments
from tests.conftest import golden
from tests.golden import inception_weights
from tests.parity.installed import SETS, recorded

ROWS = {
    ("legacy_tensorflow", 64): {"torchfidelity.fid_layer_64": 1e-4},
    ("legacy_tensorflow", 192): {"torchfidelity.fid_layer_192": 1e-4},
    ("legacy_tensorflow", 768): {"torchfidelity.fid_layer_768": 1e-4},
    ("legacy_tensorflow", 2048): {"torchfidelity.frechet_inception_distance": 1e-3},
    ("legacy_pytorch", 64): {"pytorchfid.fid_dims_64": 1e-4},
    ("legacy_pytorch", 192): {"pytorchfid.fid_dims_192": 1e-4},
    ("legacy_pytorch", 768): {"pytorchfid.fid_dims_768": 1e-4},
    ("legacy_pytorch", 2048): {"pytorchfid.fid_dims_2048": 1e-3, "cleanfid.legacy_pytorch_fid": 1e-3},
    ("clean", 2048): {"cleanfid.clean_fid": 1e-3},
}
"""Protocol and dimensions → recorded rows and their relative tolerance."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    stored = recorded(SETS)
    net = inception_weights.network(golden("inception_excerpt.safetensors"))
    images = {side: stored[f"in.set_{side}"].transpose(0, 2, 3, 1) for side in "ab"}
    worst = 0.0

    def row(name: str, tolerance: float, found: float) -> None:
        nonlocal worst
        wanted = float(stored[f"out.{name}"])
        worst = max(worst, abs(found - wanted) / abs(wanted) / tolerance)
        print(f"{name:45} {wanted:12.7f} {found:12.7f} {found - wanted:+.1e}", flush=True)

    for (mode, dims), rows in ROWS.items():
        extractor = inception_extractor(net, "", mode=mode, dims=dims, device=device)
        features = {}
        for side, pictures in images.items():
            batches = [[extractor.prepare(image) for image in batch] for batch in np.split(pictures, 8)]
            features[side] = np.concatenate([extractor.extract(batch).numpy() for batch in batches])
        moments = []
        for side in "ab":
            moments.append(Moments(dims))
            moments[-1].add(features[side])
        a, b = (m.stats() for m in moments)
        found = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
        for name, tolerance in rows.items():
            row(name, tolerance, found)
        if mode == "clean":
            # clean-fid draws from NumPy's global generator, here from seed 0, and was given set_a first.
            row("cleanfid.clean_kid_npseed0", 1e-3, kernel_distance(features["a"], features["b"], seed=0)[0])
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
