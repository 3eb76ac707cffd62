"""Pretrains EfficientNetV2 on ImageNet-21k, then fine-tunes it on ImageNet.

command:  python examples/imagenet21k.py --data tfrecord:packed21k/ --output runs/s-21k
          python examples/imagenet21k.py --data tfrecord:packed/ --output runs/s-21k-ft1k
          --pretrained runs/s-21k/model.keras
          and, where one broke off, the same with --resume
time:     the paper's Table 7, 32 TPU v3 cores, pretrained networks: S 9.0, M 15, L 26, XL 45 hours
result:   not repeated here; the paper's Table 7 on ImageNet: S 84.9%, M 86.2%, L 86.8%, XL 87.3%

ImageNet-21k here is class folders, or what `keras-effnetv2 pack` made of them; the published heads
have 21,843 classes. Each picture has one label, and the loss is the sigmoid cross entropy. Both
parts are for batches of 4,096 and 512 pictures; the learning rate follows a smaller --batch-size.
"""

import argparse
from dataclasses import replace

import keras_effnetv2 as kev2


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what load_source takes")
    parser.add_argument("--output", required=True, help="the run folder")
    parser.add_argument("--variant", default="efficientnetv2-s")
    parser.add_argument("--pretrained", help="model.keras of the first part; makes it the second")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's, 4096 or 512")
    parser.add_argument("--epochs", type=int, help="default: the recipe's, 60 or 15")
    parser.add_argument("--image-size", type=int, help="default: the recipe's")
    parser.add_argument("--precision", default="float32", help="mixed_bfloat16 on newer GPUs")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> float:
    """Runs one of the two parts and returns the validation accuracy."""
    options = parse_arguments(words)
    recipe = kev2.TrainRecipe.preset("finetune-official" if options.pretrained else "imagenet21k")
    asked = {name: getattr(options, name) for name in ("batch_size", "epochs", "image_size")}
    recipe = replace(
        recipe,
        precision=options.precision,
        **{name: value for name, value in asked.items() if value is not None},
    )
    if options.epochs is not None:
        recipe = replace(recipe, min_steps=0)
    result = kev2.train(
        options.variant,
        options.data,
        recipe,
        options.output,
        weights=options.pretrained,
        resume=options.resume,
        verbose=2,
    )
    print(f"top-1 {result.evaluation.accuracy:.1%}")
    return result.evaluation.accuracy


if __name__ == "__main__":
    main()
