"""`ganctl convert` on whole published files: what a converted generator draws is what was recorded from its program."""

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ganctl.config import parse
from ganctl.errors import UsageError, WeightsError
from ganctl.io.bundle import read_bundle
from ganctl.io.pickles import PersistedModule, read_torch
from ganctl.load import family, network, read_published
from ganctl.published.container import networks_in
from ganctl.workflows.convert import ConvertRequest, run
from tests.conftest import Shell, golden
from tests.golden.test_networks import close
from tests.layouts import (
    companion,
    dumps,
    growing_tf,
    openmmlab_names,
    r3gan_pickle,
    recorded,
    rosinality_discriminator,
    rosinality_generator,
    tf_pickle,
    write,
)

SG2, SG3 = "stylegan2ada-tiny-r32", "stylegan3-t-tiny-r32"
TF = {"resolution": 32, "num_channels": 3, "label_size": 0, "fmap_base": 256, "fmap_max": 24, "conv_clamp": 256}


GROWING = [
    ("stylegan", "stylegan1", ("G_style", "D_basic")),
    ("progan", "progan-genforce", ("G_paper", "D_paper")),
]


def convert(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return run(ConvertRequest(source=str(source), out=str(out), license="other", **options))


def draws(bundle: Path, net: str, name: str, psi: tuple[float, ...] = (1.0, 0.7)) -> None:
    """A bundle's generator gives the recorded styles and pictures."""
    G, golden = network(read_bundle(bundle), net), recorded(name)
    for value in psi:
        call = f"out.{'G_ema' if net == 'G_ema' else 'G'}.psi{str(value).replace('1.0', '1').replace('.', '')}"
        with torch.inference_mode():
            w = G.map(golden["in.z"], psi=value)
            close(w, golden[f"{call}.ws"])
            # Beyond [-1, 1] too, where `synthesize` ends.
            image = G.synthesis(w) if name == SG3 else G.synthesis(w, "const")
            close(image, golden[f"{call}.img"])


def judges(bundle: Path, name: str) -> None:
    golden = recorded(name)
    with torch.inference_mode():
        close(network(read_bundle(bundle), "D")(golden["in.img"]), golden["out.D.logits"].flatten())


def test_an_nvidia_snapshot_draws_what_was_recorded(tmp_path: Path) -> None:
    result = convert(golden(f"nvidia-pickle/{SG2}.pkl"), tmp_path / "b")
    assert (result["model"], result["nets"]) == ("stylegan2", ["G", "G_ema", "D"])
    draws(tmp_path / "b", "G_ema", SG2)
    draws(tmp_path / "b", "G", SG2, (1.0,))
    judges(tmp_path / "b", SG2)
    bundle = read_bundle(tmp_path / "b")
    assert bundle.config.items() >= {"clamp": 256.0, "num_fp16_res": 4, "w_beta": 0.995, "mbstd_group": 4}.items()
    assert (bundle.card["trained_on"], bundle.card["augment"]["hue"]) == ("toy32", 1)
    alone = convert(golden(f"nvidia-pickle/{SG2}.pkl"), tmp_path / "ema", net="G_ema")
    assert alone["nets"] == ["G_ema"]


def test_a_stylegan3_snapshot_draws_what_was_recorded(tmp_path: Path) -> None:
    result = convert(golden(f"nvidia-pickle/{SG3}.pkl"), tmp_path / "b")
    assert (result["model"], result["nets"]) == ("stylegan3", ["G", "G_ema", "D"])
    draws(tmp_path / "b", "G_ema", SG3)
    draws(tmp_path / "b", "G", SG3, (1.0,))
    judges(tmp_path / "b", SG3)
    config = read_bundle(tmp_path / "b").config
    assert config.items() >= {"clamp": 256.0, "num_fp16_res": 4, "w_beta": 0.998, "d_channel_base": 192}.items()
    assert config["magnitude_ema_beta"] == 0.9988915792636801


@pytest.mark.parametrize("name", ["stylegan3-t-uncond-r32", "stylegan3-r-uncond-r32"])
def test_stylegan3s_state_dicts_as_openmmlab_names_them(tmp_path: Path, name: str) -> None:
    """T and R by their tensors alone, in RGB: the layout of the official networks that OpenMMLab converted."""
    with safe_open(golden(f"{name}.safetensors"), "pt") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    state = {k[8:]: t for k, t in data.items() if k.startswith("weights.")}
    theirs = {f"generator_ema.{k.replace('mapping.', 'style_mapping.')}": t for k, t in state.items()}
    convert(checkpoint(tmp_path / "cvt_rgb.pth", {"meta": {}, "state_dict": theirs}), tmp_path / "b")
    G = network(read_bundle(tmp_path / "b"), "G_ema")
    with torch.inference_mode():
        close(G.synthesis(G.map(data["in.z"], psi=0.7)), data["out.psi07.img"])


def test_a_tensorflow_snapshot_draws_the_same(tmp_path: Path) -> None:
    nets = {key: companion(SG2, key) for key in ("G", "D", "G_ema")}
    file = write(tmp_path / "tf.pkl", tf_pickle(nets["G"], nets["D"], nets["G_ema"], **TF))
    assert convert(file, tmp_path / "b")["nets"] == ["G", "G_ema", "D"]
    draws(tmp_path / "b", "G_ema", SG2)
    judges(tmp_path / "b", SG2)


@pytest.mark.parametrize("model, file, functions", GROWING, ids=lambda v: v if isinstance(v, str) else None)
def test_tensorflow_snapshots_of_progan_and_stylegan(
    tmp_path: Path, model: str, file: str, functions: tuple[str, str]
) -> None:
    """They become the bundle that GenForce's conversion of the same networks becomes."""
    states = {}
    for net in "gd":
        with safe_open(golden(f"{file}-{net}-r32.safetensors"), "pt") as f:
            states[net] = {k[8:]: f.get_tensor(k) for k in f.keys() if k.startswith("weights.")}  # noqa: SIM118
    kwargs = {"num_channels": 3, "resolution": 32, "label_size": 0}
    G, D = (growing_tf(n, f, states[n.lower()], kwargs) for n, f in zip("GD", functions, strict=True))
    result = convert(write(tmp_path / "x.pkl", dumps((G, D, G), 4)), tmp_path / "b")
    assert (result["model"], result["nets"]) == (model, ["G", "G_ema", "D"])
    value = {"generator": states["g"], "generator_smooth": states["g"], "discriminator": states["d"]}
    convert(checkpoint(tmp_path / "x.pth", value), tmp_path / "other")
    ours, theirs = read_bundle(tmp_path / "b"), read_bundle(tmp_path / "other")
    assert ours.config == theirs.config
    for net in theirs.nets:
        assert all(torch.equal(t, ours.state(net)[k]) for k, t in theirs.state(net).items()), net


def checkpoint(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_rosinalitys_checkpoint_draws_the_same(tmp_path: Path) -> None:
    G, D = companion(SG2, "G_ema"), companion(SG2, "D")
    value = {"g_ema": rosinality_generator(G), "d": rosinality_discriminator(D), "latent_avg": G["mapping.w_avg"]}
    assert convert(checkpoint(tmp_path / "x.pt", value), tmp_path / "b")["nets"] == ["G_ema", "D"]
    draws(tmp_path / "b", "G_ema", SG2)
    judges(tmp_path / "b", SG2)


def test_the_stylegan2_in_a_file_of_e4e_draws_the_same(tmp_path: Path) -> None:
    """As e4e and pSp save: the encoder beside it is of no family, and the mean style is repeated for each layer."""
    G = companion(SG2, "G")
    state = {f"decoder.{k}": t for k, t in rosinality_generator(G).items()}
    state |= {
        "encoder.input_layer.0.weight": torch.zeros(8, 3, 3, 3),
        "encoder.body.0.res_layer.0.weight": torch.ones(8),
    }
    value = {
        "state_dict": state,
        "latent_avg": G["mapping.w_avg"].repeat(8, 1),
        "opts": {"device": "cuda:0", "lr": 1e-4},
    }
    assert convert(checkpoint(tmp_path / "x.pt", value), tmp_path / "b")["nets"] == ["G"]
    draws(tmp_path / "b", "G", SG2, (1.0,))
    assert torch.equal(read_bundle(tmp_path / "b").state("G")["mapping.w_avg"], G["mapping.w_avg"])


@pytest.mark.parametrize("name, options", [("x.pth", {}), ("rgb.pth", {"channel_order": "bgr"})])
def test_openmmlabs_checkpoint_draws_the_same_in_rgb(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    state = {f"generator_ema.{k}": t for k, t in openmmlab_names(rosinality_generator(companion(SG2, "G_ema"))).items()}
    theirs = openmmlab_names(rosinality_discriminator(companion(SG2, "D")))
    state |= {f"discriminator.{k}": t for k, t in theirs.items()}
    file = checkpoint(tmp_path / name, {"meta": {"mmgen_version": "0.7"}, "state_dict": state})
    convert(file, tmp_path / "b", **options)
    # The layout has no mean style, so truncation is not the recorded one.
    draws(tmp_path / "b", "G_ema", SG2, (1.0,))
    judges(tmp_path / "b", SG2)


@pytest.mark.parametrize("name", ["r3gan-uncond-r32", "r3gan-cond-r16"])
def test_r3gans_snapshot_draws_what_was_recorded(tmp_path: Path, name: str) -> None:
    with safe_open(golden(f"{name}.safetensors"), "pt") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    nets = {n: {k[10:]: t for k, t in data.items() if k.startswith(f"weights.{n}.")} for n in "GD"}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    file = write(tmp_path / "x.pkl", r3gan_pickle(nets["G"], nets["D"], D_opt_state=optimizer))
    assert convert(file, tmp_path / "b")["nets"] == ["G", "G_ema", "D"]
    bundle = read_bundle(tmp_path / "b")
    assert bundle.card["trained_on"] == "ffhq-256x256"
    c = data["in.c"].argmax(1) if "in.c" in data else None
    with torch.inference_mode():
        close(network(bundle, "G_ema")(data["in.z"], c), data["out.G.img"])


def changed(name: str, *pairs: tuple[bytes, bytes]) -> bytes:
    data = golden(f"nvidia-pickle/{name}.pkl").read_bytes()
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    return data


HOSTILE = {
    "another class": ([(b"cdnnlib.util\nEasyDict", b"cos.path_\nEasyDict")], "os.path_.EasyDict, which is code"),
    "an unknown argument": ([(b"conv_clamp", b"conv_clomp")], "argument 'conv_clomp', which is not known"),
    "a missing tensor": ([(b"noise_strength", b"noise_strangth")], "missing: 'synthesis.b4.conv1.noise_strength'"),
    "absurd numbers": ([(b"channel_max", b"channel_nax")], "argument 'channel_nax'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_snapshots(tmp_path: Path, kind: str) -> None:
    pairs, why = HOSTILE[kind]
    with pytest.raises(WeightsError) as e:
        convert(write(tmp_path / "x.pkl", changed(SG2, *pairs)), tmp_path / "b")
    assert why in e.value.why and e.value.hint and "\n" not in e.value.why
    assert not (tmp_path / "b").exists()


def tf_files(**kwargs: Any) -> bytes:
    G = companion(SG2, "G")
    return tf_pickle(G, companion(SG2, "D"), G, **{**TF, **kwargs})


ABSURD = [
    ({"resolution": 1 << 29}, "resolution: input should be less than or equal to 16384"),
    ({"resolution": 48}, "its sides are 8, 16, 32"),
    ({"fmap_max": "many"}, "channel_max: input should be a valid integer"),
    ({"fmap_max": -1}, "channel_max: input should be greater than or equal to 1"),
    ({"mapping_layers": 300}, "missing: 'mapping.fc2.weight'"),
    ({"mapping_layers": [[]]}, "mapping_layers: input should be a valid integer"),
    ({"label_size": 7}, "missing: 'mapping.embed"),
]


@pytest.mark.parametrize("kwargs, why", ABSURD, ids=str)
def test_absurd_arguments(tmp_path: Path, kwargs: dict[str, Any], why: str) -> None:
    with pytest.raises(WeightsError, match=why) as e:
        convert(write(tmp_path / "x.pkl", tf_files(**kwargs)), tmp_path / "b")
    assert e.value.hint and len(e.value.why) < 600 and not (tmp_path / "b").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    G = {**companion(SG2, "G")}
    G["synthesis.b8.conv1.weight"] = torch.full_like(G["synthesis.b8.conv1.weight"], float("nan"))
    file = write(tmp_path / "x.pkl", tf_pickle(companion(SG2, "G"), companion(SG2, "D"), G, **TF))
    with pytest.raises(WeightsError, match=r"'synthesis.b8.conv1.weight' holds NaN or infinity"):
        convert(file, tmp_path / "b")


def test_a_discriminator_alone_is_no_model(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "d.pth", companion(SG2, "D"))
    with pytest.raises(WeightsError, match="it holds only D of stylegan2"):
        convert(file, tmp_path / "b")


def test_the_command_line(ganctl: Shell) -> None:
    file = golden(f"nvidia-pickle/{SG2}.pkl")
    refused = ganctl("sample", file)
    assert refused.code == 2 and f"hint: ganctl convert {file} -o BUNDLE/" in refused.err
    done = ganctl.ok("convert", file, "-o", "b", "--json")
    assert json.loads(done.out)["nets"] == ["G", "G_ema", "D"]
    sampled = ganctl.ok("sample", "b", "--seeds", "0-3", "-o", "out", "-q")
    assert len(sampled.lines) == 4


def test_plain_records_are_refused_without_a_family(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no state dict"):
        convert(write(tmp_path / "x.pkl", dumps({"G": None, "training_set_kwargs": {}})), tmp_path / "b")


def state_of(kind: str) -> dict[str, torch.Tensor]:
    G, D = companion(SG2, "G"), companion(SG2, "D")
    found = {
        "rosinality": lambda: rosinality_generator(G), "rosinality D": lambda: rosinality_discriminator(D),
        "openmmlab": lambda: openmmlab_names(rosinality_generator(G)),
        "openmmlab D": lambda: openmmlab_names(rosinality_discriminator(D)),
        "nvidia": lambda: G, "nvidia D": lambda: D, "stylegan3": lambda: companion(SG3, "G"),
    }  # fmt: skip
    return dict(found[kind]())


def spoiled(state: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """The same with one tensor reshaped, retyped, renamed, left out, or with everything but a few left out."""
    key = rng.choice(list(state))
    match rng.randrange(6):
        case 0:
            state[key] = state[key].reshape(-1)
        case 1:
            state[key] = torch.zeros([rng.choice((0, 1, 2, 3))] * rng.randrange(6))
        case 2:
            state[key] = state[key].to(rng.choice((torch.int32, torch.float64, torch.bool, torch.float16)))
        case 3:
            state[rng.choice(("", "x", "synthesis.b99999.conv1.weight", "convs.99.conv.weight"))] = state.pop(key)
        case 4:
            del state[key]
        case _:
            return {k: t for k, t in state.items() if rng.random() < 0.3}
    return state


KINDS = ("rosinality", "rosinality D", "openmmlab", "openmmlab D", "nvidia", "nvidia D", "stylegan3")


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_state_with_one_thing_wrong(kind: str) -> None:
    """A family's reader gives a network that can be tried, gives none, or says in one sentence what is wrong."""
    rng = random.Random(kind)
    module = family("stylegan3" if kind == "stylegan3" else "stylegan2")
    for _ in range(60):
        state = spoiled(state_of(kind), rng)
        for value in (state, {"state_dict": {f"module.{k}": t for k, t in state.items()}}):
            for _, held in networks_in(value):
                try:
                    found = read_published(module, held, "cannot use weights")
                    if found is not None:
                        parse(module.Config, found[0], where="found")
                except (WeightsError, UsageError) as e:
                    assert e.why and "\n" not in e.why and e.why.isprintable()


def test_a_published_record_with_one_thing_wrong() -> None:
    """The same for NVIDIA's records: arguments of other types, parts that are none, tensors left out."""
    rng = random.Random(1)
    odd: list[Any] = [None, -1, 0, 1 << 70, 1.5, float("nan"), "x", [], [[1]], {}, {"a": 1}, True, b"x", torch.ones(2)]
    for _ in range(150):
        name, key = rng.choice([(SG2, "G"), (SG2, "D"), (SG3, "G"), (SG3, "D")])
        net = snapshot(name)[key]
        state = {**net.state, "_init_kwargs": {**net.init_kwargs}, "_modules": {**net.state["_modules"]}}
        target = state["_init_kwargs"] if rng.random() < 0.7 else state["_modules"]
        target[rng.choice([*target, "surprise"])] = rng.choice(odd)
        for model in ("stylegan2", "stylegan3"):
            try:
                module = family(model)
                found = read_published(module, PersistedModule(net.class_name, state), "cannot use weights")
                if found is not None:
                    parse(module.Config, found[0], where="found")
            except (WeightsError, UsageError) as e:
                assert e.why and e.why.isprintable()


@lru_cache
def snapshot(name: str) -> dict[str, PersistedModule]:
    return read_torch(golden(f"nvidia-pickle/{name}.pkl"))


def test_networks_of_this_machine_come_back_from_each_layout(tmp_path: Path) -> None:
    """Needs no recorded file: new networks, written in each layout, draw and judge as they did."""
    module = family("stylegan2")
    config = {"resolution": 16, "z_dim": 12, "w_dim": 12, "mapping_layers": 2, "channel_base": 128, "channel_max": 10}
    torch.manual_seed(1)
    nets = module.build(parse(module.Config, config, where="test"))
    for net in (nets.G, nets.D):
        for tensor in net.state_dict().values():
            if tensor.ndim < 2 and tensor.is_floating_point():  # what starts at 0 or 1 would hide a mistake
                tensor.copy_(torch.randn_like(tensor))
        net.eval().requires_grad_(False)
    G, D = dict(nets.G.state_dict()), dict(nets.D.state_dict())
    kwargs = {"resolution": 16, "num_channels": 3, "fmap_base": 64, "fmap_max": 10}
    names = {"g_ema": rosinality_generator(G), "d": rosinality_discriminator(D), "latent_avg": G["mapping.w_avg"]}
    files = [
        (write(tmp_path / "tf.pkl", tf_pickle(G, D, G, **kwargs)), (1.0, 0.5)),
        (checkpoint(tmp_path / "rosinality.pt", names), (1.0, 0.5)),
        (checkpoint(tmp_path / "nvidia.pth", {"G_ema": G, "D": D}), (1.0, 0.5)),
        (checkpoint(tmp_path / "mm.pth", {f"generator_ema.{k}": t for k, t in openmmlab_names(names["g_ema"]).items()}
         | {f"discriminator.{k}": t for k, t in openmmlab_names(names["d"]).items()}), (1.0,)),
    ]  # fmt: skip
    z = nets.G.prior([3, 4])
    for file, psi in files:
        bundle = tmp_path / file.stem
        convert(file, bundle)
        ours, judge = network(read_bundle(bundle), "G_ema"), network(read_bundle(bundle), "D")
        for value in psi:
            w = nets.G.map(z, psi=value)
            assert (ours.map(z, psi=value) - w).abs().max() < 1e-5, file
            assert (ours.synthesis(w, "const") - nets.G.synthesis(w, "const")).abs().max() < 1e-4, file
        x = nets.G.sample(z)
        assert (judge(x) - nets.D(x)).abs().max() < 1e-4, file
