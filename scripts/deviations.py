"""Prints docs/deviations.md, collected from the `Deviation:` marks in ganctl/models."""

import ast
import io
import re
import tokenize
from pathlib import Path

MODELS = Path(__file__).parents[1] / "ganctl" / "models"
MARK = "Deviation:"
HEAD = """\
# Where ganctl departs from the papers

Collected from the `Deviation:` marks in `ganctl/models` (`python scripts/deviations.py > docs/deviations.md`; a test
compares). Two departures belong to no single file: the network that users get is the moving average of the one that is
trained, which none of these papers keeps, and every picture is drawn from a random generator of its own seed.
"""


def collect(source: str) -> list[tuple[str, str]]:
    """(where, what) of every mark, in the file's order: from the mark to the end of its paragraph or comment."""
    tree = ast.parse(source)
    found = []
    for owner, text, line in [*_docstrings(tree), *_comments(source, tree)]:
        for paragraph in re.split(r"\n\s*\n", text):
            _, mark, what = " ".join(paragraph.split()).partition(MARK)
            if mark:
                found.append((line, owner, what.strip()))
    return [(owner, what) for _, owner, what in sorted(found)]


def _docstrings(tree: ast.Module) -> list[tuple[str, str, int]]:
    """Docstrings of classes, functions and attributes, with the name they belong to."""
    found = []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for before, item in zip([None, *body], body, strict=False):
            if (
                isinstance(item, ast.Expr)
                and isinstance(item.value, ast.Constant)
                and isinstance(item.value.value, str)
            ):
                target = getattr(before, "target", None) or (getattr(before, "targets", None) or [None])[0]
                owner = getattr(node, "name", "")
                name = (
                    f"{owner}.{target.id}" if isinstance(target, ast.Name) and owner else getattr(target, "id", owner)
                )
                found.append((name, item.value.value, item.lineno))
    return found


def _comments(source: str, tree: ast.Module) -> list[tuple[str, str, int]]:
    """Blocks of comment lines, with the innermost class or function they stand in."""
    blocks: list[tuple[str, int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text, line = token.string.lstrip("# "), token.start[0]
            if blocks and blocks[-1][2] == line - 1:
                blocks[-1] = (f"{blocks[-1][0]} {text}", blocks[-1][1], line)
            else:
                blocks.append((text, line, line))
    return [(_owner(tree, first), text, first) for text, first, _ in blocks]


def _owner(tree: ast.Module, line: int) -> str:
    names = [
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    return next((n for n in reversed(names) if n != "__init__"), "")


def page() -> str:
    """The whole document."""
    parts = [HEAD]
    for path in sorted(MODELS.glob("[a-z]*.py")):
        source = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        rows = [f"- `{owner}`: {what}" for owner, what in collect(source)]
        parts.append(f"## {path.stem}\n\n{title}\n\n" + ("\n".join(rows) or "None.") + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
