"""Writes the class lists in `pretrained/class_lists/` from a wheel of PyTorch Image Models.

    pip download timm==1.0.31 --no-deps
    python weights/make_labels.py timm-1.0.31-py3-none-any.whl

Prints the SHA-256 of each list's text. Those of the committed lists stand in tests/test_labels.py;
compressed, the bytes may differ from one version of zlib to another.
"""

import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

PRETRAINED = Path(__file__).resolve().parent.parent / "keras_effnetv2" / "pretrained"
CLASS_LISTS = PRETRAINED / "class_lists"
INFO = "timm/data/_info/"
LEMMAS = "imagenet_synset_to_lemma.txt"  # "n02504458<TAB>African elephant, Loxodonta africana"
SYNSETS = {
    "imagenet.tsv.gz": "imagenet_synsets.txt",
    "imagenet21k.tsv.gz": "imagenet21k_goog_synsets.txt",
}


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:

        def lines(name: str) -> list[str]:
            return archive.read(INFO + name).decode("utf-8").splitlines()

        lemmas = dict(line.split("\t") for line in lines(LEMMAS))
        for target, synsets in SYNSETS.items():
            # The rule of keras.applications' imagenet_class_index.json: the first lemma.
            rows = [
                f"{synset}\t{lemmas[synset].split(', ')[0].replace(' ', '_')}\n"
                for synset in lines(synsets)
            ]
            text = "".join(rows).encode()
            (CLASS_LISTS / target).write_bytes(gzip.compress(text, compresslevel=9, mtime=0))
            print(f"{target}: {len(rows)} classes, sha256 {hashlib.sha256(text).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
