"""Roads to weights outside the package: the Hub's cache and client, and the authors' files; all are hash-checked."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from ganctl.catalog import COMMIT, HubFile, Upstream, ZooEntry
from ganctl.errors import GanctlError, UsageError, WeightsError, quoted
from ganctl.io.bundle import read_bundle
from ganctl.io.files import atomic_write, cache_root, sha256
from ganctl.io.network import MissingFileError, UnreachableError, download_to, hub_requests, offline
from ganctl.io.progress import SILENT, Reporter


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


def _differs(name: str, path: Path, expected: str, *, found: str = "") -> WeightsError:
    return WeightsError(
        f"cannot use weights {quoted(path.name)} of {name}",
        f"its sha256 is {found or file_digest(path)}, the zoo says {expected}",
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


# The authors' own files


def upstream_file(upstream: Upstream) -> Path:
    """Where a download of the authors' file is kept, whether it is there or not."""
    return cache_root() / "upstream" / upstream.sha256 / urlsplit(upstream.url).path.rpartition("/")[2]


def upstream_bundle(entry: ZooEntry) -> Path:
    """Where the bundle converted from it is kept. Its name holds the hash, so a new pin is a new folder."""
    assert entry.upstream is not None
    return cache_root() / "bundles" / f"{entry.name}-{entry.upstream.sha256[:16]}"


def fetch_upstream(name: str, upstream: Upstream, *, reporter: Reporter = SILENT) -> Path:
    """The authors' file, downloaded when absent; size and sha256 are checked before it gets its name."""
    path = upstream_file(upstream)
    if path.is_file():
        if file_digest(path).startswith(upstream.sha256):
            return path
        if offline():
            raise _differs(name, path, upstream.sha256)
        reporter.warn(f"the cached file of {name} is damaged", "its sha256 differs from the zoo's", "fetching it again")
    elif offline():
        raise not_cached(name)
    with atomic_write(path) as f:
        download_to(upstream.url, f, expected=upstream.bytes, reporter=reporter, stage=f"pull {name}")
        f.seek(0)
        digest = hashlib.file_digest(cast("Any", f), "sha256").hexdigest()
        if not digest.startswith(upstream.sha256):
            raise _differs(name, path, upstream.sha256, found=digest)
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
