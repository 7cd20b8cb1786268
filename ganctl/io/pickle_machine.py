"""A pickle read as data: an interpreter of its opcodes that knows no import and no call.

Opcodes as in CPython's `Lib/pickletools.py`, protocols 0 to 5. A name ("global") must be in the reader's table or the
file is refused; "calling" one hands its arguments to our own builder from that table. Extension codes, out-of-band
buffers and the old INST/OBJ forms are refused.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ganctl.errors import printable
from ganctl.io.limits import MAX_PICKLE_STEPS

MAX_LINE = 4096
MAX_INT_BYTES = 1024
MAX_KEY_PARTS = 16
MAX_KEY_INT = 1 << 60
"""Beyond it Python's hashes of whole numbers repeat, and a dict of such keys would take for ever."""
SCALARS = (str, bytes, int, float, type(None))


class Refused(Exception):
    """The reason, as half a sentence, why a pickle is not taken as data."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions: never imported, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class Record(dict):
    """A dict that stood for an object; BUILD may add attributes when `open` is set, or is ignored."""

    open = False


class Pending:
    """Base of our builders' inert records that take a BUILD state through `build(state)`."""

    def build(self, state: Any) -> None:
        raise Refused(f"it gives a state to {type(self).__name__}")


@dataclass
class Budget:
    """What one file may cost, shared by all pickles inside it."""

    steps: int = MAX_PICKLE_STEPS
    copies: int = 1 << 16
    """Bytes of text that builders may still copy: a shared text can be handed to them again and again."""

    def step(self, n: int = 1) -> None:
        self.steps -= n
        if self.steps < 0:
            raise Refused(f"it has more than {MAX_PICKLE_STEPS} pickle steps")

    def weigh(self, values: Any) -> None:
        """Counts what a builder may walk over or copy: containers by their length, text and bytes by theirs."""
        for v in values:
            if isinstance(v, str | bytes):
                self.copies -= len(v)
            elif isinstance(v, list | tuple | dict | set):
                self.step(4 * len(v))  # a builder does more for each than a step does
        if self.copies < 0:
            raise Refused("it copies the same text many times")


class Machine:
    """Runs one pickle in `data` from `at`; afterwards `at` is the first byte behind it."""

    def __init__(
        self,
        data: bytes,
        at: int,
        *,
        known: Mapping[tuple[str, str], Callable[..., Any] | None],
        persistent: Callable[[Any], Any] | None,
        budget: Budget,
    ) -> None:
        self.data, self.at, self.known, self.persistent, self.budget = data, at, known, persistent, budget
        budget.copies += 4 * (len(data) - at)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickled value. Raises Refused, or IndexError/ValueError/KeyError/TypeError/struct.error when damaged."""
        while True:
            self.budget.step()
            opcode = self.take(1)[0]
            if opcode == 0x2E:  # STOP
                value = self.stack.pop()
                if self.stack or self.marks:
                    raise ValueError("values left on the stack")
                return value
            action = ACTIONS.get(opcode)
            if action is None:
                raise Refused(f"it uses the pickle code 0x{opcode:02x}, which is damage or no data")
            action(self)

    def take(self, n: int) -> bytes:
        end = self.at + n
        if n < 0 or end > len(self.data):
            raise Refused("it is cut short")
        chunk, self.at = self.data[self.at : end], end
        return chunk

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            raise Refused("it has a line without an end")
        return self.take(end + 1 - self.at)[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def popped(self) -> list[Any]:
        """Everything above the last mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("a mark where a value is needed")
        return self.stack.pop()

    def call(self, what: Any, args: Any) -> None:
        """REDUCE, NEWOBJ: our own builder gets the arguments."""
        if not isinstance(what, Global) or type(args) is not tuple:
            raise Refused("it calls something that is not a name")
        builder = self.known[what.module, what.name]
        if builder is None:
            raise Refused(f"it calls {what}, which stands for a type only")
        self.budget.weigh(args)
        self.push(builder(*args))

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("it names something that is not text")
        if module.partition(".")[0] == "dill":
            raise Refused("it was written with dill, which stores code (StyleGAN-XL's snapshots are)")
        if (module, name) not in self.known:
            raise Refused(f"it refers to {printable(module[:80])}.{printable(name[:80])}, which is code and not data")
        self.push(Global(module, name))

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Pending):
            self.budget.weigh(state if type(state) is tuple else ())
            target.build(state)
        elif isinstance(target, Record) and type(state) is dict:
            if target.open:
                self.budget.weigh([state])
                set_items(target, [x for pair in state.items() for x in pair])
        else:
            raise Refused("it gives a state to something that has none")

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused("it sets items of something that is no dict")
        set_items(target, pairs)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused("it appends to something that is no list")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise Refused("it adds to something that is no set")
        target.update(scalars(values))

    def saved(self) -> None:
        if self.persistent is None:
            raise Refused("it refers to something outside itself")
        self.push(self.persistent(self.pop()))


