"""What ftkit relies on in a kernel, in a real one: clicks, threads, interrupts, restarts.

The kernel runs the real panels and the real Run; only the training itself is a loop that sleeps and tells
losses, so that these tests need no torch and run on every Python and release of ipykernel (`make matrix`).
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import ftkit

PREPARE = """
import time
import ftkit
import ftkit.train.fit
from ftkit.errors import ModelError

def fit(job, publish, *, resume=False):
    recipe, sink, control = job.recipe, job.sink, job.control
    if recipe.model.source == "broken":
        raise ModelError("This model is broken.", "Take another one.")
    first = 0
    sink.emit("steps", step=first, total_steps=recipe.training.max_steps)
    for step in range(first + 1, recipe.training.max_steps + 1):
        control.checkpoint()
        if control.stopping:
            break
        time.sleep(0.02)
        sink.emit("train", step=step, epoch=0.0, loss=1 / step, accuracy=None, entropy=None,
                  learning_rate=1e-4, grad_norm=1.0, tokens=step, trained_tokens=step, step_tokens=1,
                  step_trained_tokens=1, tokens_per_second=50.0, memory_gb=0.1, gpu_memory_gb=None,
                  elapsed=0.02 * step)

ftkit.train.fit.fit = fit

def recipe(steps=10_000, **changes):
    made = ftkit.Recipe(training={"max_steps": steps}, output={"folder": FOLDER})
    return made.replace(changes)
