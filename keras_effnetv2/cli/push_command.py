"""The command `push`: upload a run to the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from keras_effnetv2._common.text import aligned, say
from keras_effnetv2.cli.command import argument, command, flag
from keras_effnetv2.cli.options import check_run
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.pretrained.hub_name import check_hub_name
from keras_effnetv2.runs.run_state import read_settings


@command("keras-effnetv2 push runs/photos hf://anna/photos --private")
def push(
    run: Path = argument("RUN", "A run folder."),
    repository: str = argument(
        "hf://OWNER/NAME[@BRANCH]",
        "The repository, which is created if needed. You need a token: hf auth login, or the "
        "environment variable HF_TOKEN.",
    ),
    private: bool = flag("--private", "Make a new repository private."),
    overwrite: bool = flag("--overwrite", "Replace files that are in the repository."),
) -> None:
    """Upload a trained run to the Hugging Face hub, with a model card."""
    check_hub_name(repository)
    check_run(run, "the folder of a finished run")
    read_settings(run)
    start_tensorflow()
    from keras_effnetv2.sharing.push import push_to_hub

    def announce(files: Sequence[Path]) -> None:
        rows = [(file.name, f"{file.stat().st_size:,} bytes") for file in files]
        say("\n".join([f"uploading to {repository}:", *aligned(rows, left=(0,))]))

    say(push_to_hub(run, repository, private=private, overwrite=overwrite, announce=announce))
