"""Ticker and Worker: threads that end, and only the newest result delivered."""

from __future__ import annotations

import threading
import time

from ftkit.ui.ticker import Tell, Ticker, Worker


def _until(condition, timeout: float = 5.0) -> bool:
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def test_a_ticker_ends_when_its_function_says_so_and_can_start_again() -> None:
    calls: list[int] = []
    ticker = Ticker(lambda: calls.append(1) or len(calls) % 3 != 0, hz=100)
    ticker.start()
    ticker.start()
    assert _until(lambda: not ticker.running)
    assert len(calls) == 3
    ticker.start()
    assert _until(lambda: len(calls) == 6)


def test_a_ticker_that_idles_looks_again_and_can_be_woken() -> None:
    calls: list[int] = []
    ticker = Ticker(lambda: calls.append(1) or False, hz=100, idle=0.05)
    ticker.start()
    assert _until(lambda: len(calls) >= 3)
    assert ticker.running
    ticker.stop()
    slow: list[int] = []
    ticker = Ticker(lambda: slow.append(1) or False, hz=100, idle=60)
    ticker.start()
    assert _until(lambda: len(slow) == 1)
    ticker.start()
    assert _until(lambda: len(slow) == 2)
    ticker.stop()


def test_an_exception_ends_a_ticker_and_is_kept() -> None:
    ticker = Ticker(lambda: 1 / 0, hz=100)
    ticker.start()
    assert _until(lambda: not ticker.running)
    assert isinstance(ticker.error, ZeroDivisionError)


def test_only_the_newest_result_is_delivered() -> None:
    got: list[int] = []
    release = threading.Event()
    worker: Worker[int] = Worker(got.append, lambda error: None)
    worker.submit(lambda: release.wait(5) and 1)
    worker.submit(lambda: 2)
    assert worker.wait(5)
    release.set()
    time.sleep(0.05)
    assert got == [2]


def test_a_cancelled_request_is_not_delivered() -> None:
    got: list[int] = []
    release = threading.Event()
    worker: Worker[int] = Worker(got.append, lambda error: None)
    worker.submit(lambda: release.wait(5) and 1)
    worker.cancel()
    assert not worker.busy
    release.set()
    time.sleep(0.05)
    assert got == []


def test_telling_ends_work_that_nobody_waits_for() -> None:
    told: list[str] = []
    failed: list[Exception] = []
    begun, ended = threading.Event(), threading.Event()
    worker: Worker[None] = Worker(lambda _: None, failed.append)

    def work(tell: Tell) -> None:
        try:
            while True:
                tell("on", None)
                begun.set()
        finally:
            ended.set()

    worker.submit_told(work, lambda text, _: told.append(text))
    assert begun.wait(5)
    worker.submit(lambda: None)
    assert ended.wait(5)
    assert told
    assert worker.wait(5)
    assert failed == []


def test_an_exception_is_handed_over() -> None:
    failed: list[Exception] = []
    worker: Worker[float] = Worker(lambda _: None, failed.append)
    worker.submit(lambda: 1 / 0)
    assert worker.wait(5)
    assert isinstance(failed[0], ZeroDivisionError)
