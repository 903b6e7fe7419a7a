"""Turns with the model: one at a time, first come first served, reentrant."""

from __future__ import annotations

import threading
import time

import pytest

from ftkit.models.gate import Gate


def _wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def test_only_one_turn_at_a_time():
    gate, inside, most = Gate(), [], []

    def work(name):
        for _ in range(50):
            with gate.turn(name):
                inside.append(name)
                most.append(len(inside))
                time.sleep(0)
                inside.remove(name)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) == 1
    assert len(most) == 200


def test_chat_gets_the_very_next_turn_of_a_busy_trainer():
    gate, steps, stop = Gate(), [], threading.Event()

    def train():
        while not stop.is_set():
            with gate.turn("training"):
                steps.append(None)
                time.sleep(0.002)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        _wait_until(lambda: len(steps) > 3)
        between = []
        for _ in range(20):
            before = len(steps)
            with gate.turn("chat"):
                between.append(len(steps) - before)
        # The step in progress when chat asks; one more may begin between the reading and the asking.
        assert max(between) <= 2
    finally:
        stop.set()
        trainer.join(10)


def test_turns_come_in_the_order_asked():
    gate, order, threads = Gate(), [], []

    def work(i):
        with gate.turn(str(i)):
            order.append(i)

    with gate.turn("first"):
        for i in range(8):
            thread = threading.Thread(target=work, args=(i,))
            thread.start()
            threads.append(thread)
            _wait_until(lambda i=i: gate.waiting == i + 1)
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))
    assert gate.waiting == 0


def test_a_holder_may_take_its_turn_again():
    gate = Gate()
    with gate.turn("training"):
        with gate.turn("evaluation"):
            assert gate.holder == "training"
        assert gate.holder == "training"
        keep: list = []
        other = threading.Thread(
            target=lambda: (keep.append(gate.turn("chat")), keep[0].__enter__()), daemon=True
        )
        other.start()
        _wait_until(lambda: gate.waiting == 1)
    _wait_until(lambda: gate.holder == "chat")


def test_an_error_inside_a_turn_gives_it_back():
    gate = Gate()
    with pytest.raises(ValueError, match="oops"), gate.turn("training"):
        raise ValueError("oops")
    assert gate.holder is None
    with gate.turn("chat"):
        assert gate.holder == "chat"
