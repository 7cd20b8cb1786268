"""Recipes: model + config + data + training numbers, from a name or file, the options laid over it."""

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.config import config, parse, read_yaml, to_plain
from ganctl.errors import UsageError, did_you_mean, quoted
from ganctl.load import family, model_names

if TYPE_CHECKING:
    from ganctl.data import DataConfig
    from ganctl.train.loop import TrainConfig

FREE = (
    "train.kimg",
    "train.tick",
    "train.snap",
    "train.keep",
    "train.metrics",
    "train.metric_every",
    "train.metric_images",
    "train.compare",
    "data.path",
    "data.path_b",
    "data.max_bad",
)
"""What may change when a run goes on; anything else would make it another run."""
OPTIONS = {"r1_gamma": "gamma"}
"""Named flags that are called otherwise than their key."""
MAX_NUMBER = 1e38


@config
class Sections:
    """A recipe as written."""

    model: str
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


@config
class Recipe:
    """A recipe resolved: every number is there. Training again from it gives the same run."""

    name: str
    model: str
    config: Any
    """The family's Config."""
    data: "DataConfig"
    train: "TrainConfig"
    card: dict[str, Any]
    """What the trained bundle says of itself: licence, training data."""

    def plain(self) -> dict[str, Any]:
        return {k: v for k, v in to_plain(self).items() if k != "name"}


def recipe_files() -> dict[str, Path]:
    """The built-in recipes by name."""
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def find(reference: str) -> tuple[str, Path | None]:
    """A name and the file behind it: a built-in recipe, a model family (no file), a YAML file, or an old run.

    Raises UsageError with the nearest name. Loads neither torch nor the family.
    """
    files, path = recipe_files(), Path(reference)
    if reference in files:
        return reference, files[reference]
    if reference in model_names():
        return reference, None
    if path.suffix in (".yaml", ".yml"):
        return path.stem, path
    if (path / "recipe.yaml").is_file():
        return path.resolve().name, path / "recipe.yaml"
    known = [*files, *model_names()]
    near = did_you_mean(reference, known)
    raise UsageError(f"unknown recipe {quoted(reference)}", f"known: {', '.join(known)}", near)


