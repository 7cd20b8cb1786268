"""`zoo check`: whether every address of the zoo still gives what it should. For maintainers; nothing is kept."""

import hashlib
import tempfile
from typing import Any, cast

from ganctl import catalog
from ganctl.catalog import HubFile, Upstream
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, WeightsError
from ganctl.io.hub import pin
from ganctl.io.network import download_to, hub_file, offline, probe
from ganctl.io.progress import SILENT, Reporter

SMALL = 16_000_000
"""Bytes up to which a file is downloaded to compare its sha256, whatever was asked for."""


@config
class CheckRequest:
    names: tuple[str, ...] = ()
    """Empty: every entry with an address."""
    download: bool = False
    """Downloads large files too, to compare their sha256."""


def check_zoo(request: CheckRequest, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """One row for each address: what answers, after how many redirects, its size, its sha256 where it was read.

    Raises UsageError (unknown name), WeightsError when all fail or requests are forbidden, PartialError when some do.
    """
    entries = [catalog.entry(name) for name in dict.fromkeys(request.names)] or list(catalog.entries().values())
    if offline():
        what = "cannot check the zoo's addresses"
        raise WeightsError(what, "--offline or HF_HUB_OFFLINE forbids requests", "what is here: ganctl zoo verify")
    places = {e.name: [place for place in (e.hub, e.upstream) if place] for e in entries}
    if built := [name for name, found in places.items() if request.names and not found]:
        reporter.note(f"{', '.join(built)}: built in, no address to check")
    rows, faults = [], []
    for name, place in [(name, place) for name, found in places.items() for place in found]:
        row = {"name": name, "road": "hub" if isinstance(place, HubFile) else "upstream"}
        try:
            row |= _checked(name, place, request, reporter)
        except GanctlError as e:
            faults.append(e)
            row |= {"status": "broken", "error": e.message}
        reporter.result(row)
        rows.append(row)
    if faults and len(faults) == len(rows):
        raise faults[0]
    if faults:
        told = f"{len(faults)} of {len(rows)} addresses are broken"
        raise PartialError(told, "the others give what the zoo says", "see the lines above")
    return rows


def _checked(name: str, place: HubFile | Upstream, request: CheckRequest, reporter: Reporter) -> dict[str, Any]:
    """Raises WeightsError for an address that does not answer, or with something else."""
    stage = f"check {name}"
    answer = hub_file(place, reporter) if isinstance(place, HubFile) else probe(place.url, reporter)
    if answer.bytes is not None and place.bytes and answer.bytes != place.bytes:
        why = f"it has {answer.bytes} bytes, the zoo says {place.bytes}"
        raise WeightsError(f"{name}: {answer.host} has another file", why, "see what its authors say of it")
    known, how = (place.sha256, "published") if isinstance(place, HubFile) else pin(place)
    # The Hub tells the sha256 of what it keeps as a large file.
    found, seen = answer.sha256, "told"
    size = place.bytes or answer.bytes or 0
    if not found and (request.download or 0 < size <= SMALL):
        found, seen = _downloaded(answer.url, size, reporter, stage), "read"
    if found and not found.startswith(known):
        why = f"its sha256 is {found}, {'the lock file' if 'first seen' in how else 'the zoo'} says {known}"
        raise WeightsError(f"{name}: {answer.host} has another file", why, "see what its authors say of it")
    return {
        "host": answer.host,
        "redirects": answer.redirects,
        "bytes": answer.bytes,
        "expected_bytes": place.bytes or None,
        "sha256": found or None,
        "hash": (seen if known else f"{seen}, none published") if found else None,
        "status": "ok",
    }


def _downloaded(url: str, size: int, reporter: Reporter, stage: str) -> str:
    """The sha256 of what an address gives; the file is gone with the block."""
    with tempfile.TemporaryFile() as f:
        download_to(url, f, expected=size, reporter=reporter, stage=stage)
        f.seek(0)
        return hashlib.file_digest(cast("Any", f), "sha256").hexdigest()
