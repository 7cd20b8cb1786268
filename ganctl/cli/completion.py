"""`ganctl completion SHELL`: the script a shell loads, and the answers it asks for."""

import os
import sys
from typing import Annotated, Any, Literal

import typer

from ganctl.cli.parameters import unescaped

FILES = "<files>"
"""Asks the shell for its own file names."""

SCRIPTS = {
    "bash": """\
_ganctl_complete() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == '<files>' ]]; then
            compopt -o default 2>/dev/null
        else
            COMPREPLY+=("${line%%$'\\t'*}")
        fi
    done < <(_GANCTL_COMPLETE=bash "${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _ganctl_complete ganctl
""",
    "zsh": """\
#compdef ganctl
_ganctl() {
    local line
    local -a found
    while IFS= read -r line; do
        if [[ $line == '<files>' ]]; then
            _files
        else
            found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
        fi
    done < <(_GANCTL_COMPLETE=zsh "${words[1]}" "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#found} )) && _describe 'ganctl' found
}
if [[ ${funcstack[1]} == _ganctl ]]; then _ganctl "$@"; else compdef _ganctl ganctl; fi
""",
    "fish": """\
function __ganctl_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (env _GANCTL_COMPLETE=fish $words[1] $words[2..-1] 2>/dev/null)
        if test "$line" = '<files>'
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c ganctl -f -a '(__ganctl_complete)'
""",
}

MODEL_ARGUMENTS = ("model", "name", "names", "real", "fake", "run")
"""Parameters that name a model; beside the zoo's names they take files."""
TASKS = {"sample": "sample", "interpolate": "sample", "invert": "sample", "translate": "translate", "fid": "sample"}
"""A verb's task in the zoo; other commands take every name."""


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell.")]) -> None:
    """Print a script that completes commands, options and model names.

    bash: eval "$(ganctl completion bash)" in ~/.bashrc. zsh: ganctl completion zsh > a file _ganctl in your fpath.
    fish: ganctl completion fish > ~/.config/fish/completions/ganctl.fish
    """
    sys.stdout.write(SCRIPTS[shell])


def answer(shell: str, words: list[str]) -> int:
    """Prints what may stand at the last of `words`: a value and its help, tab-separated, one per line."""
    from ganctl.cli.app import build

    split = shell == "bash" and "=" in words[-2:]
    *before, current = _glued(words) if split else words or [""]
    command: Any = build(before[0] if before else "")
    path: list[str] = []
    waiting, arguments, plain = None, 0, False
    for word in before:
        if waiting is not None:
            waiting = None
        elif word == "--":
            plain = True
        elif word.startswith("-") and not plain:
            option = _option(command, word)
            waiting = option if "=" not in word and not getattr(option, "is_flag", True) else None
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
            path.append(word)
        else:
            command = _meant(command)
            arguments += 1
    if waiting is not None:
        found = _values(waiting, current)
    elif current.startswith("-") and not plain:
        found = _options(_meant(command), current)
    else:
        found = _arguments(command, path, current, arguments)
    for value, help_text in found:
        # Where bash splits at =, only what follows it is replaced.
        value = value.partition("=")[2] if split else value
        sys.stdout.write(f"{value}\t{help_text}".rstrip("\t") + "\n")
    return 0


def _glued(words: list[str]) -> list[str]:
    """bash counts = as a word of its own: --format = p is --format=p again."""
    glued: list[str] = []
    for i, word in enumerate(words):
        if glued and (word == "=" or words[i - 1] == "="):
            glued[-1] += word
        else:
            glued.append(word)
    return glued


Found = list[tuple[str, str]]
"""What may stand there, and its help."""


def _options(command: Any, current: str) -> Found:
    if "=" in current:
        name, _, typed = current.partition("=")
        return [(f"{name}={v}", h) for v, h in _values(_option(command, name), typed) if v != FILES]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    found = [(o, _line(p.help)) for p in options for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    return [(o, h) for o, h in found if o.startswith(current)]


def _arguments(command: Any, path: list[str], current: str, count: int) -> Found:
    if hasattr(command, "commands"):
        known = [(n, _line(c.help)) for n, c in command.commands.items() if not c.hidden]
        found = [(n, h) for n, h in known if n.startswith(current) and not count]
        return found + _arguments(_meant(command), path, current, count) if _meant(command) is not command else found
    positional = [p for p in command.params if p.param_type_name == "argument"]
    if count >= len(positional) and not (positional and positional[-1].nargs == -1):
        return []
    place = positional[min(count, len(positional) - 1)]
    found = _values(place, current)
    if place.name in MODEL_ARGUMENTS:
        return [(n, "") for n in _models(path) if n.startswith(current)] + found
    if path == ["train"] and place.name == "recipe":
        return [(n, "") for n in _recipes() if n.startswith(current)] + found
    return found


def _meant(command: Any) -> Any:
    """Of a group whose commands may be left out, the one that is meant then."""
    default = getattr(command, "default", "")
    return command.commands[default] if default else command


def _option(command: Any, word: str) -> Any:
    name = word.partition("=")[0]
    return next((p for p in command.params if name in (*p.opts, *p.secondary_opts)), None)


def _values(param: Any, current: str) -> Found:
    choices = _choices_of(param)
    if choices:
        return [(c, "") for c in choices if c.startswith(current)]
    return [(FILES, "")]


def _choices_of(param: Any) -> list[str]:
    """The fixed values of an option, however this version of Typer keeps them."""
    for owner in (getattr(param, "type_descriptor", None), getattr(param, "type", None)):
        if choices := getattr(owner, "choices", None):
            return [str(c) for c in choices]
    if param is not None and "--device" in param.opts:
        return ["auto", "cpu", "cuda", "mps"]
    return []


def _models(path: list[str]) -> list[str]:
    from ganctl.catalog import names

    if "://" in (address := os.environ.get("GANCTL_ZOO", "")):
        from ganctl.io.hub import kept_zoo

        # A Tab key makes no request: the copy of the last command does.
        os.environ["GANCTL_ZOO"] = str(kept_zoo(address))
    return names(TASKS.get(path[-1] if path else ""))


def _recipes() -> list[str]:
    from pathlib import Path

    package = Path(__file__).parents[1]
    recipes = [p.stem for p in (package / "recipes").glob("*.yaml")]
    return sorted({*recipes, *(p.stem.replace("_", "-") for p in (package / "models").glob("[a-z]*.py"))})


def _line(text: str | None) -> str:
    """The first line of a help text."""
    return unescaped(text).strip().partition("\n")[0]
