"""Work in threads whose results come in order, a bounded number of them at a time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ordered(work: Callable[[T], U], items: Iterable[T], workers: int, *, ahead: int = 16) -> Generator[U, None, None]:
    """Results of `work` in the order of `items`, computed in threads, about `ahead` of the reader.

    Without workers, in the reader's own thread. Closed early, or after an error, it cancels what has not begun.
    """
    if workers < 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from in_turn(pool, work, items, ahead)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_turn(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], ahead: int
) -> Generator[U, None, None]:
    """The same in a pool that others use too, and close."""
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
