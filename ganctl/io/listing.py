"""The one lister of images: a folder, a zip or tar, several tars, or a single file; and the inputs of a command."""

import codecs
import fnmatch
import glob
import io
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ganctl.errors import UsageError, quoted
from ganctl.io.archives import BadArchive, Member, kind_of, read_contents, read_member
from ganctl.io.files import read_regular
from ganctl.io.images import BadImage
from ganctl.io.limits import MAX_FILES, MAX_FOLDER_DEPTH, MAX_IMAGE_BYTES, MAX_LIST_BYTES, MAX_SHARDS
from ganctl.io.shards import files_beside, further_images, key_of, shard_paths

EXTENSIONS = frozenset(f".{e}" for e in "png jpg jpeg jpe jfif webp gif bmp tif tiff ppm pgm pbm pnm".split())  # noqa: SIM905

INDEX = "dataset.json"


@dataclass(frozen=True)
class ImageRef:
    """An image that can be read: a file, an archive's member, or standard input."""

    name: str
    """Relative POSIX path below the folder or archive; the file name of a single file; '-' for standard input."""
    size: int
    mtime: float
    source: Path | Member | None
    """None is standard input."""
    beside: tuple[Member, ...] = ()
    """In an archive, the files of the same sample (io/shards.py)."""

    @property
    def label(self) -> str:
        """The name for messages: with its folder, or `faces.zip:a/b.png`."""
        if isinstance(self.source, Member):
            return f"{self.source.archive}:{self.name}"
        return "standard input" if self.source is None else str(self.source)

    @property
    def path(self) -> Path | None:
        """The file itself, where there is one."""
        return self.source if isinstance(self.source, Path) else None

    def read(self) -> bytes:
        """The file's bytes. Raises BadImage (not regular, too large, gone, damaged archive)."""
        try:
            if isinstance(self.source, Member):
                return read_member(self.source)
            if isinstance(self.source, Path):
                return read_regular(self.source, limit=MAX_IMAGE_BYTES)
        except UsageError as e:
            raise BadImage(f"cannot read image {quoted(self.label)}", e.why, e.hint) from e
        data = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise BadImage("cannot read image '-'", f"standard input has more than {MAX_IMAGE_BYTES} bytes")
        return data

    def open(self) -> IO[bytes]:
        """A stream of the same bytes."""
        return io.BytesIO(self.read())


@dataclass(frozen=True)
class Listing:
    """What a source holds: images in name order, and every image-like name left out, with the reason."""

    images: tuple[ImageRef, ...]
    skipped: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, int], ...]
    """Extensions of the files that are no images, with their number, most frequent first."""
    index: Path | Member | None = None
    """The file `dataset.json` at the top, if there is one: classes by name (data/labels.py)."""


@dataclass(frozen=True)
class Input:
    """One input of a command: where the user named it, and what to read."""

    given: str
    ref: ImageRef


def scan(source: str | Path, *, recursive: bool = True) -> Listing:
    """Lists a folder, zip, tar or single file. Raises UsageError (no such path, damaged archive).

    A folder of tars, or a pattern such as `shard-{000..003}.tar`, is the tars together, in their order.
    """
    if shards := shard_paths(source):
        return _scan_shards(shards, recursive)
    path = Path(source)
    try:
        info = path.stat()
    except (OSError, ValueError) as e:
        raise UsageError(f"cannot read {quoted(source)}", _missing(path, e)) from e
    if stat.S_ISDIR(info.st_mode):
        found = _scan_folder(path, recursive)
        if not found.images and any(extension == ".tar" for extension, _ in found.others):
            shards = sorted(p for p in path.glob("*.tar") if p.is_file() and not p.name.startswith("."))
            if len(shards) > MAX_SHARDS:
                raise UsageError(f"cannot list {quoted(path)}", f"it holds more than {MAX_SHARDS} tars")
            return _scan_shards(shards, recursive) if shards else found
        return found
    if not stat.S_ISREG(info.st_mode):
        raise UsageError(f"cannot read {quoted(source)}", "it is neither a folder nor a regular file")
    if kind_of(path):
        return _scan_archive(path, recursive)
    return Listing((ImageRef(path.name, info.st_size, info.st_mtime, path),), (), ())


def find_images(source: str | Path, *, recursive: bool = True) -> list[ImageRef]:
    """The images of a folder, zip, tar or single file, sorted by name, none twice, whatever the case of the extension.

    Hidden files are left out; folders and archives may hold other files. Raises UsageError when there is no image,
    naming the extensions that were found.
    """
    found = scan(source, recursive=recursive)
    if not found.images:
        raise no_images(source, found)
    return list(found.images)


