"""Files of repositories of the Hugging Face hub.

They are kept in the cache of huggingface_hub, which is imported when a repository is first used.
"""

import contextlib
from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from keras_effnetv2._common.text import first_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.pretrained.fetch import MAX_BYTES, TIMEOUT
from keras_effnetv2.pretrained.hub_name import Repository, hub_library, parse_hub_name
from keras_effnetv2.pretrained.timm_config import (
    ARCHITECTURE,
    CONFIG,
    REPOSITORY_FILES,
    WRONG_PADDING,
    Description,
    read_description,
    timm_architecture,
)

_LOG = getLogger("keras_effnetv2")
LOG_IN = "log in (hf auth login) or set the environment variable HF_TOKEN"
_MAX_CONFIG = 2**24  # bytes


def fetch_from_hub(name: str) -> tuple[Path, Description]:
    """Return the weight file of a repository and what its config.json says.

    Files that are in the cache are not downloaded again. If the hub cannot be reached, those in
    the cache are used.

    Raises:
        ValueError: there is no such repository, revision or file, it may not be read, or it is not
            of a network of this package.
        ConnectionError: it is not in the cache, and the hub cannot be reached.
        ImportError: huggingface_hub is not installed.
    """
    config, described = _description(name)
    # All files of one commit, also if the branch is changed meanwhile.
    repository = parse_hub_name(name)._replace(revision=config.parent.name)
    return _fetch(name, repository, REPOSITORY_FILES), described


def describe_on_hub(name: str) -> tuple[ModelConfig, int | None]:
    """Return the network of a repository and the width of its classifier, if that is stated.

    Errors are those of `fetch_from_hub`.
    """
    described = _description(name)[1]
    assert described.config is not None
    return described.config, described.classes


def _description(name: str) -> tuple[Path, Description]:
    path = _fetch(name, parse_hub_name(name), [CONFIG])
    try:
        described = read_description(path)
    except ValueError as error:
        raise ValueError(f"{name}: {CONFIG}: {error}.") from None
    architecture = str(described.architecture)
    match = ARCHITECTURE.match(architecture)
    if match and match[1]:
        raise ValueError(f"{name} is {match[1]}. {WRONG_PADDING}.")
    if described.config is None:
        known = ", ".join(map(timm_architecture, ModelConfig.variants()))
        raise ValueError(
            f"{name} must hold a network of this package, by its name in PyTorch Image Models: "
            f"{known}. Received: architecture={architecture[:80]!r}"
        )
    return path, described


def _fetch(name: str, repository: Repository, files: Sequence[str]) -> Path:
    """Return the first of the files that a repository has, downloaded unless it is in the cache."""
    hub = hub_library(name)
    from huggingface_hub import constants

    cached = _cached(hub, repository, files)
    if cached is not None and cached.parent.name == repository.revision:
        return cached  # a commit does not change
    try:
        sizes = file_sizes(name, repository)
        file = next((one for one in files if one in sizes), None)
        if file is None:
            raise ValueError(
                f"{name} has no {' or '.join(files)}. It has "
                f"{', '.join(sorted(sizes)[:10]) or 'no files'}."
            )
        limit = _MAX_CONFIG if file == CONFIG else MAX_BYTES
        if sizes[file] > limit:
            raise ValueError(f"{name}: {file} is larger than the {limit:,} bytes allowed.")
        with hub_errors(name, repository):
            return Path(hub.hf_hub_download(repository.id, file, revision=repository.revision))
    except (ConnectionError, ValueError) as error:
        if cached is not None:
            if not constants.HF_HUB_OFFLINE:
                _LOG.warning("%s The copy in the cache is used.", first_line(error))
            return cached
        if isinstance(error, ValueError):
            raise
        folder = constants.HF_HUB_CACHE
        raise ConnectionError(f"{name} is not in the cache ({folder}). {error}") from None


def _cached(hub: Any, repository: Repository, files: Sequence[str]) -> Path | None:
    for file in files:
        path = hub.try_to_load_from_cache(repository.id, file, revision=repository.revision)
        if isinstance(path, str):
            return Path(path)
    return None


def file_sizes(name: str, repository: Repository) -> dict[str, int]:
    """Return the name and size of each file of a repository; errors are as in `hub_errors`."""
    api = hub_library(name).HfApi()
    with hub_errors(name, repository):
        info = api.model_info(
            repository.id, revision=repository.revision, files_metadata=True, timeout=TIMEOUT
        )
    return {one.rfilename: one.size or 0 for one in info.siblings or ()}


@contextlib.contextmanager
def hub_errors(name: str, repository: Repository) -> Iterator[None]:
    """Raise errors of huggingface_hub as one line each: ValueError, or ConnectionError."""
    from huggingface_hub import constants, errors

    place = f"{constants.ENDPOINT}/{repository.id}"
    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{name} asks for consent to its conditions. Give it on {place}, then {LOG_IN}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"There is no repository {place}, or it is private. Check the name; for a private one "
            f"{LOG_IN}."
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{place} has no branch, tag or commit {repository.revision!r}.") from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionError("HF_HUB_OFFLINE forbids using the network.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status not in (401, 403):
            raise ConnectionError(f"{place} answers: {_reason(error)}.") from None
        raise ValueError(
            f"The token in use is not allowed to do this with {place}. To use another, {LOG_IN}."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        # The second is of the library for HTTP that huggingface_hub uses.
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached: {_reason(error)}."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} (HF_ENDPOINT) does not answer as the Hugging Face hub does: "
            f"{_reason(error)}."
        ) from None
    except OSError as error:
        raise OSError(
            f"{name} cannot be kept in the cache {constants.HF_HUB_CACHE}: {_reason(error)}. "
            "Set the environment variable HF_HUB_CACHE to another folder."
        ) from None


def _reason(error: BaseException) -> str:
    return first_line(error).rstrip(".")
