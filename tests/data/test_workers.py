"""Several processes make the tokens that one makes; they end with Stop, an error, and their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ftkit.data import Conversation, Message, PlainText, RatedReply, Template, encode_all
from ftkit.data import chunks as chunking
from ftkit.data import workers as workers_module
from ftkit.data.encoded import Limits
from ftkit.data.workers import Workers
from ftkit.errors import DataError
from ftkit.recipe import SFT


def talks(count: int) -> list[Any]:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    made: list[Any] = []
    for n in range(count):
        asked = Message("user", f"Anna \U0001f600 needs {n} lamps")
        if n % 97 == 5:
            made.append(RatedReply((asked, Message("assistant", "no")), good=False, row=n))
        elif n % 89 == 5:
            made.append(PlainText(f"plain {n}", n))
        elif n % 83 == 5:
            turns = (
                asked,
                Message("assistant", "", (call,)),
                Message("tool", "4"),
                Message("assistant", "4"),
            )
            made.append(Conversation(turns, n, tools=({"type": "function", "function": {"name": "look"}},)))
        else:
            made.append(Conversation((asked, Message("assistant", "lamp " * (n % 30)), asked), n))
    return made


@pytest.fixture
def template(tiny_model_folder: Callable[..., Path]) -> Template:
    from ftkit.models import load_tokenizer
    from ftkit.recipe import Model

    tokenizer = load_tokenizer(Model(source=str(tiny_model_folder())))
    return Template(tokenizer, system_prompt="Be brief.")


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    yield
    assert not children(), "a worker is still there"


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "ftkit.data.worker" in " ".join(child.cmdline())
    ]


def encode(template: Template, rows: list[Any], processes: int, **given: Any) -> Any:
    settings = {"objective": SFT(), "max_length": 200, "too_long": "keep_end"} | given
    return encode_all(rows, template, processes=processes, **settings)


def test_two_processes_make_what_one_makes(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    real = workers_module.receive_chunk
    monkeypatch.setattr(workers_module, "receive_chunk", lambda stream: used.append(1) or real(stream))
    rows, told = talks(1500), []
    one = encode(template, rows, 1)
    two = encode(template, rows, 2, progress=lambda text, fraction: told.append(fraction))
    assert len(used) == 6, "the first chunk as a trial, and the five after it"
    assert told == sorted(told)
    assert told[-1] > 0.9
    assert (one.refused, one.shortened) == (two.refused, two.shortened)
    assert one.refused
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a.row == b.row
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_stop_ends_the_workers_within_a_second(template: Template) -> None:
    pressed: list[float] = []

    def stop(text: str, fraction: float | None) -> None:
        if children():
            pressed.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(template, talks(30_000), 2, progress=stop)
    assert time.monotonic() - pressed[0] < 5.0
    assert not children()


def test_an_error_in_a_worker_is_the_error(template: Template) -> None:
    rows = [*talks(600), Conversation((Message("user", "a"), Message("assistant", "b " * 500)), 600)]
    with pytest.raises(DataError, match="Row 600 is too long") as caught:
        encode(template, rows, 2, too_long="error", max_length=400)
    assert "max_length" in caught.value.advice


@pytest.mark.parametrize("fault", ["dies", "cannot start", "other tokens"])
def test_without_workers_this_process_goes_on(
    template: Template, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    rows = talks(900)
    expected = encode(template, rows, 1)
    if fault == "cannot start":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    elif fault == "dies":
        real = workers_module.plain

        def kill(example: Any) -> Any:
            if example.row == 700:
                for child in children():
                    child.kill()
            return real(example)

        monkeypatch.setattr(workers_module, "plain", kill)
    else:
        real_settings = workers_module.settings_of
        monkeypatch.setattr(
            workers_module, "settings_of", lambda *given: real_settings(*given) | {"system_prompt": "Other."}
        )
    found = encode(template, rows, 2)
    assert [row.row for row in found.rows] == [row.row for row in expected.rows]
    assert found.refused == expected.refused
    assert found.tokens == expected.tokens


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, template: Template) -> None:
    """Also when it is killed; and a script needs no main guard."""
    template.tokenizer.save_pretrained(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "from transformers import AutoTokenizer\n"
        "from ftkit.data import Template\n"
        "from ftkit.data.encoded import Limits\n"
        "from ftkit.data.workers import Workers\n"
        "from ftkit.recipe import SFT\n"
        f"template = Template(AutoTokenizer.from_pretrained({str(tmp_path)!r}))\n"
        "workers = Workers(1, template, Limits(SFT(), 100, 'drop'))\n"
        "print(workers._processes[0].pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_closing_is_quick_while_workers_start(template: Template) -> None:
    begun = time.monotonic()
    with Workers(2, template, Limits(SFT(), 100, "drop")):
        pass
    assert time.monotonic() - begun < 10.0


def test_processes_are_for_much_work_and_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, seconds, expected in ((2, 999, 1), (16, 5, 1), (6, 60, 6), (64, 60, 8)):
        monkeypatch.setattr(chunking.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert chunking._worthwhile(seconds) == expected