"""


class Kernel:
    """A kernel of this environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.manager.kernel_spec.argv = [
            sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"
        ]  # fmt: skip
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.prepare()

    def prepare(self) -> None:
        self.run(f"FOLDER = {str(self.folder / 'runs')!r}\n" + PREPARE)

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=120)
        self.prepare()

    def send(self, code: str) -> str:
        """Run a cell and do not wait for it."""
        return str(self.client.execute(code))

    def listen(self, deadline: float) -> dict[str, Any]:
        """The next that the kernel tells; queue.Empty when `deadline` passes first.

        A kernel of ipykernel 7.0 to 7.3 can leave a request unread until the next connection
        (ipython/ipykernel#1554: about one in 100 cells, in kernels without ftkit, too). So one is made.
        """
        while True:
            left = deadline - time.monotonic()
            try:
                return self.client.get_iopub_msg(timeout=max(0.1, min(left, 10)))
            except queue.Empty:
                if left <= 0:
                    raise
                passing = self.manager.blocking_client()
                passing.start_channels()
                time.sleep(0.5)
                passing.stop_channels()

    def outcome(self, message: str, seconds: float = 60) -> tuple[str, dict[str, Any] | None]:
        """What a cell printed, and its error."""
        deadline = time.monotonic() + seconds
        printed, error = "", None
        while True:
            said = self.listen(deadline)
            if said["parent_header"].get("msg_id") != message:
                continue
            kind, content = said["msg_type"], said["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                error = content
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, error

    def run(self, code: str, seconds: float = 60) -> str:
        printed, error = self.outcome(self.send(code), seconds)
        assert error is None, "\n".join(error["traceback"]) if error else ""
        return printed.strip()

    def click(self, button: str) -> None:
        """What a browser sends when a button is pressed; `button` is a Python expression."""
        self.click_on(self.run(f"print({button}.model_id)"))

    def click_on(self, model: str) -> None:
        """The same for a button's model, without any other message."""
        self.tell("comm_msg", comm_id=model, data={"method": "custom", "content": {"event": "click"}})

    def tell(self, kind: str, subshell: str | None = None, **content: Any) -> None:
        message = self.client.session.msg(kind, content, metadata={"version": "1.0.0"})
        message["header"] |= {"subshell_id": subshell} if subshell else {}
        self.client.shell_channel.send(message)

    def open_page(self) -> None:
        """What JupyterLab sends when a page opens that shows widgets of a running kernel."""
        subshell = self.control("create_subshell_request")["subshell_id"]
        control = {"comm_id": "control", "data": {}}
        self.tell("comm_open", subshell, target_name="jupyter.widget.control", **control)
        self.tell("comm_msg", subshell, **control | {"data": {"method": "request_states"}})
        self.hear(lambda said: said["content"].get("data", {}).get("method") == "update_states")
        self.tell("comm_close", subshell, **control)
        self.control("delete_subshell_request", subshell_id=subshell)

    def needs_subshells(self) -> None:
        """Skip the test where there are none: in ipykernel 6."""
        info = self.client.kernel_info(reply=True)["content"]
        if "kernel subshells" not in info.get("supported_features", ()):
            pytest.skip("this kernel has no subshells")

    def control(self, kind: str, **content: Any) -> dict[str, Any]:
        self.client.control_channel.send(self.client.session.msg(kind, content))
        while True:
            reply = self.client.control_channel.get_msg(timeout=60)
            if reply["msg_type"] == kind.replace("request", "reply"):
                return dict(reply["content"])

    def hear_of(self, model: str, name: str, value: Any) -> None:
        """Wait until the kernel has told the pages this of a widget."""
        self.hear(
            lambda said: (
                said["content"].get("comm_id") == model
                and said["content"]["data"].get("state", {}).get(name) == value
            )
        )

    def hear(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            said = self.listen(deadline)
            if said["msg_type"] == "comm_msg" and wanted(said):
                return

    def until(self, expression: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while self.run(f"print(bool({expression}))") != "True":
            assert time.monotonic() < deadline, f"{expression} did not come true"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    made = Kernel(tmp_path_factory.mktemp("kernel"))
    yield made
    made.client.stop_channels()
    made.manager.shutdown_kernel(now=True)


def button(panel: str, name: str) -> str:
    """The expression of a panel's button by its text."""
    return f"next(w for w in find({panel}, {name!r}))"


@pytest.fixture
def lab(kernel: Kernel) -> Kernel:
    kernel.run(
        "import ipywidgets\n"
        "def find(panel, text):\n"
        "    todo = [panel]\n"
        "    while todo:\n"
        "        one = todo.pop()\n"
        "        if isinstance(one, ipywidgets.Button) and text in (one.description, one.tooltip):\n"
        "            yield one\n"
        "        todo += list(getattr(one, 'children', ()))\n"
        "train = ftkit.ui.TrainPanel(ftkit.ui.workspace.Workspace(recipe()))\n"
        "monitor = ftkit.ui.MonitorPanel(train.workspace)\n"
    )
    return kernel


def test_start_and_stop_by_clicks(lab: Kernel) -> None:
    lab.click(button("train", "Start"))
    lab.until("train.workspace.run is not None and train.workspace.run.progress.step > 3")
    lab.until("monitor.run is train.workspace.run")
    lab.click(button("monitor", "Stop"))
    lab.until("train.workspace.run.status == 'stopped'")


def test_a_busy_cell_does_not_hold_the_run_and_nothing_is_printed_into_it(kernel: Kernel) -> None:
    kernel.run("run = ftkit.start(recipe()); time.sleep(0.5)")
    printed = kernel.run(
        "before = run.progress.step\nx = time.monotonic()\nwhile time.monotonic() < x + 1: pass"
    )
    assert printed == ""
    assert int(kernel.run("print(run.progress.step - before)")) > 5
    kernel.run("run.stop(); run.wait(20)")


def test_a_click_on_stop_during_a_busy_cell_is_served_at_its_end_at_the_latest(lab: Kernel) -> None:
    lab.run("train.workspace.run = run = ftkit.start(recipe()); time.sleep(0.5)")
    model = lab.run(f"print({button('monitor', 'Stop')}.model_id)")
    cell = lab.send("time.sleep(2)")
    lab.click_on(model)
    assert lab.outcome(cell)[1] is None
    lab.until("run.status == 'stopped'", 10)


def test_waiting_can_be_interrupted_and_the_run_goes_on(kernel: Kernel) -> None:
    kernel.run("run = ftkit.start(recipe()); time.sleep(0.3)")
    for wait in ("run.wait()", "await run"):
        cell = kernel.send(wait)
        time.sleep(0.7)
        kernel.manager.interrupt_kernel()
        _, error = kernel.outcome(cell)
        assert error is not None
        assert error["ename"] in {"KeyboardInterrupt", "CancelledError"}
        assert kernel.run("print(run.status)") == "running", "the next cell runs, and so does the run"
    kernel.run("run.stop(); run.wait(20)")


def test_await_gives_the_ended_run(kernel: Kernel) -> None:
    assert kernel.run("print((await ftkit.start(recipe(5))).status)") == "finished"


def test_an_error_in_the_thread_fails_the_cell_that_waits(kernel: Kernel) -> None:
    message = kernel.send("ftkit.start(recipe(**{'model.source': 'broken'})).wait()")
    _, error = kernel.outcome(message)
    assert error is not None
    assert error["ename"] == "RunError"
    assert "Take another one" in error["evalue"]


def test_two_runs_of_one_kernel_take_turns(kernel: Kernel) -> None:
    kernel.run("one, two = ftkit.start(recipe()), ftkit.start(recipe(5)); time.sleep(0.5)")
    assert kernel.run("print(one.status, two.status)") == "running queued"
    kernel.run("one.stop(); two.wait(20)")
    assert kernel.run("print(one.status, two.status)") == "stopped finished"


def test_a_restarted_kernel_finds_its_run_and_takes_it_up_again(kernel: Kernel) -> None:
    path = kernel.run("run = ftkit.start(recipe()); time.sleep(0.5); print(run.path)")
    assert ftkit.attach(path).status == "running", "another process sees it run"
    kernel.restart()
    assert ftkit.attach(path).status == "interrupted"
    assert kernel.run(f"run = ftkit.attach({path!r}); print(run.status, run.progress.step > 3)") == (
        "interrupted True"
    )
    kernel.run("run.resume(); time.sleep(0.5)")
    assert kernel.run("print(run.status)") == "running"
    ftkit.attach(path).stop()  # from this process
    kernel.until("run.status == 'stopped'", 10)


def test_widgets_state_is_plain_json(lab: Kernel) -> None:
    state = json.loads(lab.run("import json; print(json.dumps(ipywidgets.Widget.get_manager_state()))"))
    assert len(state["state"]) > 20


def test_what_a_page_says_is_handled_in_its_order_by_one_thread(lab: Kernel) -> None:
    """JupyterLab sends what it says of widgets to a subshell; the kernel has shown some of them from its main
    shell last, and others from there."""
    lab.needs_subshells()
    box, go = (
        lab.run(f"import threading; heard = []; {name} = ipywidgets.{kind}(); print({name}.model_id)")
        for name, kind in (("box", "Text"), ("go", "Button"))
    )
    lab.run(
        "heard = []; hear = lambda what: (heard.append((what, threading.get_ident())), time.sleep(0.2))\n"
        "box.observe(lambda change: hear(change['new']), 'value'); go.on_click(lambda _: hear('click'))"
    )
    subshell = lab.control("create_subshell_request")["subshell_id"]
    for text in ("one", "two", "three"):
        lab.tell("comm_msg", subshell, comm_id=box, data={"method": "update", "state": {"value": text}})
        lab.tell("comm_msg", subshell, comm_id=go, data={"method": "custom", "content": {"event": "click"}})
        if text == "one":  # the box is now shown from there, the button from the main shell
            lab.until("len(heard) == 2")
            lab.run("go.description = 'Go'")
    lab.until("len(heard) == 6")
    assert lab.run("print(*(what for what, _ in heard))") == "one click two click three click"
    assert lab.run("print(len({thread for _, thread in heard}))") == "1"
    lab.control("delete_subshell_request", subshell_id=subshell)


def test_a_click_arrives_though_the_page_that_the_kernel_last_heard_of_is_gone(lab: Kernel) -> None:
    """A page that opens asks for all widgets from a subshell of its own, which it then deletes.

    What a thread shows after that is still sent as an answer to that page.
    """
    lab.needs_subshells()
    path = lab.run("train.workspace.run = run = ftkit.start(recipe()); print(run.path)")
    lab.until("run.progress.step > 3")
    resume = lab.run(f"print({button('monitor', 'Resume')}.model_id)")
    lab.open_page()
    run = ftkit.attach(path)  # in this process, so that the kernel hears of nothing else
    run.pause()
    lab.hear_of(resume, "disabled", False)
    lab.click_on(resume)
    step = run.progress.step
    deadline = time.monotonic() + 20
    while run.progress.step == step:
        assert time.monotonic() < deadline, "the click was lost"
        time.sleep(0.1)
    run.stop()
    lab.until("run.status == 'stopped'")