def no_images(source: str | Path, found: Listing) -> UsageError:
    """The error for a source without a single image, naming what is there instead."""
    parts = [f"it holds {', '.join(f'{n} {e}' for e, n in found.others[:5])}"] if found.others else []
    if found.skipped:
        name, why = found.skipped[0]
        parts.append(f"{len(found.skipped)} skipped, the first {quoted(name)}: {why}")
    return UsageError(
        f"no images in {quoted(source)}",
        "; ".join(parts) or "it is empty",
        f"images end in {', '.join(sorted(EXTENSIONS))}",
    )


def expand_inputs(
    inputs: Sequence[str],
    from_file: str | None = None,
    recursive: bool = True,
    *,
    on_skip: Callable[[str, str], None] = lambda name, why: None,
) -> list[Input]:
    """Files, folders, archives, globs and '-' as single images, in the order given, none twice.

    `from_file` is a list with one path per line (or separated by NUL, as `find -print0` writes it); '-' is standard
    input. `on_skip(name, why)` hears of every image that is left out. Raises UsageError naming every path that is not
    there, up to five.
    """
    listed = _read_list(from_file) if from_file else []
    named = [*inputs, *listed]
    if not named and from_file:
        raise UsageError(f"no input in --from-file {quoted(from_file)}", "the list names no path")
    if not named:
        raise UsageError("no input", "neither a path nor --from-file names one", "pass files, folders or '-'")
    if named.count("-") > 1 or ("-" in named and from_file == "-"):
        raise UsageError("cannot read standard input twice", "'-' is named more than once")
    found: list[Input] = []
    missing: list[str] = []
    seen: dict[object, str] = {}
    for given in named:
        if given == "-":
            found.append(Input("-", ImageRef("-", 0, 0.0, None)))
            continue
        paths = _matches(given)
        if not paths:
            missing.append(given)
        for path in paths:
            # What was named itself may have any extension; what is found in a folder must look like an image.
            listing = scan(path, recursive=recursive)
            if not listing.images:
                raise no_images(path, listing)
            for name, why in listing.skipped:
                on_skip(f"{path.rstrip('/')}/{name}", why)
            for ref in listing.images:
                key = _identity(ref)
                if key in seen:
                    on_skip(ref.label, "it is named twice" if seen[key] == ref.label else f"it is {seen[key]} again")
                else:
                    seen[key] = ref.label
                    found.append(Input(given, ref))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        listed = ", ".join(map(quoted, missing[:5])) + more
        raise UsageError(f"no such path: {listed}", "nothing there has that name or matches that pattern")
    return found


def _scan_folder(root: Path, recursive: bool) -> Listing:
    images: list[ImageRef] = []
    skipped: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    for entry, name in _walk(root, recursive, skipped):
        if Path(name).suffix.lower() not in EXTENSIONS:
            others[Path(name).suffix.lower() or "(no extension)"] += 1
            continue
        try:
            info = entry.stat()
        except OSError as e:
            skipped.append((name, "it is a broken link" if entry.is_symlink() else e.strerror or str(e)))
            continue
        if entry.name.startswith("."):
            skipped.append((name, "it is hidden"))
        elif not stat.S_ISREG(info.st_mode):
            skipped.append((name, "it is not a regular file"))
        else:
            images.append(ImageRef(name, info.st_size, info.st_mtime, Path(entry.path)))
        if len(images) > MAX_FILES:
            raise UsageError(f"cannot list {quoted(root)}", f"it holds more than {MAX_FILES} images")
    # A real file goes before a link to it, so the link is the one left out.
    images.sort(key=lambda r: (r.path.is_symlink() if r.path else False, r.name))
    seen: dict[object, str] = {}
    kept = []
    for ref in images:
        first = seen.setdefault(_identity(ref), ref.name)
        if first == ref.name:
            kept.append(ref)
        else:
            skipped.append((ref.name, f"it is a link to {first}"))
    kept.sort(key=lambda r: r.name)
    index = root / INDEX if (root / INDEX).is_file() else None
    return Listing(tuple(kept), tuple(sorted(skipped)), tuple(others.most_common()), index)


def _walk(root: Path, recursive: bool, skipped: list[tuple[str, str]]) -> Iterator[tuple[os.DirEntry, str]]:
    """Every non-folder below `root` with its relative name. Each folder is entered once, however links lead to it."""
    stack = [(str(root), "", 0)]
    entered: set[str] = set()
    while stack:
        folder, prefix, depth = stack.pop()
        real = os.path.realpath(folder)
        if real in entered:
            skipped.append((prefix.rstrip("/"), "a link to a folder that is listed already"))
            continue
        entered.add(real)
        try:
            with os.scandir(folder) as entries:
                children = sorted(entries, key=lambda e: e.name)
        except OSError as e:
            if not prefix:
                raise UsageError(f"cannot read {quoted(root)}", e.strerror or str(e)) from e
            skipped.append((prefix.rstrip("/"), e.strerror or str(e)))
            continue
        deeper = []
        for entry in children:
            name = prefix + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that leads to itself
                is_folder = False
            if not is_folder:
                yield entry, name
            elif not recursive or entry.name.startswith(".") or entry.name == "__MACOSX":
                if recursive:
                    skipped.append((name, "a hidden folder"))
            elif depth >= MAX_FOLDER_DEPTH:
                skipped.append((name, f"deeper than {MAX_FOLDER_DEPTH} folders"))
            else:
                # Real folders first: a link to one of them is then the one left out.
                deeper.append((entry.is_symlink(), entry.path, name))
        stack = [*((p, n + "/", depth + 1) for link, p, n in reversed(deeper) if link), *stack]
        stack += [(p, n + "/", depth + 1) for link, p, n in reversed(deeper) if not link]