def set_items(target: dict, pairs: list[Any]) -> None:
    """Adds key, value, key, value …; keys are scalars (or flat tuples of them) and never come twice."""
    if len(pairs) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        check_key(key)
        if key in target:
            raise Refused(f"it has the key '{printable(key[:80]) if isinstance(key, str) else '?'}' twice")
        target[key] = value


def check_key(key: Any) -> None:
    """Refuses what would be slow or dangerous to hash: a key is a scalar, or a short flat tuple of scalars."""
    if type(key) is tuple and len(key) <= MAX_KEY_PARTS:
        scalars(key)  # a deeply nested tuple would exhaust the C stack
    elif not isinstance(key, SCALARS):
        raise Refused(f"it has a {type(key).__name__} as a key")
    if any(isinstance(part, int) and abs(part) >= MAX_KEY_INT for part in (key if type(key) is tuple else (key,))):
        raise Refused("it has a number of 2^60 or more as a key")


def scalars(values: Any) -> Any:
    """The same values, all of them text, bytes, numbers or None."""
    if not all(isinstance(v, SCALARS) and not (isinstance(v, int) and abs(v) >= MAX_KEY_INT) for v in values):
        raise Refused("it has a compound value where only plain ones can be")
    return values


def decode_long(raw: bytes) -> int:
    if len(raw) > MAX_INT_BYTES:
        raise Refused(f"it has a number of {len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _int_line(m: Machine) -> None:
    text = m.line()
    m.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))


def _string_line(m: Machine) -> None:
    text = m.line()
    if len(text) < 2 or text[:1] not in b"'\"" or text[:1] != text[-1:]:
        raise ValueError("a text without quotes")
    m.push(text[1:-1].decode("unicode_escape"))


def _stack_global(m: Machine) -> None:
    name = m.pop()
    m.name(m.pop(), name)


def _new_object_ex(m: Machine) -> None:
    keywords, args, what = m.pop(), m.pop(), m.pop()
    if keywords != {}:
        raise Refused("it builds an object with keywords")
    m.call(what, args)


def _reduce(m: Machine) -> None:
    args = m.pop()
    m.call(m.pop(), args)


def _set_item(m: Machine) -> None:
    value = m.pop()
    m.set_items([m.pop(), value])


def _tuple_of(n: int) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        values = [m.pop() for _ in range(n)]
        m.push(tuple(reversed(values)))

    return action


def _as_dict(values: list[Any]) -> dict:
    found: dict = {}
    set_items(found, values)
    return found


def _text(layout: str, codec: str, errors: str = "surrogatepass") -> Callable[[Machine], None]:
    return lambda m: m.push(m.take(m.number(layout)).decode(codec, errors))


def _raw(layout: str) -> Callable[[Machine], None]:
    return lambda m: m.push(m.take(m.number(layout)))


# Python 2's 8-bit strings are text or bytes; latin-1 keeps every byte, and the array builders turn it back.
ACTIONS: dict[int, Callable[[Machine], Any]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): lambda m: m.pop() if not m.marks or len(m.stack) > m.marks[-1] else m.marks.pop(),
    ord("1"): lambda m: m.popped(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): _int_line,
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("L"): lambda m: m.push(int(m.line().removesuffix(b"L"))),
    0x8A: lambda m: m.push(decode_long(m.take(m.number("<B")))),
    0x8B: lambda m: m.push(decode_long(m.take(m.number("<i")))),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("S"): _string_line,
    ord("T"): _text("<i", "latin-1"),
    ord("U"): _text("<B", "latin-1"),
    ord("V"): lambda m: m.push(m.line().decode("raw_unicode_escape")),
    ord("X"): _text("<I", "utf-8"),
    0x8C: _text("<B", "utf-8"),
    0x8D: _text("<Q", "utf-8"),
    ord("B"): _raw("<I"),
    ord("C"): _raw("<B"),
    0x8E: _raw("<Q"),
    0x96: _raw("<Q"),  # BYTEARRAY8
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.popped()),
    ord("l"): lambda m: m.push(m.popped()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.popped())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): lambda m: m.push(_as_dict(m.popped())),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.popped()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add(m.popped()),
    0x91: lambda m: m.push(set(scalars(m.popped()))),
    ord("p"): lambda m: m.put(int(m.line())),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    ord("c"): lambda m: m.name(m.line().decode(), m.line().decode()),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _reduce,  # NEWOBJ: the class and its arguments
    0x92: _new_object_ex,
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.saved(),
}
