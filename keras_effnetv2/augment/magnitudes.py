"""What a magnitude means to each of the sixteen operations: the official table and its quirks.

Source of every number and oddity: google/automl, efficientnetv2/autoaugment.py (`level_to_arg`),
run on TensorFlow 2.21; methods: Cubuk et al. 2019, arXiv:1909.13719 (RandAugment) and 2018,
arXiv:1805.09501 (AutoAugment). `m` is the magnitude, int() truncates, and +- marks an operation
that draws a sign. T and C are constants of the policy: 100 and 40 pixels in RandAugment, 250 and
100 in AutoAugment.

    operation     argument from m                what the official code does, quirks included
    ------------  -----------------------------  ---------------------------------------------------
    AutoContrast  none                           stretch each channel to 0..255; flat: unchanged
    Equalize      none                           Pillow's integer histogram equalisation by channel
    Invert        none                           255 - value
    Rotate        +- m / 10 * 30 degrees         nearest neighbour about ((W-1)/2, (H-1)/2)
    Posterize     int(m / 10 * 4) bits           MORE magnitude keeps MORE bits: m = 20 changes
                                                 nothing; 0 bits (m < 2.5) and over 8 (m >= 22.5,
                                                 the shift wraps) both keep one bit
    Solarize      threshold int(m / 10 * 256)    taken modulo 256: m = 10, 20, 30 and m = 0 invert
                                                 every value, m = 15 those from 128
    Color         factor m / 10 * 1.8 + 0.1      blend from grey; 1 (m = 5) is the identity, and
                                                 above it the effect is exaggerated and clipped
    Contrast      factor as Color                blend from min(255, H * W // 256): the pixel COUNT,
                                                 not the mean grey
    Brightness    factor as Color                blend from black
    Sharpness     factor as Color                blend from 3 x 3 smoothing; its border of one pixel
                                                 stays
    ShearX        +- m / 10 * 0.3                out(x, y) = in(x + level * y, y), about the corner
    ShearY        +- m / 10 * 0.3                out(x, y) = in(x, y + level * x), about the corner
    TranslateX    +- m / 10 * T pixels           out(x, y) = in(x + pixels, y), whatever the size
    TranslateY    +- m / 10 * T pixels           out(x, y) = in(x, y + pixels), whatever the size
    Cutout        pad int(m / 10 * C) pixels     a square of side 2 * pad about a uniform centre,
                                                 clipped at the border, whatever the size
    SolarizeAdd   addition int(m / 10 * 110)     added to values below 128, then clipped

Geometry picks the nearest pixel; it and Cutout fill with 128. Blends truncate towards zero. A layer
of RandAugment always applies the operation it drew: the probability the official code draws beside
it is unused.

`corrected=True` takes out what the table calls by capital letters, modulo and identity. Then every
operation that has a magnitude does nothing at 0 and more as it grows:

    Posterize     8 - int(m / 10 * 4) bits, at least 1
    Solarize      threshold 256 - int(m / 10 * 256), at least 0
    Color, Contrast, Brightness, Sharpness
                  factor 1 +- m / 10 * 0.9, at least 0
    Contrast      blend from the mean grey of the picture
"""

from dataclasses import dataclass

MAX_LEVEL = 10.0
"""The magnitude at which an operation reaches the end of its range (official `_MAX_LEVEL`)."""

_ROTATION = 30.0  # degrees
_SHEAR = 0.3
_ADDITION = 110


@dataclass(frozen=True)
class PixelConstants:
    """The arguments that are pixels, at magnitude 10.

    Attributes:
        translation: by how much TranslateX and TranslateY move.
        cutout: half the side of the Cutout square.
    """

    translation: float
    cutout: float


RANDAUGMENT = PixelConstants(translation=100.0, cutout=40.0)
AUTOAUGMENT = PixelConstants(translation=250.0, cutout=100.0)

WITHOUT_MAGNITUDE = ("AutoContrast", "Equalize", "Invert")
"""Operations that do the same at every magnitude."""


def rotation(magnitude: float) -> float:
    """Degrees, without the sign."""
    return magnitude / MAX_LEVEL * _ROTATION


def shear(magnitude: float) -> float:
    """Pixels sideways a pixel along, without the sign."""
    return magnitude / MAX_LEVEL * _SHEAR


def translation(magnitude: float, constants: PixelConstants) -> float:
    """Pixels, without the sign."""
    return magnitude / MAX_LEVEL * constants.translation


def cutout_pad(magnitude: float, constants: PixelConstants) -> float:
    """Half the side of the square in pixels, not yet truncated."""
    return magnitude / MAX_LEVEL * constants.cutout


def posterize_bits(magnitude: float, corrected: bool) -> int:
    """Upper bits of each value that stay, 1..8."""
    bits = int(magnitude / MAX_LEVEL * 4)
    if corrected:
        return max(8 - bits, 1)
    # The official shift 8 - bits is a uint8 and wraps below zero; TensorFlow limits it to 7.
    return bits if 1 <= bits <= 8 else 1


def solarize_threshold(magnitude: float, corrected: bool) -> int:
    """The lowest value that is inverted; 256: none."""
    threshold = int(magnitude / MAX_LEVEL * 256)
    # The official threshold meets uint8 values, and becomes one.
    return max(256 - threshold, 0) if corrected else threshold % 256


def solarize_addition(magnitude: float) -> int:
    """What is added to the values below 128."""
    return int(magnitude / MAX_LEVEL * _ADDITION)


def enhance_factor(magnitude: float) -> float:
    """The official blend factor of Color, Contrast, Brightness and Sharpness, 0.1 .. 5.5."""
    return magnitude / MAX_LEVEL * 1.8 + 0.1


def enhance_step(magnitude: float) -> float:
    """How far the corrected blend factor lies from 1, 0 .. 2.7, without the sign."""
    return magnitude / MAX_LEVEL * 0.9
