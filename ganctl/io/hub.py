"""Roads to weights outside the package: the Hub's cache and client, and the authors' files; all are hash-checked.

A hash that nobody published is that of the first download, remembered in the user's lock file (trust on first use).
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from ganctl.catalog import COMMIT, HubFile, Upstream, ZooEntry, entries, url_fault
from ganctl.config import MAX_YAML_BYTES
from ganctl.errors import GanctlError, UsageError, WeightsError, quoted
from ganctl.io.bundle import read_bundle
from ganctl.io.files import atomic_write, cache_root, sha256, write_error
from ganctl.io.network import SEE_INFO, MissingFileError, UnreachableError, download_to, hub_requests, offline
from ganctl.io.progress import SILENT, Reporter

SHA256 = re.compile(r"[0-9a-f]{64}")
WEIGHTS = (b"\x80", b"PK")
"""How a pickle and an archive of torch.save begin."""


def not_cached(name: str) -> WeightsError:
    """What every road says when it would need a request and may not make one."""
    return WeightsError(
        f"{name} not cached and offline; run: ganctl zoo pull {name}",
        "its weights are not on this machine, and --offline or HF_HUB_OFFLINE forbids requests",
        f"ganctl zoo pull {name}",
    )


def file_digest(path: Path) -> str:
    """The sha256 of a file, computed once: remembered by real path, size and time under the cache."""
    real = path.resolve()
    info = real.stat()
    key = hashlib.sha256(f"{real}|{info.st_size}|{info.st_mtime_ns}".encode("utf-8", "surrogateescape")).hexdigest()
    note = cache_root() / "sha256" / key
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = note.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    digest = sha256(real)
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(GanctlError), atomic_write(note) as f:
        f.write(digest.encode())
    return digest


# The Hub's cache


def hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def hub_pointer(hub: HubFile) -> Path:
    """Where the Hub's cache has the file, whether it is there or not. Needs no request and no import of its client."""
    return hub_cache() / f"models--{hub.repo.replace('/', '--')}" / "snapshots" / hub.revision / hub.file


def fetch_hub(name: str, hub: HubFile, *, reporter: Reporter = SILENT) -> Path:
    """The pinned file in the Hub's cache, downloaded when absent, its sha256 checked before first use.

    Makes no request when it is there. A cached file that differs is fetched once more. Raises WeightsError.
    """
    pointer = hub_pointer(hub)
    if pointer.is_file():
        if file_digest(pointer) == hub.sha256:
            return pointer
        if offline():
            raise _differs(name, pointer, hub.sha256)
        reporter.warn(f"the cached file of {name} is damaged", "its sha256 differs from the zoo's", "fetching it again")
        remove_pointer(pointer, damaged=True)
    elif offline():
        raise not_cached(name)
    path = _download(hub.repo, hub.file, hub.revision, reporter, stage=f"pull {name}")
    if file_digest(path) != hub.sha256:
        fault = _differs(name, path, hub.sha256)
        remove_pointer(path, damaged=True)
        raise fault
    return path


def _differs(name: str, path: Path, expected: str, *, how: str = "", found: str = "") -> WeightsError:
    what, found = f"cannot use weights {quoted(path.name)} of {name}", found or file_digest(path)
    if "first seen" in how:
        return WeightsError(
            what,
            f"its sha256 is {found}, and was {expected} when it was {how[how.index('first seen') :]}",
            f"if its authors replaced it, remove the line of {expected[:8]} from {quoted(lock_file())}, then "
            f"ganctl zoo rm {name} --yes && ganctl zoo pull {name}; else report it",
        )
    return WeightsError(
        what,
        f"its sha256 is {found}, the zoo says {expected}",
        f"try once more: ganctl zoo pull {name}; if it stays, report it: these are not the weights that were published",
    )


