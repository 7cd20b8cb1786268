"""Conditional instance normalisation and its losses by hand; styles by number, and between numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganctl.data import DataConfig, Dataset
from ganctl.data.loader import batches
from ganctl.errors import UsageError
from ganctl.models import cin
from ganctl.phase import Batch, Progress
from tests.cli.runs import pictures, request, train


def images(seed: int, n: int = 2) -> Tensor:
    return torch.rand(n, 3, 16, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def G() -> cin.Generator:
    """Styles that differ."""
    torch.manual_seed(0)
    net = cin.Generator(cin.Config(styles=3, width=4))
    for layer in net.layers():
        torch.nn.init.normal_(layer.weight, 1.0, 0.3)
        torch.nn.init.normal_(layer.bias, 0.0, 0.3)
    return net.eval().requires_grad_(False)


def test_a_layer_is_equation_5(G: cin.Generator) -> None:
    layer, x = G.down[0], images(1)
    found = layer(x, torch.cat([layer.weight[[2, 0]], layer.bias[[2, 0]]], 1))
    y = layer.conv(F.pad(x, (4, 4, 4, 4), "reflect")).double()
    for row, style in enumerate((2, 0)):
        for k in range(4):
            z = (y[row, k] - y[row, k].mean()) / (y[row, k].var(correction=0) + 1e-5).sqrt()
            wanted = layer.weight[style, k] * z + layer.bias[style, k]
            torch.testing.assert_close(found[row, k].double(), wanted.double(), rtol=1e-4, atol=1e-5)


def test_styles_are_numbers_and_a_mixture_is_between_them(G: cin.Generator) -> None:
    x = images(2)
    made = [G.translate(x, seed=k) for k in range(4)]
    assert torch.equal(made[3], made[0]) and not torch.equal(made[1], made[0])
    codes = G.draw_style([0, 1])
    assert torch.equal(G.translate(x, style=codes[1:]), made[1])
    each = G.translate(x, style=codes)
    torch.testing.assert_close(each[1], made[1][1], rtol=1e-5, atol=1e-5)
    # The mean of two codes is a network whose γ and β are the means of both.
    between = G.translate(x, style=codes.mean(0, keepdim=True))
    other = cin.Generator(cin.Config(styles=1, width=4))
    own = G.state_dict()
    state = {k: v if ".conv." in k else v[:2].mean(0, keepdim=True) for k, v in own.items()}
    other.load_state_dict(state)
    torch.testing.assert_close(other.translate(x), between, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="this model knows 3"):
        G.encode_style(x)
    assert G.translate(images(3)[:, :, :1, :3]).shape == (2, 3, 1, 3)


def test_losses_are_equations_1_to_3() -> None:
    cfg = cin.Config(styles=3, width=4, resolution=16, style_weight=2.0)
    torch.manual_seed(1)
    nets = cin.build(cfg)
    x, y, c = images(4), images(5), torch.tensor([1, 2])
    terms = cin.g_loss(nets, Batch(x, y, cy=c), Progress(0, 0, torch.Generator(), torch.device("cpu")), cfg)
    made = nets.G(x, nets.G.codes(c)).detach()
    a, b, s = (nets.vgg.of(image) for image in (made, x, y))
    assert terms["G_content"].item() == pytest.approx((a[2] - b[2]).square().mean().item(), rel=1e-4)
    wanted = 0.0
    for f, g in zip(a, s, strict=True):
        for m, n in zip(f, g, strict=True):
            grams = [torch.einsum("chw,dhw->cd", t, t) / t.numel() for t in (m, n)]
            wanted += float((grams[0] - grams[1]).square().sum()) / 2
    assert terms["G_style"].item() == pytest.approx(2.0 * wanted, rel=1e-4)


def test_as_many_styles_as_pictures_of_them(tmp_path: Path) -> None:
    pictures(tmp_path / "d" / "trainA", n=4, mode="RGB")
    pictures(tmp_path / "d" / "trainB", n=3, mode="RGB", seed=1)
    with pytest.raises(UsageError, match="3 pictures of styles") as refused:
        train(request("cin", tmp_path / "d", tmp_path / "run", "styles=5"))
    assert refused.value.hint == "pass --set styles=3"


def test_unpaired_batches_tell_which_picture_of_the_second_side_it_is() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in (7, 3))
    stream = batches(Dataset(x, y, unpaired=True), DataConfig(pairs="unpaired"), size=4, resolution=16, seed=0)
    for _ in range(3):
        batch = next(stream)
        assert batch.y is not None and batch.cy is not None
        assert torch.equal(batch.y, torch.from_numpy(y[batch.cy.numpy()].transpose(0, 3, 1, 2)))
