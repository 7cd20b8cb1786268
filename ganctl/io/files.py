"""Writing: every file and folder appears under its name only when it is whole."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ganctl.errors import GanctlError, UsageError, quoted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEMPORARY = ".ganctl-tmp"
# Python can only read the umask by setting it, which no other thread may notice: so once, at import.
UMASK = os.umask(0o022)
os.umask(UMASK)
_swept: set[Path] = set()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream that becomes `path` when the block ends: written beside, flushed, renamed, folder flushed.

    An exception leaves the old file as it was and no temporary behind; what a killed process left in the folder is
    removed on the way. Raises GanctlError for a full disk or a refused permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        fd, temporary = _locked_temporary(path, tempfile.mkstemp)
        assert fd is not None
    except OSError as e:
        raise write_error(path, e) from e
    try:
        with os.fdopen(fd, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(fd)
            temporary.chmod(0o666 & ~UMASK)
            if fcntl:  # Still locked, so that nobody takes it for abandoned.
                temporary.replace(path)
        if not fcntl:
            temporary.replace(path)
        _sync(path.parent)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise write_error(path, e) from e
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends. `path` must not exist, or is replaced whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        fd, temporary = _locked_temporary(path, tempfile.mkdtemp)
    except OSError as e:
        raise write_error(path, e) from e
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        temporary.chmod(0o777 & ~UMASK)
        _sync(temporary)
        try:
            temporary.rename(path)
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            _exchange(temporary, path)
        _sync(path.parent)
    except OSError as e:
        raise write_error(path, e) from e
    finally:
        # By now this name is nobody's, or that of what stayed unfinished, or of the folder that was replaced.
        shutil.rmtree(temporary, ignore_errors=True)
        if fd is not None:
            os.close(fd)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders: at once on Linux (renameat2), elsewhere in steps, the first undone when the second fails."""
    if sys.platform == "linux":
        import ctypes

        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        if rename and rename(here, os.fsencode(new), here, os.fsencode(old), swap) == 0:
            return
    aside = old.with_name(f"{new.name}.old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def write_error(path: Path, e: OSError) -> GanctlError:
    """The user's sentence for a failed write: a full disk is exit 1, a path that cannot be written exit 2."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return GanctlError(f"cannot write {quoted(path)}", "the disk is full", "free some space and run it again")
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR):
        return UsageError(f"cannot write {quoted(path)}", e.strerror or str(e), "choose another place with -o")
    return GanctlError(f"cannot write {quoted(path)}", e.strerror or str(e))


def read_regular(path: Path, *, limit: int, whole: bool = True) -> bytes:
    """The bytes of a regular file (never a pipe, socket or device), at most `limit` of them.

    With `whole`, a longer file is refused; without, its first `limit` bytes are given. Raises UsageError.
    """
    where = f"cannot read {quoted(path)}"
    try:
        # Without O_NONBLOCK a pipe would be waited for before it could be refused.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            raise UsageError(where, "it is a folder" if stat.S_ISDIR(info.st_mode) else "it is not a regular file")
        with os.fdopen(fd, "rb") as f:
            if whole and info.st_size > limit:
                raise UsageError(where, f"it has {info.st_size} bytes, more than the limit of {limit}")
            data = _read(f, limit + 1 if whole else limit)
    except (OSError, ValueError) as e:
        raise UsageError(where, _reason(e)) from e
    if whole and len(data) > limit:
        raise UsageError(where, f"it has more than the limit of {limit} bytes")
    return data


def _read(f: IO[bytes], n: int) -> bytes:
    """At most n bytes, piece by piece: Python would set aside all n at once, however short the file is."""
    parts = []
    while n and (part := f.read(min(n, 1 << 24))):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _reason(e: Exception) -> str:
    if isinstance(e, FileNotFoundError):
        return "there is no such file"
    if isinstance(e, OSError) and e.errno == errno.ENXIO:  # a socket
        return "it is not a regular file"
    return getattr(e, "strerror", None) or str(e)


def cache_root() -> Path:
    """Where derived data lives: `$GANCTL_CACHE`, by default `$XDG_CACHE_HOME/ganctl`."""
    given = os.environ.get("GANCTL_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ganctl"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _locked_temporary(path: Path, make: Callable[..., Any]) -> tuple[int | None, Path]:
    """A new file or folder beside `path`, locked while it is open: the lock says that its writer lives."""
    # Forty characters are at most 160 bytes of UTF-8: the name stays legal however long the path's own is.
    prefix = f".{path.name[:40]}."
    while True:
        made = make(dir=path.parent, prefix=prefix, suffix=TEMPORARY)
        fd, name = made if isinstance(made, tuple) else (_open_folder(made), made)
        if not fcntl or fd is None:
            return fd, Path(name)
        # A file system without locks locks nothing, and then _sweep removes nothing.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd, Path(name)
        os.close(fd)  # Swept between its making and its locking.


def _open_folder(name: str) -> int | None:
    """A descriptor to lock a folder by; None where the system has none, and then it is not locked."""
    try:
        return os.open(name, os.O_RDONLY)
    except OSError:
        return None


def _sweep(folder: Path) -> None:
    """Removes, once per folder and process, the temporary files and folders whose writers were killed."""
    if not fcntl or folder in _swept:
        return
    _swept.add(folder)
    names: list[str] = []
    # A folder may be one that can be written and not listed.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = [e.path for e in entries if e.name.startswith(".") and e.name.endswith(TEMPORARY)]
    for name in names:
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    shutil.rmtree(name)
                else:
                    Path(name).unlink()
            finally:
                os.close(fd)


def _sync(path: Path) -> None:
    fd = _open_folder(str(path))
    if fd is None:  # Windows cannot open a folder; there the rename itself is durable enough.
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