def remove_pointer(pointer: Path, *, damaged: bool = False) -> int:
    """Removes one file of the Hub's cache, and its blob unless another snapshot uses it. Gives the bytes freed.

    A damaged blob goes in any case: its name promises bytes that it does not hold.
    """
    blob = pointer.resolve()
    size = blob.stat().st_size if blob.is_file() else 0
    pointer.unlink(missing_ok=True)
    if blob == pointer:
        return size
    snapshots = pointer.parent.parent
    if not damaged and any(p.is_symlink() and p.resolve() == blob for p in snapshots.rglob("*")):
        return 0
    blob.unlink(missing_ok=True)
    return size


def _download(repo: str, file: str, revision: str, reporter: Reporter, *, stage: str) -> Path:
    with hub_requests(repo, reporter):
        from huggingface_hub import hf_hub_download

        from ganctl import __version__

        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                library_name="ganctl",
                library_version=__version__,
                tqdm_class=_bar(reporter, stage),
            )
        )


def _bar(reporter: Reporter, stage: str) -> Any:
    """A progress bar class for the Hub client that draws nothing and tells the reporter."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, total: int | None = None, initial: int = 0, **_: Any) -> None:
            super().__init__(total=total, initial=initial, disable=True)
            self.done = initial

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            reporter.progress(stage, self.done, int(self.total or 0))

    return Bar


def fetch_repo(ref: str, repo: str, revision: str, *, reporter: Reporter = SILENT) -> tuple[Path, str]:
    """Anyone's bundle on the Hub: (folder in the Hub's cache, commit). Only model.json and the files it names are read.

    A branch or tag is resolved to its commit first; without a network the last known commit is used, with a warning.
    """
    revision = revision or "main"
    pinned = bool(COMMIT.fullmatch(revision))
    card = _cached_file(repo, revision)
    if card is None and offline():
        raise not_cached(ref)
    if card is None or not (pinned or offline()):
        try:
            card = _download(repo, "model.json", revision, reporter, stage=f"pull {ref}")
        except UnreachableError as e:
            if card is None:
                raise
            reporter.warn(f"using the cached copy of {ref}", e.message, e.hint)
        except WeightsError as e:
            if isinstance(e, MissingFileError):
                raise WeightsError(
                    f"cannot use {quoted(ref)} as a model",
                    "it holds no model.json: it is no ganctl bundle",
                    "ganctl convert reads files of known layouts once they are downloaded",
                ) from e
            raise
    folder = card.parent
    for file in read_bundle(folder).nets.values():
        if not (folder / file).is_file():
            if offline():
                raise not_cached(ref)
            _download(repo, file, folder.name, reporter, stage=f"pull {ref}")
    return folder, folder.name


def _cached_file(repo: str, revision: str) -> Path | None:
    """model.json of a repository in the Hub's cache, at a commit or the last known commit of a branch."""
    base = hub_cache() / f"models--{repo.replace('/', '--')}"
    commit = revision
    if not COMMIT.fullmatch(revision):
        if ".." in revision or revision.startswith("/"):
            raise UsageError(
                f"cannot use revision {quoted(revision)}", "it is no branch, tag or commit", "leave it out"
            )
        try:
            commit = (base / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    path = base / "snapshots" / commit / "model.json"
    return path if COMMIT.fullmatch(commit) and path.is_file() else None


# A zoo elsewhere


def kept_zoo(address: str) -> Path:
    """Where the zoo of an address is kept, whether it is there or not."""
    return cache_root() / "zoos" / hashlib.sha256(address.encode()).hexdigest()[:16] / "zoo.yaml"


def fetch_zoo(address: str, *, reporter: Reporter = SILENT) -> Path:
    """The zoo.yaml at an address, read strictly before it takes the place of the one that was kept.

    An address that ends in `#sha256=<64 hex>` is pinned: its copy is used without a request. Any other is asked for
    each time; offline, or where no server answers, the copy does. Raises UsageError (no address, no zoo), WeightsError.
    """
    url, pinned, wanted = address.partition("#sha256=")
    what, path = f"cannot use zoo {quoted(url)}", kept_zoo(address)
    fault = url_fault(url) or ("has no sha256 of 64 hex digits" if pinned and not SHA256.fullmatch(wanted) else "")
    if fault:
        raise UsageError(what, f"it {fault}", "give a file, or https://HOST/zoo.yaml, perhaps with #sha256=DIGEST")
    here = path.is_file() and (not pinned or file_digest(path) == wanted)
    if here and (pinned or offline()):
        return path
    if offline():
        raise WeightsError(
            what, "it is not cached, and --offline or HF_HUB_OFFLINE forbids requests", "run once without"
        )
    stream = io.BytesIO()
    try:
        download_to(url, stream, expected=0, limit=MAX_YAML_BYTES, reporter=reporter, stage="zoo")
    except UnreachableError as e:
        if not here:
            raise
        reporter.warn("using the cached copy of the zoo", e.message, e.hint)
        return path
    data = stream.getvalue()
    if pinned and (found := hashlib.sha256(data).hexdigest()) != wanted:
        raise WeightsError(
            what, f"its sha256 is {found}, the address says {wanted}", "ask whoever gave you the address"
        )
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "zoo.yaml")
        fresh.write_bytes(data)
        try:
            entries(fresh)
        except UsageError as e:
            raise UsageError(what, e.why, e.hint) from e
    with atomic_write(path) as f:
        f.write(data)
    return path


