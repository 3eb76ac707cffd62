"""Pack labelled pictures of any source into TFRecord shards, which are read in sequence.

    index = pack("photos/", "packed/")           # or: keras-effnetv2 pack --data photos/ ...
    source = load_source("tfrecord:packed/")     # the splits, labels and pictures of photos/

On a slow disk many small files need one seek for each picture; packed, a few hundred pictures need
one. The encoded bytes do not change.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2.data.packed import SHARD_BYTES, Pack, check_free, write_pack
from keras_effnetv2.data.sources import ImageSource, load_given_splits, load_source
from keras_effnetv2.data.unreadable import BadPicture, BadPicturesError, drop_bad, find_bad_pictures

MIN_SHARD_BYTES = 10**6
_logger = logging.getLogger(__name__)


def pack(
    source: ImageSource | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    split: str | None = None,
    multi_label: bool | None = None,
    shards: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    skip_bad: bool = False,
    overwrite: bool = False,
    left_out: Callable[[BadPicture], object] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Pack:
    """Decode every picture once, then write all as a packed folder, see `packed`.

    Training pictures ("train", "all") are written in a random order, so sequential reading mixes
    the classes; validation and test pictures in the order of the source. Every picture keeps its
    position from the source, so the same ones are held back for validation and each is augmented
    in the same way.

    Args:
        source: an argument of `load_source`, or its result.
        output: the folder; it appears only when it is complete.
        split: as for `load_source`, which draws it if the source does not have it. None: every
            split of the source; "all" if it has no splits.
        multi_label: as for `load_source`.
        shards: number of files of each split. None: as many as `shard_bytes` needs.
        shard_bytes: approximate size of a file, at least 1,000,000.
        seed: seed of the order of training pictures in the files, at least 0.
        skip_bad: leave out pictures that cannot be decoded; otherwise they are an error.
        overwrite: replace a packed folder in `output`; anything else there is never replaced. If
            the process is killed between the two renames at the end, `output` is missing; the next
            `pack` to it puts the old folder back first.
        left_out: called with each picture that is left out.
        progress: called with ("checking" or "packing", pictures done, pictures in all).

    Returns:
        A description of what was written.

    Raises:
        BadPicturesError: pictures cannot be decoded.
        FileExistsError: `output` exists.
        OSError: there is not enough space on the disk.
        ValueError: an argument is out of range, or one of `load_source` is given for an
            `ImageSource`.

    The errors of `load_source` are raised, too.
    """
    check_integer("seed", seed, minimum=0)
    check_integer("shards", shards, minimum=1, or_none=True)
    check_integer("shard_bytes", shard_bytes, minimum=MIN_SHARD_BYTES)
    tell = progress or (lambda what, done, total: None)
    check_free(Path(output), overwrite)  # before the pictures are decoded, which takes long
    found = _parts(source, split, multi_label)
    for note in next(iter(found.values())).notes:
        _logger.warning("%s", note)
    parts = _checked(found, skip_bad, left_out, tell)
    return write_pack(
        output,
        parts,
        prefix=_prefix(next(iter(parts.values())).spec),
        shards=shards,
        shard_bytes=shard_bytes,
        seed=seed,
        overwrite=overwrite,
        progress=lambda done, total: tell("packing", done, total),
    )


def _parts(
    source: ImageSource | str | os.PathLike[str], split: str | None, multi_label: bool | None
) -> dict[str, ImageSource]:
    if isinstance(source, ImageSource):
        if split is not None or multi_label is not None:
            raise ValueError(
                f"This ImageSource already is the split {source.split!r}. `split` and "
                f"`multi_label` are for a folder or another spec. Received: {split!r} and "
                f"{multi_label!r}."
            )
        return {source.split: source}
    if split is None:
        return load_given_splits(source, multi_label)
    return {split: load_source(source, split, multi_label=multi_label)}


def _checked(
    parts: dict[str, ImageSource],
    skip_bad: bool,
    left_out: Callable[[BadPicture], object] | None,
    tell: Callable[[str, int, int], object],
) -> dict[str, ImageSource]:
    """Return the parts without bad pictures; if these may not be left out, they are one error."""
    total, before = sum(part.num_examples for part in parts.values()), 0

    def show(done: int, _: int) -> None:
        tell("checking", before + done, total)

    found = {}
    for name, part in parts.items():
        found[name] = find_bad_pictures(part, progress=show)
        before += part.num_examples
    bad = [picture for pictures in found.values() for picture in pictures]
    if bad and not skip_bad:
        raise BadPicturesError(bad)
    if left_out is not None:
        for picture in bad:
            left_out(picture)
    return {name: drop_bad(part, found[name]) for name, part in parts.items()}


def _prefix(spec: str) -> str:
    """Return the part of all names that means nothing: the folder that was packed."""
    kind, colon, path = spec.partition(":")
    folder = os.path.dirname(path) if colon and kind == "csv" else spec
    return os.path.join(folder, "") if os.path.isdir(folder) else ""
