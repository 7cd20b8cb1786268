"""What every model file promises. The tests walk ganctl/models/: a new file is tested without editing anything here."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.load import family, model_names, public_net
from ganctl.phase import Batch, Progress
from ganctl.protocols import Autoencoder, Classifier, Sampler, Styled, Translator, classes_of
from ganctl.train import optim
from ganctl.train.loop import State, TrainConfig, networks, run_phase

MODELS = Path(inspect.getfile(family("gan"))).parent
TINY = {
    "resolution": 16, "channels": 1, "source_channels": 2, "z_dim": 5, "width": 8, "ngf": 4, "ndf": 4, "hidden": (12,),
    "g_hidden": (12, 8), "d_hidden": (8,), "num_downs": 3, "n_layers": 2, "classes": 4,
    "grow_from": 16, "mapping_width": 7,
    "w_dim": 8, "mapping_layers": 2, "d_mapping_layers": 2, "channel_base": 128, "channel_max": 8,
    "d_channel_base": 128, "d_channel_max": 8, "num_layers": 4,
    "res_blocks": 1, "pool": 3, "num_blocks": 1, "growth": 4,
}  # fmt: skip
"""Small numbers for the field's usual names; a family takes those it has."""


def kinds(module: ModuleType) -> tuple[Any, ...]:
    """The classes of the network users get."""
    kind = dataclasses.fields(module.Nets)[0].type
    return get_args(kind) or (kind,)


TRANSLATORS = [m for m in model_names() if hasattr(family(m).Config(), "source_channels")]
SAMPLERS = [m for m in model_names() if any(hasattr(t, "sample") for t in kinds(family(m)))]

every_model = pytest.mark.parametrize("name", model_names())


def tiny(name: str, **changes: object):
    """A family's module, a small config, and its networks from seed 0."""
    module = family(name)
    known = {f.name for f in dataclasses.fields(module.Config)}
    cfg = parse(module.Config, {k: v for k, v in {**TINY, **changes}.items() if k in known}, where=name)
    torch.manual_seed(0)
    return module, cfg, module.build(cfg)


def trained(name: str, steps: int = 2):
    """The same after a few updates of every phase, so that running statistics are not those of a new network."""
    module, cfg, nets = tiny(name)
    state = state_of(module, cfg, nets)
    for _ in range(steps):
        for phase in module.phases(cfg):
            run_phase(state, phase, batch(cfg), TrainConfig(batch=4))
    net = getattr(nets, public_net(module))
    return net.eval().requires_grad_(False)


def state_of(module: ModuleType, cfg, nets) -> State:
    optimizers = {name: optim.make(spec, getattr(nets, name)) for name, spec in module.optimizers(cfg).items()}
    progress = Progress(0, 0, torch.Generator().manual_seed(1), torch.device("cpu"))
    for net in networks(nets).values():
        net.train()
    return State(nets, next(iter(networks(nets).values())), optimizers, progress)


def batch(cfg, n: int = 4) -> Batch:
    g = torch.Generator().manual_seed(2)
    side = cfg.resolution

    def images(channels: int) -> Tensor:
        return torch.rand(n, channels, side, side, generator=g) * 2 - 1

    if hasattr(cfg, "source_channels"):
        return Batch(images(cfg.source_channels), images(cfg.channels), cy=torch.arange(n))
    x, c = images(cfg.channels), torch.arange(n) % getattr(cfg, "classes", 1)
    return Batch(x, images(cfg.channels), c, c.flip(0))


@every_model
def test_first_line_is_name_authors_title_year(name: str) -> None:
    first = (MODELS / f"{name}.py").read_text(encoding="utf-8").splitlines()[0]
    line = first.partition("  # noqa")[0]
    assert re.fullmatch(r'"""[\w-]+: \w.+, [A-Z].{10,}, (19|20)\d\d\.( arXiv:\d{4}\.\d{4,5}\.)?"""', line), line


@every_model
def test_config_is_frozen_and_every_field_is_documented_and_used(name: str) -> None:
    module, cfg, _ = tiny(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.resolution = 1
    with pytest.raises(TypeError):
        module.Config(16)
    tree = ast.parse((MODELS / f"{name}.py").read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config").body
    fields = [f.name for f in dataclasses.fields(module.Config)]
    documented = [
        a.target.id
        for a, b in zip(body, [*body[1:], None], strict=True)
        if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name) and isinstance(b, ast.Expr)
    ]
    assert documented == fields
    read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "cfg"}
    assert read == set(fields)