# The authors' own files


def upstream_file(upstream: Upstream) -> Path:
    """Where a download of the authors' file is kept, whether it is there or not."""
    return cache_root() / "upstream" / _key(upstream) / urlsplit(upstream.url).path.rpartition("/")[2]


def upstream_bundle(entry: ZooEntry) -> Path:
    """Where the bundle converted from it is kept. Its name holds the hash, so a new pin is a new folder."""
    assert entry.upstream is not None
    return cache_root() / "bundles" / f"{entry.name}-{_key(entry.upstream)[:16]}"


def _key(upstream: Upstream) -> str:
    """Names a file in the cache: its published hash, or where there is none, the hash of its address."""
    return upstream.sha256 or hashlib.sha256(upstream.url.encode()).hexdigest()


def lock_file() -> Path:
    """The user's lock file: a JSON object a line, of each download whose whole hash nobody published.

    It is only ever appended to, by one write a line, so that no process needs to lock it; of several lines about one
    file the first holds. `zoo rm` leaves it alone.
    """
    return cache_root() / "first-seen.jsonl"


def pin(upstream: Upstream) -> tuple[str, str]:
    """What the authors' file is held to: (sha256, its beginning or nothing; how it is known).

    How: `published`, `prefix`, `prefix, first seen DATE`, `first seen DATE`, or empty: nothing is known before the
    first download.
    """
    if len(upstream.sha256) == 64:
        return upstream.sha256, "published"
    told = "prefix" if upstream.sha256 else ""
    for line in _first_seen():
        # What was seen before the zoo had this beginning says nothing about the file that it has now.
        if line["url"] == upstream.url and line["sha256"].startswith(upstream.sha256):
            return line["sha256"], f"{told}, first seen {line['date']}".removeprefix(", ")
    return upstream.sha256, told


def _first_seen() -> tuple[dict[str, str], ...]:
    path = lock_file()
    try:
        info = path.stat()
    except OSError:
        return ()
    return _read_lock(path, info.st_mtime_ns, info.st_size)


@lru_cache(maxsize=4)
def _read_lock(path: Path, _time: int, _size: int) -> tuple[dict[str, str], ...]:
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # A line that a full disk cut short belongs to a download that failed with it.
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and all(isinstance(value.get(k), str) for k in ("url", "sha256", "date")):
                found.append(value)
    return tuple(found)


