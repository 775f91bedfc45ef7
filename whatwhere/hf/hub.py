"""Where a model is: a folder, or a name of the Hugging Face hub, which is asked once.

transformers asks for one file after another, each up to five times where the network is gone, and
says of whatever went wrong that the name is none. Here the commit that a name stands for is asked
for; everything is read at that commit afterwards, so that config and weights belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from whatwhere.errors import UnknownName, did_you_mean, first_line

__all__ = ["Place", "locate"]

# Of the HTTP client, which is httpx in some releases of huggingface_hub and another in others.
_FAILED = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """What `from_pretrained` is given: `pretrained` and the keyword arguments `options`.

    name: the folder as it was given, or "owner/name@…" with twelve digits of the commit.
    """

    name: str
    pretrained: str
    options: dict[str, Any] = field(default_factory=dict)


def locate(name: str, beside: Iterable[str] = ()) -> Place:
    """The place of a folder, or of "owner/name" on the hub; "owner/name@revision" for a branch,
    tag or commit. The cache is used where the hub does not answer, and asked for nothing else.

    beside: other names that the caller knows, for "did you mean". Raises FileNotFoundError for a
    path that does not exist, UnknownName for a name that the hub does not have, ValueError for a
    gated model, an unknown revision, and what is no model, ConnectionError if the hub could not be
    asked and the model is not in the cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Place(name, str(folder))
    if folder.exists():
        raise FileNotFoundError(f"{name} is a file; give the folder of a model")
    repository, _, revision = name.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise FileNotFoundError(
            f"{name} does not exist; give a folder or a model of the hub, owner/name"
        ) from None
    found, options = _commit(repository, revision or "main", beside)
    return Place(f"{repository}@{found[:12]}", repository, {"revision": found, **options})


def _commit(repository: str, revision: str, beside: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The commit, and what keeps transformers from asking a hub that does not answer."""
    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    kept = Path(cached).parent.name if isinstance(cached, str) else None
    if kept is not None and _COMMIT.fullmatch(revision):
        return kept, {}
    error: BaseException | None = None
    if not constants.HF_HUB_OFFLINE:
        try:
            # Once: a download by itself asks five times where nobody answers.
            asked = get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision))
            if asked.commit_hash is None:
                raise ValueError(f"{constants.ENDPOINT} is no hub: correct HF_ENDPOINT")
            file = hf_hub_download(repository, "config.json", revision=revision)
            return Path(file).parent.name, {}
        except _FAILED as failed:
            error = failed
    if kept is not None and not isinstance(error, RevisionNotFoundError | EntryNotFoundError):
        return kept, {"local_files_only": True}
    raise _said(error, repository, revision, beside) from None


def _said(
    error: BaseException | None, repository: str, revision: str, beside: Iterable[str]
) -> Exception:
    """The answer of the hub, or its silence, as an error that says what would be right."""
    if isinstance(error, GatedRepoError):
        return ValueError(
            f"model {repository!r} is gated: ask for access at {constants.ENDPOINT}/{repository}, "
            "then log in with `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return UnknownName(
            f"model {repository!r} has no revision {revision!r}; give a branch, a tag or a commit "
            "after the @, or none for main"
        )
    if isinstance(error, EntryNotFoundError):
        return ValueError(
            f"{repository!r} holds no config.json at revision {revision!r}: it is no model that "
            "transformers can read"
        )
    known = [*beside, *get_close_matches(repository, _kept() - {repository}, cutoff=0.5)]
    unknown = did_you_mean("model", repository, known) if known else f"unknown model {repository!r}"
    unknown += ". There is no such folder, and"
    # 401 is what the hub answers to the anonymous, for a private model and for one that is not.
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 404):
        return UnknownName(
            f"{unknown} the hub has none of that name (or a private one: `hf auth login`)"
        )
    if error is None:
        why = "may not be asked, because HF_HUB_OFFLINE is set"
    elif status is not None:
        why = f"answered with an error, {first_line(error)}"
    else:
        why = f"can not be reached, {type(error).__name__}: {first_line(error)}"
    return ConnectionError(
        f"{unknown} the hub ({constants.ENDPOINT}) {why}. If it is the name of a model there, it "
        "is not in the cache either: fetch it with a network, or give a folder"
    )


def _kept() -> set[str]:
    """Names of the models in the cache."""
    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    return {folder.name.removeprefix("models--").replace("--", "/") for folder in folders}
