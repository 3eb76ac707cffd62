"""Teaches a pretrained network your own classes with plain `compile` and `fit`, and exports it.

command:  python examples/transfer_learning.py --data PICTURES --output runs/transfer
time:     on one GPU about 2 minutes an epoch of 1,000 pictures (efficientnetv2-m, 384 pixels; an
          estimate); the digits at toy size, from scratch, about 2 minutes on 2 cores:
          --data digits --variant efficientnetv2-b0 --weights none --image-size 32 --epochs 3
result:   the validation accuracy, and a SavedModel in runs/transfer/1 for TensorFlow Serving

PICTURES is a folder with one folder of pictures per class (or anything else `load_source` takes).
The ImageNet-21k weights are fetched once; --weights also takes a set's name or a file's path.
"""

import argparse

import keras

import keras_effnetv2 as kev2
from keras_effnetv2.training.transfer import freeze_batch_norm


def main(arguments: list[str] | None = None) -> keras.Model:
    """Runs the whole program and returns the trained model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what load_source takes")
    parser.add_argument("--output", required=True, help="folder of the SavedModel")
    parser.add_argument("--variant", default="efficientnetv2-m")
    parser.add_argument("--weights", default="imagenet21k", help="a set, a file, or none")
    parser.add_argument("--image-size", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    options = parser.parse_args(arguments)

    training = kev2.load_source(options.data, "train")
    validation = kev2.load_source(options.data, "validation")
    sizes = {"image_size": options.image_size, "batch_size": options.batch_size}

    # For efficientnetv2-m the same as kev2.EfficientNetV2M(weights="imagenet21k", classes=...).
    # The model takes pixels 0..255: the normalisation that goes with the weights is inside.
    model = kev2.build_model(
        kev2.ModelConfig.from_name(options.variant),
        weights=None if options.weights == "none" else options.weights,
        classes=len(training.class_names),
    )
    if options.weights != "none" and options.batch_size < 32:
        freeze_batch_norm(model)  # so few pictures have worse statistics than the weights

    # A plan of one stage: new crops in every epoch. Two sizes, as (128, 384), with stages=4 make
    # it progressive learning.
    plan = kev2.progressive_stages(epochs=options.epochs, stages=1, **sizes)
    progressive = kev2.ProgressiveLearning(
        lambda stage, epoch: kev2.make_dataset(training, **sizes, training=True, epoch=epoch), plan
    )
    steps = options.epochs * max(1, training.num_examples // options.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy"],
    )
    judged = kev2.make_dataset(validation, **sizes, training=False, style="whole")  # as served
    history = model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        shuffle=False,  # the pictures come shuffled
        validation_data=judged,
        callbacks=[progressive],
        verbose=2,
    )
    print(f"validation accuracy {history.history['val_accuracy'][-1]:.1%}")
    kev2.export_saved_model(
        model, options.output, training.class_names, image_size=options.image_size
    )
    return model


if __name__ == "__main__":
    main()