def resolve(reference: str, changes: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """Defaults < recipe < --set < named flags (`changes`, such as {"data.path": "faces/"}). Raises UsageError."""
    name, path = find(reference)
    where = f"recipe {quoted(path or name)}"
    written = read_yaml(path, where=where).value if path else {"model": name}
    if not isinstance(written, dict):
        raise UsageError(f"cannot use {where}", "it is not a list of keys and values")
    sections = parse(Sections, written, where=where)
    pairs = [_setting(text) for text in settings]
    module = family(sections.model)
    # Only now is torch loaded: a typo in a name or file was answered before.
    from ganctl.data import DataConfig
    from ganctl.train.loop import TrainConfig

    classes = {"config": module.Config, "data": DataConfig, "train": TrainConfig}
    values: dict[str, dict[str, Any]] = {
        "config": dict(sections.config),
        "data": {**getattr(module, "DATA", {}), **sections.data},
        "train": {**module.TRAIN, **sections.train},
    }
    for key, value in pairs:
        section, place = _place(key, classes)
        values[section][place] = value
    for key, value in changes.items():
        if value is not None:
            if key == "config.r1_gamma" and getattr(module, "ASKS", False):
                values["train"]["penalties"] = {**values["train"].get("penalties", {}), "r1": value}
                continue
            section, _, place = key.partition(".")
            if place not in {f.name for f in fields(classes[section])}:
                own = ", ".join(f.name for f in fields(module.Config))
                option = OPTIONS.get(place, place.replace("_", "-"))
                raise UsageError(f"cannot use --{option} with {sections.model}", f"it has {own}")
            values[section][place] = value
    if "resolution" not in values["config"] and getattr(module, "SIZE_FROM_DATA", True):
        values["config"].update(_from_data(module, values))
    _choose(module, values)
    if values["train"].get("dtype") in ("fp16", "bf16"):
        values["config"] = {**getattr(module, "HALF", {}), **values["config"]}
    parsed = {k: parse(cls, values[k], where=f"{k} of {where}") for k, cls in classes.items()}
    recipe = Recipe(name=name, model=sections.model, card=sections.card, **parsed)
    _check(recipe, module)
    return recipe


def _check(recipe: Recipe, module: Any) -> None:
    """Raises UsageError for settings that are right one by one and wrong together."""
    from ganctl.metrics.catalog import known, metric

    for key, value in vars(recipe.config).items():
        # Larger numbers do not fit float32.
        if isinstance(value, float) and not abs(value) < MAX_NUMBER:
            raise UsageError(f"cannot use {key} = {value}", f"it is not a number below {MAX_NUMBER:g}")
    public = fields(module.Nets)[0].type
    for name in recipe.train.metrics:
        if not metric(name).while_training:
            why = "while training, a metric's name fixes its number of images"
            raise UsageError(f"cannot use --metrics {name}", why, f"known: {', '.join(known(training=True))}")
        if not hasattr(public, "sample"):
            why = f"{recipe.model} draws no samples that could be scored"
            raise UsageError(f"cannot use --metrics {name} with {recipe.model}", why, "pass --metrics none")
        if metric(name).moves and not hasattr(module, "transformed"):
            why = "its layers are bound to the pixels: only a stylegan3 can move the plane of its pictures"
            raise UsageError(f"cannot use --metrics {name} with {recipe.model}", why, "leave it out")
    if recipe.train.aug != "none" and not getattr(module, "AUGMENTS", False):
        raise UsageError(f"cannot use --aug {recipe.train.aug} with {recipe.model}", "its losses do not augment")
    _check_objective(recipe, module)
    _check_networks(recipe, module)
    _check_toy(recipe)
    if recipe.train.freezed and not hasattr(module, "first_layers"):
        why = "its discriminator's layers cannot be frozen one by one"
        raise UsageError(f"cannot use --freezed with {recipe.model}", why, "leave it out")
    if recipe.data.holdout and not hasattr(module, "logits") and not getattr(module, "ASKS", False):
        why = "its D gives no answer to an image alone"
        raise UsageError(f"cannot use holdout with {recipe.model}", why, "leave it out")
    if recipe.data.labels is not None and not (hasattr(module, "FEW_LABELS") and recipe.config.classes):
        why = "its losses use no classes" if not hasattr(recipe.config, "classes") else "every image needs its class"
        hint = "pass --set classes=10 too, or as many as there are" if hasattr(module, "FEW_LABELS") else "leave it out"
        raise UsageError(f"cannot use labels with {recipe.model}", why, hint)
    _check_dtype(recipe, module)
    pairs, wanted = recipe.data.pairs, getattr(module, "DATA", {}).get("pairs", "files")
    if recipe.data.crop == "random" and (hasattr(recipe.config, "source_channels") or wanted == "classes"):
        why = "its images have two sides"
        raise UsageError(f"cannot crop at random for {recipe.model}", why, "use --set jitter=30")
    if recipe.data.jitter and not (hasattr(recipe.config, "source_channels") or wanted == "classes"):
        raise UsageError(f"cannot use jitter with {recipe.model}", "its images are not loaded larger", "leave it out")
    if pairs == "unpaired" != wanted:
        raise UsageError(f"cannot use unpaired images with {recipe.model}", "its losses compare no such images")
    if pairs != wanted and "classes" in (pairs, wanted):
        why = "its losses compare images of classes" if wanted == "classes" else "its losses compare no classes"
        raise UsageError(f"cannot use pairs = {pairs} with {recipe.model}", why, f"leave it at {wanted}")
    if recipe.data.path_b and not hasattr(recipe.config, "source_channels"):
        raise UsageError(f"cannot use a second side of data with {recipe.model}", "it does not learn from pairs")


def _check_objective(recipe: Recipe, module: Any) -> None:
    """Raises UsageError for what is asked of D and cannot be: by its loss, or because its networks go together ill."""
    from ganctl.losses.objective import LABELLED

    train, cfg, model = recipe.train, recipe.config, recipe.model
    loss, gradients = getattr(cfg, "loss", None), [k for k in train.penalties if k != "clip"]
    labels = [k for k in ("real_labels", "fake_labels", "g_label") if getattr(train, k) is not None]
    if train.instance_noise and not getattr(module, "AUGMENTS", False):
        raise UsageError(f"cannot use instance_noise with {model}", "its losses do not augment", "leave it out")
    if (labels or train.penalties) and not getattr(module, "ASKS", False):
        names = ", ".join([*labels, *(["penalties"] if train.penalties else [])])
        raise UsageError(f"cannot use {names} with {model}", "its losses are fixed by its paper", "leave it out")
    if labels and loss not in LABELLED:
        why = f"{loss} compares D's answers with no label"
        raise UsageError(f"cannot use {labels[0]} with {model}", why, f"pass --loss {LABELLED[1]} or {LABELLED[2]}")
    if train.g_label is not None and loss != "least_squares":
        raise UsageError("cannot use g_label", f"G's part of {loss} has no label", "pass --loss least_squares")
    if gradients and getattr(cfg, "d_batch_norm", False):
        why = "D's batch norm ties its answers for one image to the others"
        raise UsageError(f"cannot use penalties {gradients[0]} with {model}", why, "pass --set d_batch_norm=false")
    if "clip" in train.penalties and hasattr(cfg, "clip"):
        raise UsageError(f"cannot use penalties clip with {model}", "its own clip does that", "pass --set clip=0.01")
    if "clip" in train.penalties and gradients:
        why = f"clip and {gradients[0]} bound D's slope in two ways, which fight"
        raise UsageError("cannot use these penalties together", why, "choose one")
    if train.penalty_every > 1 and not gradients:
        raise UsageError("cannot use penalty_every", "there is no penalty on D's gradient", "pass --set penalties=…")
    if train.aug == "ada" and loss == "wasserstein":
        why = "the sign of a critic's answer says nothing, and ada goes by it"
        raise UsageError(f"cannot use --aug ada with {model}", why, "pass --aug diffaug, or another --loss")


def _check_toy(recipe: Recipe) -> None:
    """Raises UsageError for what makes no sense of points of a plane."""
    from ganctl.data.toy import is_toy, modes

    path, cfg, train = recipe.data.path, recipe.config, recipe.train
    if path is None or not is_toy(path):
        return
    modes(path)
    what = f"cannot train {recipe.model} on {quoted(path)}"
    if recipe.model != "gan" or (cfg.resolution, cfg.channels) != (1, 2):
        raise UsageError(what, "its points are images of one pixel with two channels", "train gan, and give no size")
    images = [k for k in ("mirror", "holdout") if getattr(recipe.data, k)]
    images += ["metrics"] if train.metrics else ["aug"] if train.aug != "none" else []
    if images:
        raise UsageError(what, f"{images[0]} is of images, and these are points", "leave it out")


def _check_networks(recipe: Recipe, module: Any) -> None:
    """Raises UsageError for changes of D, G and their steps that cannot be, or would change nothing."""
    train, cfg, model = recipe.train, recipe.config, recipe.model
    wanted = [k for k in ("n_critic", "spectral_norm", "minibatch_std") if getattr(train, k) is not None]
    wanted += ["compare"] if train.compare else []
    if not wanted:
        return
    if not getattr(module, "ASKS", False):
        why = "its losses, networks and steps are fixed by its paper"
        raise UsageError(f"cannot use {', '.join(wanted)} with {model}", why, "leave it out")
    own = next((k for k in ("n_critic", "n_dis", "k") if hasattr(cfg, k)), None)
    if train.n_critic is not None and own:
        raise UsageError(
            f"cannot use n_critic with {model}", f"its own {own} does that", f"pass --set {own}={train.n_critic}"
        )
    from ganctl.load import skeleton
    from ganctl.nn.spectral import OWN
    from ganctl.train.loop import last_layer

    nets = skeleton(module, cfg)
    if train.minibatch_std is not None and last_layer(nets.D, getattr(module, "HEAD", None)) is None:
        why = "its D ends in a projection on the class or a normalised layer, beside which there is no place"
        raise UsageError(f"cannot use minibatch_std with {model}", why, "leave it out")
    if train.spectral_norm is None:
        return
    what = f"cannot use spectral_norm with {model}"
    if hasattr(cfg, "clip") or "clip" in train.penalties:
        hint = "leave the clip out" if not hasattr(cfg, "clip") else "train dcgan with --loss wasserstein"
        raise UsageError(what, "clip bounds the weights before they are divided, which undoes it", hint)
    if getattr(cfg, "d_batch_norm", False):
        why = "D's batch norm divides by its own scale, which undoes it"
        raise UsageError(what, why, "pass --set d_batch_norm=false")
    for name in ("D", "G") if train.spectral_norm == "both" else ("D",):
        if any(isinstance(m, OWN) for m in getattr(nets, name).modules()):
            raise UsageError(what, f"its {name} is spectrally normalised already", "leave it out")


def _check_dtype(recipe: Recipe, module: Any) -> None:
    """Raises UsageError for a number format in which these networks cannot be trained."""
    dtype, cfg = recipe.train.dtype, recipe.config
    what, makes = f"cannot train {recipe.model} in {dtype}", getattr(module, "HALF", None)
    if dtype == "fp16" and makes is None:
        raise UsageError(what, "its values are not bounded to float16's range", "pass --dtype bf16")
    if dtype == "fp16" and cfg.clamp is None:
        raise UsageError(what, "without a clamp, values beyond 65504 become infinite", "pass --set clamp=256")
    if dtype != "fp32" and makes and cfg.num_fp16_res == 0:
        raise UsageError(what, "num_fp16_res is 0: all its layers stay in fp32", "pass --set num_fp16_res=4")


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"cannot use --set {quoted(text)}", "it has no '='", "write --set key=value")
    return key.strip(), read_yaml(value, where=f"--set {quoted(text)}").value