@every_model
def test_config_refuses_numbers_that_no_network_has(name: str) -> None:
    from ganctl.errors import UsageError

    module = family(name)
    for field in dataclasses.fields(module.Config):
        if isinstance(field.default, bool) or not isinstance(field.default, int | float):
            continue
        for wrong in (float("nan"), float("inf"), 1 << 40) if isinstance(field.default, float) else (0, -1, 1 << 40):
            if wrong == 1 << 40 and isinstance(field.default, float) and not field.name.startswith("beta"):
                continue
            with pytest.raises(UsageError, match=field.name):
                parse(module.Config, {field.name: wrong}, where=name)


@every_model
def test_default_config_builds(name: str) -> None:
    """The paper's own size, without memory or time: on the meta device."""
    module = family(name)
    with torch.device("meta"):
        nets = module.build(module.Config())
    assert all(isinstance(net, nn.Module) for net in networks(nets).values())
    assert set(module.TRAIN) <= {f.name for f in dataclasses.fields(TrainConfig)}


@every_model
def test_public_net_satisfies_a_protocol(name: str) -> None:
    _, cfg, nets = tiny(name)
    net = next(iter(networks(nets).values()))
    kinds = [p for p in (Sampler, Translator, Autoencoder, Classifier) if isinstance(net, p)]
    assert kinds
    image = net.target if Translator in kinds else net.x
    assert (image.channels, image.range) == (cfg.channels, (-1.0, 1.0))
    assert Translator in kinds or image.size == (cfg.resolution, cfg.resolution)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_is_batch_independent_and_fixed_by_the_seed(name: str) -> None:
    G = trained(name)
    z = G.prior(range(9))
    c = torch.arange(9) % label.n if (label := classes_of(G)) else None
    assert z.dtype == torch.float32 and z.shape[0] == 9
    assert torch.equal(G.prior([7, 2]), z[[7, 2]])
    assert len({tuple(row) for row in z.tolist()}) == 9

    def sample(rows: slice) -> Tensor:
        return G.sample(z[rows]) if c is None else G.sample(z[rows], c[rows])

    together = sample(slice(9))
    assert together.shape == (9, G.x.channels, *G.x.size) and together.abs().max() <= 1
    assert torch.equal(together, sample(slice(9)))
    for i in range(9):
        # Another batch, other kernels: what rounding leaves after a dozen normalised layers.
        assert (sample(slice(i, i + 1)) - together[i]).abs().max() <= 1e-5
    assert all((together[0] - other).abs().max() > 1e-4 for other in together[1:])


@every_model
def test_phases_move_the_named_networks_and_no_other(name: str) -> None:
    module, cfg, nets = tiny(name)
    state, phases = state_of(module, cfg, nets), module.phases(cfg)
    names = {n for n, net in networks(nets).items() if any(True for _ in net.parameters())}
    assert {n for phase in phases for n in phase.updates} == set(module.optimizers(cfg)) == names
    assert len({phase.name for phase in phases}) == len(phases)
    logged: set[str] = set()
    for phase in phases:
        before = {n: [p.detach().clone() for p in net.parameters()] for n, net in networks(nets).items()}
        # Twice: what leads to a layer that starts at 0 (R3GAN's blocks) moves only after that has.
        for _ in range(2):
            run_phase(state, phase, batch(cfg), TrainConfig(batch=4))
        for n, net in networks(nets).items():
            parameters = dict(net.named_parameters())
            still = [k for a, (k, q) in zip(before[n], parameters.items(), strict=True) if torch.equal(a, q)]
            if n not in phase.updates:
                assert len(still) == len(parameters), (phase.name, n)
            elif phase.every == 1:
                # One bias may stay: what every logit shares cancels in a Wasserstein loss.
                assert len(still) <= 1, (phase.name, still)
            else:
                # A penalty on a gradient alone does not see what is only added.
                assert all(k.endswith("bias") for k in still), (phase.name, still)
        terms = set(state.sums) - logged
        assert terms and all(state.sums[t].isfinite() and state.sums[t].ndim == 0 for t in terms)
        logged |= terms


