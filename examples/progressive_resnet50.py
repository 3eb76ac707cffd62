"""Trains ResNet50 of keras.applications progressively, from scratch, in one `fit`.

command:  python examples/progressive_resnet50.py DATA [--epochs 350] [--stages 4]
          [--image-size 128 224] [--batch-size 256] [--save resnet50.keras]
          DATA: a folder of class folders, digits, csv:FILE, tfds:NAME, tfrecord:PATTERN
time:     the paper: 350 epochs of ImageNet in 3.5 hours on 32 TPU v3 cores
result:   not repeated here; the paper's Table 12 has 78.4% top-1 at 224 pixels (78.1% in 4.9 hours
          without progressive learning)
"""

import argparse

import keras

import keras_effnetv2 as kev2


def build_model(classes: int) -> keras.Model:
    """ResNet50 for pictures (B, H, W, 3) 0..255, with the Dropout that it lacks."""
    inputs = keras.Input((None, None, 3))
    x = keras.applications.resnet.preprocess_input(inputs)  # BGR minus the mean; not 0..1
    x = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")(x)
    x = keras.layers.Dropout(0.1, name="classifier_dropout")(x)  # the stages set the rate
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="progressive_resnet50")


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=350)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=[128, 224])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--save", default="resnet50.keras")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Plans, trains and saves."""
    args = parse_arguments(words)
    train, validation = (kev2.load_source(args.data, split) for split in ("train", "validation"))
    stages = kev2.progressive_stages(
        epochs=args.epochs,
        stages=args.stages,
        image_size=args.image_size,
        randaugment_magnitude=(5, 15),
        dropout_rate=(0.1, 0.3),
        batch_size=args.batch_size,
    )
    print(stages)

    def make_dataset(stage, epoch):
        return kev2.make_dataset(
            train,
            image_size=stage.image_size,
            batch_size=stage.batch_size,
            training=True,
            randaugment_magnitude=stage.randaugment_magnitude,
            epoch=epoch,
        )

    model = build_model(len(train.class_names))
    optimizer = keras.optimizers.SGD(0.1 * args.batch_size / 256, momentum=0.9, nesterov=True)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    progressive = kev2.ProgressiveLearning(make_dataset, stages, verbose=1)
    model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        shuffle=False,  # the pictures come shuffled
        callbacks=[progressive],
        validation_data=kev2.make_dataset(
            validation, image_size=args.image_size[-1], batch_size=args.batch_size, training=False
        ),
        verbose=2,
    )
    model.save(args.save)


if __name__ == "__main__":
    main()
