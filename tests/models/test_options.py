"""What any recipe may ask of D: losses, labels, penalties, noise; and what is refused."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from ganctl.errors import UsageError
from ganctl.load import family, model_names
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.phase import Asked, Progress
from ganctl.train.loop import TrainConfig, augmentation, clipped, run_phase
from ganctl.workflows.recipe import resolve
from tests.models.test_contract import batch, state_of, tiny

ASKS = [m for m in model_names() if getattr(family(m), "ASKS", False)]
LOGITS = torch.tensor([1.5, -0.25, 0.5]), torch.tensor([-2.0, 0.75, 0.25])


def progress(**asked: object) -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"), asked=Asked(**asked))


def first(x: Tensor) -> Tensor:
    """A D that answers with an image's first pixel."""
    return x[:, 0, 0, 0]


def pictures(logits: Tensor) -> Tensor:
    return logits.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def values(loss: Loss, **asked: object) -> tuple[float, float]:
    real, fake = map(pictures, LOGITS)
    d = d_terms(loss, first, real, fake, progress(**asked))["D_loss"]
    return d.item(), g_terms(loss, first, real, fake, progress(**asked))["G_loss"].item()


def test_every_loss_is_its_equation() -> None:
    r, f = LOGITS
    log, one = torch.log, torch.ones(3)
    expected = {
        "minimax": (-log(r.sigmoid()).mean() - log(1 - f.sigmoid()).mean(), log(1 - f.sigmoid()).mean()),
        "non_saturating": (-log(r.sigmoid()).mean() - log(1 - f.sigmoid()).mean(), -log(f.sigmoid()).mean()),
        "least_squares": (((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2, ((f - 1) ** 2).mean() / 2),
        "wasserstein": (f.mean() - r.mean(), -f.mean()),
        "hinge": (-torch.minimum(r - 1, 0 * one).mean() - torch.minimum(-f - 1, 0 * one).mean(), -f.mean()),
        "relativistic": (-log((r - f).sigmoid()).mean(), -log((f - r).sigmoid()).mean()),
        "relativistic_average": (
            -log((r - f.mean()).sigmoid()).mean() - log(1 - (f - r.mean()).sigmoid()).mean(),
            -log((f - r.mean()).sigmoid()).mean() - log(1 - (r - f.mean()).sigmoid()).mean(),
        ),
    }
    assert set(expected) == set(get_args(Loss))
    for loss, (d, g) in expected.items():
        assert values(loss) == pytest.approx((d.item(), g.item()), abs=1e-6), loss


def test_labels_are_smoothed_noisy_or_what_least_squares_is_told() -> None:
    r, f = LOGITS
    smooth = torch.nn.functional.binary_cross_entropy_with_logits(r, torch.full((3,), 0.9))
    assert values("non_saturating", real_labels=(0.9, 0.9))[0] == pytest.approx(
        (smooth - torch.log(1 - f.sigmoid()).mean()).item(), abs=1e-6
    )
    noisy = values("non_saturating", real_labels=(0.7, 1.2), fake_labels=(0.0, 0.3))[0]
    g = torch.Generator().manual_seed(1)
    t, s = 0.7 + 0.5 * torch.rand(3, generator=g), 0.3 * torch.rand(3, generator=g)
    # Labels beyond 1 are no probabilities: written out.
    by_hand = -(t * r.sigmoid().log() + (1 - t) * (1 - r.sigmoid()).log() + s * f.sigmoid().log())
    by_hand = by_hand - (1 - s) * (1 - f.sigmoid()).log()
    assert noisy == pytest.approx(by_hand.mean().item(), abs=1e-6)
    pearson = values("least_squares", real_labels=(1.0, 1.0), fake_labels=(-1.0, -1.0), g_label=0.0)
    assert pearson == pytest.approx((((r - 1) ** 2 + (f + 1) ** 2).mean().item() / 2, (f**2).mean().item() / 2))


def test_penalties_of_a_d_whose_gradient_is_known() -> None:
    """D(x) = |x|² / 2 has the gradient x."""
    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(4, 1, 3, 3, generator=g), torch.randn(4, 1, 3, 3, generator=g)
    weights = {"r1": 2.0, "r2": 3.0, "gp": 1.0, "gp_one_sided": 1.0, "gp_zero": 1.0}
    p = progress(penalties=weights, penalty_every=4)
    terms = d_terms("wasserstein", lambda x: x.square().flatten(1).sum(1) / 2, real, fake, p)
    alpha = torch.Generator().manual_seed(1)

    def norm(x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)

    expected = {"D_r1": (norm(real) ** 2).mean(), "D_r2": 1.5 * (norm(fake) ** 2).mean()}
    for name in ("gp", "gp_one_sided", "gp_zero"):
        a = torch.rand(4, generator=alpha).view(4, 1, 1, 1)
        length = norm(a * real + (1 - a) * fake)
        by_name = {"gp": (length - 1) ** 2, "gp_one_sided": (length - 1).clamp(min=0) ** 2, "gp_zero": length**2}
        expected[f"D_{name}"] = by_name[name].mean()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(4 * value.item(), rel=1e-5), name
    p.step = 3
    assert list(d_terms("wasserstein", first, real, fake, p)) == ["D_loss"]


@pytest.mark.parametrize(
    ("name", "loss"), [*(("gan", loss) for loss in get_args(Loss)), *((m, "hinge") for m in ASKS if m != "gan")]
)
def test_every_family_takes_every_loss_and_penalty(name: str, loss: str) -> None:
    plain = {"d_batch_norm": False} if hasattr(family(name).Config(), "d_batch_norm") else {}
    module, cfg, nets = tiny(name, loss=loss, **plain)
    state = state_of(module, cfg, nets)
    weights = dict.fromkeys(("r1", "r2", "gp", "gp_one_sided", "gp_zero"), 0.1) | {"clip": 0.02}
    train = TrainConfig(batch=4, penalties=weights, instance_noise=0.1, kimg=1)
    state.progress.asked = Asked(penalties=weights)
    state.progress.augment = augmentation(state, train)
    for phase in clipped(module.phases(cfg), train):
        run_phase(state, phase, batch(cfg), train)
    assert {f"D_{k}" for k in weights if k != "clip"} <= set(state.sums)
    assert max(w.abs().max().item() for w in nets.D.parameters()) <= 0.02 + 1e-9
    assert ("D_sign" in state.sums) == (loss != "wasserstein")


def test_instance_noise_falls_to_nothing() -> None:
    module, cfg, nets = tiny("gan")
    state = state_of(module, cfg, nets)
    seen = augmentation(state, TrainConfig(instance_noise=0.5, kimg=2))
    for nimg, sigma in ((0, 0.5), (1000, 0.25), (2000, 0.0)):
        state.progress.nimg = nimg
        assert seen(torch.zeros(64, 1, 16, 16)).std().item() == pytest.approx(sigma, abs=0.01)


def test_gamma_is_r1_where_the_family_has_none_of_its_own() -> None:
    recipe = resolve("wgan_gp", {"config.r1_gamma": 5.0}, [])
    assert recipe.train.penalties == {"r1": 5.0}


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("wgan", ["real_labels=[0.9, 0.9]"], "compares D's answers with no label"),
        ("dcgan", ["penalties={gp: 10}"], "pass --set d_batch_norm=false"),
        ("gan", ["g_label=0.5"], "pass --loss least_squares"),
        ("gan", ["penalties={r3: 1}"], "r1, r2, gp"),
        ("gan", ["penalties={clip: 0.1, gp: 1}"], "choose one"),
        ("wgan", ["penalties={clip: 0.1}"], "its own clip"),
        ("gan", ["penalty_every=4"], "no penalty on D's gradient"),
        ("gan", ["real_labels=[1, 0]"], "the lower first"),
        ("gan", ["loss=hing"], "hinge"),
        ("wgan", ["aug=ada"], "the sign of a critic's answer"),
        ("vae", ["penalties={r1: 1}"], "vae"),
        ("vae", ["instance_noise=0.1"], "do not augment"),
        ("stylegan2", ["real_labels=[0.9, 0.9]"], "fixed by its paper"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(model: str, settings: list[str], said: str) -> None:
    with pytest.raises(UsageError) as e:
        resolve(model, {}, settings)
    assert said in f"{e.value} {e.value.why} {e.value.hint}"
