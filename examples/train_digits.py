"""Trains on scikit-learn's handwritten digits and asks the trained model about one of them.

command:  python examples/train_digits.py
time:     about 3 and a half minutes on 2 cores
result:   a run folder runs/digits-example with report.html; accuracy 98.9% (2026-11-23)
"""

import dataclasses

import keras_effnetv2 as kev2

recipe = dataclasses.replace(
    kev2.TrainRecipe.preset("quickstart"),
    epochs=14,
    stages=2,
    image_size=(32, 40),
    crop_area=(0.7, 1.0),
)
result = kev2.train(
    "efficientnetv2-b0", "digits", recipe, "runs/digits-example", overwrite=True, verbose=2
)

held_back = kev2.load_source("digits", "validation")
pictures = kev2.make_dataset(held_back, image_size=40, batch_size=1, training=False)
image, label = next(iter(pictures))
scores = result.model.predict(image, verbose=0)[0]
print(f"truth {label.numpy().argmax()}, predicted {scores.argmax()} with {scores.max():.1%}")
