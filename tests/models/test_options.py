"""What any recipe may ask of D: losses, labels, penalties, noise; and what is refused."""

from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganctl.errors import UsageError
from ganctl.load import family, load, model_names
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.phase import Asked, Progress
from ganctl.train import checkpoint, optim
from ganctl.train.loop import State, TrainConfig, adapted, augmentation, equip, last_layer, run_phase, train_step
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import new_state
from tests.models.test_contract import batch, state_of, tiny

ASKS = [m for m in model_names() if getattr(family(m), "ASKS", False)]
NORMALISED = ["biggan", "biggan_deep", "sagan", "sngan"]
"""Their D is spectrally normalised by the paper."""
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
    for phase in adapted(module.phases(cfg), train):
        run_phase(state, phase, batch(cfg), train)
    assert {f"D_{k}" for k in weights if k != "clip"} <= set(state.sums)
    assert max(w.abs().max().item() for w in nets.D.parameters()) <= 0.02 + 1e-9
    assert ("D_sign" in state.sums) == (loss != "wasserstein")


def equipped(name: str, spectral: Literal["D", "both"] | None = None, minibatch_std: int | None = None):
    plain = {"d_batch_norm": False} if hasattr(family(name).Config(), "d_batch_norm") else {}
    module, cfg, nets = tiny(name, **plain)
    before = {k: w.detach().clone() for k, w in nets.D.named_parameters()}
    equip(nets, TrainConfig(spectral_norm=spectral, minibatch_std=minibatch_std), getattr(module, "HEAD", None))
    return module, cfg, nets, before


def layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


@pytest.mark.parametrize("name", [m for m in ASKS if m not in NORMALISED])
def test_spectral_normalisation_divides_by_the_largest_singular_value(name: str) -> None:
    _, _, nets, before = equipped(name, "both")
    assert len(layers(nets.D)) == sum(k.endswith("weight") and w.ndim > 1 for k, w in before.items() if "emb" not in k)
    for layer in [*layers(nets.D), *layers(nets.G)]:
        for _ in range(150):
            weight = layer.weight
        plain = layer.parametrizations.weight.original  # type: ignore[union-attr, index]
        rows = plain.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else plain
        expected = plain / torch.linalg.svdvals(rows.flatten(1))[0]
        assert torch.allclose(weight, expected, rtol=0.02), layer  # type: ignore[arg-type]
        assert torch.equal(layer.eval().weight, layer.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gan", "dcgan", "infogan"])
def test_minibatch_std_is_one_more_input_of_the_last_layer(name: str) -> None:
    """D(x) = w · [h(x), s]: s is the deviation within a group, the mean over its features."""
    module, cfg, nets, before = equipped(name, minibatch_std=2)
    head = last_layer(nets.D, getattr(module, "HEAD", None))
    assert head is not None and head.weight.shape[0] == 1
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()), prepend=True)
    x = batch(cfg, 4).x
    logits = [nets.D(x)[0] if name == "infogan" else nets.D(x)]
    with torch.no_grad():
        head.weight[:, -1] = 3.0
    logits.append(nets.D(x)[0] if name == "infogan" else nets.D(x))
    # Images 0 and 2 are a group, 1 and 3 the other; a pair's biased deviation is half its distance.
    h = seen[0].flatten(1)
    s = (((h[:2] - h[2:]) / 2) ** 2 + 1e-8).sqrt().mean(1).repeat(2)
    cells = head.weight[0, -1].numel()
    assert (logits[1] - logits[0]).tolist() == pytest.approx((3 * cells * s).tolist(), rel=1e-3), name
    # It begins as the D that it was.
    plain = tiny(name, d_batch_norm=False)[2].D
    assert torch.allclose(logits[0], plain(x)[0] if name == "infogan" else plain(x), atol=1e-6)
    assert {k: w.shape for k, w in before.items()}.keys() == dict(nets.D.named_parameters()).keys()


@pytest.mark.parametrize("name", [m for m in ASKS if m not in NORMALISED])
def test_every_family_learns_with_changed_networks(name: str) -> None:
    module, cfg, nets, _ = equipped(name, "D", 2)
    state = state_of(module, cfg, nets)
    column = last_layer(nets.D, getattr(module, "HEAD", None))
    assert column is not None
    original = column.parametrizations.weight.original  # type: ignore[union-attr, index]
    assert not original[:, -1].any()
    for phase in module.phases(cfg):
        run_phase(state, phase, batch(cfg), TrainConfig(batch=4))
    assert original[:, -1].any() and all(s.isfinite() for s in state.sums.values())


@pytest.mark.parametrize("name", ["acgan", "cgan", "infogan", "lsgan", "sagan"])
def test_so_many_steps_of_d_each_on_a_fresh_batch(name: str) -> None:
    module, cfg, nets = tiny(name)
    state, train = state_of(module, cfg, nets), TrainConfig(batch=4, n_critic=3, kimg=1)
    train_step(state, adapted(module.phases(cfg), train), iter([batch(cfg)] * 3), train)
    assert state.progress.nimg == 12
    steps = {k: {int(s["step"]) for s in o.state_dict()["state"].values()} for k, o in state.optimizers.items()}
    assert steps == {"D": {3}, "G": {1}}


