"""Every model family trains: a few steps of its real, tiny networks through the real loop, then again from the disk."""

from pathlib import Path

import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.seeds import seed_class
from ganctl.load import family, load, model_names
from ganctl.nn.drawing import of_seeds
from ganctl.train.checkpoint import restore
from ganctl.train.loop import networks
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import new_state
from tests.cli.runs import SMALL, log, newest, pictures, request, train


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Pictures of two classes, and pairs side by side."""
    folder = tmp_path_factory.mktemp("data")
    for label in "ab":
        pictures(folder / "classes" / label, n=8, seed=ord(label))
    return {"classes": folder / "classes", "pairs": pictures(folder / "pairs", n=8, size=(32, 16), mode="RGB")}


@pytest.mark.parametrize("dtype", ["fp32", "half"])
@pytest.mark.parametrize("model", model_names())
def test_a_few_steps_move_every_network_and_nothing_breaks(
    model: str, dtype: str, data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert model in SMALL, "a new family needs a line of tiny settings"
    if hasattr(family(model), "given"):  # weights that are fetched: random ones do here
        monkeypatch.setattr(family(model), "given", lambda _: {})
    paired = hasattr(resolve(model, {}, ()).config, "source_channels")
    source = data["pairs" if paired else "classes"]
    half = "fp16" if hasattr(family(model), "HALF") else "bf16"
    # Networks that grow need 120 images to be whole; six steps of eight move the others.
    pace = (0.12, 0.04, 0.08) if hasattr(family(model).Config(), "stage_kimg") else (0.048, 0.016, 0.032)
    steps = (f"{name}={kimg}" for name, kimg in zip(("kimg", "tick", "snap"), pace, strict=True))
    req = request(model, source, tmp_path / "run", *steps, f"dtype={half if dtype == 'half' else dtype}")
    report = train(req)
    assert report.nimg >= 1000 * pace[0]
    recipe = resolve(model, {"data.path": str(source)}, req.settings)
    fresh, trained = (new_state(recipe, torch.device("cpu")) for _ in range(2))
    assert trained.specs.keys() == trained.optimizers.keys()
    restore(newest(tmp_path / "run"), trained)
    for name, net in networks(trained.nets).items():
        before = dict(networks(fresh.nets)[name].named_parameters())
        # A bias may stand where its gradient vanishes (the critic's last one, in a difference of means).
        still = [k for k, p in net.named_parameters() if p.ndim > 1 and torch.equal(p, before[k])]
        assert not still, f"{name}: {still} did not move"
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(trained.ema.parameters(), fresh.ema.parameters(), strict=True))
    lines = log(tmp_path / "run")
    assert len(lines) >= 2 and all(len(line) >= 4 for line in lines)
    # What was trained is a model for every other command.
    assert load(str(tmp_path / "run"), device="cpu").model == model
    drawn = list((tmp_path / "run" / "samples").glob("*.png"))
    assert bool(drawn) == (model not in ("lenet", "vgg"))
    assert (tmp_path / "run" / "reals.png").is_file()


@pytest.mark.parametrize("model", [m for m in model_names() if getattr(family(m).Config(), "classes", 0) is None])
def test_a_family_that_may_have_classes_trains_on_them(model: str, data: dict, tmp_path: Path):
    short = ("kimg=0.016", "tick=0.016", "snap=0.016", "classes=2")
    train(request(model, data["classes"], tmp_path / "run", *short))
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    net = load(str(tmp_path / "run"), device="cpu").net
    assert net.c.n == 2
    z = net.prior([0, 0])
    images = net.sample(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 1e-4
    # Of seeds, each has the class that its seed gives.
    assert torch.equal(of_seeds(net, [0], z.device), net.sample(z[:1], torch.tensor([seed_class(0, 2)])))
    with pytest.raises(UsageError, match="no classes in"):
        train(request(model, data["classes"] / "a", tmp_path / "other", *short))
