"""Which pictures a sampling makes: seeds and classes, or the latents of files, checked against the model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ganctl.errors import UsageError, quoted
from ganctl.io.outputs import shown_name
from ganctl.io.seeds import MAX_SEEDS, seed_class
from ganctl.workflows.sample_plan import Item, Plan, seed_item, steps_of
from ganctl.workflows.styles import one_class, shapes

if TYPE_CHECKING:
    from torch import Tensor

    from ganctl.io.latents import LatentFile
    from ganctl.load import Model


def planned_items(todo: Plan, model: "Model", classes: Sequence[int] | None) -> list[Item]:
    """The pictures of a plan: of its latent files, or of its seeds.

    Raises UsageError for fewer than the grid holds, more than one for one file, and as `_latent_items` does.
    """
    if todo.request.latents:
        return _latent_items(todo, model, classes)
    items = seed_items(todo.seeds, model, classes)
    if todo.request.sweep is not None:
        items = swept(items, todo.request.sweep, steps_of(todo.request, todo.columns), model)
    if not todo.mix:
        _check_count(todo, len(items), f"{len(items)} are asked for")
    return items


def seed_items(seeds: Sequence[int], model: "Model", classes: Sequence[int] | None) -> list[Item]:
    """Of a conditional model, each of the classes for every seed; where None are given, the one that the seed draws."""
    from ganctl.protocols import classes_of

    label = classes_of(model.net)
    if label is None:
        return [seed_item(s) for s in seeds]
    if classes is None:
        return [seed_item(s, seed_class(s, label.n)) for s in seeds]
    if len(seeds) * len(classes) > MAX_SEEDS:
        why = f"{len(seeds)} seeds of {len(classes)} classes are more than {MAX_SEEDS:,}"
        raise UsageError("cannot make so many images", why, "split them over several runs")
    return [seed_item(s, c) for s in seeds for c in classes]


def swept(items: Sequence[Item], code: int, steps: int, model: "Model") -> list[Item]:
    """Each picture with one of its codes from -2 to 2 (Chen et al. 2016, fig. 2), all else as it was.

    Raises UsageError for a model without codes, and a code that it has not.
    """
    import torch

    from ganctl.protocols import CodedSampler

    codes = model.net.code_count if isinstance(model.net, CodedSampler) else 0
    if not 1 <= code <= codes:
        why = f"{quoted(model.name)} has {codes} of them" if codes else f"{quoted(model.name)} has no codes"
        raise UsageError(f"cannot sweep code {code}", why, "leave it out" if not codes else f"choose 1 to {codes}")
    if len(items) * steps > MAX_SEEDS:
        raise UsageError("cannot make so many images", f"they are {len(items) * steps:,}", "use fewer seeds")
    found = []
    for item in items:
        z = model.net.prior([item.number])[0]
        for step, value in enumerate(torch.linspace(-2, 2, steps).tolist()):
            z = z.clone()
            z[code - 1 - codes] = value
            found.append(replace(item, name=f"{item.name}-code{code}-{step:02d}", z=z))
    return found


def _check_count(todo: Plan, count: int, told: str) -> None:
    if todo.kind == "file" and count != 1 and not todo.columns:
        what = f"cannot write {count} images to {quoted(todo.path)}"
        raise UsageError(what, "one file holds one image", "use a folder or .zip")
    if (cells := todo.columns * todo.rows) > count:
        why = f"it holds {cells} images and {told}"
        raise UsageError(f"cannot fill --grid {todo.request.grid}", why, "use a smaller grid")


def _latent_items(todo: Plan, model: "Model", classes: Sequence[int] | None) -> list[Item]:
    """The latents of --latents. Raises UsageError: another model's, two of one name, more or fewer than fit."""
    import torch

    from ganctl.io.latents import read_latents
    from ganctl.protocols import classes_of

    name, label = shown_name(todo.request.model), classes_of(model.net)
    files = read_latents(todo.request.latents, model=name, revision=model.revision, shapes=shapes(model))
    request = todo.request
    check_settled(files, {"--class": classes, "--trunc": request.trunc, "--trunc-cutoff": request.trunc_cutoff})
    if classes and len(classes) > 1:
        why = f"a latent takes one class, these are {len(classes)}"
        raise UsageError(f"cannot use --class {quoted(request.classes)} with --latents", why)
    items: list[Item] = []
    for file in files:
        for i, row in enumerate(file.rows):
            stem = file.path.stem if len(file.rows) == 1 else f"{file.path.stem}-{i:04d}"
            latent = torch.from_numpy(row.copy())
            item = Item(stem, len(items), None, source=str(file.path))
            if file.space == "w":
                item = replace(item, w=latent, maps=_maps(file, model))
            else:
                item = replace(item, z=latent)
            if label is not None and file.space == "z":
                c = classes[0] if classes else file.c[i] if file.c else seed_class(item.number, label.n)
                item = replace(item, c=one_class(str(c), label.n, label.names))
            items.append(item)
    twice = next((name for name, n in Counter(i.name for i in items).items() if n > 1), None)
    if twice is not None:
        raise UsageError(f"two latents would be written as {quoted(twice)}", "their files have the same name")
    _check_count(todo, len(items), f"the files hold {len(items)} latents")
    return items


def _maps(file: "LatentFile", model: "Model") -> "dict[str, Tensor]":
    """The noise maps of a file. Raises UsageError for what the model has no place for."""
    import torch

    from ganctl.nn.drawing import noise_maps

    known = noise_maps(model.net) if file.maps else {}
    for name, value in file.maps.items():
        if name not in known or known[name].shape != value.shape:
            why = f"{quoted(model.name)} has no noise map {quoted(name[:80])} of shape {value.shape}"
            raise UsageError(f"cannot use the latents in {quoted(file.path)}", why)
    return {name: torch.from_numpy(value.copy()) for name, value in file.maps.items()}


def check_settled(files: "Sequence[LatentFile]", given: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that is given though a w from a file has settled it: class and truncation."""
    file = next((file for file in files if file.space == "w"), None)
    option = next((option for option, value in given.items() if value is not None), None)
    if file is not None and option is not None:
        why = f"{quoted(file.path)} holds w, in which class and truncation are settled"
        raise UsageError(f"cannot use {option} with --latents", why, "leave it out")