@every_model
def test_losses_draw_from_progress_alone(name: str) -> None:
    """Torch's global generator must not matter, or a resumed run would differ."""
    values = []
    for seed in (1, 2):
        module, cfg, nets = tiny(name)
        torch.manual_seed(seed)
        p = Progress(0, 0, torch.Generator().manual_seed(3), torch.device("cpu"))
        values.append([{k: v.item() for k, v in f.loss(nets, batch(cfg), p).items()} for f in module.phases(cfg)])
    assert values[0] == values[1]


@every_model
def test_published_layouts_refuse_what_is_none(name: str) -> None:
    module = family(name)
    if not hasattr(module, "from_upstream"):
        return
    generator = torch.Generator().manual_seed(0)
    names = ["main.0.weight", "main.1.running_mean", "main.2.weight", "0.weight", "4.bias"]
    names += ["model.0.weight", "model.model.0.weight", "model.model.3.weight", "gen.0.0.weight"]
    names += ["convnet.c1.weight", "fc.f7.weight"]
    assert module.from_upstream({}) is None
    for ndim in range(5):
        for chosen in (names, names[:1], names[5:8]):
            state = {k: torch.rand([2] * ndim, generator=generator) for k in chosen}
            found = module.from_upstream(state)
            if found is not None:
                config, states = found
                assert set(config) <= {f.name for f in dataclasses.fields(module.Config)} and states


@pytest.mark.parametrize("name", TRANSLATORS)
def test_translator_translates_each_image_alone_and_by_seed(name: str) -> None:
    F = trained(name)
    g = torch.Generator().manual_seed(5)
    x = torch.rand(3, F.source.channels, 2 * F.stride, 4 * F.stride, generator=g) * 2 - 1
    y = F.translate(x, seed=1)
    assert y.shape == (3, F.target.channels, *x.shape[2:]) and y.abs().max() <= 1
    # As above: another batch, other kernels.
    assert (F.translate(x[2:], seed=1) - y[2:]).abs().max() <= 1e-5
    assert torch.equal(F.translate(x, seed=1), y)


@pytest.mark.parametrize("name", ["adain", "funit", "munit"])
def test_styles_are_told_to_each_image_and_averaged(name: str) -> None:
    F = trained(name)
    assert isinstance(F, Styled)
    g = torch.Generator().manual_seed(6)
    codes = torch.cat([F.encode_style(torch.rand(1, F.target.channels, 24, w, generator=g) * 2 - 1) for w in (24, 40)])
    x = torch.rand(2, F.source.channels, 2 * F.stride, 2 * F.stride, generator=g) * 2 - 1
    one, each = F.translate(x, style=codes[:1]), F.translate(x, style=codes)
    assert (each[0] - one[0]).abs().max() <= 1e-5 and not torch.equal(each[1], one[1])
    assert not torch.equal(F.translate(x, style=codes.mean(0, keepdim=True)), one)
    own = F.draw_style([3]) if F.style_prior else F.encode_style(x)
    assert own.shape[1:] == codes.shape[1:] and torch.equal(F.translate(x, seed=3), F.translate(x, style=own))
    if F.style_prior:
        assert torch.equal(F.draw_style([4]), F.draw_style([3, 4])[1:])


def test_pix2pix_dropout_is_drawn_by_the_seed_at_test_time() -> None:
    _, _, nets = tiny("pix2pix", num_downs=7, resolution=128, channels=3, source_channels=3)
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    G = nets.G.eval()
    with torch.no_grad():
        assert not torch.equal(G.translate(x, seed=1), G.translate(x, seed=2))
        stored = tiny("pix2pix", num_downs=7, resolution=128, test_time="stored", source_channels=3)[2].G.eval()
        assert torch.equal(stored.translate(x, seed=1), stored.translate(x, seed=2))


def test_autoencoder_codes_and_classifier_features() -> None:
    AE = trained("vae")
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    z = AE.encode(x)
    assert z.shape == (3, 5) and AE.decode(z).shape == x.shape and torch.equal(AE.encode(x), z)
    C = trained("lenet")
    assert C.features(x).shape == (3, 84) and C.logits(x).shape == (3, C.c.n)
    assert (C.logits(x)[1:] - C.logits(x[1:])).abs().max() <= 1e-6