def _place(key: str, classes: Mapping[str, type]) -> tuple[str, str]:
    """The section and field of `config.ngf`, or of a bare `ngf`: the family's where it has one of that name."""
    section, dot, name = key.rpartition(".")
    found = [s for s, cls in classes.items() if (not dot or s == section) and name in {f.name for f in fields(cls)}]
    # What a family has as a number of its own (n_critic) goes before what any run may be asked.
    if found:
        return found[0], name
    known = {f"{s}.{f.name}": f.name for s, cls in classes.items() for f in fields(cls)}
    near = did_you_mean(key, known) or did_you_mean(name, known.values())
    raise UsageError(f"cannot --set {quoted(key)}", f"known: {', '.join(known)}", near)


def _choose(module: Any, values: Mapping[str, dict[str, Any]]) -> None:
    """Numbers that are `auto`: those that the family chooses for the size of the images and the batch."""
    rule, batch = getattr(module, "auto", None), values["train"].get("batch")
    resolution = values["config"].get("resolution", getattr(module.Config(), "resolution", None))
    if rule is None or not all((isinstance(n, int) and n > 0) or n == "auto" for n in (resolution, batch)):
        return
    chosen = rule(resolution, None if batch == "auto" else batch)
    for section in ("config", "train"):
        values[section].update({k: chosen[k] for k, v in values[section].items() if v == "auto" and k in chosen})


