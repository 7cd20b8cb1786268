"""`dataset check`: what a set of images holds, and what is wrong with it."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ganctl.config import config
from ganctl.errors import PartialError, UsageError, quoted
from ganctl.io.listing import ImageRef
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.shards import is_there
from ganctl.io.threads import ordered
from ganctl.workflows.dataset import DatasetRequest, Source, open_source

MODES = {1: "grey", 3: "RGB", 4: "RGBA"}


@config
class CheckRequest:
    source: str


@dataclass(frozen=True)
class _Seen:
    """What one image is: its pixels by their digest, or why there are none."""

    size: str = ""
    mode: str = ""
    format: str = ""
    notes: tuple[str, ...] = ()
    digest: bytes = b""
    fault: str = ""


def check(request: CheckRequest) -> None:
    """Raises UsageError when there is no such source."""
    if not is_there(request.source):
        raise UsageError(f"cannot read {quoted(request.source)}", "there is no such file or folder")


def run(request: CheckRequest, reporter: Reporter = SILENT) -> Mapping[str, Any]:
    """Decodes every image. Results: one object, in which names are relative to the source.

    Raises UsageError (no images), PartialError when some cannot be read.
    """
    check(request)
    # What is left out is among the results here, and no warning; of notes there may be some.
    source = open_source(DatasetRequest(source=request.source, out="-"), Reporter(note=reporter.note))
    names = [item.name if isinstance(item, ImageRef) else item.label for item in source.items]
    workers, seen = min(8, os.cpu_count() or 1), []
    with closing(ordered(_look, source.items, workers, ahead=4 * workers)) as results:
        for one in results:
            seen.append(one)
            reporter.progress("checking images", len(seen), len(names))
    result = {"path": request.source, **_summary(names, seen, source)}
    reporter.result(result)
    if bad := result["unreadable"]:
        what = f"{len(bad)} of {len(names)} images cannot be read"
        raise PartialError(what, f"the first: {quoted(bad[0]['name'])}: {bad[0]['why']}", "remove or replace them")
    return result


def _look(item: Any) -> _Seen:
    from ganctl.io.images import BadImage, look, read_image

    if not isinstance(item, ImageRef):
        return _seen(item.pixels, "IDX", ())
    try:
        data = item.read()
        picture = read_image(data, name=item.label)
    except BadImage as e:
        return _Seen(fault=e.why or e.message)
    header = look(data)
    return _seen(picture.pixels, header.format if header else "", picture.notes)


def _seen(pixels: Any, form: str, notes: tuple[str, ...]) -> _Seen:
    height, width, channels = pixels.shape
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    return _Seen(f"{width}x{height}", MODES[channels], form.lower(), notes, digest)


def _summary(names: list[str], seen: list[_Seen], source: Source) -> dict[str, Any]:
    good = [one for one in seen if not one.fault]
    first: dict[bytes, str] = {}
    twice = []
    for name, one in zip(names, seen, strict=True):
        if not one.fault and (before := first.setdefault(one.digest, name)) is not name:
            twice.append({"name": name, "same_as": before})
    labels = source.classes
    classes = {} if labels.c is None else Counter(labels.names[k] for k in labels.c.tolist())
    captions = sum(any(m.name.lower().endswith(".txt") for m in getattr(i, "beside", ())) for i in source.items)
    return {
        "images": len(names),
        "formats": dict(Counter(one.format for one in good).most_common()),
        "sizes": dict(Counter(one.size for one in good).most_common()),
        "modes": dict(Counter(one.mode for one in good).most_common()),
        "notes": dict(Counter(note for one in good for note in one.notes).most_common()),
        "classes": {name: classes[name] for name in labels.names if classes.get(name)},
        "captions": captions,
        "left_out": [{"name": name, "why": why} for name, why in source.skipped],
        "unreadable": [{"name": n, "why": one.fault} for n, one in zip(names, seen, strict=True) if one.fault],
        "duplicates": twice,
    }
