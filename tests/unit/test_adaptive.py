"""Augmentation inside training: what D sees, how its verdicts move the strength, and that a resumed run goes on."""

import copy
import inspect

import pytest
import torch

from ganctl.config import parse
from ganctl.errors import UsageError
from ganctl.load import family, model_names
from ganctl.phase import Batch, Progress
from ganctl.train import checkpoint, optim
from ganctl.train.ada import Ada
from ganctl.train.checkpoint import Scores
from ganctl.train.loop import State, TrainConfig, augmentation, drain, networks, train_step
from ganctl.workflows.recipe import resolve

SMALL = {"resolution": 16, "channels": 3, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64}
SMALL |= {"channel_max": 8, "width": 8}


def state(model: str, cfg: TrainConfig) -> tuple[State, list, dict]:
    module = family(model)
    known = inspect.signature(module.Config).parameters
    config = parse(module.Config, {k: v for k, v in SMALL.items() if k in known}, where=model)
    torch.manual_seed(0)
    nets = module.build(config)
    average = copy.deepcopy(nets.G).eval().requires_grad_(False)
    optimizers = {k: optim.make(v, getattr(nets, k)) for k, v in module.optimizers(config).items()}
    progress = Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"))
    made = State(nets, average, optimizers, progress, Ada(p=cfg.aug_p))
    progress.augment = augmentation(made, cfg)
    return made, module.phases(config), {"model": model, "config": {}, "card": {}}


def batches(n: int = 8):
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    while True:
        for start in range(0, 64, n):
            yield Batch(x[start : start + n])


@pytest.mark.parametrize("model", ["stylegan2", "r3gan"])
def test_verdicts_move_the_strength_and_a_resumed_run_is_the_same(model: str, tmp_path) -> None:
    # A target that no D reaches from below: p may only fall, and from 0.5 it does.
    cfg = TrainConfig(batch=8, aug="ada", aug_p=0.5, aug_target=1.0)
    run, phases, about = state(model, cfg)
    source = batches()
    for _ in range(6):
        train_step(run, phases, source, cfg)
    assert 0 < run.ada.p < 0.5 and run.ada.batches == 2
    checkpoint.save(tmp_path, run, scores=Scores(), **about)
    again, _, _ = state(model, cfg)
    (path,) = checkpoint.snapshots(tmp_path)
    checkpoint.restore(path, again)
    assert again.ada == run.ada
    more = batches()
    for _ in range(6):
        next(more)
    for one, data in ((run, source), (again, more)):
        for _ in range(3):
            train_step(one, phases, data, cfg)
    assert again.ada == run.ada and run.ada.p < 0.5
    for name, net in networks(run.nets).items():
        other = getattr(again.nets, name)
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
        )
    terms = drain(run)
    assert -1 <= terms["D_sign"] <= 1 and 0 < terms["aug_p"] < 0.5


@pytest.mark.parametrize("aug", ["none", "ada", "fixed", "diffaug"])
def test_what_discriminators_see(aug: str) -> None:
    cfg = TrainConfig(batch=8, aug=aug, aug_p=0.8)
    run, phases, _ = state("stylegan2", cfg)
    seen: list[torch.Tensor] = []
    run.nets.D.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    source = batches()
    real = next(batches()).x
    train_step(run, phases, source, cfg)
    changed = (seen[0] - real).abs().flatten(1).amax(1) > 0.05
    assert changed.sum() == 0 if aug == "none" else changed.sum() >= 4
    assert all(x.isfinite().all() for x in seen) and len(seen) >= 4


def test_every_family_says_whether_it_augments() -> None:
    augmenting = [name for name in model_names() if getattr(family(name), "AUGMENTS", False)]
    assert {"stylegan2", "r3gan"} <= set(augmenting)
    for name in model_names():
        assert ("p.augment(" in inspect.getsource(family(name))) == (name in augmenting), name
    with pytest.raises(UsageError, match="cannot use --aug ada with dcgan"):
        resolve("dcgan", {"train.aug": "ada", "config.resolution": 16, "config.channels": 1}, ())
    for changes in ({"train.aug_p": 2.0}, {"train.aug_pipe": "bgz"}, {"train.aug": "adda"}):
        with pytest.raises(UsageError):
            resolve("stylegan2", {"config.resolution": 16, "config.channels": 3, **changes}, ())