def _from_data(module: Any, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Size and channels that neither recipe nor option gives: those of the first image, made to fit the networks."""
    from ganctl.data import DataConfig
    from ganctl.data.probe import first_size
    from ganctl.data.toy import is_toy

    cls, data = module.Config, parse(DataConfig, values["data"], where="data")
    names = {f.name for f in fields(cls)}
    if is_toy(data.path):
        return {"resolution": 1, "channels": 2}
    if data.path is None or not Path(data.path).exists() or "resolution" not in names:
        return {}
    side, channels = first_size(data, paired="source_channels" in names)
    if data.crop == "random":
        # Of crops it is the paper's, whatever the photos' size.
        side = cls().resolution
    elif "num_downs" in names:
        downs = parse(cls, values["config"], where="config").num_downs  # type: ignore[attr-defined]
        side = max(side // 2**downs, 1) * 2**downs
    else:
        firsts = (4,) if getattr(module, "POWER_OF_2", False) else (4, 5, 6, 7)
        side = max(k * 2**n for k in firsts for n in range(1, 9) if k * 2**n <= max(side, 8))
    found = {"resolution": side}
    if "channels" in names and "channels" not in values["config"] and "source_channels" not in names:
        found["channels"] = channels
    return found


def structural_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first setting that differs between two resolved recipes and may not, as `key: old → new`."""
    for section in ("model", "config", "data", "train"):
        a, b = old.get(section), new.get(section)
        if not isinstance(a, Mapping) or not isinstance(b, Mapping):
            if a != b:
                return f"{section}: {a} → {b}"
            continue
        for key in {**a, **b}:
            if f"{section}.{key}" not in FREE and a.get(key) != b.get(key):
                return f"{section}.{key}: {a.get(key)} → {b.get(key)}"
    return None
