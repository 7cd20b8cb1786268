"""Recipes: where every number comes from, and what a wrong one is told."""

from pathlib import Path

import pytest

from ganctl.config import write_yaml
from ganctl.errors import UsageError
from ganctl.load import model_names
from ganctl.workflows.recipe import find, recipe_files, resolve, structural_change
from ganctl.workflows.stopping import duration_text, parse_duration


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
    if name in recipe_files():
        assert recipe.card["trained_on"]


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
        ("dcgan", ("batch=0",), {}, "cannot use train of recipe 'dcgan'", ""),
        ("lenet", (), {"config.glr": 1.0}, "cannot use --glr with lenet", ""),
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
