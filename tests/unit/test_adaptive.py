"""Augmentation inside training: what D sees, how its verdicts move the strength, and that a resumed run goes on."""

import copy
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.config import parse
from ganctl.data import Dataset, held_out
from ganctl.data.loader import as_they_are
from ganctl.errors import UsageError
from ganctl.io.progress import SILENT
from ganctl.load import family, model_names
from ganctl.losses.regularizers import balanced_consistency
from ganctl.nn.augment import translated
from ganctl.phase import Batch, Progress
from ganctl.train import checkpoint, optim
from ganctl.train.ada import Ada
from ganctl.train.checkpoint import Scores
from ganctl.train.loop import State, TrainConfig, augmentation, drain, networks, train_step, variation
from ganctl.train.overfitting import measure
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import frozen, new_state, open_data
from tests.cli.runs import log, pictures, request, train

SMALL = {"resolution": 16, "channels": 3, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64}
# A resumed run, below, goes on over the end of R3GAN's schedules, which lies after 44 images.
SMALL |= {"channel_max": 8, "width": 8, "num_layers": 4, "d_channel_base": 64, "d_channel_max": 8, "decay_kimg": 0.044}


def state(model: str, cfg: TrainConfig) -> tuple[State, list, dict]:
    module = family(model)
    known = inspect.signature(module.Config).parameters
    config = parse(module.Config, {k: v for k, v in SMALL.items() if k in known}, where=model)
    torch.manual_seed(0)
    nets = module.build(config)
    average = copy.deepcopy(nets.G).eval().requires_grad_(False)
    specs = module.optimizers(config)
    optimizers = {k: optim.make(v, getattr(nets, k)) for k, v in specs.items()}
    progress = Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"))
    made = State(nets, average, optimizers, progress, Ada(p=cfg.aug_p), frozen(module, nets, cfg.freezed), specs=specs)
    progress.augment, progress.vary = augmentation(made, cfg), variation(progress, cfg)
    return made, module.phases(config), {"model": model, "config": {}, "card": {}}


def batches(n: int = 8):
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    while True:
        for start in range(0, 64, n):
            yield Batch(x[start : start + n])


@pytest.mark.parametrize("model", ["stylegan2", "r3gan", "stylegan3"])
def test_verdicts_move_the_strength_and_a_resumed_run_is_the_same(model: str, tmp_path) -> None:
    # A target that no D reaches from below: p may only fall, and from 0.5 it does. StyleGAN3 is asked for consistency.
    aug = "ada" if model != "stylegan3" else "bcr"
    cfg = TrainConfig(batch=8, aug=aug, aug_p=0.5, aug_target=1.0, freezed=3)
    run, phases, about = state(model, cfg)
    fresh = copy.deepcopy(run.nets.D)
    source = batches()
    for _ in range(5):
        train_step(run, phases, source, cfg)
    assert aug == "bcr" or (0 < run.ada.p < 0.5 and run.ada.batches == 1)
    checkpoint.save(tmp_path, run, scores=Scores(), **about)
    again, _, _ = state(model, cfg)
    (path,) = checkpoint.snapshots(tmp_path)
    checkpoint.restore(path, again)
    assert again.ada == run.ada
    more = batches()
    for _ in range(5):
        next(more)
    for one, data in ((run, source), (again, more)):
        for _ in range(2):
            train_step(one, phases, data, cfg)
    assert again.ada == run.ada
    for name, net in networks(run.nets).items():
        other = getattr(again.nets, name)
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
        )
    if model == "r3gan":
        rates = [one.optimizers[name].param_groups[0]["lr"] for one in (run, again) for name in "GD"]
        assert rates == pytest.approx([5e-5] * 4), "the learning rates fell"
    terms = drain(run)
    assert -1 <= terms["D_sign"] <= 1
    assert 0 < terms["aug_p"] < 0.5 if aug == "ada" else 0 < terms["D_bcr_real"] < 1 > terms["D_bcr_fake"] > 0
    # The first layers have kept their weights, and no others; the optimiser holds no moments of theirs.
    kept = {id(p) for layer in run.frozen for p in layer.parameters()}
    assert len(run.frozen) == 3 and kept
    for (name, p), q in zip(run.nets.D.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q) == (id(p) in kept) == (p not in run.optimizers["D"].state), name


def test_r_v_is_logged_as_the_snapshot_says(tmp_path: Path) -> None:
    req = request("stylegan2", pictures(tmp_path / "data", n=20), tmp_path / "run", "aug=ada", "holdout=4", "aug_p=0.5")
    train(replace(req, settings=(*req.settings, "kimg=0.016", "tick=0.008", "snap=0.016")))
    first, second = (row for row in log(tmp_path / "run") if "step" in row)
    assert first["r_v"] != second["r_v"]
    # Of the state at the tick alone, so that a resumed run logs what an undisturbed one does.
    recipe = resolve("stylegan2", {"data.path": req.data}, req.settings)
    restored, data = new_state(recipe, torch.device("cpu")), open_data(recipe, 1, SILENT)
    checkpoint.restore(checkpoint.snapshots(tmp_path / "run")[-1], restored)
    seen, unseen = (as_they_are(part, 4, 16) for part in (data, data.held))
    module = family("stylegan2")
    found = measure(restored, lambda n, b, p: module.logits(n, b, p, recipe.config), recipe.train, seen, unseen)
    assert found == {name: second[name] for name in found} and len(data) == 16
    assert list(found) == ["r_v", "D_auc_held", "D_log_loss_held"]


