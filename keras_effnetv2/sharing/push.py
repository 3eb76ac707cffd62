"""Upload a run to the Hugging Face hub."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keras_effnetv2.pretrained.hub import LOG_IN, file_sizes, hub_errors
from keras_effnetv2.pretrained.hub_name import Repository, hub_library, parse_hub_name
from keras_effnetv2.runs.run_folder import open_run
from keras_effnetv2.sharing.repository import write_repository


def push_to_hub(
    run: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    overwrite: bool = False,
    announce: Callable[[Sequence[Path]], Any] | None = None,
) -> str:
    """Upload a finished run to the Hugging Face hub, in one commit.

    The repository then holds `model.keras`, `model.safetensors` (in the layout of PyTorch Image
    Models), `config.json`, `labels.txt` and `README.md`, a model card. No pictures, names of
    pictures or paths are uploaded. Anybody who may read it can use it as weights="hf://OWNER/NAME".

    Args:
        run: the run folder, of a network of this package.
        repository: hf://OWNER/NAME[@BRANCH]; it is created if needed.
        private: make a new repository private.
        overwrite: replace files that are in the repository; their history stays.
        announce: called with the files before anything is uploaded.

    Returns:
        The address of the repository.

    Raises:
        ValueError: the run is not finished or not of such a network, there is no token, or it may
            not write there.
        FileExistsError: the repository has files that would be replaced.
        ConnectionError: the hub cannot be reached.
        ImportError: the package for the hub is not installed.
    """
    target = parse_hub_name(repository)
    if re.fullmatch("[0-9a-f]{40}", target.revision or ""):
        raise ValueError(f"A run is pushed to a branch, not to a commit. Received: {repository!r}")
    hub = hub_library(repository)
    if hub.get_token() is None:
        raise ValueError(f"Nothing can be uploaded without a token: {LOG_IN}.")
    opened = open_run(run)
    with TemporaryDirectory() as folder:
        files = write_repository(opened, Path(folder), target.id)
        _check_free(repository, target, files, private=private, overwrite=overwrite)
        if announce is not None:
            announce(files)
        with hub_errors(repository, target):
            return _upload(hub.HfApi(), target, files, private=private)


def _check_free(
    name: str, target: Repository, files: Sequence[Path], *, private: bool, overwrite: bool
) -> None:
    """Raise an error if a repository exists and may not be changed in this way."""
    api = hub_library(name).HfApi()
    with hub_errors(name, target):
        if not api.repo_exists(target.id):
            return
        is_public = private and not api.model_info(target.id).private
        has_branch = target.revision and api.revision_exists(target.id, target.revision)
    if is_public:
        raise ValueError(
            f"{target.id} exists and is public. Make it private in its settings on the hub, or "
            "leave out --private (private=True)."
        )
    present = file_sizes(name, target if has_branch else Repository(target.id))
    taken = [file.name for file in files if file.name in present]
    if taken and not overwrite:
        raise FileExistsError(
            f"{name} already has {', '.join(taken)}. Choose another repository or branch, or "
            "replace them (--overwrite, overwrite=True)."
        )


def _upload(api: Any, target: Repository, files: Sequence[Path], *, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd

    address = str(api.create_repo(target.id, private=private or None, exist_ok=True))
    if target.revision is not None:
        api.create_branch(target.id, branch=target.revision, exist_ok=True)
        address += f"/tree/{target.revision}"
    api.create_commit(
        target.id,
        [CommitOperationAdd(file.name, file) for file in files],
        commit_message="Upload a network trained with keras_effnetv2",
        revision=target.revision,
    )
    return address
