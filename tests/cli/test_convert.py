"""`ganctl convert`, as a user runs it: published files become bundles, runs become one network, the rest is refused."""

import io
import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ganctl.config import parse
from ganctl.errors import UsageError, WeightsError
from ganctl.io.bundle import read_bundle
from ganctl.load import family, load, model_names
from ganctl.workflows.convert import ConvertRequest, check, layouts, run
from tests.conftest import Shell, Tiny, golden, shared_data
from tests.golden.test_networks import read
from tests.layouts import one_thing_wrong

TINY = {
    "dcgan": {"resolution": 16, "channels": 1, "z_dim": 5, "ngf": 4, "ndf": 4},
    "gan": {"resolution": 16, "g_hidden": (8, 8), "d_hidden": (8, 8), "z_dim": 5},
    "pix2pix": {"resolution": 64, "ngf": 4, "ndf": 4, "num_downs": 5, "n_layers": 2},
    "lenet": {},
}


def own(model: str, **changes: object) -> dict[str, dict[str, torch.Tensor]]:
    """States of new networks under our names: {"G": …, "D": …}."""
    module = family(model)
    torch.manual_seed(3)
    nets = module.build(parse(module.Config, {**TINY[model], **changes}, where="test"))
    return {name: dict(net.state_dict()) for name, net in vars(nets).items()}


def published(model: str, **changes: object) -> dict[str, dict[str, torch.Tensor]]:
    """The same under the names of the family's published layout."""
    states = own(model, **changes)
    if model == "gan":
        return {n: {k.removeprefix("main."): v for k, v in s.items()} for n, s in states.items()}
    if model == "lenet":
        kinds = {"c": "convnet", "f": "fc"}
        return {n: {f"{kinds[k[0]]}.{k}": v for k, v in s.items()} for n, s in states.items()}
    return states


def convert(source: object, out: object, **options: object) -> dict:
    return run(ConvertRequest(source=str(source), out=str(out), **options))  # type: ignore[arg-type]


