"""What the pages of `train` and `fid` share: one file, nothing to fetch, light or dark as the reader's screen is."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ganctl.errors import printable
from ganctl.io.outputs import HTML_MARK

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { font-weight: 600; overflow-wrap: anywhere; } h2 { margin-top: 2.2rem; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figcaption { font-size: 13px; }
th { text-align: left; font-weight: 600; } th, td { padding: 0 1.2rem 0 0; vertical-align: top; }
pre { overflow-x: auto; }
"""


def document(title: str, parts: Iterable[str], *, style: str = "", request: Mapping[str, Any] | None = None) -> bytes:
    """The page, UTF-8. `style` is added to what all pages have; `request` travels along, unseen."""
    mark = f'\n{HTML_MARK}{escape(json.dumps(dict(request)))}">' if request is not None else ""
    lines = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>{mark}',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}{style}</style></head><body>",
        f"<h1>{text(title)}</h1>",
        *filter(None, parts),
        "</body></html>\n",
    ]
    return "\n".join(lines).encode()


def text(value: object) -> str:
    """Anything as text of a page or of an attribute: no tag, no control character."""
    return escape(printable(value))


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Cells are text."""
    first = "<tr>" + "".join(f"<th>{text(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = ("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return "\n".join(["<table>", *filter(None, [first]), *body, "</table>"])


def inline(data: bytes, kind: str = "png") -> str:
    """An image's bytes as an address."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
