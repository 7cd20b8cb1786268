"""Each failure of training is provoked, and named with the option that helps; a healthy run is left in peace."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ganctl.data import Dataset
from ganctl.metrics.variety import variety
from ganctl.phase import Batch
from ganctl.train.diagnosis import diagnose
from ganctl.train.loop import TrainConfig, drain, networks, train_step
from ganctl.train.overfitting import answers, measure
from ganctl.workflows import watch
from ganctl.workflows.recipe import resolve
from tests.models.test_contract import state_of, tiny


def rows(steps: int, every: int, images: torch.Tensor, loss: str, **numbers: float) -> list[dict[str, float]]:
    """The log of a perceptron GAN trained for some steps, a tick every few."""
    module, cfg, _ = tiny("gan", g_hidden=(32,), d_hidden=(32,), loss=loss)
    cfg = replace(cfg, **numbers)
    torch.manual_seed(0)
    state = state_of(module, cfg, module.build(cfg))
    train = TrainConfig(batch=len(images), kimg=steps * len(images) / 1000)
    found = []
    for step in range(1, steps + 1):
        train_step(state, module.phases(cfg), iter([Batch(images)]), train)
        if step % every == 0:
            found.append({"kimg": state.progress.nimg / 1000, **drain(state)})
    return found


def blobs(n: int = 32) -> torch.Tensor:
    """Images that are easy to tell from noise."""
    g = torch.Generator().manual_seed(3)
    return (torch.rand(n, 1, 1, 1, generator=g) + torch.linspace(-1, 0, 16)[:, None]).expand(n, 1, 16, 16).contiguous()


def kinds(log, **more) -> list[str]:
    return [f.kind for f in diagnose(log, kimg=more.pop("kimg", log[-1]["kimg"]), **more)]


def test_a_saturating_loss_loses_its_gradient_and_the_other_does_not() -> None:
    numbers = {"dlr": 5e-3, "glr": 1e-6}
    (found,) = diagnose(rows(120, 6, blobs(), "minimax", **numbers), kimg=4, loss="minimax")
    assert found.kind == "vanishing" and "pass --loss non_saturating" in found.hint
    (found,) = diagnose(rows(120, 6, blobs(), "non_saturating", **numbers), kimg=4, loss="non_saturating")
    assert found.kind == "winning" and "AUC 1.000" in found.words and "--dlr" in found.hint
    # A critic may win.
    assert kinds(rows(60, 6, blobs(), "wasserstein", **numbers), loss="wasserstein") == []


def test_a_d_that_does_not_learn_loses() -> None:
    log = rows(160, 8, blobs(), "non_saturating", dlr=1e-9, glr=5e-3)
    (found,) = diagnose(log, kimg=5, loss="non_saturating")
    assert found.kind == "losing" and "n_critic" in found.hint


def test_a_critic_without_bounds_diverges() -> None:
    log = rows(240, 8, blobs(), "wasserstein", dlr=0.02, glr=1e-6)
    assert kinds(log, loss="wasserstein") == ["diverging"]


def test_modes_that_are_missing_repeated_or_learned_by_heart() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(10 * k, 1, (100, 8)) for k in range(4)])
    of = np.repeat(np.arange(4), 100)
    good = np.concatenate([rng.normal(10 * k, 1, (50, 8)) for k in range(4)])
    found = variety(real, good, of, np.repeat(np.arange(4), 50))
    assert 0.9 < found["variety"] < 1.1 and max(found["repeats"], found["copies"]) < 0.1 and found["missing"] == 0
    log = [{"kimg": 5.0, **found}, {"kimg": 10.0, **found}]
    assert kinds(log) == []

    def said(fake: np.ndarray, classes: np.ndarray) -> tuple[str, str]:
        seen = variety(real, fake, of, classes)
        (finding,) = diagnose([{"kimg": 5.0, **seen}, {"kimg": 10.0, **seen}], kimg=10)
        return finding.kind, finding.words

    one = np.concatenate([rng.normal(0, 1, (200, 8))])
    assert said(one, np.zeros(200, int)) == ("collapse", said(one, np.zeros(200, int))[1])
    assert "as varied as" in said(one, np.zeros(200, int))[1]
    repeated = np.repeat(good[::20], 20, 0) + rng.normal(0, 1e-3, (200, 8))
    assert "nearly repeat another one" in said(repeated, np.repeat(np.arange(4), 50))[1]
    three = np.concatenate([rng.normal(10 * k, 1, (60, 8)) for k in (0, 1, 3)])
    assert "25% of the training images are not generated" in said(three, np.repeat([0, 1, 3], 60))[1]
    kind, words = said(real[::2] + rng.normal(0, 1e-3, (200, 8)), of[::2])
    assert kind == "memorised" and "100%" in words
    assert variety(np.ones((5, 3)), good[:5, :3]) == {}


@pytest.mark.parametrize(
    ("row", "aug", "hint"),
    [({"r_v": 0.7}, "none", "--aug ada"), ({"D_sign": 0.97}, "none", "holdout"), ({"r_v": 0.7}, "ada", "more images")],
)
def test_overfitting_is_told_by_held_out_images_or_by_certainty(row, aug, hint) -> None:
    (found,) = diagnose([{"kimg": float(i), **row} for i in range(6)], kimg=6, aug=aug)
    assert found.kind == ("overfitting" if "r_v" in row else "certain") and hint in found.hint


def test_a_young_g_is_given_time() -> None:
    assert kinds([{"kimg": 1.0, "variety": 0.1}, {"kimg": 2.0, "variety": 0.1}], kimg=100) == []


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp"])
def test_held_out_images_are_judged_without_a_trace(name: str) -> None:
    module, cfg, nets = tiny(name)
    state, images = state_of(module, cfg, nets), torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    before = [t.clone() for net in networks(nets).values() for t in net.state_dict().values()]
    drawn = state.progress.rng.get_state()
    found = measure(state, answers(module.phases(cfg)[0]), TrainConfig(batch=4), Batch(images), Batch(images.flip(0)))
    assert 0 <= found["D_auc_held"] <= 1 and found["D_log_loss_held"] > 0
    after = [t for net in networks(nets).values() for t in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(drawn, state.progress.rng.get_state()) and not state.progress.answers


def test_real_images_of_every_class_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of classes lie one behind the other: the first images are all of the first class."""
    monkeypatch.setattr(watch, "REALS", 4)
    seen = []
    monkeypatch.setattr(watch, "features", lambda _, batches: (seen.append(list(batches)), (np.eye(9), None))[1])
    pixels = np.repeat(np.arange(8, dtype=np.uint8), 2).reshape(16, 1, 1, 1) * np.ones((1, 16, 16, 1), np.uint8)
    _, _, nets = tiny("gan")
    watch.Watch(resolve("gan", {}, []), Dataset(pixels)).look(nets.G)
    assert [int(image.max()) for image in seen[0][0]] == [1, 3, 5, 7]
