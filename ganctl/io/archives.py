"""The door for archives: zip and tar, read in place and never unpacked; and writing of both.

A listing records where each member's bytes lie; reading one opens the file anew, so members can be read from threads
and forked workers alike. Members with unsafe names, links, duplicates, passwords, wild ratios are listed as skipped.
"""

import contextlib
import datetime
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ganctl.errors import UsageError, quoted
from ganctl.io.files import atomic_write, read_regular
from ganctl.io.limits import MAX_FILES, MAX_IMAGE_BYTES, MAX_NAME_CHARACTERS, MAX_RATIO

CHUNK = 1 << 20
MAX_SHOWN = 200
"""Characters that are told of a skipped member's name."""
EPOCH = (1980, 1, 1, 0, 0, 0)
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")


class BadArchive(UsageError):
    """An archive, or one of its members, that cannot be used."""

    kind = "archive"


@dataclass(frozen=True)
class Member:
    """One file inside an archive: where its bytes are, and what they must unpack to."""

    archive: Path
    name: str
    """Relative POSIX path, checked."""
    size: int
    """Bytes when unpacked."""
    mtime: float
    """Seconds since 1970 as the archive says, local time in a zip."""
    offset: int
    """Of the local header in a zip, of the data in a tar."""
    packed: int
    method: int
    """0 stored, 8 deflated; -1 a tar member."""
    crc: int


@dataclass(frozen=True)
class Contents:
    """What an archive holds: members in its order, and the names left out with the reason for each."""

    members: tuple[Member, ...]
    skipped: tuple[tuple[str, str], ...]


def kind_of(path: Path) -> str | None:
    """'zip', 'tar', 'packed-tar' (a compressed tar, which cannot be read in place), or None: by content."""
    head = read_regular(path, limit=512, whole=False)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"))
    return "packed-tar" if packed and any(s in path.name.lower() for s in (".tar", ".tgz", ".tbz", ".txz")) else None


def unsafe_name(name: str) -> str:
    """Why a member's name must not be used, or an empty string."""
    if not name or len(name) > MAX_NAME_CHARACTERS:
        return f"its name is empty, or longer than {MAX_NAME_CHARACTERS} characters"
    if "\\" in name or name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "its name is an absolute or foreign path"
    # Cc are control characters, Cs bytes that are no UTF-8. Joiners and odd spaces (Cf, Zs) belong to many languages.
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return "its name holds control characters, or bytes that are no text"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "its name leads out of the archive"
    return ""


def read_contents(path: Path) -> Contents:
    """Lists a zip or tar without unpacking anything. Raises BadArchive when it is damaged or of another kind."""
    where = f"cannot read archive {quoted(path)}"
    kind = kind_of(path)
    if kind == "packed-tar":
        raise BadArchive(where, "a compressed tar cannot be read in place", "uncompress it, or make a .zip of it")
    if kind is None:
        raise BadArchive(where, "it is neither a zip nor a tar")
    try:
        found = _zip_members(path) if kind == "zip" else _tar_members(path)
        total = path.stat().st_size
    except BadArchive:
        raise
    except Exception as e:  # zipfile and tarfile raise far more than they document on damaged files
        raise BadArchive(where, f"its list of members is damaged or cut short ({kind})") from e
    if sum(m.packed for m, _ in found) > total:
        raise BadArchive(where, "its members claim more bytes than the file has")
    times = Counter(m.name for m, _ in found)
    members, skipped = [], []
    for member, why in found:
        why = why or unsafe_name(member.name) or _wild(member)
        if not why and times[member.name] > 1:
            why = f"its name occurs {times[member.name]} times"
        if why:
            # A name may have 64 KiB; it goes into messages.
            skipped.append((member.name[:MAX_SHOWN], why))
        else:
            members.append(member)
    return Contents(tuple(members), tuple(skipped))


def read_member(member: Member, *, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """The unpacked bytes of one member, its size and checksum checked. Raises BadArchive."""
    where = f"cannot read {quoted(member.name)} in {quoted(member.archive)}"
    if member.size > limit:
        raise BadArchive(where, f"it has {member.size} bytes, more than the limit of {limit}")
    try:
        with member.archive.open("rb") as f:
            f.seek(_data_offset(f, member))
            raw = f.read(member.packed)
    except OSError as e:
        raise BadArchive(where, e.strerror or str(e)) from e
    if len(raw) != member.packed:
        raise BadArchive(where, "the archive is cut short")
    if member.method == -1:
        return raw
    try:
        # One byte beyond the claimed size is enough to see a lie, and all that is ever unpacked.
        data = zlib.decompressobj(-15).decompress(raw, member.size + 1) if member.method == 8 else raw
    except zlib.error as e:
        raise BadArchive(where, "its packed bytes are damaged") from e
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise BadArchive(where, "its bytes do not match the size and checksum in the archive")
    return data


@contextlib.contextmanager
def zip_writer(path: Path, *, request: Mapping[str, Any] | None = None) -> Iterator[Callable[[str, bytes], None]]:
    """`add(name, data)` for a zip that appears under its name only when whole; members are stored, times are fixed.

    `request` is kept as the archive's comment (JSON), where `request_of_zip` finds it.
    """
    import json

    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            if why := unsafe_name(name):
                raise BadArchive(f"cannot write {quoted(name)} into {quoted(path)}", why)
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)

        yield add
        comment = json.dumps(request).encode() if request is not None else b""
        archive.comment = comment if len(comment) <= 65535 else b""