def test_frozen_layers_are_counted_as_the_authors_do() -> None:
    with pytest.raises(UsageError, match=r"cannot freeze 99 layers of D. 7 can be"):
        state("stylegan2", TrainConfig(freezed=99))
    module = family("stylegan2")
    for architecture, layers in (("resnet", "fromrgb conv0 conv1 skip"), ("skip", "fromrgb conv0 conv1")):
        D = module.build(module.Config(resolution=16, channel_base=64, channel_max=8, d_architecture=architecture)).D
        names = {id(inner): name for name, inner in D.named_modules()}
        found = [names[id(layer)] for layer in module.first_layers(D)]
        n = len(layers.split())
        assert found[:n] == [f"b16.{name}" for name in layers.split()] and found[-1].startswith("b8.")


def test_consistency_is_its_definition() -> None:
    run, _, _ = state("stylegan2", TrainConfig(batch=8, aug="bcr"))
    x, y = next(batches()).x, torch.rand(8, 3, 16, 16)
    p = run.progress
    run.nets.D.requires_grad_(False)
    before = p.rng.get_state()
    terms = balanced_consistency(run.nets.D, p, (x, run.nets.D(x)), (y, run.nets.D(y)))
    p.rng.set_state(before)
    for (name, term), image in zip(terms.items(), (x, y), strict=True):
        moved = translated(image, p, 1 / 32)
        assert float(term) == pytest.approx(10 * float((run.nets.D(image) - run.nets.D(moved)).square().mean())), name
    p.vary = None
    assert balanced_consistency(run.nets.D, p, (x, x), (y, y)) == {}


def test_moved_images_are_shifted_by_whole_pixels_and_reflected() -> None:
    p = Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"))
    x = torch.rand(400, 1, 64, 64, generator=p.rng)
    moved = translated(x, p, 1 / 32)
    wide = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    places = [(i, j) for i in range(5) for j in range(5)]
    equal = torch.stack([(wide[:, :, i : i + 64, j : j + 64] == moved).all((1, 2, 3)) for i, j in places])
    assert (equal.sum(0) == 1).all(), "each is one of the moves by up to 2 px"
    assert equal.sum(1).min() >= 4 and equal.sum(1).max() <= 32, "all equally often"


def test_r_v_is_of_equally_many_images_and_draws_nothing_from_training() -> None:
    run, _, _ = state("stylegan2", TrainConfig(batch=4, aug="ada", aug_p=0.5))
    before = run.progress.rng.get_state()
    parts: list[int] = []

    def logits(n, b: Batch, p: Progress):
        parts.append(len(b.x))
        assert p is not run.progress and not torch.equal(p.augment(b.x), b.x)
        return b.x.mean((1, 2, 3)), torch.full((len(b.x),), -1.0)

    seen, unseen = (Batch(torch.full((6, 3, 16, 16), value, dtype=torch.uint8)) for value in (255, 204))
    # E[D_train] = 1, E[D_validation] = 0.6, E[D_generated] = -1.
    assert measure(run, logits, TrainConfig(batch=4, aug="ada"), seen, unseen)["r_v"] == pytest.approx(0.2)
    assert parts == [4, 2, 4, 2] and torch.equal(before, run.progress.rng.get_state())


def test_held_out_images_are_spread_over_the_data() -> None:
    whole = Dataset(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), c=np.repeat([0, 1], 5), classes=("a", "b"))
    data = held_out(whole, 4)
    assert data.held is not None and data.held.x.ravel().tolist() == [1, 3, 6, 8]
    assert data.x.ravel().tolist() == [0, 2, 4, 5, 7, 9]
    assert data.c is not None and data.c.tolist() == [0, 0, 0, 1, 1, 1]
    assert as_they_are(data, 3, 1).x.ravel().tolist() == [2, 5, 9]
    with pytest.raises(UsageError, match=r"cannot hold out 6 images. there are 10"):
        held_out(whole, 6)


@pytest.mark.parametrize("aug", ["none", "ada", "fixed", "diffaug", "bcr"])
def test_what_discriminators_see(aug: str) -> None:
    cfg = TrainConfig(batch=8, aug=aug, aug_p=0.8)
    run, phases, _ = state("stylegan2", cfg)
    seen: list[torch.Tensor] = []
    run.nets.D.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    source = batches()
    real = next(batches()).x
    train_step(run, phases, source, cfg)
    changed = (seen[0] - real).abs().flatten(1).amax(1) > 0.05
    assert changed.sum() == 0 if aug in ("none", "bcr") else changed.sum() >= 4
    assert (len(seen) == 6) == (aug == "bcr"), "bCR shows D the same real and generated images again"
    assert all(x.isfinite().all() for x in seen) and len(seen) >= 4


def test_every_family_says_whether_it_augments() -> None:
    augmenting = [name for name in model_names() if getattr(family(name), "AUGMENTS", False)]
    own = {"stylegan2", "stylegan3", "r3gan"}
    assert own <= set(augmenting)
    for name in model_names():
        # BigGAN-deep's losses are BigGAN's.
        text = inspect.getsource(family("biggan" if name == "biggan_deep" else name))
        assert ("p.augment(" in text or "d_terms(" in text) == (name in augmenting), name
        assert ("d_terms(" in text) == getattr(family(name), "ASKS", False), name
        assert all(hasattr(family(name), part) == (name in own) for part in ("logits", "first_layers")), name
    with pytest.raises(UsageError, match="cannot use --aug ada with vae"):
        resolve("vae", {"train.aug": "ada", "config.resolution": 16, "config.channels": 1}, ())
    for changes in ({"train.aug_p": 2.0}, {"train.aug_pipe": "bgz"}, {"train.aug": "adda"}):
        with pytest.raises(UsageError):
            resolve("stylegan2", {"config.resolution": 16, "config.channels": 3, **changes}, ())
