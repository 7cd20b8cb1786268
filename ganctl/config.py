"""Configuration: frozen dataclasses, checked once at the boundary; and the one door through which YAML enters."""

import dataclasses
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from ganctl.errors import UsageError, did_you_mean, quoted

T = TypeVar("T")

YAML_HINT = "write plain `key: value` lines, each key once, without anchors and tags"
MAX_YAML_BYTES = 4 << 20
MAX_YAML_DEPTH = 32


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose fields are the numbers of a paper or the options of a command."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def parse(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Checks plain values against a `@config` class and builds it.

    `where` names the source in messages ("recipe 'x.yaml'", "--set"). Raises UsageError with every fault found:
    unknown keys with the nearest known one, wrong types, values a class refuses.
    """
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    faults = []
    for key in values:
        if key not in names:
            near = did_you_mean(str(key), names)
            faults.append(f"unknown key {quoted(key)}" + (f" ({near})" if near else f"; known: {', '.join(names)}"))
    if not faults:
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as e:
            for err in e.errors(include_url=False):
                # A class that refuses its values names the key itself.
                key = "".join(f"{part}." for part in err["loc"])[:-1]
                message = err["msg"].removeprefix("Value error, ")
                message = message[:1].lower() + message[1:]
                given = "" if err["type"] in ("missing", "value_error") else f", got {quoted(str(err['input'])[:80])}"
                faults.append(f"{key}: {message}{given}" if key else message)
    raise UsageError(f"cannot use {where}", "; ".join(faults[:5]), "see the recipe's keys: docs/train.md")


def to_plain(value: Any) -> Any:
    """A config as dicts, lists and scalars, ready for JSON or YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


@dataclasses.dataclass(frozen=True)
class Located:
    """YAML read strictly: the plain value, and the line of every key (a tuple path → 1-based line number)."""

    value: Any
    lines: dict[tuple[str | int, ...], int]


def read_yaml(source: Path | str, *, where: str, faults: list[str] | None = None) -> Located:
    """Reads YAML as data: a Path is a regular file, a str is the text itself.

    Strict: no tags, aliases or duplicate keys, keys are text, at most 4 MiB and 32 levels, one document. `where` names
    the source in messages. Raises UsageError listing every fault with its line; a caller that checks a schema too gives
    a list for `faults` and gets duplicate keys there, to report everything in one go.
    """
    import yaml

    text = _yaml_text(source, where) if isinstance(source, Path) else source
    # libyaml is ten times as fast, and PyYAML may come without it.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_tokens(yaml.scan(text, Loader=loader), where)
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"cannot use {where}", f"{line}{_problem(e)}", YAML_HINT) from e
    except (RecursionError, ValueError) as e:
        raise UsageError(f"cannot use {where}", "it is not YAML", YAML_HINT) from e
    lines: dict[tuple[str | int, ...], int] = {}
    found: list[str] = [] if faults is None else faults
    construct = yaml.SafeLoader("").construct_object

    def scalar(leaf: Any) -> Any:
        if leaf.tag == "tag:yaml.org,2002:str":  # nearly all of them
            return leaf.value
        try:
            return construct(leaf)
        except (yaml.YAMLError, ValueError) as e:  # a date that is none, a number without end, `<<`, `=`
            raise ValueError(f"cannot read {quoted(leaf.value[:80])}") from e

    value = _plain_node(node, (), lines, found, scalar) if node else None
    if found and faults is None:
        raise UsageError(f"cannot use {where}", "\n".join(found), YAML_HINT)
    return Located(value, lines)


def _problem(e: Exception) -> str:
    return getattr(e, "problem", None) or getattr(e, "reason", None) or "not YAML"


def _yaml_text(path: Path, where: str) -> str:
    try:
        # Without O_NONBLOCK a pipe would be waited for before it could be refused.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"cannot read {where}", "it is not a regular file", "give the path of a YAML file")
            data = f.read(MAX_YAML_BYTES + 1)
    except IsADirectoryError as e:
        raise UsageError(f"cannot read {where}", "it is a folder", "give the path of a YAML file") from e
    except (OSError, ValueError) as e:
        why = "there is no such file" if isinstance(e, FileNotFoundError) else getattr(e, "strerror", None) or str(e)
        raise UsageError(f"cannot read {where}", why, "check the path") from e
    if len(data) > MAX_YAML_BYTES:
        raise UsageError(f"cannot use {where}", f"it is larger than {MAX_YAML_BYTES >> 20} MiB", YAML_HINT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"cannot use {where}", "it is not UTF-8 text", "save it as UTF-8") from e


def _refuse_tokens(tokens: Any, where: str) -> None:
    """Refuses, while scanning, what is not plain data and what would be costly to build.

    Aliases, because a small file can otherwise expand without end; nesting, because building recurses.
    """
    import yaml

    tagged, depth = [], 0
    for token in tokens:
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
            tagged.append(token.start_mark.line + 1)
        elif token.id in ("<block mapping start>", "<block sequence start>", "{", "["):
            depth += 1
            if depth > MAX_YAML_DEPTH:
                line = token.start_mark.line + 1
                raise UsageError(
                    f"cannot use {where}", f"line {line}: nested deeper than {MAX_YAML_DEPTH} levels", YAML_HINT
                )
        elif token.id in ("<block end>", "}", "]"):
            depth -= 1
    if tagged:
        lines = ", ".join(map(str, dict.fromkeys(tagged)))
        label = "line" if len(set(tagged)) == 1 else "lines"
        raise UsageError(
            f"cannot use {where}", f"{label} {lines}: anchors, aliases and tags are not allowed", YAML_HINT
        )


def _plain_node(
    node: Any, path: tuple[str | int, ...], lines: dict, faults: list[str], scalar: Callable[[Any], Any]
) -> Any:
    lines[path] = node.start_mark.line + 1
    if node.id == "mapping":
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            try:
                key = scalar(key_node) if key_node.id == "scalar" else None
            except ValueError:
                key = None
            if not isinstance(key, str):
                shown = quoted(key_node.value[:80]) if key_node.id == "scalar" else f"that is a {key_node.id}"
                faults.append(f"line {line}: key {shown} is not text")
                continue
            if key in found:
                faults.append(f"line {line}: duplicate key {quoted(key)}, first on line {lines[*path, key]}")
                continue
            found[key] = _plain_node(value_node, (*path, key), lines, faults, scalar)
            lines[(*path, key)] = line
        return found
    if node.id == "sequence":
        return [_plain_node(child, (*path, i), lines, faults, scalar) for i, child in enumerate(node.value)]
    try:
        return scalar(node)
    except ValueError as e:
        faults.append(f"line {node.start_mark.line + 1}: {e}")
        return None


def write_yaml(value: Any) -> str:
    """The YAML text of plain values or configs, keys in their own order."""
    import yaml

    return yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=120)
