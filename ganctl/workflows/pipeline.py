"""Decode, compute and encode at the same time: threads around one computing loop, in order, with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ganctl.io.threads import in_turn, ordered

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

THREADS = 2
AHEAD = 4
"""Items decoded before, and encoded after, the one being computed: with large images this is what memory holds."""


def overlapped(
    items: Iterable[A],
    decode: Callable[[A], B],
    compute: Callable[[Sequence[B]], Sequence[C]],
    encode: Callable[[C], D],
    *,
    together: Callable[[Sequence[B], B], bool] = lambda group, item: False,
) -> Iterator[D]:
    """encode(compute(decode(item))) of every item, in order.

    decode and encode run in threads, compute in the caller's. Neighbours are computed in one call as long as
    `together(group, next)` is true. Any exception ends the run; a stage that has failures of its own returns them.
    """
    pool = ThreadPoolExecutor(THREADS)
    done: deque[Future[D]] = deque()

    def flush(group: list[B]) -> Iterator[D]:
        done.extend(pool.submit(encode, c) for c in compute(group))
        while len(done) > AHEAD:
            yield done.popleft().result()

    try:
        group: list[B] = []
        for item in in_turn(pool, decode, items, AHEAD):
            if group and not together(group, item):
                yield from flush(group)
                group = []
            group.append(item)
        if group:
            yield from flush(group)
        while done:
            yield done.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """work(item) of every item, in order, in threads; the items come from the caller's, which goes on meanwhile."""
    return ordered(work, items, THREADS, ahead=AHEAD)
