"""The discrepancy of WAE's codes against the authors' function, in float64 and in float32."""

import pytest
import torch
from safetensors.torch import load_file

from ganctl.models.wae import mmd
from tests.conftest import golden

STATE = load_file(golden("wae_mmd_penalty.safetensors"))
Z_DIM = 6
BASES = {"normal": 2.0 * Z_DIM, "sphere": 2.0, "uniform": 1.0 * Z_DIM}
"""C of the inverse multiquadratic: of a Gaussian prior, on the sphere, and in the cube."""


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_mmd_is_the_authors_penalty(dtype: torch.dtype, tolerance: float) -> None:
    q, p = STATE["in.sample_qz"].to(dtype), STATE["in.sample_pz"].to(dtype)
    for prior, base in BASES.items():
        found = mmd(q, p, "imq", base).item()
        assert found == pytest.approx(STATE[f"out.IMQ.{prior}"].item(), rel=tolerance), prior
    assert mmd(q, p, "rbf", 2.0 * Z_DIM).item() == pytest.approx(STATE["out.RBF.normal"].item(), rel=tolerance)
