"""Trains with several processes, on one machine or on several, through JAX.

command:  on every machine, and with a number of its own, from 0:
          KERAS_BACKEND=jax python examples/two_processes.py --data photos/ --output /shared/run
          --coordinator 10.0.0.1:1234 --workers 2 --worker 0
          On one machine: --coordinator 127.0.0.1:1234, in two terminals. Where one ended, start
          all again with --resume.
time:     that of one process with all devices, and what the exchange of gradients takes
result:   a run folder, written by worker 0; the weights are those that one process would train
          with the same batches, up to rounding (tests/test_workers.py)

--output must be a folder that all workers see. Each reads its own part of the pictures. The
command line does the same: keras-effnetv2 train --coordinator ... --workers ... --worker ...
"""

import argparse
from dataclasses import replace

import keras_effnetv2 as kev2
from keras_effnetv2.training.workers import connect


def main() -> None:
    """Joins the other workers and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what load_source takes")
    parser.add_argument("--output", required=True, help="the run folder")
    parser.add_argument("--variant", default="efficientnetv2-b0")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=[128, 224])
    parser.add_argument("--batch-size", type=int, default=64, help="of all workers together")
    parser.add_argument("--coordinator", required=True, help="HOST:PORT of worker 0")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    connect(options.coordinator, options.workers, options.worker)  # before all else of JAX
    recipe = replace(
        kev2.TrainRecipe.preset("quickstart"),
        epochs=options.epochs,
        stages=options.stages,
        image_size=tuple(options.image_size),
        batch_size=options.batch_size,
    )
    result = kev2.train(
        options.variant, options.data, recipe, options.output, resume=options.resume, verbose=2
    )
    print(f"worker {options.worker}: accuracy {result.evaluation.accuracy:.1%}")


if __name__ == "__main__":
    main()
