"""The meaning of a magnitude for each of the sixteen operations: the official table and its quirks.

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
of RandAugment always applies its operation: the official code also draws a probability, but does
not use it.

`corrected=True` removes the quirks that the table marks with capital letters, modulo and identity.
Then every operation with a magnitude does nothing at 0 and more as it grows:

    Posterize     8 - int(m / 10 * 4) bits, at least 1
    Solarize      threshold 256 - int(m / 10 * 256), at least 0
    Color, Contrast, Brightness, Sharpness
                  factor 1 +- m / 10 * 0.9, at least 0.1 (at 0 nothing of the picture is left)
    Contrast      blend from the mean grey of the picture
"""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

_MAX_LEVEL = 10.0  # where an operation reaches the end of its range (official `_MAX_LEVEL`)


class PixelConstants(NamedTuple):
    """The arguments in pixels, at magnitude 10."""

    translation: float
    cutout: float  # half the side of the square


RANDAUGMENT = PixelConstants(translation=100.0, cutout=40.0)
AUTOAUGMENT = PixelConstants(translation=250.0, cutout=100.0)

WITHOUT_MAGNITUDE = ("AutoContrast", "Equalize", "Invert")
"""Operations without a magnitude."""


@dataclass(frozen=True)
class AugmentLayer:
    """The arguments of one application of an operation, except the picture."""

    magnitude: float  # at least 0
    constants: PixelConstants
    corrected: bool  # without the quirks of the official code
    negate: bool | tf.Tensor  # a scalar; for the operations that draw a sign
    center: tuple[int | tf.Tensor, int | tf.Tensor]  # (row, column) of the Cutout square, int32
    pixel_scale: tf.Tensor  # multiplies the arguments in pixels; float64 scalar, 1 is official

    def _signed(self, end_of_range: float) -> tf.Tensor:
        """Return an argument with the drawn sign, float64 as Python would compute it."""
        value = tf.constant(self.magnitude / _MAX_LEVEL * end_of_range, tf.float64)
        return tf.where(self.negate, -value, value)

    @property
    def rotation(self) -> tf.Tensor:
        """Degrees with the drawn sign; float64."""
        return self._signed(30.0)

    @property
    def shear(self) -> tf.Tensor:
        """Shift in pixels for each pixel of the other axis, with the drawn sign; float64."""
        return self._signed(0.3)

    @property
    def translation(self) -> tf.Tensor:
        """Pixels with the drawn sign; float64."""
        return self._signed(self.constants.translation) * self.pixel_scale

    @property
    def cutout_pad(self) -> tf.Tensor:
        """Half the side of the Cutout square in pixels, int32."""
        pad = self.magnitude / _MAX_LEVEL * self.constants.cutout
        return tf.cast(pad * self.pixel_scale, tf.int32)

    @property
    def factor(self) -> float | tf.Tensor:
        """Blend factor of the four enhancing operations, officially 0.1 .. 5.5."""
        if not self.corrected:
            return self.magnitude / _MAX_LEVEL * 1.8 + 0.1
        return tf.cast(tf.maximum(1.0 + self._signed(0.9), 0.1), tf.float32)

    @property
    def bits(self) -> int:
        """Number of upper bits that Posterize keeps, 1..8."""
        bits = int(self.magnitude / _MAX_LEVEL * 4)
        if self.corrected:
            return max(8 - bits, 1)
        # The official shift 8 - bits is a uint8 and wraps below zero; TensorFlow limits it to 7.
        return bits if 1 <= bits <= 8 else 1

    @property
    def threshold(self) -> int:
        """Lowest value that Solarize inverts; 256: none."""
        threshold = int(self.magnitude / _MAX_LEVEL * 256)
        # The official threshold meets uint8 values, and becomes one.
        return max(256 - threshold, 0) if self.corrected else threshold % 256

    @property
    def addition(self) -> int:
        """The number that SolarizeAdd adds to the values below 128."""
        return int(self.magnitude / _MAX_LEVEL * 110)