def _scan_shards(paths: Sequence[Path], recursive: bool) -> Listing:
    """Several archives as one set: each one's images in name order, one archive after the other."""
    parts = [_scan_archive(path, recursive) for path in paths]
    others = sum((Counter(dict(part.others)) for part in parts), Counter())
    images = tuple(ref for part in parts for ref in part.images)
    if len(images) > MAX_FILES:
        raise UsageError(f"cannot list {quoted(paths[0])} and others", f"they hold more than {MAX_FILES} images")
    # A name may be in several archives; what is left out is told with its own.
    skipped = [(f"{path}:{name}", why) for path, part in zip(paths, parts, strict=True) for name, why in part.skipped]
    return Listing(images, tuple(skipped), tuple(others.most_common()))


def _scan_archive(path: Path, recursive: bool) -> Listing:
    contents = read_contents(path)
    images, others = [], Counter[str]()
    skipped = [(n, w) for n, w in contents.skipped if Path(n).suffix.lower() in EXTENSIONS]
    beside = files_beside(contents.members)
    further = further_images((m.name for m in contents.members if Path(m.name).suffix.lower() in EXTENSIONS), beside)
    for m in contents.members:
        parts = m.name.split("/")
        suffix = Path(m.name).suffix.lower()
        if suffix not in EXTENSIONS:
            others[suffix or "(no extension)"] += 1
        elif any(p.startswith(".") or p == "__MACOSX" for p in parts):
            skipped.append((m.name, "it is hidden"))
        elif m.name in further:
            skipped.append((m.name, further[m.name]))
        elif recursive or len(parts) == 1:
            images.append(ImageRef(m.name, m.size, m.mtime, m, beside.get(key_of(m.name), ())))
    images.sort(key=lambda r: r.name)
    index = next((m for m in contents.members if m.name == INDEX), None)
    return Listing(tuple(images), tuple(sorted(skipped)), tuple(others.most_common()), index)


def _identity(ref: ImageRef) -> object:
    if isinstance(ref.source, Member):
        return os.path.realpath(ref.source.archive), ref.name
    return os.path.realpath(ref.source) if ref.source else "-"


def _matches(given: str) -> list[str]:
    if shard_paths(given):
        return [given]
    if os.path.lexists(given) or not glob.has_magic(given):
        return [given] if os.path.lexists(given) else []
    if "**" in given.split("/"):
        return _deep_matches(given)
    hits = sorted(glob.glob(given))  # noqa: PTH207 (absolute patterns too)
    # A folder that a pattern matches beside files is taken only when nothing else matched.
    files = [h for h in hits if not os.path.isdir(h)]  # noqa: PTH112 (text in, text out)
    return files or hits


def _deep_matches(given: str) -> list[str]:
    """Files that match a pattern with `**`. Python's own glob follows links that lead in circles."""
    parts = given.split("/")
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:fixed]) + "/" if fixed else ""
    if not os.path.isdir(root or "."):  # noqa: PTH112 (text in, text out)
        return []
    names = [name for _, name in _walk(Path(root or "."), True, []) if _fits(name.split("/"), parts[fixed:])]
    return [root + name for name in sorted(names)]


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts or not names:
        return names == parts
    if parts[0] == "**":
        return parts == ["**"] or _fits(names, parts[1:]) or (len(names) > 1 and _fits(names[1:], parts))
    hidden = names[0].startswith(".") and not parts[0].startswith(".")
    return not hidden and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _read_list(source: str) -> list[str]:
    if source == "-":
        data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise UsageError("cannot use --from-file '-'", f"the list has more than {MAX_LIST_BYTES} bytes")
    else:
        data = read_regular(Path(source), limit=MAX_LIST_BYTES)
    if b"\0" in data:
        lines = data.split(b"\0")
    else:
        # Written on Windows: a byte order mark first, lines that end in CR LF.
        lines = [line.removesuffix(b"\r") for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    return [os.fsdecode(line) for line in lines if line.strip()]


def _missing(path: Path, e: Exception) -> str:
    if path.is_symlink():
        return "it is a broken link"
    return "there is no such path" if isinstance(e, FileNotFoundError) else getattr(e, "strerror", None) or str(e)


__all__ = ["BadArchive", "ImageRef", "Input", "Listing", "expand_inputs", "find_images", "no_images", "scan"]
