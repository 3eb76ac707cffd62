"""Pictures a second of `predict` beside those of the bare network, by turns.

    python benchmarks/predict_speed.py efficientnet-lite0 photos/ --pictures 1000 --rounds 3

The bare network computes batches of as many pictures, which were prepared before: nothing is read,
decoded or named. Both have been traced before the first turn.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from keras_effnetv2.evaluation.named_network import open_network
from keras_effnetv2.evaluation.picture_names import picture_names
from keras_effnetv2.evaluation.prediction import BATCH_SIZE, predict
from keras_effnetv2.images.evaluation_crop import prepare_batch

PREPARED = 4  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", help="what the command predict takes")
    parser.add_argument("photos", help="a folder; its pictures are taken again if they are fewer")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    network = open_network(args.network)
    names = list(itertools.islice(itertools.cycle(picture_names(args.photos)), args.pictures))
    batches = []
    for start in range(0, PREPARED * BATCH_SIZE, BATCH_SIZE):
        files = [Path(name).read_bytes() for name in names[start : start + BATCH_SIZE]]
        batches.append(prepare_batch(files, network.image_size, network.style)[0].numpy())

    def bare() -> None:
        for _, batch in zip(range(0, len(names), BATCH_SIZE), itertools.cycle(batches)):
            network.model.predict_on_batch(batch)

    def whole() -> None:
        assert not any(row.error for row in predict(network, names))

    network.model.predict_on_batch(batches[0])
    predict(network, names[: 2 * BATCH_SIZE])
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "predict": []}
    for _ in range(args.rounds):
        for kind, call in (("bare", bare), ("predict", whole)):
            start, used = time.perf_counter(), time.process_time()
            call()
            found[kind].append((time.perf_counter() - start, time.process_time() - used))
    print("pictures a second, and processor time of a picture in ms, of each round:")
    for kind, times in found.items():
        rates = [f"{len(names) / wall:.1f}" for wall, _ in times]
        costs = [f"{1000 * used / len(names):.1f}" for _, used in times]
        print(f"{kind:8} {', '.join(rates):24} {', '.join(costs)}")
    ratios = np.divide(found["bare"], found["predict"])
    print(f"ratio    of the speeds {ratios[:, 0].round(2)}, of the costs {ratios[:, 1].round(2)}")


if __name__ == "__main__":
    main()
