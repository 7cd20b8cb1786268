"""Puts the real help of each command between `<!-- help:COMMAND -->` and `<!-- /help -->` in docs/*.md.

`python scripts/update_docs.py` writes the pages anew; with --check it only says what is stale, or has no page, and ends
with 1.
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

WIDTH = 100
DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- help:([a-z ]+) -->\n(.*?)<!-- /help -->", re.DOTALL)
FENCE = "```"


def commands() -> dict[str, list[Any]]:
    """Every command by its words (sample, zoo, zoo list, …), each with the groups it is in, outermost first."""
    from ganctl.cli.app import build

    root = build()
    found = {}
    for name, command in root.commands.items():
        found[name] = [root, command]
        found |= {f"{name} {child}": [root, command, c] for child, c in getattr(command, "commands", {}).items()}
    return found


def help_text(name: str, chain: list[Any]) -> str:
    """What `ganctl NAME --help` prints at a fixed width, without colour."""
    out, context = io.StringIO(), None
    for word, command in zip(["ganctl", *name.split()], chain, strict=True):
        context = command.context_class(command, info_name=word, parent=context)
    with contextlib.redirect_stdout(out):
        # With rich, the text is printed while it is made.
        print(chain[-1].get_help(context))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def filled(name: str, text: str) -> str:
    return f"<!-- help:{name} -->\n\n{FENCE}text\n{text}\n{FENCE}\n\n<!-- /help -->"


def main() -> int:
    for variable in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH"):
        os.environ.pop(variable, None)
    os.environ |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    texts = {name: help_text(name, chain) for name, chain in commands().items()}
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    faults, told = [], set()
    for path, page in pages.items():
        names = [m[1] for m in BLOCK.finditer(page)]
        if page.count("<!-- help:") != len(names):
            faults.append(f"docs/{path.name}: a help block is not closed")
        faults += [f"docs/{path.name}: there is no command {name!r}" for name in names if name not in texts]
        told |= {name for name in names if path.stem == name.partition(" ")[0]}
    faults += [f"docs/{n.partition(' ')[0]}.md lacks <!-- help:{n} --> <!-- /help -->" for n in texts if n not in told]
    for path, page in pages.items():
        new = BLOCK.sub(lambda m: filled(m[1], texts[m[1]]) if m[1] in texts else m[0], page)
        if new != page and "--check" in sys.argv:
            faults.append(f"docs/{path.name} is stale: run python scripts/update_docs.py")
        elif new != page:
            path.write_text(new, encoding="utf-8")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
