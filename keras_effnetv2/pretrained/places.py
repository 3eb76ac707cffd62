"""Where each layer of a model of `build_model` stands: the one walk that all name tables share.

A source of weight files has a small literal table from the roles below to its own names; what a
layer is called there follows from its place alone.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import keras


CLASSIFIER = "predictions"
FIRST_LAYER = "stem_conv"
PIXELS = "pixel_normalization"
NUMBERED = r"net\d+_"
"""A pattern for the prefix of layer names in the second network on one input, and further ones."""

_BLOCK_LAYER = re.compile(
    r"(block(\d+)[a-z]+_)"
    r"(expand_conv|expand_bn|dwconv2|bn|se_reduce|se_expand|project_conv|project_bn)"
)
_ROLES = {  # of the layers of each kind, in their order; squeeze-excite is that of all blocks
    "outside": ("stem_conv", "stem_bn", "top_conv", "top_bn", CLASSIFIER),
    "fused_1": ("project_conv", "project_bn"),
    "fused": ("expand_conv", "expand_bn", "project_conv", "project_bn"),
    "mbconv_1": ("dwconv2", "bn", "project_conv", "project_bn"),
    "mbconv": ("expand_conv", "expand_bn", "dwconv2", "bn", "project_conv", "project_bn"),
    "squeeze_excite": ("se_reduce", "se_expand"),
}


class Place(NamedTuple):
    """A layer with weights, and where it stands."""

    layer: str  # our name, e.g. "block2a_project_conv"
    role: str  # the name without its block, e.g. "project_conv"; outside the blocks all of it
    kind: str  # "outside", or its block: "fused", "mbconv"; without expansion "fused_1", "mbconv_1"
    stage: int  # its number, from 0; -1 outside the blocks, also in the next two
    repeat: int  # number of the block in its stage, from 0
    block: int  # number of the block in the network, from 0


def layer_names(**names: str) -> dict[str, dict[str, str]]:
    """Return kind -> role -> name of a layer, from the names of each kind in the order of `_ROLES`.

    The kinds are those of `Place`, and `squeeze_excite`.
    """
    table = {kind: dict(zip(_ROLES[kind], names[kind].split(), strict=True)) for kind in _ROLES}
    squeeze_excite = table.pop("squeeze_excite")
    return {kind: roles | squeeze_excite for kind, roles in table.items()}


def numbered(number: int) -> str:
    """Return the prefix of layer names in the n-th network on one input."""
    return f"net{number}_" if number > 1 else ""


def own_name(layer: str) -> str:
    """Return the name of a layer without the prefix of its network."""
    return re.sub(f"^{NUMBERED}", "", layer)


def own_layers(model: "keras.Model") -> dict[str, "keras.layers.Layer"]:
    """Return the layers of `build_model` that have weights, by our name of each, in their order.

    Raises:
        ValueError: there are two networks in the model.
    """
    prefix = network_prefix([layer.name for layer in model.layers])
    return {
        name: layer
        for layer in model.layers
        if layer.weights and layer.name.startswith(prefix)
        for name in [layer.name.removeprefix(prefix)]
        if name in _ROLES["outside"] or _BLOCK_LAYER.fullmatch(name)
    }


def network_prefix(layers: Iterable[str]) -> str:
    """Return the prefix of the network's layer names, from the layer names of a model.

    Raises:
        ValueError: there are two networks in the model.
    """
    first = [name for name in layers if own_name(name) == FIRST_LAYER]
    if len(first) > 1:
        raise ValueError(
            f"The model holds two networks, which begin with {' and '.join(first[:2])}. Use or "
            "save each one alone, as it was before they were joined."
        )
    return first[0].removesuffix(FIRST_LAYER) if first else ""


def weight_names(model: "keras.Model", theirs: Callable[[Place, str], str]) -> dict[str, str]:
    """Return our weight path ("stem_conv/kernel") -> name in a file, in the order of the layers.

    Layers that are not of `build_model` are left out. `theirs` makes the name in a file from the
    place of a layer and our name of its weight ("kernel").
    """
    layers = own_layers(model)
    return {
        f"{place.layer}/{weight.name}": theirs(place, weight.name)
        for place in _places(list(layers))
        for weight in layers[place.layer].weights
    }


def _places(names: list[str]) -> list[Place]:
    """Return the places of our layers, given all names in the order of the network."""
    blocks: dict[str, tuple[str, int, int, int]] = {}  # "block1a_" -> the end of a Place
    stages: dict[str, int] = {}  # number in the name -> blocks so far
    found = []
    for name in names:
        match = _BLOCK_LAYER.fullmatch(name)
        if match:
            prefix, stage, role = match.groups()
            if prefix not in blocks:
                repeat = stages.get(stage, 0)
                stages[stage] = repeat + 1
                kind = "mbconv" if f"{prefix}dwconv2" in names else "fused"
                kind += "" if f"{prefix}expand_conv" in names else "_1"
                blocks[prefix] = (kind, int(stage) - 1, repeat, len(blocks))
            found.append(Place(name, role, *blocks[prefix]))
        elif name in _ROLES["outside"]:
            found.append(Place(name, name, "outside", -1, -1, -1))
    return found
