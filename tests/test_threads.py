"""Threads of our own and those of BLAS: shared, never multiplied, and given back."""

from __future__ import annotations

import threading
import time

import pytest
import threadpoolctl

from gpuroi.backends.threads import limited_threads, n_threads, one_blas_thread, run_blocks


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("n", "threads", "least"), [(1, 4, 1), (7, 3, 1), (100, 4, 30), (64, 64, 1), (0, 2, 1)])
def test_every_item_is_worked_on_once(n, threads, least):
    seen = []
    with limited_threads(threads):
        run_blocks(lambda start, stop: seen.extend(range(start, stop)), n, least=least)
    assert sorted(seen) == list(range(n))


def test_blocks_within_blocks_share_the_threads():
    inner = []
    with limited_threads(6):
        run_blocks(lambda start, stop: inner.append(n_threads()), 3)
        assert inner == [2, 2, 2]
        assert n_threads() == 6
    with limited_threads(2):
        names = set()
        run_blocks(lambda *_: run_blocks(lambda *_: names.add(threading.current_thread().name), 8), 2)
    assert len(names) <= 2


def test_an_error_in_any_part_is_raised_after_all_have_ended():
    ended = []

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise ZeroDivisionError
        time.sleep(0.02)
        ended.append(start)

    with limited_threads(3), pytest.raises(ZeroDivisionError):
        run_blocks(work, 3)
    assert sorted(ended) == [1, 2]


def test_blas_has_one_thread_within_and_its_own_after():
    before = blas_threads()
    with one_blas_thread():
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_blas_is_given_back_by_the_last_of_several_who_asked():
    before = blas_threads()
    entered, may_leave = threading.Event(), threading.Event()

    def first() -> None:
        with one_blas_thread():
            entered.set()
            may_leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with one_blas_thread():
        may_leave.set()
        thread.join()
        assert blas_threads() == {1}  # the first has left, this one has not
    assert blas_threads() == before


def test_a_limit_that_the_caller_holds_stays():
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
