"""The command `info`: what a network consists of."""

import os
from typing import Annotated

from typer import Argument, BadParameter

from keras_effnetv2.architectures.config_file import is_published, read_config
from keras_effnetv2.cli.options import known_variant
from keras_effnetv2.cli.quiet_start import start_tensorflow


def _variant_or_file(text: str) -> str:
    try:
        return text if os.path.exists(text) else known_variant(text)
    except BadParameter as error:
        raise BadParameter(f"there is no such file, and {error.message}") from None


def info(
    model: Annotated[str, Argument(parser=_variant_or_file)],
    image_size: int | None = None,
    classes: int = 1000,
    json: bool = False,
) -> None:
    """Show the architecture of a network, its parameters and multiply-adds.

    Options:
      model VARIANT_OR_FILE: A variant (efficientnetv2-b0 to -b3, -s, -m, -l, -xl; efficientnet-b0
        to -b7), or a JSON file as --json prints it.
      --image-size PIXELS: Size of the pictures that the multiply-adds are counted for.  [default:
        the evaluation size]
      --classes N: Width of the classifier.
      --json: Print the architecture as JSON, to make another one of it.

    Example:
      keras-effnetv2 info efficientnetv2-s
      keras-effnetv2 info efficientnetv2-b0 --json > net.json
    """
    config = read_config(model)
    if json:
        print(config.to_json())
        return
    start_tensorflow()
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.models.graph import count_flops, count_trainable, stage_table
    from keras_effnetv2.pretrained.registry import published

    size = image_size or config.eval_size
    network = build_model(config, classes=classes)
    trainable = count_trainable(network)
    weights = published(config.name) if is_published(config) else ()
    facts = {
        "parameters": f"{trainable / 1e6:.2f} million trainable, {network.count_params():,} all",
        "multiply-adds": f"{count_flops(network, size) / 1e9:.2f} billion at {size} x {size}",
        "trained at": f"up to {config.train_size} px, evaluated at {config.eval_size} px",
        "dropout": f"{config.dropout_rate:g}",
        "published weights": ", ".join(weights) or "none",
    }
    print(f"{config.name}, {classes} classes")
    for name, value in facts.items():
        print(f"{name:<17} {value}")
    print(f"\nstage  {'operator':<28} stride  channels  layers  output")
    for row in stage_table(config, size):
        print(
            f"{row.stage:>5}  {row.operator:<28} {row.stride:>6}  {row.channels:>8}  "
            f"{row.layers:>6}  {row.size[0]} x {row.size[1]}"
        )
