"""The command `pack`: write labelled pictures as TFRecord shards, or check such a folder."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2._common.text import say
from keras_effnetv2.cli.command import command, flag, option
from keras_effnetv2.cli.options import (
    DATA_IF_ANY,
    JSON,
    MULTI_LABEL,
    SKIP_BAD,
    Split,
    check_data,
)
from keras_effnetv2.cli.quiet_start import start_tensorflow

if TYPE_CHECKING:
    from keras_effnetv2.data.packed import Pack
    from keras_effnetv2.data.unreadable import BadPicture


@command(
    "keras-effnetv2 pack --data imagenet/ --output packed/\nkeras-effnetv2 pack --verify packed/"
)
def pack(
    data: str | None = DATA_IF_ANY,
    verify: Path | None = option(
        "DIR", "Do not pack; check every file of a packed folder against its checksum."
    ),
    output: Path | None = option("DIR", "The packed folder to write; needed with --data."),
    split: Split | None = option(
        None,
        "Pack only this split; it is drawn from the pictures if the data does not have it. "
        "[default: all splits of the data]",
    ),
    multi_label: bool | None = MULTI_LABEL,
    shards: int | None = option("N", "Number of files per split."),
    shard_size: float | None = option("MB", "Approximate size of a file. [default: 128]"),
    seed: int = option("N", "Seed for the order of the training pictures in the files.", 0),
    skip_bad: bool = SKIP_BAD,
    overwrite: bool = flag("--overwrite", "Replace the packed folder in DIR."),
    json: bool = JSON,
) -> None:
    """Write labelled pictures as TFRecord files, which are fast to read in sequence."""
    if (data is None) == (verify is None):
        raise BadParameter("give one of the two", param_hint="--data / --verify")
    if shards is not None and shard_size is not None:
        raise BadParameter("give one of the two", param_hint="--shards / --shard-size")
    if verify is not None:
        start_tensorflow()
        from keras_effnetv2.data.packed import verify_pack

        with progress_bar("verifying", "B", scale=True) as progress:
            result = verify_pack(verify, progress)
    elif data is None or output is None:
        raise ValueError("--output is missing. Give the folder to write the files to.")
    else:
        check_integer("shards", shards, minimum=1, or_none=True)
        check_integer("seed", seed, minimum=0)
        check_data(data, multi_label=multi_label)
        start_tensorflow()
        from keras_effnetv2.data.pack import pack as write

        size = {} if shard_size is None else {"shard_bytes": round(shard_size * 1e6)}
        with progress_bar("checking") as checking, progress_bar("packing") as packing:
            bars = {"checking": checking, "packing": packing}
            result = write(
                data,
                output,
                split=split,
                multi_label=multi_label,
                shards=shards,
                **size,
                seed=seed,
                skip_bad=skip_bad,
                overwrite=overwrite,
                left_out=_say_left_out,
                progress=lambda what, done, total: bars[what](done, total),
            )
    summary = _summary(result)
    if json:
        say(dumps(summary, indent=2))
        return
    for name, facts in summary["splits"].items():
        say(
            f"{name:<10} {facts['pictures']:>9,} pictures  {facts['shards']:>5} shards  "
            f"{facts['bytes'] / 1e6:>10,.1f} MB"
        )
    verb = "all checksums are right" if verify is not None else "written"
    say(f"{summary['folder']}: {verb}; read it with --data tfrecord:{summary['folder']}")


def _summary(pack: "Pack") -> dict[str, Any]:
    return {
        "folder": str(pack.folder),
        "classes": len(pack.class_names),
        "splits": {
            split: {
                "pictures": pack.num_examples(split),
                "shards": len(shards),
                "bytes": sum(shard.bytes for shard in shards),
            }
            for split, shards in pack.splits.items()
        },
    }


def _say_left_out(picture: "BadPicture") -> None:
    say(f"left out: {picture.name!r}: {picture.reason}", error=True)