@pytest.mark.parametrize(("model", "last"), [("dcgan", True), ("cyclegan", False)])
def test_convolutions_train_channels_last_and_instance_norm_does_not(model: str, last: bool, tmp_path: Path) -> None:
    """Weights and moments keep their order in memory through a snapshot, without which a resume moves the last bits."""
    recipe = resolve(model, {}, ["resolution=32", "ngf=4", "ndf=4"])
    state, again = (new_state(recipe, torch.device("cpu")) for _ in range(2))
    train_step(state, family(model).phases(recipe.config), iter([batch(recipe.config)]), recipe.train)
    numbers = {"model": model, "config": recipe.plain()["config"], "card": {}, "scores": checkpoint.Scores()}
    checkpoint.restore(checkpoint.save(tmp_path, state, **numbers), again)

    def orders(s: State) -> dict[str, bool]:
        held = {**optim.state_of(s.optimizers), **dict(s.nets.G.named_parameters())}
        return {k: t.is_contiguous(memory_format=torch.channels_last) for k, t in held.items() if t.ndim == 4}

    assert orders(state) == orders(again)
    assert all(orders(state).values()) if last else not all(orders(state).values())


def test_a_normalised_generator_is_saved_and_loaded(tmp_path: Path) -> None:
    settings = ["resolution=16", "channels=1", "ngf=4", "ndf=4", "d_batch_norm=false", "spectral_norm=both"]
    recipe = resolve("dcgan", {}, [*settings, "minibatch_std=2"])
    state = new_state(recipe, torch.device("cpu"))
    train_step(state, family("dcgan").phases(recipe.config), iter([batch(recipe.config)]), recipe.train)
    numbers = {"model": "dcgan", "config": recipe.plain()["config"], "card": {}, "scores": checkpoint.Scores()}
    path = checkpoint.save(tmp_path, state, **numbers)
    net = load(str(path), device="cpu").net
    z = net.prior([3])
    assert torch.equal(net.sample(z), state.ema.sample(z))  # type: ignore[operator]
    other = new_state(recipe, torch.device("cpu"))
    checkpoint.restore(path, other)
    for a, b in ((state.nets.D, other.nets.D), (state.ema, other.ema)):
        assert all(torch.equal(t, b.state_dict()[k]) for k, t in a.state_dict().items())


@pytest.mark.parametrize("name", ["acgan", "infogan"])
def test_the_class_and_the_codes_are_asked_of_the_right_images(name: str) -> None:
    """With a loss that shows D both kinds in G's phase too, and with a penalty that shows it a third."""
    module, cfg, nets = tiny(name, loss="relativistic", d_batch_norm=False, drop=0.0)
    p, b = state_of(module, cfg, nets).progress, batch(cfg)
    p.asked = Asked(penalties={"gp": 1.0})
    begin = p.rng.get_state()

    def again(loss) -> dict[str, float]:
        p.rng.set_state(begin)
        terms = {k: v.item() for k, v in loss(nets, b, p, cfg).items()}
        p.rng.set_state(begin)
        return terms

    of_d, of_g = again(module.d_loss), again(module.g_loss)
    if name == "acgan":
        fake = nets.G(p.normal(4, nets.G.z_dim), b.c)
        real, made = (F.cross_entropy(nets.D(x, p)[1], b.c).item() for x in (b.x, fake))
        assert (of_d["D_class"], of_g["G_class"]) == pytest.approx((real + made, made), rel=1e-4)
    else:
        z, c, _ = module.codes(nets, 4, p)
        made = F.cross_entropy(nets.D(nets.G(z, c))[1], c).item()
        assert (of_d["Q_mi"], of_g["G_mi"]) == pytest.approx((made, made), rel=1e-4)


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
        ("acgan", ["penalties={gp: 10}"], "pass --set d_batch_norm=false"),
        ("infogan", ["spectral_norm=D"], "pass --set d_batch_norm=false"),
        ("stylegan2", ["spectral_norm=D"], "fixed by its paper"),
        ("vaegan", ["minibatch_std=4"], "fixed by its paper"),
        ("aae", ["n_critic=2"], "fixed by its paper"),
        ("gan", ["n_critic=2"], "pass --set k=2"),
        ("dcgan", ["train.n_critic=2"], "its own n_critic does that"),
        ("wgan", ["spectral_norm=D", "d_batch_norm=false"], "--loss wasserstein"),
        ("gan", ["spectral_norm=D", "penalties={clip: 0.1}"], "leave the clip out"),
        *((m, ["spectral_norm=D"], "its D is spectrally normalised already") for m in NORMALISED),
        *((m, ["minibatch_std=4"], "there is no place") for m in NORMALISED),
        ("gan", ["minibatch_std=1"], "of one image nothing deviates"),
        ("cgan", ["n_critic=0"], "1 or more"),
        ("gan", ["spectral_norm=G"], "'both'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(model: str, settings: list[str], said: str) -> None:
    with pytest.raises(UsageError) as e:
        resolve(model, {}, settings)
    assert said in f"{e.value} {e.value.why} {e.value.hint}"