def _hold(name: str, upstream: Upstream, path: Path, digest: str, size: int, reporter: Reporter) -> None:
    """Compares a whole download with what is known, remembers it where it is the first. Raises WeightsError."""
    known, how = pin(upstream)
    if "published" not in how and "first seen" not in how and digest.startswith(known):
        line = {"name": name, "url": upstream.url, "sha256": digest, "bytes": size}
        _append({**line, "date": datetime.now(UTC).date().isoformat()})
        what = f"only the first {len(known)} digits of its sha256 were" if known else "its sha256 was not"
        sized = "" if upstream.bytes or known else ", nor was its size"
        reporter.note(f"{name}: {what} published{sized}; {digest} is remembered, and later downloads must equal it")
        # Another process may have been faster, with other bytes.
        known, how = pin(upstream)
    if not digest.startswith(known):
        raise _differs(name, path, known, how=how, found=digest)


def _append(value: Mapping[str, Any]) -> None:
    path = lock_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(fd, "rb+", buffering=0) as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(size - 1, 0))
            begin = b"" if f.read(1) in (b"", b"\n") else b"\n"
            data = begin + json.dumps(value).encode() + b"\n"
            if f.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
    except OSError as e:
        raise write_error(path, e) from e


def fetch_upstream(name: str, upstream: Upstream, *, reporter: Reporter = SILENT) -> Path:
    """The authors' file, downloaded when absent; size and sha256 are checked before it gets its name.

    Where no whole sha256 was published, that of the first download is remembered, and holds from then on. Raises
    WeightsError.
    """
    path = upstream_file(upstream)
    if path.is_file():
        known, how = pin(upstream)
        digest = file_digest(path)
        if digest.startswith(known):
            _hold(name, upstream, path, digest, path.stat().st_size, reporter)
            return path
        if offline():
            raise _differs(name, path, known, how=how)
        reporter.warn(f"the cached file of {name} is damaged", "its sha256 is another", "fetching it again")
    elif offline():
        raise not_cached(name)
    with atomic_write(path) as f:
        download_to(upstream.url, f, expected=upstream.bytes, reporter=reporter, stage=f"pull {name}")
        size = f.tell()
        f.seek(0)
        # A page that asks for a login or a click must not be remembered as the weights.
        if not upstream.sha256 and not f.read(2).startswith(WEIGHTS):
            raise WeightsError(
                f"cannot use the download of {name}", "it is no file of weights: a web page, perhaps", SEE_INFO
            )
        f.seek(0)
        digest = hashlib.file_digest(cast("Any", f), "sha256").hexdigest()
        _hold(name, upstream, path, digest, size, reporter)
    return path


# Uploads


def check_upload(repo: str) -> None:
    """What can be known without a request. Raises WeightsError when offline or without a token."""
    if offline():
        raise WeightsError(
            f"cannot push to {quoted(repo)}", "--offline or HF_HUB_OFFLINE forbids requests", "run it without"
        )
    from huggingface_hub import get_token

    if not get_token():
        raise WeightsError(
            f"cannot push to {quoted(repo)}",
            "no Hub token is set",
            "set HF_TOKEN to a token that may write, or: hf auth login",
        )


def upload(
    repo: str, files: Mapping[str, Path | bytes], *, private: bool, message: str, reporter: Reporter = SILENT
) -> str:
    """Creates the repository when absent and commits all files at once. Gives the commit. Raises WeightsError."""
    check_upload(repo)
    with hub_requests(repo, reporter):
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        shown = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            api = HfApi(library_name="ganctl")
            reporter.progress(f"push {repo}", 0, len(files))
            api.create_repo(repo, private=private or None, exist_ok=True)
            operations = [CommitOperationAdd(name, data) for name, data in files.items()]
            info = api.create_commit(repo, operations, commit_message=message)
            reporter.progress(f"push {repo}", len(files), len(files))
        finally:
            # The bars' switch is the whole process's: it is put back as it was.
            if shown and not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
                enable_progress_bars()
        return info.oid
