"""Classes of images: from `dataset.json`, from files beside them in a tar, or from their folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from ganctl.data import Dataset
from ganctl.errors import UsageError, printable, quoted
from ganctl.io.archives import Member, read_member
from ganctl.io.files import read_regular
from ganctl.io.limits import MAX_BESIDE_BYTES, MAX_CLASSES, MAX_LIST_BYTES
from ganctl.io.listing import INDEX, ImageRef, Listing

SPLIT = "train/"
"""The folder of a data set with its splits that is trained on; it is no part of a class's name."""
SHOWN = 5
"""Kinds of ignored files that are named."""


@dataclass(frozen=True)
class Classes:
    """Class numbers [N] of images, with the classes' names; none of either where the images have none."""

    c: np.ndarray | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Why labels that are there were not taken."""


def labelled(data: Dataset, found: Listing, kept: Sequence[ImageRef]) -> Dataset:
    """The data with the classes of the images that were kept, and with notes of what was not read."""
    classes = classes_of(found, kept)
    data.c, data.classes = classes.c, classes.names
    data.notes = (*data.notes, *classes.notes, *ignored(found))
    return data


def classes_of(found: Listing, refs: Sequence[ImageRef], only: Literal["folders", "json"] | None = None) -> Classes:
    """The classes of `refs`: those of `dataset.json`, else of the files beside them, else their folders.

    Labels count where every image has one, and folders where there are two or more and every image is in one. `only`
    takes either folders or what is written down.
    """
    notes: list[str] = []
    if only != "folders":
        if found.index is not None and (labels := _indexed(found.index, refs, notes)) is not None:
            return numbered(*labels)
        if any(r.beside for r in refs) and (written := _beside(refs, notes)) is not None:
            return numbered(written)
    if only != "json":
        folders = [PurePosixPath(r.name.removeprefix(SPLIT)).parent.as_posix() for r in refs]
        names = set(folders)
        # NVIDIA's tools spread images over folders of a thousand, 00000 and so on, that are no classes.
        if len(names) >= 2 and "." not in names and (found.index is None or only == "folders"):
            return numbered(folders)
    return Classes(notes=tuple(notes))


def caption_of(ref: ImageRef) -> str | None:
    """The text beside an image in a tar; None without one, or for one that is no UTF-8 text."""
    member = next((m for m in ref.beside if m.name.lower().endswith(".txt")), None)
    try:
        return None if member is None else read_member(member, limit=MAX_BESIDE_BYTES).decode().strip()
    except (UsageError, UnicodeDecodeError):
        return None


def ignored(found: Listing) -> list[str]:
    """One note of the files of a WebDataset that nothing reads; none for folders and other archives."""
    read = (".cls", ".json", ".txt")
    others = [(extension, n) for extension, n in found.others if extension not in read]
    if not others or not any(r.beside for r in found.images):
        return []
    named = ", ".join(f"{n} {printable(extension)}" for extension, n in others[:SHOWN])
    more = f", and {len(others) - SHOWN} other kinds" if others[SHOWN:] else ""
    return [f"{sum(n for _, n in others)} files beside the images are not read: {named}{more}"]


def numbered(labels: Sequence[int | str], names: Sequence[str] = ()) -> Classes:
    """Numbers stay as they are, with the names given for them; names are numbered in their order."""
    if all(isinstance(label, int) for label in labels):
        c = np.array(labels, np.int64)
        count = int(c.max()) + 1
        return Classes(c, tuple(names[k] if k < len(names) else str(k) for k in range(count)))
    known = tuple(sorted({str(label) for label in labels}))
    number = {name: i for i, name in enumerate(known)}
    return Classes(np.array([number[str(label)] for label in labels]), known)


def _indexed(
    index: Path | Member, refs: Sequence[ImageRef], notes: list[str]
) -> tuple[Sequence[int | str], tuple[str, ...]] | None:
    """The labels of NVIDIA's `dataset.json`, {"labels": [["00000/img00000000.png", 6], …] or null}, and the names of
    the classes, which ours has beside them."""
    try:
        read = read_member if isinstance(index, Member) else read_regular
        value = json.loads(read(index, limit=MAX_LIST_BYTES))  # type: ignore[arg-type]
        rows = value["labels"]
        if rows is None:
            return None
        known = {str(name): label for name, label in rows}
    except (UsageError, ValueError, KeyError, TypeError, RecursionError):
        notes.append(f"{INDEX} gives no classes: it has no list of labels as NVIDIA's tools write it")
        return None
    labels = [known.get(r.name) for r in refs]
    names = value.get("classes")
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    found = _all_known(labels, [r.name for r in refs], f"{INDEX} gives no classes", notes)
    return None if found is None else (found, tuple(names) if whole else ())


def _beside(refs: Sequence[ImageRef], notes: list[str]) -> Sequence[int | str] | None:
    labels = [_written(ref) for ref in refs]
    if all(label is None for label in labels):
        return None
    return _all_known(labels, [r.label for r in refs], "the tars give no classes", notes)


def _written(ref: ImageRef) -> object:
    """What stands beside an image: the name in its .json, else its .cls, else the number in its .json.

    None where nothing does, and an empty text, which is no class, where it cannot be read.
    """
    files = {m.name.rpartition(".")[2].lower(): m for m in ref.beside}
    texts: dict[str, str] = {}
    for kind in ("json", "cls"):
        if kind in files:
            try:
                texts[kind] = read_member(files[kind], limit=MAX_BESIDE_BYTES).decode().strip()
            except (UsageError, UnicodeDecodeError):
                return ""
    try:
        record = json.loads(texts["json"]) if "json" in texts else {}
    except (ValueError, RecursionError):
        return ""
    label: Any = record.get("label") if isinstance(record, Mapping) else None
    if "cls" in texts and not isinstance(label, str):
        number = texts["cls"]
        return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else number
    return label


def _all_known(
    labels: Sequence[object], names: Sequence[str], what: str, notes: list[str]
) -> Sequence[int | str] | None:
    """The labels if each is a class: all of them numbers from 0, or all of them names."""
    for kind in (int, str):
        if all(_is_class(label, kind) for label in labels):
            return labels  # type: ignore[return-value]
    vectors = sum(isinstance(label, list) for label in labels)
    bad = [name for name, label in zip(names, labels, strict=True) if not _is_class(label, (int, str))]
    if vectors == len(labels):
        notes.append(f"{what}: its labels are lists of numbers, and classes are numbers")
    elif bad:
        notes.append(f"{what}: {len(bad)} of {len(labels)} images have none, the first {quoted(bad[0])}")
    else:
        notes.append(f"{what}: some are numbers and others names")
    return None


def _is_class(label: object, kind: type | tuple[type, ...]) -> bool:
    if isinstance(label, bool) or not isinstance(label, kind):
        return False
    return 0 <= label < MAX_CLASSES if isinstance(label, int) else bool(label) and len(str(label)) <= 200
