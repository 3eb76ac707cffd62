"""The normalisation of pixels before the first layer, by name or as numbers."""

from typing import Literal

from keras_effnetv2._common.checks import check_choice, is_number

Normalization = Literal["imagenet", "symmetric", "inception", "lite"]
"""The name of a normalisation, see `NORMALIZATIONS`."""

ScaleAndOffset = tuple[tuple[float, ...], tuple[float, ...]]
"""((R, G, B), (R, G, B)): pixels in 0..255 become `pixels * scale + offset` in each channel."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALIZATIONS: dict[Normalization, ScaleAndOffset] = {
    "imagenet": (
        tuple(1 / (255 * std) for std in _IMAGENET_STD),
        tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)),
    ),
    "symmetric": ((1 / 128,) * 3, (-1.0,) * 3),
    "inception": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "lite": ((1 / 128,) * 3, (-127 / 128,) * 3),
}


def scale_and_offset(normalization: Normalization | ScaleAndOffset) -> ScaleAndOffset:
    """Return the scales and the offsets of a `ModelConfig.normalization`.

    Raises:
        ValueError: it is neither a name nor two times three numbers.
    """
    if isinstance(normalization, str):
        check_choice("normalization", normalization, NORMALIZATIONS)
        return NORMALIZATIONS[normalization]
    parts = normalization if isinstance(normalization, tuple) else ()
    if len(parts) != 2 or not all(map(_is_per_channel, parts)):
        raise ValueError(
            f"`normalization` must be one of {', '.join(map(repr, NORMALIZATIONS))}, or the scales "
            "and the offsets of pixels 0..255, ((R, G, B), (R, G, B)). "
            f"Received: {normalization!r}"
        )
    return normalization


def _is_per_channel(part: object) -> bool:
    return isinstance(part, tuple) and len(part) == 3 and all(map(is_number, part))
