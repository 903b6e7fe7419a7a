"""Models on the Hugging Face Hub: what its local cache holds, and fetching the rest with a progress bar.

Only safetensors, tokenizer and configuration files are fetched. Pickled weights never are.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.models.cache import Progress
from ftkit.models.quiet import prepare_environment

_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_DEADLINE = 6.0
"""Seconds after which the Hub counts as out of reach."""
_reach: dict[str, tuple[float, bool]] = {}


def cached(repo: str, revision: str | None, *, code: bool = False) -> Path | None:
    """The folder of a model in the Hub's own local cache; None where it is not there whole."""
    prepare_environment()
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=_patterns(code))
        )
    except (OSError, ValueError):
        return None
    return folder if whole(folder) else None


def whole(folder: Path) -> bool:
    """Whether a folder holds a configuration and every weight file that it speaks of."""
    from ftkit.models.folder import missing_weights

    return (folder / "config.json").is_file() and not missing_weights(folder)


def offline() -> bool:
    """Whether the person has told the Hub's library to stay offline."""
    prepare_environment()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def reachable(progress: Progress) -> bool:
    """Whether the Hub answers, known within seconds; the answer holds for a minute."""
    prepare_environment()
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    when, answer = _reach.get(endpoint, (-1e9, False))
    if time.monotonic() - when < 60:
        return answer
    # Name look-ups know no time-out: they are left to a thread that nobody waits for.
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_answers(endpoint)), daemon=True)
    thread.start()
    end = time.monotonic() + _DEADLINE
    while thread.is_alive() and time.monotonic() < end:
        progress("Looking for the model on the Hub", None)
        thread.join(0.2)
    answer = bool(found and found[0])
    _reach[endpoint] = (time.monotonic(), answer)
    return answer


def _answers(endpoint: str) -> bool:
    import requests

    try:
        return requests.head(endpoint, timeout=(3, 5), allow_redirects=False).status_code < 500
    except requests.RequestException:
        return False


def config_file(repo: str, revision: str | None, progress: Progress, *, offline: bool) -> Path:
    """The model's config.json, from the Hub's cache or fetched by itself.

    Raises
    ------
    ModelError
        Where it cannot be had.
    """
    prepare_environment()
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(found, str):
        return Path(found)
    if offline or not reachable(progress):
        why = "this is an offline run" if offline else "the Hub cannot be reached"
        raise ModelError(
            f"{repo} is not on this machine, and {why}.", "Connect to the network, or choose `starter`."
        )
    with _explained(repo, revision):
        return Path(hf_hub_download(repo, "config.json", revision=revision, etag_timeout=10))


def fetch(repo: str, revision: str | None, progress: Progress, *, code: bool = False) -> Path:
    """Download a model (what the Hub's cache lacks of it) and return its folder.

    Parameters
    ----------
    repo, revision
        Hub id; branch, tag or commit.
    progress
        Told how far it is; may raise to cancel. What has come stays in the Hub's cache.
    code
        Fetch the Python files that come with the model too.

    Raises
    ------
    ModelError
        Where there is no such model, it may not be read, or it comes without safetensors.
    """
    prepare_environment()
    from huggingface_hub import HfApi, snapshot_download

    with _explained(repo, revision):
        progress(f"Asking the Hub for {repo}", None)
        info = HfApi().model_info(repo, revision=revision, timeout=15)
        _readable([file.rfilename for file in info.siblings or []], repo)
        folder = snapshot_download(
            repo,
            # Not info.sha: only a branch's name is remembered, and found again offline.
            revision=revision,
            allow_patterns=_patterns(code),
            tqdm_class=_bar(progress, repo),
        )
    return Path(folder)


@dataclass(frozen=True)
class Found:
    """A model that a search of the Hub found.

    Attributes
    ----------
    source
        Its Hub id.
    downloads
        In the last month.
    gated
        Whether its makers ask you to accept terms first.
    parameters
        In millions; None where the Hub does not say.
    """

    source: str
    downloads: int
    gated: bool
    parameters: int | None


