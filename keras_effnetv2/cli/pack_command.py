"""The command `pack`: writes labelled pictures as TFRecord shards, or checks such a folder."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_effnetv2.data.packed import Pack
    from keras_effnetv2.data.scan import BadPicture


def pack(arguments: argparse.Namespace) -> None:
    """Packs --data into --output, or checks --verify; prints what is in the folder."""
    if arguments.verify is not None:
        from keras_effnetv2.data.packed import verify_pack

        show = _progress()
        result = verify_pack(
            arguments.verify, lambda done, total: show("verifying (bytes)", done, total)
        )
    else:
        if arguments.output is None:
            raise ValueError("--output is missing: the folder that the shards are written to.")
        from keras_effnetv2.data.pack import pack as write

        result = write(
            arguments.data,
            arguments.output,
            split=arguments.split,
            shards=arguments.shards,
            shard_bytes=round(arguments.shard_size * 1e6),
            seed=arguments.seed,
            skip_bad=arguments.skip_bad,
            overwrite=arguments.overwrite,
            left_out=_say_left_out,
            progress=_progress(),
        )
    summary = _summary(result)
    if arguments.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    for split, facts in summary["splits"].items():
        print(
            f"{split:<10} {facts['pictures']:>9,} pictures  {facts['shards']:>5} shards  "
            f"{facts['bytes'] / 1e6:>10,.1f} MB"
        )
    verb = "all checksums are right" if arguments.verify is not None else "written"
    print(f"{summary['folder']}: {verb}; read it with --data tfrecord:{summary['folder']}")


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
    print(f"left out: {picture.name!r}: {picture.reason}", file=sys.stderr)


def _progress() -> Callable[[str, int, int], None]:
    """Shows progress on one line of a terminal; nothing elsewhere."""
    shown = ("", -1)

    def show(what: str, done: int, total: int) -> None:
        nonlocal shown
        state = (what, 1000 * done // total)
        if sys.stderr.isatty() and state != shown:
            shown = state
            end = "\n" if done == total else ""
            print(f"\r{what} {done:,} / {total:,}", end=end, file=sys.stderr, flush=True)

    return show
