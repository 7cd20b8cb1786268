import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from ganctl.workflows.pipeline import AHEAD, in_order, overlapped


def test_order_is_kept_groups_are_neighbours_and_memory_is_bounded():
    lock, alive, most = threading.Lock(), 0, 0
    groups: list[list[int]] = []

    def decode(i: int) -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        time.sleep(0.001 * (i % 3))  # so that threads finish out of order
        return i

    def compute(group: Sequence[int]) -> list[int]:
        groups.append(list(group))
        return [10 * i for i in group]

    def encode(value: int) -> int:
        nonlocal alive
        time.sleep(0.001 * (value % 7))
        with lock:
            alive -= 1
        return value + 1

    def together(group: Sequence[int], item: int) -> bool:
        return len(group) < 3 and item % 10 != 0

    done = list(overlapped(range(100), decode, compute, encode, together=together))
    assert done == [10 * i + 1 for i in range(100)]
    assert groups[:4] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]] and max(map(len, groups)) == 3
    # Decoded ahead, the group, the group that follows it, and what waits for its encoding.
    assert most <= 2 * (AHEAD + 3) + 1


def test_the_three_stages_run_at_the_same_time():
    running: set[str] = set()
    seen: set[frozenset[str]] = set()
    lock = threading.Lock()

    def busy(name: str) -> None:
        with lock:
            running.add(name)
            seen.add(frozenset(running))
        time.sleep(0.01)
        with lock:
            running.discard(name)

    def compute(group: Sequence[int]) -> Sequence[int]:
        busy("compute")
        return group

    list(overlapped(range(12), lambda i: busy("decode") or i, compute, lambda i: busy("encode")))
    assert any({"compute", "decode"} <= s for s in seen) and any({"compute", "encode"} <= s for s in seen)


@pytest.mark.parametrize("stage", ["decode", "compute", "encode"])
def test_an_exception_in_any_stage_ends_the_run(stage: str):
    def fails(name: str, value: int) -> int:
        if name == stage and value == 5:
            raise ValueError(name)
        return value

    before = threading.active_count()
    done = []
    with pytest.raises(ValueError, match=stage):
        for item in overlapped(
            range(50),
            lambda i: fails("decode", i),
            lambda g: [fails("compute", i) for i in g],
            lambda i: fails("encode", i),
        ):
            done.append(item)
    assert done == list(range(len(done))) and len(done) <= 5 and threading.active_count() == before


def test_nothing_runs_on_after_the_consumer_stops():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            taken.append(i)
            yield i

    stream = overlapped(items(), lambda i: i, lambda g: g, lambda i: i)
    next(stream)
    stream.close()
    assert len(taken) <= 3 * AHEAD
    assert list(in_order(lambda i: -i, range(9))) == [-i for i in range(9)]
