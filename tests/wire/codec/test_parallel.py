from __future__ import annotations

import threading

import pytest

from wire.codec.parallel import in_order


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_come_in_order_whoever_is_first(threads: int) -> None:
    assert list(in_order(lambda n: n * n, range(100), threads=threads)) == [n * n for n in range(100)]


def test_one_thread_does_nothing_before_it_is_asked() -> None:
    done: list[int] = []
    results = in_order(done.append, range(3), threads=1)
    assert done == []
    next(results)
    assert done == [0]


def test_two_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2, timeout=10)
    list(in_order(lambda _: both.wait(), range(2), threads=2))


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_comes_at_its_place(threads: int) -> None:
    def work(n: int) -> int:
        if n == 2:
            raise FloatingPointError("two")
        return n

    results = in_order(work, range(50), threads=threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(FloatingPointError, match="two"):
        next(results)


def test_nothing_is_at_work_any_more_when_the_error_comes() -> None:
    failed, done = threading.Event(), threading.Event()

    def work(n: int) -> None:
        if n == 0:
            failed.set()
            raise FloatingPointError("zero")
        failed.wait(10)
        threading.Event().wait(0.1)
        done.set()

    with pytest.raises(FloatingPointError):
        list(in_order(work, range(2), threads=2))
    assert done.is_set()