def search(text: str, progress: Progress, *, limit: int = 20) -> list[Found]:
    """Models on the Hub that write text and come as safetensors, the most fetched first.

    Parameters
    ----------
    text
        What is looked for in their names.
    progress
        Told before the Hub is asked; may raise to cancel.

    Raises
    ------
    ModelError
        Where the Hub cannot be asked.
    """
    prepare_environment()
    if offline():
        raise ModelError("The Hub's library is set to stay offline.", "Unset HF_HUB_OFFLINE to search it.")
    if not reachable(progress):
        raise ModelError("The Hub cannot be reached.", "The models of the list are known without it.")
    from huggingface_hub import HfApi

    progress(f"Asking the Hub for {text}", None)
    try:
        models = HfApi().list_models(
            search=text,
            pipeline_tag="text-generation",
            filter="safetensors",
            sort="downloads",
            limit=limit,
            expand=["downloads", "gated", "safetensors"],
        )
        return [_found(model) for model in models]
    except _connection_errors() as error:
        raise ModelError(
            f"The Hub could not be searched: {type(error).__name__}: {str(error)[:200]}",
            "Type the whole id instead, or try again.",
        ) from None


def _found(model: Any) -> Found:
    weights = getattr(model.safetensors, "total", None)
    millions = round(weights / 1e6) if weights else None
    return Found(model.id, model.downloads or 0, bool(model.gated), millions)


def listing(repo: str, revision: str | None) -> list[str]:
    """The names of the files of a model on the Hub.

    Raises
    ------
    ModelError
        Where it cannot be asked.
    """
    prepare_environment()
    from huggingface_hub import HfApi

    with _explained(repo, revision):
        info = HfApi().model_info(repo, revision=revision, timeout=15)
    return [file.rfilename for file in info.siblings or []]


@contextlib.contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of the Hub's library into ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo} asks you to accept its terms before you may use it.",
            "Accept them on the model's page of the Hub, then give your access token: `hf auth login`, "
            "or the environment variable HF_TOKEN.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"The Hub has no model {repo!r}, or it is private.",
            "Check the spelling. For a private model, give your access token: `hf auth login`, or the "
            "environment variable HF_TOKEN.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"{repo} has no revision {revision!r}.", "Leave model.revision empty for the main branch."
        ) from None
    except errors.HFValidationError:
        raise ModelError(f"{repo!r} is no model id.", "A Hub id is written organisation/name.") from None
    except _connection_errors() as error:
        raise ModelError(
            f"{repo} could not be fetched from the Hub: {type(error).__name__}: {str(error)[:200]}",
            "Try again: what has come is kept. Check the network and the space on the disk.",
        ) from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """What the Hub's library raises where it is refused or cut off: from 1.0 on httpx's own errors, too."""
    from huggingface_hub import errors

    try:
        import httpx
    except ImportError:
        return (OSError, errors.HfHubHTTPError)
    return (OSError, errors.HfHubHTTPError, httpx.HTTPError)


def _patterns(code: bool) -> list[str]:
    return [*_PATTERNS, "*.py"] if code else list(_PATTERNS)


def _readable(files: list[str], repo: str) -> None:
    """Refuse before anything is fetched what could not be read afterwards."""
    if any(name.endswith(".safetensors") for name in files):
        return
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in files):
        raise ModelError(
            f"{repo} has its weights as pickled files only (.bin or the like). Reading those runs whatever "
            "code is in them; ftkit does not.",
            "Look for a version of the model with safetensors, or for a revision that a bot of the Hub "
            "converted (model.revision: refs/pr/1). Or download it yourself and convert it, in a process "
            "without network: ftkit convert-weights FOLDER OUT.",
        )
    found = [name for name in files if name.endswith(".gguf")]
    if found:
        raise ModelError(
            f"{repo} holds GGUF files only ({', '.join(found[:4])}).",
            "Take the original model with safetensors; or download one of the files and give its path.",
        )
    raise ModelError(
        f"{repo} holds no model weights.", "Check that it is a model and not a data set or an adapter."
    )


def _bar(progress: Progress, repo: str) -> type:
    """A tqdm class that tells `progress` about bytes instead of drawing anything."""
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    # Files come in several threads: a callback that cancels does so in one, and must end them all.
    cancelled: list[BaseException] = []

    class Bar(tqdm):
        # tqdm's monitor would draw from a thread of its own, where a cancelling callback has nobody to tell.
        monitor_interval = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(
                *arguments, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0.2}
            )

        def refresh(self, *_: Any, **__: Any) -> bool:
            # tqdm's own holds a lock here that an error would never give back.
            if cancelled:
                raise cancelled[0]
            if self.unit == "B" and self.total:
                text = f"Downloading {repo} {self.n / 1e6:.0f} of {self.total / 1e6:.0f} MB"
                try:
                    progress(text, min(self.n / self.total, 1.0))
                except BaseException as error:
                    cancelled.append(error)
                    raise
            return True

        def display(self, *_: Any, **__: Any) -> None:
            pass

    return Bar