def saved(path: Path, value: object, *, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def same(bundle: Path, net: str, state: dict[str, torch.Tensor]) -> bool:
    found = load_file(bundle / f"{net}.safetensors")
    return found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize("model", TINY)
def test_every_layout_round_trips(tmp_path: Path, model: str) -> None:
    """G (and D) of each family, in each kind of file, with the wrappers that published files have."""
    states = published(model)
    public = next(iter(states))
    whole = {"epoch": 3, "optim": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    whole |= {f"net{n}": {f"module.{k}": v for k, v in s.items()} for n, s in states.items()}
    files = [
        (saved(tmp_path / "bare.pth", states[public]), {public}),
        (saved(tmp_path / "old.pkl", states[public], zipped=False), {public}),
        (saved(tmp_path / "whole.ckpt", whole), set(states)),
        (saved(tmp_path / "list.pt", [1, list(states.values())]), set(states)),
    ]
    save_file(states[public], tmp_path / "x.safetensors")
    files.append((tmp_path / "x.safetensors", {public}))
    for file, nets in files:
        result = convert(file, tmp_path / f"{file.stem}-bundle", license="MIT")
        bundle = read_bundle(Path(result["path"]))
        assert (result["model"], set(result["nets"]), result["status"]) == (model, nets, "written")
        assert (bundle.card["license"], bundle.card["source"]) == ("MIT", file.name)
        for net in nets:
            assert same(bundle.path, net, own(model)[net]), (file, net)
        assert load(str(bundle.path), device="cpu").model == model
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.is_file()) == sorted(f.suffix for f, _ in files)


def test_the_moving_average_is_told_from_its_name(tmp_path: Path) -> None:
    one, two = published("dcgan")["G"], {k: v + 1 for k, v in published("dcgan")["G"].items()}
    result = convert(saved(tmp_path / "x.pth", {"g": one, "g_ema": two}), tmp_path / "b")
    assert set(result["nets"]) == {"G", "G_ema"}
    assert same(tmp_path / "b", "G_ema", two) and same(tmp_path / "b", "G", one)
    assert torch.equal(load(str(tmp_path / "b"), device="cpu").net.main[0].weight, two["main.0.weight"])


def test_several_generators_need_a_choice(tmp_path: Path) -> None:
    one, two = published("dcgan")["G"], {k: v + 1 for k, v in published("dcgan")["G"].items()}
    file = saved(tmp_path / "x.pth", {"netG_A": one, "netG_B": two})
    with pytest.raises(WeightsError, match="several of G: 'netG_A', 'netG_B'") as e:
        convert(file, tmp_path / "b")
    assert e.value.hint == "choose one: --net netG_A"
    convert(file, tmp_path / "b", net="netG_B")
    assert same(tmp_path / "b", "G", two)
    with pytest.raises(WeightsError, match="holds no network 'netG_C'"):
        convert(file, tmp_path / "c", net="netG_C")


def test_what_the_tensors_cannot_tell_comes_from_options(tmp_path: Path) -> None:
    file = saved(tmp_path / "unet.pth", published("pix2pix")["G"])
    convert(file, tmp_path / "b", settings=("dropout=false", "test_time=stored"))
    assert read_bundle(tmp_path / "b").config["dropout"] is False
    assert load(str(tmp_path / "b"), device="cpu").net.paper_test_time is False
    with pytest.raises(WeightsError, match=r"unknown key 'dropuot'.*did you mean dropout"):
        convert(file, tmp_path / "c", settings=("dropuot=false",))
    # A family without a published layout: its own names, at the size that is given.
    module = family("vae")
    torch.manual_seed(0)
    net = module.build(module.Config(resolution=16, z_dim=3, hidden=(8,))).AE
    own = saved(tmp_path / "vae.pt", net.state_dict())
    sizes = ("resolution=16", "z_dim=3", "hidden=[8]")
    assert convert(own, tmp_path / "vae", model="vae", settings=sizes)["nets"] == ["AE"]
    with pytest.raises(WeightsError, match=r"'encoder.0.weight' has shape \(8, 256\), the network needs") as e:
        convert(own, tmp_path / "vae2", model="vae")
    assert "--set key=value" in e.value.hint


def test_a_discriminator_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    states = {"G": published("dcgan")["G"], "D": published("dcgan", resolution=32)["D"]}
    warned: list[str] = []
    from ganctl.io.progress import Reporter

    file = saved(tmp_path / "x.pth", states)
    reporter = Reporter(warn=lambda *parts: warned.append(" ".join(parts)))
    result = run(ConvertRequest(source=str(file), out=str(tmp_path / "b"), license="MIT"), reporter)
    assert result["nets"] == ["G"] and len(warned) == 1
    assert "left out D" in warned[0]
    assert json.loads((tmp_path / "b" / "model.json").read_text())["config"]["resolution"] == 16


def test_weights_older_than_the_batch_counter(tmp_path: Path) -> None:
    state = {k: v for k, v in published("dcgan")["G"].items() if "num_batches" not in k}
    convert(saved(tmp_path / "x.pth", state, zipped=False), tmp_path / "b")
    found = load_file(tmp_path / "b" / "G.safetensors")
    assert found["main.1.num_batches_tracked"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = published("dcgan")["G"]
    state["main.3.weight"][0, 0, 0, 0] = value
    with pytest.raises(WeightsError, match=r"'main.3.weight' holds NaN or infinity"):
        convert(saved(tmp_path / "x.pth", state), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_weights_that_draw_no_finite_picture(tmp_path: Path) -> None:
    state = published("dcgan")["G"]
    state["main.1.running_var"] = -torch.ones_like(state["main.1.running_var"])
    with pytest.raises(WeightsError, match="seed-0 picture holds NaN"):
        convert(saved(tmp_path / "x.pth", state), tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("model", TINY)
def test_a_state_dict_with_one_thing_wrong(tmp_path: Path, model: str) -> None:
    """A tensor reshaped, retyped, renamed, left out or added: a bundle that loads, or one error and no folder."""
    rng, refused = random.Random(7), 0
    for i in range(25):
        state = dict(next(iter(published(model).values())))
        one_thing_wrong(state, rng, ("", "x", "main.0", "main.99999.weight", "\x1b[31m", "…"))
        out = tmp_path / str(i)
        try:
            convert(saved(tmp_path / "x.pth", state), out)
            assert load(str(out), device="cpu").model == model
        except WeightsError as e:
            refused += 1
            assert e.why and e.hint and not out.exists()
    assert refused > 5


def test_unknown_layouts_are_described(tmp_path: Path) -> None:
    cases = [
        (
            {"block1.0.weight": torch.ones(4, 3, 9, 9)},
            r"1 tensors; the first is 'block1.0.weight' of shape \(4, 3, 9, 9\)",
        ),
        ({"label_emb.weight": torch.ones(10, 10)}, "class-conditional, and is of none of the conditional families"),
        ({"epoch": 1}, "no state dict"),
        ([], "no state dict"),
        (torch.ones(3), "no state dict"),
        (published("dcgan")["D"], "only D of dcgan"),
    ]
    for value, why in cases:
        with pytest.raises(WeightsError, match=why) as e:
            convert(saved(tmp_path / "x.pth", value), tmp_path / "b")
        assert "ganctl convert --list" in e.value.hint
    assert not (tmp_path / "b").exists()


def test_a_snapshot_of_an_unknown_class(tmp_path: Path) -> None:
    data = golden("nvidia-pickle/stylegan2ada-tiny-r32.pkl").read_bytes()
    file = tmp_path / "x.pkl"
    file.write_bytes(data.replace(b"Generator", b"Gonerator").replace(b"Discriminator", b"Doscriminator"))
    with pytest.raises(WeightsError, match="snapshot of Gonerator, Doscriminator, AugmentPipe: no family here"):
        convert(file, tmp_path / "b")


def test_layouts_name_every_family_that_reads_published_files() -> None:
    rows = {r["model"]: r["layout"] for r in layouts()}
    known = {m for m in model_names() if hasattr(family(m), "from_upstream") or hasattr(family(m), "from_nvidia")}
    assert set(rows) == known
    assert all(len(text) > 30 for text in rows.values())


def test_a_run_gives_its_best_network_alone_with_its_card(tmp_path: Path, tiny: Tiny) -> None:
    source = tiny("dcgan", **TINY["dcgan"])
    snapshot = tmp_path / "run" / "snapshots" / "000003"
    shutil.copytree(source, snapshot)
    (snapshot / "resume").mkdir()
    for given in (tmp_path / "run", snapshot, source, snapshot / "G_ema.safetensors"):
        result = convert(given, tmp_path / f"out-{given.stem}")
        path = Path(result["path"])
        assert sorted(p.name for p in path.iterdir()) == ["G_ema.safetensors", "model.json"]
        bundle = read_bundle(path)
        assert bundle.card == {"license": "Apache-2.0", "trained_on": "nothing"}
        assert (path / "G_ema.safetensors").read_bytes() == (source / "G_ema.safetensors").read_bytes()
        assert str(tmp_path) not in (path / "model.json").read_text(), "no folder of this machine may get out"
    convert(source, tmp_path / "again", license="MIT")
    assert read_bundle(tmp_path / "again").card["license"] == "MIT"


def test_what_is_there_is_kept_completed_or_replaced(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.pth", published("dcgan")["G"])
    other = saved(tmp_path / "b.pth", {k: v + 1 for k, v in published("dcgan")["G"].items()})
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is filled
    assert convert(first, out)["status"] == "written"
    before = (out / "model.json").stat().st_mtime_ns
    assert convert(first, out)["status"] == "exists"
    assert (out / "model.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"refused to overwrite .*model was 'a.pth' and is now 'b.pth'"):
        convert(other, out)
    with pytest.raises(UsageError, match="license was not given and is now 'MIT'"):
        convert(first, out, license="MIT")
    assert convert(other, out, overwrite=True)["status"] == "written"
    assert same(out, "G", {k: v + 1 for k, v in published("dcgan")["G"].items()})
    (out / "G.safetensors").write_bytes(b"")
    assert convert(other, out)["status"] == "written", "a damaged bundle of the same request is made whole"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"it holds 'notes.txt', which is no part of a bundle"):
        convert(first, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_places_that_are_not_written(tmp_path: Path, tiny: Tiny) -> None:
    file = saved(tmp_path / "a.pth", published("dcgan")["G"])
    (tmp_path / "file").write_text("x")
    folder = shutil.copytree(tiny("dcgan", **TINY["dcgan"]), tmp_path / "bundle")
    refusals = [
        (file, tmp_path / "file", "it is a file"),
        (file, tmp_path / "file" / "b", "is not a folder"),
        (file, tmp_path / "x.safetensors", "a bundle is a folder"),
        (file, tmp_path, "no part of a bundle|input is there"),
        (folder, folder, "the input is there"),
        (folder / "G_ema.safetensors", folder, "the input is there"),
    ]
    for source, out, why in refusals:
        with pytest.raises(UsageError, match=why) as e:
            convert(source, out, overwrite=True)
        assert e.value.hint
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".pkl", ".bin", ".tar"])
def test_every_other_command_says_how_to_convert(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(UsageError, match="hold code") as e:
        load(str(path))
    assert e.value.hint == f"ganctl convert {path} -o BUNDLE/"


@pytest.mark.parametrize(
    "options, why",
    [
        ({"source": " "}, "no file is given"),
        ({"source": "gone.pth"}, "no such file"),
        ({"source": "gone.safetensors"}, "no such file"),
        ({"source": "dcgan-mnits"}, "the zoo has no entry"),
        ({"source": "x.pth", "model": "dcgna"}, "cyclegan, dcgan"),
        ({"source": "x.pth", "settings": ("ngf",)}, "it has no '='"),
        ({"source": "x.pth", "license": "a\nb"}, "no licence's name"),
        ({"source": "dcgan-mnist", "model": "dcgan"}, "a bundle says itself what it is"),
        ({"source": "dcgan-mnist", "channel_order": "bgr"}, "a bundle says itself what it is"),
        ({"source": "x.pth", "channel_order": "grb"}, "neither rgb nor bgr"),
    ],
)
def test_usage_errors_before_anything_is_read(options: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why) as e:
        check(ConvertRequest(**options))
    assert e.value.hint


def test_the_command_line(ganctl: Shell) -> None:
    """Streams, exit codes, --json, -q, --dry-run and what `sample` says of a file that must be converted first."""
    saved(ganctl.folder / "g.pth", published("dcgan"))
    plan = ganctl.ok("convert", "g.pth", "-o", "b", "--dry-run")
    assert "source: g.pth" in plan.out and list(ganctl.folder.iterdir()) == [ganctl.folder / "g.pth"]
    done = ganctl.ok("convert", "g.pth", "-o", "b")
    assert done.lines == ["b"]
    assert "warning: the licence of 'g.pth' is unknown" in done.err and "hint: name it: --license ID" in done.err
    assert "g.pth: dcgan, G, D" in done.err
    again = ganctl.ok("convert", "--json", "g.pth", "-o", "b")
    result = json.loads(again.out)
    assert set(result) == {"path", "input", "model", "nets", "license", "revision", "status"}
    assert (result["path"], result["status"], result["nets"]) == ("b", "exists", ["G", "D"])
    quiet = ganctl.ok("-q", "convert", "g.pth")
    assert (quiet.lines, quiet.err) == (["out/g/convert"], "")
    refused = ganctl("sample", "g.pth")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.splitlines() == [
        "error: cannot use 'g.pth' as a model",
        "  why: .pth files can hold code, and ganctl runs none from files",
        " hint: ganctl convert g.pth -o BUNDLE/",
    ]
    (ganctl.folder / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    evil = ganctl("convert", "evil.pth", "-o", "e", "--json")
    assert evil.code == 4 and not (ganctl.folder / "executed").exists() and not (ganctl.folder / "e").exists()
    assert json.loads(evil.lines[-1])["error"]["kind"] == "weights"
    assert "os.system, which is code and not data" in evil.err
    listed = ganctl.ok("convert", "--list")
    assert {line.split("\t")[0] for line in listed.lines} >= {"dcgan", "gan", "lenet", "pix2pix"}


def checkpoint(folder: Path, name: str) -> Path:
    with zipfile.ZipFile(shared_data("checkpoints/checkpoints.zip")) as z:
        path = folder / Path(name).name
        path.write_bytes(z.read(name))
    return path


def digits(bundle: Path, seeds: range) -> torch.Tensor:
    """The built-in classifier's probabilities [N, 10] for what a bundle draws."""
    G, C = load(str(bundle), device="cpu").net, load("lenet-mnist", device="cpu").net
    with torch.inference_mode():
        return C.logits(G.sample(G.prior(seeds))).softmax(1)


@pytest.mark.parametrize("name, model", [("mnist_gan_mlp/G--300.ckpt", "gan"), ("mnist_dcgan/generator.pth", "dcgan")])
def test_published_mnist_checkpoints_draw_recognisable_digits(tmp_path: Path, name: str, model: str) -> None:
    file = checkpoint(tmp_path, name)
    result = convert(file, tmp_path / "b", license="MIT")
    assert (result["model"], result["nets"]) == (model, ["G"])
    p = digits(tmp_path / "b", range(500))
    assert p.max(1).values.mean() > 0.8
    assert len(p.argmax(1).unique()) >= 8


def test_the_wrong_activation_would_be_noticed(tmp_path: Path) -> None:
    """The published perceptron with leaky ReLU in G, the facts' own negative test: it loads, and draws no digits."""
    convert(checkpoint(tmp_path, "mnist_gan_mlp/G--300.ckpt"), tmp_path / "b", license="MIT")
    G, C = load(str(tmp_path / "b"), device="cpu").net, load("lenet-mnist", device="cpu").net
    z = G.prior(range(500))
    with torch.inference_mode():
        right = C.logits(G.sample(z)).softmax(1).max(1).values.mean()
        wrong = [torch.nn.LeakyReLU(0.2) if isinstance(m, torch.nn.ReLU) else m for m in G.main]
        images = torch.nn.Sequential(*wrong)(z).unflatten(1, (1, 28, 28))
        noisy = C.logits(images).softmax(1).max(1).values.mean()
    assert right > noisy + 0.1
    # What a digit's picture has and noise has not: a black border.
    border = torch.cat([images[:, :, :2].flatten(1), images[:, :, -2:].flatten(1)], 1)
    with torch.inference_mode():
        good = G.sample(z)
    clean = torch.cat([good[:, :, :2].flatten(1), good[:, :, -2:].flatten(1)], 1)
    assert clean.mean() < -0.97 < border.mean()


def test_published_lenet_classifies_and_the_conditional_gan_draws_what_it_is_asked_for(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, "mnist_lenet/lenet_epoch=12_test_acc=0.991.pth")
    convert(file, tmp_path / "lenet", license="MIT")
    from ganctl.io.idx import read_idx

    images = torch.from_numpy(read_idx(shared_data("mnist/t10k-images-idx3-ubyte.gz"))[:1000])
    labels = torch.from_numpy(read_idx(shared_data("mnist/t10k-labels-idx1-ubyte.gz"))[:1000])
    with torch.inference_mode():
        guess = load(str(tmp_path / "lenet"), device="cpu").net.logits(images[:, None].float() / 127.5 - 1).argmax(1)
    assert (guess == labels).float().mean() > 0.97
    convert(checkpoint(tmp_path, "mnist_cwgan_gp/generator.pth"), tmp_path / "c", license="MIT")
    G, C = (load(str(tmp_path / name), device="cpu").net for name in ("c", "lenet"))
    c = torch.arange(2000) % 10
    with torch.inference_mode():
        agreed = C.logits(G.sample(G.prior(range(2000)), c)).argmax(1) == c
    # 61 % of 2,000 with other noise, 92 % for 3 and 17 % for 8: two standard deviations around.
    assert agreed.float().mean() == pytest.approx(0.61, abs=0.025)
    assert agreed[c == 3].float().mean() > 0.86 and agreed[c == 8].float().mean() < 0.23


def test_a_conditional_network_of_no_family_is_told(tmp_path: Path) -> None:
    torch.save({"label_emb.weight": torch.ones(10, 4), "body.weight": torch.ones(4, 4)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="class-conditional, and is of none of the conditional families"):
        convert(tmp_path / "x.pth", tmp_path / "c")


def test_the_sample_that_came_with_the_dcgan_looks_like_ours(tmp_path: Path) -> None:
    """Same mean and spread of pixels as the authors' own picture of their digits."""
    convert(checkpoint(tmp_path, "mnist_dcgan/generator.pth"), tmp_path / "b", license="MIT")
    with zipfile.ZipFile(shared_data("checkpoints/checkpoints.zip")) as z:
        theirs = Image.open(io.BytesIO(z.read("mnist_dcgan/generated_digits.png"))).convert("L")
    G = load(str(tmp_path / "b"), device="cpu").net
    with torch.inference_mode():
        ours = (G.sample(G.prior(range(64))) + 1) / 2
    dark = sum(theirs.histogram()[:64]) / (theirs.width * theirs.height)
    assert abs(float((ours < 0.25).float().mean()) - dark) < 0.15


def test_munit_and_funit_as_their_authors_save_them(ganctl: Shell, tmp_path: Path) -> None:
    """gen_*.pt: two domains, and a generator with its average; buffers that nothing reads are left behind."""
    Image.new("RGB", (21, 18), (200, 90, 20)).save(tmp_path / "a.png")
    half = read(golden("munit_adain_generator.safetensors"))[0]
    saved(tmp_path / "gen.pt", {"a": half, "b": {k: -v for k, v in half.items()}})
    ganctl.ok("convert", tmp_path / "gen.pt", "-o", tmp_path / "munit", "--license", "CC-BY-NC-SA-4.0")
    config = read_bundle(tmp_path / "munit").config
    assert (config["ngf"], config["res_blocks"], config["style_dim"], config["mlp_dim"]) == (6, 2, 8, 12)
    found = load_file(tmp_path / "munit" / "G.safetensors")
    assert torch.equal(found["B.decoder.up.3.conv.weight"], -half["dec.model.4.conv.weight"])
    assert torch.equal(found["A.content.3.1.convs.0.conv.bias"], half["enc_content.model.3.model.1.model.0.conv.bias"])
    assert not any("running" in k for k in found)
    made = []
    for i, options in enumerate((("--seed", 1), ("--seed", 1), ("--seed", 2), ("--direction", "BtoA"))):
        ganctl.ok("translate", tmp_path / "munit", tmp_path / "a.png", "-o", tmp_path / f"{i}.png", *options)
        with Image.open(tmp_path / f"{i}.png") as image:
            assert image.size == (21, 18)
            made.append(image.tobytes())
    assert made[0] == made[1] and len(set(made)) == 3
    shots = read(golden("funit_fewshot_generator.safetensors"))[0]
    saved(tmp_path / "animals.pt", {"gen": {k: -v for k, v in shots.items()}, "gen_test": shots})
    ganctl.ok("convert", tmp_path / "animals.pt", "-o", tmp_path / "funit")
    bundle = read_bundle(tmp_path / "funit")
    assert (bundle.model, set(bundle.nets), bundle.config["content_downs"]) == ("funit", {"G", "G_ema"}, 2)
    average = load_file(tmp_path / "funit" / "G_ema.safetensors")
    assert torch.equal(average["style.0.conv.weight"], shots["enc_class_model.model.0.conv.weight"])


def test_a_published_cyclegan_file_converts_and_translates(ganctl: Shell, tmp_path: Path) -> None:
    """latest_net_G.pth: one direction, with the statistics that old instance norms stored."""
    module = family("cyclegan")
    state = module.build(module.Config(resolution=32, ngf=4, ndf=4, res_blocks=2, pool=1)).G.state_dict()
    one = {k.removeprefix("AtoB."): v for k, v in state.items() if k.startswith("AtoB.")}
    stale = {f"model.2.{k}": torch.ones(4) for k in ("running_mean", "running_var")}
    saved(tmp_path / "latest_net_G.pth", {**one, **stale})
    Image.new("RGB", (13, 6), (200, 90, 20)).save(tmp_path / "a.png")
    ganctl.ok("convert", tmp_path / "latest_net_G.pth", "-o", tmp_path / "b")
    config = read_bundle(tmp_path / "b").config
    assert (config["both_ways"], config["res_blocks"], config["ngf"]) == (False, 2, 4)
    assert same(tmp_path / "b", "G", {f"AtoB.{k}": v for k, v in one.items()})
    ganctl.ok("translate", tmp_path / "b", tmp_path / "a.png", "-o", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as made:
        assert made.size == (13, 6)


def test_the_two_files_of_adain_make_one_model(ganctl: Shell, tmp_path: Path) -> None:
    """Bare numbers: the decoder, and the whole VGG-19, of which the part after relu4_1 is not used."""
    G = family("adain").build(family("adain").Config(width=8)).G
    vgg, decoder = dict(G.encoder.state_dict()), dict(G.decoder.state_dict())
    tail = {f"{k}.{part}": torch.ones(64, 64, 3, 3) if part == "weight" else torch.ones(64)
            for k in (32, 35, 38, 42, 45, 48, 51) for part in ("weight", "bias")}  # fmt: skip
    first = saved(ganctl.folder / "decoder.pth", decoder)
    second = saved(ganctl.folder / "vgg.pth", {**vgg, **tail}, zipped=False)
    for name, (source, beside) in {"a": (first, second), "b": (second, first)}.items():
        convert(source, tmp_path / name, beside=str(beside), license="MIT")
        bundle = read_bundle(tmp_path / name)
        assert (bundle.config["width"], bundle.config["channels"]) == (8, 3)
        assert same(tmp_path / name, "G", dict(G.state_dict()))
    for alone, lacking in ((first, "'encoder.0.weight'"), (second, "'decoder.1.weight'")):
        with pytest.raises(WeightsError) as half:
            convert(alone, tmp_path / "c")
        assert f"missing: {lacking}" in half.value.why and "a second file with --with FILE" in half.value.hint
    with pytest.raises(WeightsError, match="knows no such layout of the file with it"):
        convert(first, tmp_path / "c", beside=str(saved(tmp_path / "odd.pth", {"x": torch.ones(3)})))
    with pytest.raises(UsageError, match="cannot use --with"):
        check(ConvertRequest(source=str(tmp_path / "a"), out=str(tmp_path / "c"), beside=str(first)))
    Image.new("RGB", (21, 16), (200, 90, 20)).save(ganctl.folder / "a.png")
    ganctl.ok("convert", "decoder.pth", "--with", "vgg.pth", "-o", "m", "--license", "MIT")
    ganctl.ok("translate", "m", "a.png", "--style", "a.png", "-o", "c.png")
    with Image.open(ganctl.folder / "c.png") as made:
        assert made.size == (21, 16)
    # The same files again are the same request; with another second file it is another.
    assert convert(first, tmp_path / "a", beside=str(second), license="MIT")["status"] == "exists"
    with pytest.raises(UsageError, match="refused to overwrite"):
        convert(first, tmp_path / "a", beside=str(first), license="MIT")
