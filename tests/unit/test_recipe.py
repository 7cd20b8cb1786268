"""Recipes: where every number comes from, and what a wrong one is told."""

from pathlib import Path

import pytest

from ganctl.config import write_yaml
from ganctl.errors import UsageError
from ganctl.load import model_names
from ganctl.workflows.recipe import find, recipe_files, resolve, structural_change
from ganctl.workflows.stopping import duration_text, parse_duration
from tests.cli.runs import pictures

GROWN = ("progan", "stylegan", "stylegan2", "stylegan3", "r3gan")


def test_defaults_then_recipe_then_set_then_flags(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: dcgan\nconfig: {resolution: 16, ngf: 8, ndf: 9, z_dim: 10}\ntrain: {batch: 32, kimg: 7}\n")
    recipe = resolve(str(file), {"config.ngf": 12, "train.kimg": 3.0}, ("ngf=11", "train.kimg=5", "config.ndf=13"))
    cfg, train = recipe.config, recipe.train
    assert (recipe.name, recipe.model) == ("mine", "dcgan")
    assert (cfg.ngf, cfg.ndf, cfg.z_dim, cfg.glr) == (12, 13, 10, 2e-4)
    assert (train.batch, train.kimg, train.ema_kimg) == (32, 3.0, 0.5)
    # The resolved recipe is a recipe, and the same one.
    again = tmp_path / "again.yaml"
    again.write_text(write_yaml(recipe.plain()))
    assert resolve(str(again), {}, ()).plain() == recipe.plain()


@pytest.mark.parametrize("name", [*recipe_files(), *model_names()])
def test_every_built_in_recipe_and_family_resolves(name: str):
    recipe = resolve(name, {}, ())
    assert recipe.name == name and recipe.train.batch >= 1
    if name in recipe_files() and name != "stylegan2-ada":
        assert recipe.card["trained_on"]


@pytest.mark.parametrize(
    ("side", "changes", "base", "batch", "gamma", "lr", "ema"),
    # The authors' configuration "auto" on one GPU: batch min(4096 / side, 32), γ = 0.0002 side² / batch.
    [
        (32, {}, 16384, 32, 0.0064, 2.5e-3, 10),
        (256, {}, 16384, 16, 0.8192, 2.5e-3, 5),
        (512, {}, 32768, 8, 6.5536, 2.5e-3, 2.5),
        (1024, {}, 32768, 4, 52.4288, 2e-3, 1.25),
        (256, {"train.batch": 64, "config.glr": 0.1}, 16384, 64, 0.2048, 0.1, 20),
        (256, {"train.batch": 2, "config.r1_gamma": 3.0}, 16384, 2, 3.0, 2.5e-3, 0.625),
    ],
)
def test_stylegan2_ada_chooses_its_numbers_by_size_and_batch(side, changes, base, batch, gamma, lr, ema):
    recipe = resolve("stylegan2-ada", {"config.resolution": side, **changes}, ())
    cfg, train = recipe.config, recipe.train
    assert (recipe.model, train.aug, cfg.mapping_layers, cfg.mbstd_group) == ("stylegan2", "ada", 2, min(batch, 4))
    assert (cfg.channel_base, train.batch, cfg.glr, train.ema_kimg) == (base, batch, lr, ema)
    assert cfg.r1_gamma == pytest.approx(gamma) and cfg.dlr == (2e-3 if side == 1024 else 2.5e-3)


def test_sides_come_from_the_data_as_each_family_can_have_them(tmp_path: Path):
    data = {"data.path": str(pictures(tmp_path, n=1, size=(200, 220), mode="RGB"))}
    found = {name: resolve(name, data, ()).config.resolution for name in ("dcgan", "stylegan2-ada", *GROWN)}
    assert found == {"dcgan": 192, "stylegan2-ada": 128, **dict.fromkeys(GROWN, 128)}


def test_gamma_is_the_weight_of_r1_wherever_there_is_one():
    for name in ("stylegan", "stylegan2", "stylegan3", "stylegan2-ada"):
        assert resolve(name, {"config.r1_gamma": 0.5}, ()).config.r1_gamma == 0.5


@pytest.mark.parametrize(
    ("reference", "settings", "changes", "what", "hint"),
    [
        ("dcgan-mnsit", (), {}, "unknown recipe 'dcgan-mnsit'", "did you mean dcgan-mnist?"),
        ("dcgann", (), {}, "unknown recipe 'dcgann'", "did you mean dcgan?"),
        ("nothere.yaml", (), {}, "cannot read recipe 'nothere.yaml'", ""),
        ("dcgan", ("nfg=3",), {}, "cannot --set 'nfg'", "did you mean ngf?"),
        ("dcgan", ("config.nfg=3",), {}, "cannot --set 'config.nfg'", "did you mean config.ngf?"),
        ("dcgan", ("train.bacth=3",), {}, "cannot --set 'train.bacth'", "did you mean train.batch?"),
        ("dcgan", ("ngf",), {}, "cannot use --set 'ngf'", "write --set key=value"),
        ("dcgan", ("ngf=[",), {}, "cannot use --set 'ngf=['", ""),
        ("dcgan", ("ngf=wide",), {}, "cannot use config of recipe 'dcgan'", ""),
        ("dcgan", ("glr=.inf",), {}, "cannot use config of recipe 'dcgan'", "less than inf"),
        ("dcgan", ("glr=1e39",), {}, "cannot use glr = 1e+39", ""),
        ("dcgan", ("dtype=fp8",), {}, "cannot use train of recipe 'dcgan'", "'fp32', 'fp16' or 'bf16'"),
        ("dcgan", (), {"train.dtype": "fp16"}, "cannot train dcgan in fp16", "--dtype bf16"),
        ("stylegan2", ("clamp=null",), {"train.dtype": "fp16"}, "cannot train stylegan2 in fp16", "--set clamp=256"),
        ("stylegan3", ("num_fp16_res=0",), {"train.dtype": "bf16"}, "cannot train stylegan3 in bf16", "num_fp16_res=4"),
        ("dcgan", ("batch=0",), {}, "cannot use train of recipe 'dcgan'", ""),
        ("lenet", (), {"config.glr": 1.0}, "cannot use --glr with lenet", ""),
        ("vae", (), {"config.r1_gamma": 1.0}, "cannot use --gamma with vae", ""),
        ("dcgan", (), {"train.freezed": 2}, "cannot use --freezed with dcgan", ""),
        ("dcgan", ("glr=auto",), {}, "cannot use config of recipe 'dcgan'", ""),
        ("vae", ("holdout=3",), {}, "cannot use holdout with vae", ""),
        ("stylegan2", ("batch=auto", "resolution=wide"), {}, "cannot use config of recipe 'stylegan2'", ""),
        ("stylegan2", ("aug_pipe={xflop: 1}",), {}, "cannot use train of recipe 'stylegan2'", "xflip"),
        ("stylegan2", ("aug_pipe={xflip: 2}",), {}, "cannot use train of recipe 'stylegan2'", "0 to 1"),
        ("dcgan", (), {"train.metrics": ["fid50kfull"]}, "unknown metric 'fid50kfull'", "did you mean fid50k_full?"),
        ("dcgan", (), {"train.metrics": ["fid"]}, "cannot use --metrics fid", "fid5k"),
        ("pix2pix", (), {"train.metrics": ["fid5k"]}, "cannot use --metrics fid5k with pix2pix", "--metrics none"),
        ("stylegan2", (), {"train.metrics": ["eqr50k"]}, "cannot use --metrics eqr50k with stylegan2", "a stylegan3"),
        ("lenet", (), {"train.metrics": ["fd-lenet"]}, "cannot use --metrics fd-lenet with lenet", "--metrics none"),
        ("dcgan", (), {"data.path_b": "x"}, "cannot use a second side of data with dcgan", ""),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_right_one(reference, settings, changes, what, hint):
    with pytest.raises(UsageError) as e:
        resolve(reference, changes, settings)
    assert e.value.what.startswith(what) and e.value.why
    assert hint in e.value.hint or hint in e.value.why


def test_half_precision_brings_its_clamp_unless_told_otherwise():
    def found(*settings: str) -> tuple:
        cfg = resolve("stylegan2", {}, settings).config
        return cfg.clamp, cfg.num_fp16_res

    assert found() == (None, None)
    assert found("dtype=fp16") == found("dtype=bf16") == (256, 4)
    assert found("dtype=bf16", "clamp=null", "num_fp16_res=1") == (None, 1)


def test_faults_in_a_file_are_named(tmp_path: Path):
    def fault(text: str) -> str:
        file = tmp_path / "r.yaml"
        file.write_text(text)
        with pytest.raises(UsageError) as e:
            resolve(str(file), {}, ())
        assert "r.yaml" in e.value.what
        return e.value.message

    assert "unknown key 'nddf' (did you mean ndf?)" in fault("model: dcgan\nconfig: {nddf: 3}\n")
    assert "unknown key 'modle'" in fault("modle: dcgan\n")
    assert "not a list of keys and values" in fault("- dcgan\n")
    assert "line 2: duplicate key 'model'" in fault("model: dcgan\nmodel: gan\n")
    assert "anchors, aliases and tags" in fault("model: &a dcgan\n")


def test_a_name_is_a_recipe_and_a_path_is_a_path(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "dcgan"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: gan\n")
    assert find("dcgan") == ("dcgan", None)
    assert find("./dcgan") == ("dcgan", Path("dcgan/recipe.yaml"))


def test_the_first_structural_change_is_named():
    a = resolve("dcgan", {}, ("resolution=16",)).plain()
    assert structural_change(a, a) is None
    for setting, named in (("ngf=3", "config.ngf: 64 → 3"), ("train.seed=1", "train.seed: 0 → 1")):
        assert structural_change(a, resolve("dcgan", {}, ("resolution=16", setting)).plain()) == named
    for free in ("kimg=3", "snap=7", "keep=9", "tick=3", "metrics=[fid5k]", "metric_every=2"):
        assert structural_change(a, resolve("dcgan", {}, ("resolution=16", free)).plain()) is None


def test_durations():
    read = {"23h50m": 85800, "90m": 5400, "45s": 45, "30": 30, "1d2h": 93600, "1.5h": 5400}
    assert {text: parse_duration(text) for text in read} == read
    for wrong in ("", "h", "5x", "1h 2m", "-3", "0", "0s", "1e3", "inf", "99999999d"):
        with pytest.raises(UsageError, match="cannot use the duration"):
            parse_duration(wrong)
    assert [duration_text(s) for s in (5.4, 200, 7500)] == ["0m 05s", "3m 20s", "2h 05m"]