def request_of_zip(path: Path) -> dict | None:
    """The request `zip_writer` kept, or None."""
    import json

    try:
        if kind_of(path) != "zip":
            return None
        with path.open("rb") as f, zipfile.ZipFile(f) as archive:
            value = json.loads(archive.comment)
    except Exception:  # zipfile raises far more than it documents: not an archive of ours
        return None
    return value if isinstance(value, dict) else None


def request_of_tar(path: Path) -> dict | None:
    """The request `tar_writer` kept, or None."""
    import json

    try:
        if kind_of(path) != "tar" or read_regular(path, limit=512, whole=False)[156:157] != tarfile.XGLTYPE:
            return None
        with path.open("rb") as f, tarfile.open(fileobj=f, mode="r:") as archive:
            value = json.loads(archive.pax_headers["comment"])
    except Exception:  # tarfile raises far more than it documents: not an archive of ours
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def tar_writer(
    stream: IO[bytes], *, request: Mapping[str, Any] | None = None
) -> Iterator[Callable[[str, bytes], None]]:
    """`add(name, data)` for a tar on a stream that need not seek (stdout). The end mark comes only after success.

    `request` is kept as the tar's comment (JSON in a global pax header), where `request_of_tar` finds it.
    """

    def add(name: str, data: bytes) -> None:
        if why := unsafe_name(name):
            raise BadArchive(f"cannot write {quoted(name)}", why)
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        # Not tarfile's own stream, which writes once more, and complains, when it is collected after a closed pipe.
        stream.write(info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    if request is not None:
        import json

        stream.write(tarfile.TarInfo.create_pax_global_header({"comment": json.dumps(request)}))
    yield add
    stream.write(bytes(2 * tarfile.BLOCKSIZE))
    stream.flush()


def _zip_members(path: Path) -> list[tuple[Member, str]]:
    found = []
    with path.open("rb") as f, zipfile.ZipFile(f) as archive:
        infos = archive.infolist()
        if len(infos) > MAX_FILES:
            raise BadArchive(f"cannot read archive {quoted(path)}", f"it lists more than {MAX_FILES} members")
        for i in infos:
            name = i.orig_filename
            kind = stat.S_IFMT(i.external_attr >> 16)
            if name.endswith("/") and not i.file_size:
                continue
            why = ""
            if i.flag_bits & 0x1:
                why = "it is encrypted"
            elif kind not in (0, stat.S_IFREG):
                why = "it is a link or a special file"
            elif i.compress_type not in (0, 8):
                why = f"its compression method {i.compress_type} is not one of stored, deflated"
            elif i.compress_type == 0 and i.compress_size != i.file_size:
                why = "its sizes contradict each other"
            mtime = _zip_time(i.date_time)
            found.append(
                (Member(path, name, i.file_size, mtime, i.header_offset, i.compress_size, i.compress_type, i.CRC), why)
            )
    return found


def _tar_members(path: Path) -> list[tuple[Member, str]]:
    found = []
    size = path.stat().st_size
    with path.open("rb") as f, tarfile.open(fileobj=f, mode="r:", errorlevel=2) as archive:
        for i in archive:
            if len(found) >= MAX_FILES:
                raise BadArchive(f"cannot read archive {quoted(path)}", f"it lists more than {MAX_FILES} members")
            if i.isdir():
                continue
            why = "" if i.isreg() and not i.issparse() else "it is a link or a special file"
            if not why and i.offset_data + i.size > size:
                raise BadArchive(f"cannot read archive {quoted(path)}", f"it ends inside {quoted(i.name)}")
            name = i.name.removeprefix("./")
            found.append((Member(path, name, i.size, float(i.mtime), i.offset_data, 0 if why else i.size, -1, 0), why))
        # tarfile takes the end of the file, or a damaged header, for the end of the tar; POSIX wants blocks of zeros.
        f.seek(archive.offset)
        if f.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            why = f"it has no end mark after its {len(found)} members: it is damaged or cut short"
            raise BadArchive(f"cannot read archive {quoted(path)}", why, "copy it again, or make it anew")
    return found


def _data_offset(f: IO[bytes], member: Member) -> int:
    if member.method == -1:
        return member.offset
    f.seek(member.offset)
    header = f.read(LOCAL_HEADER.size)
    if len(header) != LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise OSError("its local header is damaged")
    *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    name = f.read(name_length)
    if member.name not in (name.decode("utf-8", "replace"), name.decode("cp437")):
        raise OSError("its local header names another member")
    return member.offset + LOCAL_HEADER.size + name_length + extra_length


def _wild(member: Member) -> str:
    ratio = member.size / max(member.packed, 1)
    wild = member.size > CHUNK and ratio > MAX_RATIO
    return f"it claims to unpack to {ratio:.0f} times its size, more than the limit of {MAX_RATIO}" if wild else ""


def _zip_time(date: tuple[int, int, int, int, int, int]) -> float:
    try:
        return datetime.datetime(*date).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
