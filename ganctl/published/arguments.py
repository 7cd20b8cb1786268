"""Arguments of a published network's constructor, taken one by one: what nobody asked for was not understood."""

from collections.abc import Mapping
from typing import Any

from ganctl.errors import printable
from ganctl.io.pickle_machine import Refused
from ganctl.io.pickle_records import PersistedModule


class Arguments:
    """What a file gives; `take` answers with the default of the code base that wrote it where it gives nothing."""

    def __init__(self, given: Any, what: str) -> None:
        if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
            raise Refused(f"{what} has no proper arguments")
        self.left, self.what = dict(given), what

    def take(self, name: str, default: Any = None) -> Any:
        return self.left.pop(name, default)

    def count(self, name: str, default: int) -> int:
        """A whole number that the caller computes with; a Config checks its range."""
        value = self.take(name, default)
        if type(value) is not int or not 0 <= value < 1 << 30:
            raise Refused(f"{self.what} has {name} {printable(str(value)[:80])}, which no network has")
        return value

    def part(self, name: str) -> "Arguments":
        """Arguments that are handed on to a part: a dict inside the dict."""
        return Arguments(self.take(name, {}), f"{self.what}'s {name}")

    def fixed(self, **known: Any) -> None:
        """Arguments whose other values no network here has: each must be absent or the one given."""
        for name, value in known.items():
            given = self.take(name, value)
            try:
                same = bool(given == value)
            except (RuntimeError, TypeError, ValueError):  # tensors in the place of numbers
                same = False
            if not same:
                raise Refused(f"{self.what} has {name} {printable(str(given)[:80])}, and only {value} is known here")

    def ignore(self, *names: str) -> None:
        """Arguments without a say in what the network computes."""
        for name in names:
            self.left.pop(name, None)

    def done(self) -> None:
        """Raises Refused for an argument that is left over."""
        if self.left:
            name = printable(next(iter(self.left))[:80])
            raise Refused(f"{self.what} has the argument '{name}', which is not known")


def arguments_of(net: PersistedModule, what: str) -> Arguments:
    """Those of a network in NVIDIA's PyTorch snapshots, which all have names."""
    if net.state.get("_init_args"):
        raise Refused(f"{what} has arguments without names")
    return Arguments(net.init_kwargs, what)
