"""The command `info`: show what a network consists of."""

from keras_effnetv2._common.text import aligned, say
from keras_effnetv2.architectures.config_file import published_forms
from keras_effnetv2.architectures.cost import network_cost
from keras_effnetv2.architectures.stage_table import stage_table
from keras_effnetv2.cli.command import argument, command, flag, option
from keras_effnetv2.cli.options import read_network
from keras_effnetv2.pretrained.hub_name import is_hub_name
from keras_effnetv2.pretrained.registry import IMAGENET_CLASSES, published


@command(
    "keras-effnetv2 info efficientnetv2-s\nkeras-effnetv2 info efficientnetv2-b0 --json > net.json"
)
def info(
    model: str = argument(
        "VARIANT_OR_FILE",
        "A variant (efficientnetv2-b0 to -b3, -s, -m, -l, -xl; efficientnet-b0 to -b7, -lite0 to "
        "-lite4), hf://OWNER/NAME of the Hugging Face hub, or a JSON file in the form that --json "
        "prints.",
    ),
    image_size: int | None = option(
        "PIXELS",
        "Size of the pictures for counting multiply-adds. [default: the evaluation size]",
    ),
    classes: int | None = option(
        "N", "Width of the classifier. [default: 1000, or that of the repository]"
    ),
    for_pictures: int | None = option(
        "PIXELS",
        "Show the network with fewer strides, for small pictures with sides of this many pixels: "
        "32 pixels end in a map of 4 x 4.",
    ),
    json: bool = flag("--json", "Print the architecture as JSON, for example to change it."),
) -> None:
    """Show the architecture of a network, its parameters and multiply-adds."""
    if is_hub_name(model):
        from keras_effnetv2.pretrained.hub import describe_on_hub

        config, classes_there = describe_on_hub(model)
    else:
        config, classes_there = read_network(model, "VARIANT_OR_FILE"), None
    if for_pictures is not None:
        config = config.for_small_pictures(for_pictures)
        image_size = image_size or for_pictures
    if classes is None:
        classes = classes_there or IMAGENET_CLASSES
    if json:
        say(config.to_json())
        return
    size = config.eval_size if image_size is None else image_size
    cost = network_cost(config, size, classes)
    weights = published(config.name) if config in published_forms(config.name) else ()
    facts = {
        "parameters": f"{cost.trainable / 1e6:.2f} million trainable, {cost.parameters:,} in all",
        "multiply-adds": f"{cost.multiply_adds / 1e9:.2f} billion at {size} x {size}",
        "trained at": f"up to {config.train_size} px, evaluated at {config.eval_size} px",
        "activation": config.activation,
        "dropout": f"{config.dropout_rate:g}",
        "published weights": ", ".join(weights) or "none",
    }
    say(f"{config.name}, {classes} classes")
    say("\n".join(aligned(facts.items(), left=(0, 1))))
    rows = [("stage", "operator", "stride", "channels", "layers", "output")]
    for stage, operator, stride, channels, layers, (height, width) in stage_table(config, size):
        row = (str(stage), operator, str(stride), str(channels), str(layers))
        rows.append((*row, f"{height} x {width}"))
    say("\n".join(["", *aligned(rows, left=(1, 5))]))
