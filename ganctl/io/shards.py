"""Parts of one set: the tars that a pattern or a folder names, and the files of one WebDataset sample.

WebDataset: files of a tar whose names are alike up to the first dot of their last part are one sample, such as
`a/0001.jpg`, `a/0001.cls`, `a/0001.txt` and `a/0001.json`.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ganctl.errors import UsageError, quoted
from ganctl.io.archives import Member
from ganctl.io.limits import MAX_SHARDS

BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
BESIDE = (".cls", ".json", ".txt")
"""What is read beside an image: its class, a record, its caption."""


def shard_names(pattern: str) -> list[str] | None:
    """The names that `shard-{000..003}.tar` stands for, in its order, as a shell has it; None for any other text.

    Raises UsageError for two braces, a range that runs backwards, or more than MAX_SHARDS names.
    """
    found = BRACES.findall(pattern)
    if not found:
        return None
    where, example = f"cannot use {quoted(pattern)}", "for example shard-{000..127}.tar"
    if len(found) > 1:
        raise UsageError(where, "it has two ranges in braces", example)
    first, last = found[0]
    if int(last) < int(first):
        raise UsageError(where, f"its range runs backwards, from {first} to {last}", example)
    if int(last) - int(first) >= MAX_SHARDS:
        raise UsageError(where, f"it names more than {MAX_SHARDS} files", example)
    padded = any(len(n) > 1 and n[0] == "0" for n in found[0])
    width = max(len(first), len(last)) if padded else 1
    return [BRACES.sub(f"{i:0{width}}", pattern) for i in range(int(first), int(last) + 1)]


def shard_paths(source: str | Path) -> list[Path] | None:
    """The files of a pattern in braces, all of which are there; None where `source` is a path, or no pattern.

    Raises UsageError naming up to five that are missing.
    """
    if os.path.lexists(source) or (names := shard_names(str(source))) is None:
        return None
    missing = [name for name in names if not Path(name).is_file()]
    if missing:
        listed = ", ".join(map(quoted, missing[:5])) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise UsageError(f"cannot read {quoted(source)}", f"{len(missing)} of {len(names)} files are missing: {listed}")
    return [Path(name) for name in names]


def is_there(source: str | Path) -> bool:
    """Whether there is a file or folder of that name, or one at all of those that a pattern stands for."""
    if os.path.lexists(source):
        return Path(source).exists()
    return any(Path(name).is_file() for name in shard_names(str(source)) or ())


def key_of(name: str) -> str:
    """What the names of a sample's files have in common: all up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def files_beside(members: Iterable[Member]) -> dict[str, tuple[Member, ...]]:
    """Of each sample that has any, its files that end in one of BESIDE, by its key."""
    found: dict[str, list[Member]] = {}
    for member in members:
        if Path(member.name).suffix.lower() in BESIDE:
            found.setdefault(key_of(member.name), []).append(member)
    return {key: tuple(files) for key, files in found.items()}


def further_images(names: Iterable[str], beside: Mapping[str, object]) -> dict[str, str]:
    """Images that are not their sample's own (`0001.mask.png` where there is `0001.jpg`), each with the reason.

    Only of samples with files beside the image: in any other archive a dot in a name is a letter like others.
    """
    names = list(names)
    plain = Counter(key_of(n) for n in names if n.rpartition("/")[2].count(".") == 1)
    why = "its sample has another image, whose name has no second dot"
    return {n: why for n in names if (k := key_of(n)) in beside and plain[k] and n.rpartition("/")[2].count(".") > 1}
