"""Growing networks: how far they are is a function of the images seen, and training goes on in the middle of a fade."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ganctl.errors import UsageError
from ganctl.io.progress import SILENT
from ganctl.load import load
from ganctl.losses.regularizers import gradient_penalty
from ganctl.models import progan, stylegan
from ganctl.phase import Batch, Phase, Progress
from ganctl.train.loop import State
from ganctl.workflows.estimate import estimate
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import new_state, open_data
from tests.cli.runs import assert_same_run, kept, pictures, request, train

SMALL = {"resolution": 16, "channels": 1, "z_dim": 5, "width": 6, "stage_kimg": 1.0, "fade_kimg": 2.0}


def progress(nimg: int = 0) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(4), torch.device("cpu"))


def images(n: int = 4, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(9)) * 2 - 1


def test_the_schedule_of_the_paper() -> None:
    """Appendix A.1: 800,000 images at 4 px, then 800,000 to fade in each size and 800,000 to train it."""
    at = {0: 8, 799_999: 8, 800_000: 8, 1_200_000: 7.5, 1_600_000: 7, 2_399_999: 7, 2_600_000: 6.75, 13_600_000: 0}
    for nimg, lod in at.items():
        assert progan.lod_at(nimg, 8, 800.0, 800.0) == pytest.approx(lod), nimg
    assert progan.lod_at(10**9, 8, 800.0, 800.0) == 0
    lods = [progan.lod_at(n, 3, 0.3, 0.5) for n in range(0, 4000, 7)]
    assert lods[0] == 3 and lods[-1] == 0 and all(a >= b for a, b in itertools.pairwise(lods))


@pytest.mark.parametrize("stage, fade", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_schedules_without_a_stage_or_a_fade(stage: float, fade: float) -> None:
    lods = [progan.lod_at(n, 2, stage, fade) for n in range(0, 3001, 100)]
    assert lods[-1] == 0 and all(a >= b for a, b in itertools.pairwise(lods))
    assert (lods[0] == 0) == (stage == fade == 0)
    assert stage == 0 or set(lods) == {2.0, 1.0, 0.0}


def test_a_fade_begins_as_the_old_network_and_ends_as_the_new_one() -> None:
    torch.manual_seed(0)
    nets = progan.build(progan.Config(**SMALL))
    z, x = torch.randn(3, 5), images()
    with torch.no_grad():
        for whole in (1.0, 2.0):
            for net, given in ((nets.G, z), (nets.D, x)):
                before, after = net(given, whole), net(given, whole - 1 + 1e-6)
                assert not torch.equal(before, after)
                assert (net(given, whole - 1e-6) - before).abs().max() < 1e-4
                assert (net(given, whole - 1 + 1e-6) - net(given, whole - 1)).abs().max() < 1e-4
        # Pictures of half the side are made of blocks of 2 × 2.
        y = nets.G(z, 1.0)
        assert torch.equal(y, F.interpolate(y[:, :, ::2, ::2], scale_factor=2))
        assert y.shape == nets.G(z, 0.0).shape == (3, 1, 16, 16) and nets.G.grown(z, 1.0).shape[-1] == 8
        assert torch.allclose(nets.D(x, 1.0), nets.D(F.avg_pool2d(x, 2), 1.0), atol=1e-6)


def test_learning_rates_rise_with_the_side_that_is_trained_or_fades_in() -> None:
    cfg = stylegan.Config(resolution=512, grow_from=64, stage_kimg=1.0, fade_kimg=2.0, glr=1e-3, dlr=2e-3)
    spec = stylegan.optimizers(cfg)
    at = {0: 1.0, 999: 1.0, 1000: 1.0, 1001: 1.5, 3999: 1.5, 4001: 2.0, 7001: 3.0, 99_000: 3.0}
    for name, lr in (("G", 1e-3), ("D", 2e-3)):
        assert [spec[name].lr(nimg, 10**6) / lr for nimg in at] == pytest.approx(list(at.values()))
    whole = stylegan.optimizers(stylegan.Config(resolution=2048, grow_from=2048))["G"].lr
    assert whole(0, 1) == pytest.approx(3e-3), "beyond 1024 px as there"
    assert stylegan.optimizers(stylegan.Config(lr_factors=()))["D"].lr(10**9, 1) == 1e-3


def test_real_images_fade_as_generated_ones_do() -> None:
    x = images()
    half = F.avg_pool2d(x, 2)
    assert torch.equal(progan.at_detail(x, 0.0), x) and torch.equal(progan.at_detail(x, 1.0), half)
    blocks = F.interpolate(half, scale_factor=2)
    assert torch.allclose(progan.at_detail(x, 0.25), 0.75 * x + 0.25 * blocks, atol=1e-6)


def test_the_loss_of_a_critic_that_has_not_grown_is_that_of_full_images() -> None:
    """Wasserstein distance, penalty at the full side, drift; computed here on enlarged pictures."""
    torch.manual_seed(0)
    cfg = progan.Config(**SMALL)
    nets, nimg = progan.build(cfg), 2000
    lod, p = progan.lod_at(nimg, 2, 1.0, 2.0), progress()
    assert lod == 1.5
    real = F.interpolate(progan.at_detail(images(), lod), scale_factor=2)
    fake = nets.G(p.normal(4, 5), lod)
    terms = progan.d_loss(nets, Batch(images()), progress(nimg), cfg)
    penalty = gradient_penalty(lambda x: nets.D(x, lod), real, fake, p.uniform(4))
    logits = nets.D(real, lod)
    assert terms["D_gp"].item() == pytest.approx(10 * penalty.item(), rel=1e-4)
    assert terms["D_loss"].item() == pytest.approx((nets.D(fake, lod).mean() - logits.mean()).item(), abs=1e-5)
    assert terms["D_drift"].item() == pytest.approx(1e-3 * logits.square().mean().item(), rel=1e-4)
    assert nets.G.lod.item() == nets.D.lod.item() == 1.5, "a snapshot is of the network as it is"


def test_layers_of_sizes_that_have_not_come_stay_as_they_are() -> None:
    nets = progan.build(progan.Config(**SMALL))
    for phase in progan.phases(progan.Config(**SMALL)):
        for net in (nets.G, nets.D):
            net.zero_grad()
        sum(phase.loss(nets, Batch(images()), progress(500)).values()).backward()
    moved = {name.partition(".")[0] for name, p in nets.G.named_parameters() if p.grad is not None}
    assert moved == {"layer0", "layer1", "output0"}
    moved = {name.partition(".")[0] for name, p in nets.D.named_parameters() if p.grad is not None}
    assert moved == {"input2", "layer4", "layer5", "layer6"}


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"resolution": 24}, "resolution must be 4 px doubled"),
        ({"resolution": 4}, "the smallest one has 8"),
        ({"grow_from": 32}, "at most the resolution"),
        ({"grow_from": 6}, "grow_from must be 4 px doubled"),
        ({"widths": (4, 4)}, "3 sizes from 4 px to 16 px, and 2 widths"),
    ],
)
def test_sizes_that_cannot_be_grown(changes: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why) as e:
        progan.build(progan.Config(**{**SMALL, **changes}))
    assert e.value.hint


@pytest.mark.parametrize("model", ["progan", "stylegan"])
def test_training_goes_on_in_the_middle_of_a_fade(model: str, tmp_path: Path) -> None:
    """Stopped at 40 images, in the fade from 4 to 8 px, and gone on: bit for bit the undisturbed run."""
    data = pictures(tmp_path / "data", n=8)
    schedule = ("stage_kimg=0.024", "fade_kimg=0.032", "snap=0.04", "keep=9", "grow_from=4")
    train(request(model, data, tmp_path / "a", *schedule, "kimg=0.08"))
    train(request(model, data, tmp_path / "b", *schedule, "kimg=0.04"))
    G = load(str(kept(tmp_path / "b")[-1]), device="cpu").net
    lod = float(next(v for k, v in G.state_dict().items() if k.endswith("lod")))
    assert lod == pytest.approx(2 - (0.04 - 0.024) / 0.032)
    assert G.sample(G.prior([0])).shape == (1, 1, 16, 16)
    train(request(model, data, tmp_path / "b", *schedule, "kimg=0.08"))
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("model", ["progan", "stylegan", "stylegan2", "stylegan3", "r3gan"])
def test_an_estimate_looks_at_every_size_that_training_comes_to(model: str, tmp_path: Path) -> None:
    """At 4 px alone it would promise a small part of the time, at the last size alone too much."""
    data = pictures(tmp_path / "data", n=8)
    recipe = resolve(model, {"data.path": str(data)}, request(model, data, tmp_path / "run").settings)
    state = new_state(recipe, torch.device("cpu"))
    found = estimate(recipe, open_data(recipe, 1, SILENT), state, lambda: True)
    assert found["kimg"] == 1 and found["snapshot_seconds"] > 0
    # Five snapshots; the first looks at the training data too.
    assert found["seconds"] > found["sec_per_kimg"] + 4.9 * found["snapshot_seconds"] - 0.1
    assert found["sec_per_kimg"] > 0 and found["memory_gib"] > 0.05 and found["eta"].endswith("s")
    if model in ("progan", "stylegan"):
        assert next(v for k, v in state.nets.G.state_dict().items() if k.endswith("lod")) == 0


def test_an_estimate_counts_each_phase_as_often_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """StyleGAN2's penalties run once in 16 and 4 steps: a clock that each phase moves by so many seconds tells."""
    data, clock = pictures(tmp_path / "data", n=8), [0.0]
    cost = {"D": 1.0, "D_r1": 16.0, "G": 2.0, "G_pl": 8.0}
    monkeypatch.setattr("ganctl.workflows.estimate.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def spent(state: State, phase: Phase, batch: object, cfg: object) -> None:
        clock[0] += cost[phase.name]

    monkeypatch.setattr("ganctl.train.loop.run_phase", spent)
    recipe = resolve("stylegan2", {"data.path": str(data)}, request("stylegan2", data, tmp_path / "run").settings)
    found = estimate(recipe, open_data(recipe, 1, SILENT), new_state(recipe, torch.device("cpu")), lambda: False)
    # 1 + 16 / 16 + 2 + 8 / 4 seconds for 8 images.
    assert found["sec_per_kimg"] == pytest.approx(6 / 8 * 1000)


@pytest.mark.parametrize(
    ("model", "lazy", "per_step"),
    # Phases at 0.5 kimg in the mean, behind a batch of 8; at the end of the run, with 8 seconds every 16th step.
    [("progan", (), 2 * 0.508), ("gan", ("penalties={r1: 1}", "penalty_every=16"), 2 * 1.008 + 8 / 16)],
)
def test_an_estimate_is_the_mean_over_the_run_and_over_lazy_penalties(
    model: str, lazy: tuple[str, ...], per_step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that every phase moves by the thousands of images seen, and every penalty by 8 seconds more."""
    data, clock = pictures(tmp_path / "data", n=8), [0.0]
    monkeypatch.setattr("ganctl.workflows.estimate.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def spent(state: State, phase: Phase, batch: object, cfg: object) -> None:
        p = state.progress
        due = phase.name == "D" and p.asked.penalties and p.step % p.asked.penalty_every == 0
        clock[0] += p.nimg / 1000 + (8 if due else 0)

    monkeypatch.setattr("ganctl.train.loop.run_phase", spent)
    recipe = resolve(model, {"data.path": str(data)}, (*request(model, data, tmp_path / "run").settings, *lazy))
    found = estimate(recipe, open_data(recipe, 1, SILENT), new_state(recipe, torch.device("cpu")), lambda: True)
    assert found["sec_per_kimg"] == pytest.approx(per_step / 8 * 1000, rel=1e-3)
