"""Draw `docs/photos.png`, the picture at the top of the README.

    pip install 'keras-effnetv2[lite]'
    python docs/draw_photos.py

It shows china.jpg and flower.jpg of scikit-learn as EfficientNet-Lite0 with its ImageNet weights
names them, with the Grad-CAM heat map of the first class. Takes about 20 seconds on two cores. The
photographs are by danielbuechele and vultilion on flickr.com, licence CC BY 2.0 (scikit-learn,
datasets/images/README.txt).
"""

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_effnetv2.evaluation.named_network import open_network
from keras_effnetv2.evaluation.prediction import predict
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation, seen_window
from keras_effnetv2.models.grad_cam import explainer

OUTPUT = Path(__file__).with_name("photos.png")
CREDIT = "Photographs: danielbuechele and vultilion, flickr.com, CC BY 2.0"
BLUE = "#0072b2"


def draw() -> Figure:
    """Returns each photograph, its heat map over it, and its classes."""
    network = open_network("efficientnet-lite0")
    explain = explainer(network.model)
    samples = load_sample_images()
    rows = predict(network, samples.filenames, top=3)
    figure = Figure(figsize=(8.8, 2.6), dpi=125, layout="constrained")
    figure.supxlabel(CREDIT, fontsize=7, color="#5c6670")
    axes = figure.subplots(2, 4, height_ratios=(3, 1.2)).T
    for photo, row, (whole, heated) in zip(
        samples.images, rows, axes.reshape(2, 2, 2), strict=True
    ):
        height, width, _ = photo.shape
        pixels = resize_for_evaluation(photo, network.image_size, network.style).numpy()
        heat = explain(pixels, None)
        top, left, seen_height, seen_width = seen_window(
            height, width, network.image_size, network.style
        )
        for axis in (whole[0], heated[0]):
            axis.imshow(photo)
        heated[0].imshow(
            matplotlib.colormaps["plasma"](heat),
            alpha=0.5 * (3 * heat).clip(0, 1),
            extent=(left, left + seen_width, top + seen_height, top),
            interpolation="bilinear",
        )
        sides = (left, top), seen_width, seen_height
        heated[0].add_patch(Rectangle(*sides, fill=False, color="white", linewidth=0.8))
        for axis in (whole[0], heated[0], heated[1]):
            axis.set(xlim=(0, width), ylim=(height, 0))
            axis.axis("off")
        bars = whole[1]
        bars.barh(range(3), row.scores, color=BLUE, height=0.7)
        bars.set(xlim=(0, 1), ylim=(2.5, -0.5))
        bars.axis("off")
        for place, (name, score) in enumerate(zip(row.class_names, row.scores, strict=True)):
            bars.text(
                score + 0.02,
                place,
                f"{name.replace('_', ' ')}  {score:.0%}",
                va="center",
                fontsize=9,
            )
    return figure


def main() -> None:
    """Writes the picture."""
    drawn = io.BytesIO()
    draw().savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    dithered = picture.quantize(palette=picture.quantize(256, kmeans=2))  # a third of the bytes
    dithered.save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
