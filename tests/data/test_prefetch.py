"""Work done ahead: its order, how far ahead it is, its errors, and that no thread is left."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.system.prefetch import is_unwanted, prefetch


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@settings(max_examples=30, deadline=None)
@given(num=st.integers(0, 20), workers=st.integers(1, 4), ahead=st.integers(1, 5))
def test_results_come_in_order(num: int, workers: int, ahead: int) -> None:
    def make(item: int) -> int:
        time.sleep(0.001 * (item % 3))  # later ones are done first
        return item * item

    made = prefetch(make, range(num), workers=workers, ahead=ahead, name="test-order")
    assert list(made) == [item * item for item in range(num)]
    assert not threads_named("test-order")


def test_no_more_is_taken_than_is_asked_for() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    made = prefetch(lambda item: item, items(), workers=2, ahead=3, name="test-far")
    assert not taken
    assert [next(made), next(made)] == [0, 1]
    assert taken == [0, 1, 2, 3]
    made.close()
    assert taken == [0, 1, 2, 3] and not threads_named("test-far")


def test_the_next_one_is_made_meanwhile() -> None:
    begun = threading.Event()
    made = prefetch(lambda item: item == 1 and begun.set(), range(3), workers=1, ahead=2, name="test-meanwhile")
    next(made)
    assert begun.wait(10)  # while nobody asks
    made.close()


def test_an_error_stands_in_its_place_and_ends_all() -> None:
    def make(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    made = prefetch(make, range(10), workers=3, ahead=4, name="test-error")
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(made)
    assert not threads_named("test-error")
    with pytest.raises(StopIteration):
        next(made)


def test_an_interrupt_ends_the_threads() -> None:
    made = prefetch(lambda item: time.sleep(0.01), range(1000), workers=2, ahead=4, name="test-interrupt")
    next(made)
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)
    assert not threads_named("test-interrupt")


def test_work_that_waits_without_end_learns_that_it_is_unwanted() -> None:
    def wait(item: int) -> int:
        while item and not is_unwanted():
            time.sleep(0.001)
        return item

    made = prefetch(wait, range(9), workers=2, ahead=4, name="test-unwanted")
    assert next(made) == 0 and not is_unwanted()
    made.close()
    assert not threads_named("test-unwanted") and not is_unwanted()
