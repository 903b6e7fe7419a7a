"""Fetch one wheel from the package index that pip is set up with, as a file: nothing is installed.

The download goes on where an interrupted one stopped (`NAME.part` and a range request) and counts only once
its SHA-256 is the expected one. The index is pip's: no host is written here.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from ftkit.errors import ModelError
from ftkit.manifest import sha256
from ftkit.models.cache import Progress, make_folder

_TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and between two pieces."""
_TRIES = 4
_PIECE = 1 << 18


@dataclass(frozen=True)
class Wheel:
    """A wheel, to the byte."""

    package: str
    version: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """Name of the file in the index."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


def fetch(wheel: Wheel, folder: Path, progress: Progress, what: str) -> Path:
    """The wheel's file in `folder`, downloaded unless a good copy is there already.

    Parameters
    ----------
    wheel
        Which one.
    folder
        Where the file and the part of an unfinished download are kept.
    progress
        Told how far it is; may raise to cancel, the part stays.
    what
        What the person is told is being downloaded, such as "the starter model".

    Raises
    ------
    ModelError
        Where no copy with the right checksum can be had.
    """
    target = folder / wheel.filename
    if target.is_file():
        if target.stat().st_size == wheel.size and sha256(target) == wheel.sha256:
            return target
        target.unlink()
    import requests  # a tenth of a second, which nobody else waits for

    make_folder(folder)
    progress(f"Looking for {what} in the package index", None)
    try:
        _download(_find(wheel), target, wheel, progress, what)
    except (requests.RequestException, LookupError) as error:
        _pip_download(wheel, target, progress, what, _reason(error))
    return target


def _find(wheel: Wheel) -> str:
    """The address of the wheel's file, from the index's page of the package (PEP 503 and PEP 691)."""
    import requests

    index = _index()
    if index is None or not index.startswith(("http:", "https:")):
        raise LookupError("pip has no index to be asked over the network")
    accept = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
    page = requests.get(f"{index.rstrip('/')}/{wheel.package}/", headers={"Accept": accept}, timeout=_TIMEOUT)
    page.raise_for_status()
    if "json" in page.headers.get("Content-Type", ""):
        links = [file["url"] for file in page.json()["files"]]
    else:
        parser = _Links()
        parser.feed(page.text)
        links = parser.links
    for link in links:
        address = urljoin(page.url, link).partition("#")[0]
        if unquote(urlsplit(address).path).rsplit("/", 1)[-1] == wheel.filename:
            return address
    raise LookupError(f"the index does not list {wheel.filename}")


class _Links(HTMLParser):
    """The links of an index page in HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _download(address: str, target: Path, wheel: Wheel, progress: Progress, what: str) -> None:
    import requests

    part = target.with_name(target.name + ".part")
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(min(2.0**attempt / 4, 2.0))
        try:
            _append(address, part, wheel, progress, what)
        except requests.RequestException:
            if attempt == _TRIES - 1:
                raise
            continue
        if part.stat().st_size < wheel.size:
            continue
        progress(f"Checking {what}", None)
        if sha256(part) == wheel.sha256:
            part.replace(target)
            return
        part.unlink()
    raise ModelError(
        f"The download of {wheel.filename} does not have the expected size and checksum, "
        f"after {_TRIES} tries.",
        "A proxy or a mirror may change or cut the file. Try again later or from another network.",
    )


def _append(address: str, part: Path, wheel: Wheel, progress: Progress, what: str) -> None:
    """One request: what is missing of the part, or all of it where the server knows no ranges."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    if have >= wheel.size:
        if have == wheel.size:
            return
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            return
        reply.raise_for_status()
        goes_on = have and reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        done = have if goes_on else 0
        try:
            with part.open("ab" if goes_on else "wb") as file:
                for piece in reply.iter_content(_PIECE):
                    file.write(piece)
                    done += len(piece)
                    if done > wheel.size:
                        return
                    text = f"Downloading {what} {done / 1e6:.0f} of {wheel.size / 1e6:.0f} MB"
                    progress(text, done / wheel.size)
        except requests.RequestException:
            raise
        except OSError as error:
            raise ModelError(
                f"{part} cannot be written: {error.strerror or error}.", "Free some space on that disk."
            ) from None


def _pip_download(wheel: Wheel, target: Path, progress: Progress, what: str, why: str) -> None:
    """Let pip fetch the file: it knows proxies, find-links and extra indexes that the plain way does not."""
    advice = (
        "Connect to the network and try again; a download that began goes on where it stopped. Without "
        "a network, choose a model folder on this machine."
    )
    pip = _pip()
    if pip is None:
        raise ModelError(f"{what[0].upper()}{what[1:]} could not be downloaded: {why}.", advice)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, tempfile.TemporaryFile() as output:
        command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
        command += [
            "--retries",
            "1",
            "--timeout",
            "15",
            "--dest",
            folder,
            f"{wheel.package}=={wheel.version}",
        ]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                progress(f"Downloading {what} with pip", None)
                time.sleep(0.25)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        fetched = Path(folder) / wheel.filename
        if child.returncode or not fetched.is_file():
            raise ModelError(
                f"{what[0].upper()}{what[1:]} could not be downloaded: {why}; nor did pip find it.", advice
            )
        if sha256(fetched) != wheel.sha256:
            raise ModelError(
                f"{wheel.filename} does not have the expected checksum.", "Check which index pip uses."
            )
        fetched.replace(target)


def _reason(error: Exception) -> str:
    """Why the index could not be asked, without its address: that may hold a password."""
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "the package index does not answer"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the package index answers {error.response.status_code}"
    if isinstance(error, LookupError):
        return str(error)
    return f"the package index gave an answer that cannot be read ({type(error).__name__})"


def _index() -> str | None:
    """The simple index that pip would ask: environment, pip's configuration, pip's own default."""
    if chosen := os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX"):
        return chosen.strip()
    return _ask_pip("config", "get", "global.index-url") or _default_index()


def _default_index() -> str | None:
    if find_spec("pip") is None:
        return _index_of_bundled_pip()
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return None
    return str(PyPI.simple_url)


def _index_of_bundled_pip() -> str | None:
    wheel = _bundled_pip()
    if wheel is None:
        return None
    lines = (
        "import sys",
        "sys.path.insert(0, sys.argv[1])",
        "from pip._internal.models.index import PyPI",
        "print(PyPI.simple_url)",
    )
    return _output([sys.executable, "-c", "\n".join(lines), wheel])


@functools.cache
def _bundled_pip() -> str | None:
    """The pip that Python carries for new environments: environments made by uv hold none of their own."""
    spec = find_spec("ensurepip")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [str(path) for folder in folders for path in Path(folder, "_bundled").glob("pip-*.whl")]
    return found[0] if found else None


def _pip() -> list[str] | None:
    """The command line of pip."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    wheel = _bundled_pip()
    return [sys.executable, f"{wheel}/pip"] if wheel else None


def _ask_pip(*words: str) -> str | None:
    pip = _pip()
    return _output([*pip, *words]) if pip else None


def _output(command: list[str]) -> str | None:
    """What a short command prints; None where it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
