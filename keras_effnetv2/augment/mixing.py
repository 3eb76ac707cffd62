"""MixUp and CutMix on batches, as in the official EfficientNetV2 training.

Source: google/automl, efficientnetv2/datasets.py (`mixup`, `cutmix`, `cutmix_mask`, `mixing`).
Methods: Zhang et al. 2018, arXiv:1710.09412 (MixUp); Yun et al. 2019, arXiv:1905.04899 (CutMix).
Example i of a batch is always mixed with example B - 1 - i, so the middle one of an odd batch and
the only one of a batch of one are mixed with themselves.

Differences between the official code and the papers:

- MixUp weights are per example and at least 0.5, lambda = max(v, 1 - v) with v ~ Beta(alpha,
  alpha); the paper uses v itself (`style="paper"`).
- CutMix cuts one box per example, with halves and sides truncated, but weights the labels of the
  whole batch with ONE number, the mean area of all its boxes. In the paper a label's share is that
  of its own pixels (`style="paper"`).
- With both, the first half of the batch gets MixUp and the second CutMix, each reversed within its
  half; nothing is mixed twice.

Drawing and applying are separate: `draw_*` takes a stateless seed, `apply_*` is plain arithmetic.
"""

from typing import Any

import tensorflow as tf


def mix_batch(
    images: Any,
    labels: Any,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: Any,
    mixup_style: str = "official",
    cutmix_style: str = "official",
) -> tuple[Any, Any]:
    """Mix a batch like the official training: MixUp, CutMix, one half each, or neither.

    Args:
        images: float32 (B, H, W, 3) with any range.
        labels: float32 (B, C), one-hot or probabilities.
        mixup_alpha: parameter of MixUp's Beta(alpha, alpha), >= 0; 0 is off.
        cutmix_alpha: parameter of CutMix's Beta(alpha, alpha), >= 0; 0 is off.
        seed: integer (2,), stateless: the result depends only on the arguments.
        mixup_style: one of `images.styles.MIXUP_STYLES`.
        cutmix_style: one of `images.styles.CUTMIX_STYLES`.

    Returns:
        Mixed images and labels; same shapes and dtypes. The unchanged inputs if both are off.
    """
    if mixup_alpha == cutmix_alpha == 0:
        return images, labels
    if cutmix_alpha == 0:
        return _mixup(images, labels, mixup_alpha, seed, mixup_style)
    if mixup_alpha == 0:
        return _cutmix(images, labels, cutmix_alpha, seed, cutmix_style)
    mixup_seed, cutmix_seed = tf.unstack(tf.random.split(seed, 2))
    half = tf.shape(images)[0] // 2
    first = _mixup(images[:half], labels[:half], mixup_alpha, mixup_seed, mixup_style)
    second = _cutmix(images[half:], labels[half:], cutmix_alpha, cutmix_seed, cutmix_style)
    mixed_images, mixed_labels = (tf.concat(parts, 0) for parts in zip(first, second, strict=True))
    return tf.ensure_shape(mixed_images, images.shape), tf.ensure_shape(mixed_labels, labels.shape)


def _mixup(images: Any, labels: Any, alpha: float, seed: Any, style: str) -> tuple[Any, Any]:
    """Mix each example with its partner, with its own weight."""
    weights = draw_beta(tf.shape(images)[0], alpha, seed)
    if style == "official":
        weights = tf.maximum(weights, 1.0 - weights)
    return apply_mixup(images, labels, weights)


def _cutmix(images: Any, labels: Any, alpha: float, seed: Any, style: str) -> tuple[Any, Any]:
    """Paste a box of each example's partner into it."""
    return apply_cutmix(images, labels, draw_cutmix_masks(images, alpha, seed), style)


def _mix_reversed(values: Any, share: Any) -> Any:
    """Give `share` of each example to its partner in the reversed batch."""
    # values[::-1] would copy number by number, ten times as slowly.
    partners = tf.gather(values, tf.range(tf.shape(values)[0] - 1, -1, -1))
    return (1.0 - share) * values + share * partners


def draw_beta(size: Any, alpha: float, seed: Any) -> Any:
    """Draw numbers from Beta(alpha, alpha), alpha > 0: float32 (size,), in [0, 1].

    Gamma(a) = Gamma(a + 1) * U ** (1 / a), taken in logarithms: at a small alpha both gammas of the
    ratio underflow to 0, and nearly all mass is next to 0 and 1.
    """
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed, 2))
    gammas = tf.random.stateless_gamma([size, 2], gamma_seed, alpha=alpha + 1.0)
    uniforms = 1.0 - tf.random.stateless_uniform([size, 2], uniform_seed)  # (0, 1]: log is finite
    first, second = tf.unstack(tf.math.log(gammas) + tf.math.log(uniforms) / alpha, axis=1)
    return tf.sigmoid(first - second)


def apply_mixup(images: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
    """Mix each example with its partner; weights (B,) are its own share, 0..1."""
    share = (1.0 - weights)[:, tf.newaxis]
    return _mix_reversed(images, share[..., tf.newaxis, tf.newaxis]), _mix_reversed(labels, share)


def cutmix_masks(rows: Any, columns: Any, shares: Any, height: Any, width: Any) -> Any:
    """Make one mask per example: 1 in the box that the partner's pixels fill, 0 elsewhere.

    The box reaches side // 2 to either side of its centre, side = int(sqrt(1 - share) * H or W),
    and is clipped to the picture; an odd side loses a pixel.

    Args:
        rows: int32 (B,), of the centres.
        columns: int32 (B,), of the centres.
        shares: float32 (B,), share of the area that the example keeps before clipping, 0..1.
        height: of the pictures, int32 scalar, pixels.
        width: of the pictures, int32 scalar, pixels.

    Returns:
        float32 (B, H, W, 1).
    """

    def span(centers: Any, size: Any) -> Any:
        """Tell which positions along one side are in the box: bool (B, size)."""
        half = tf.cast(tf.sqrt(1.0 - shares) * tf.cast(size, tf.float32), tf.int32) // 2
        positions = tf.range(size)
        low, high = (centers - half)[:, tf.newaxis], (centers + half)[:, tf.newaxis]
        return (positions >= low) & (positions < high)

    inside = span(rows, height)[:, :, tf.newaxis] & span(columns, width)[:, tf.newaxis, :]
    return tf.cast(inside, tf.float32)[..., tf.newaxis]


def draw_cutmix_masks(images: Any, alpha: float, seed: Any) -> Any:
    """Draw `cutmix_masks` for images: uniform centres, shares from Beta(alpha, alpha)."""
    size, height, width = tf.unstack(tf.shape(images)[:3])
    row_seed, column_seed, share_seed = tf.unstack(tf.random.split(seed, 3))
    return cutmix_masks(
        rows=tf.random.stateless_uniform([size], row_seed, 0, height, tf.int32),
        columns=tf.random.stateless_uniform([size], column_seed, 0, width, tf.int32),
        shares=draw_beta(size, alpha, share_seed),
        height=height,
        width=width,
    )


def apply_cutmix(images: Any, labels: Any, masks: Any, style: str = "official") -> tuple[Any, Any]:
    """Paste the pixels of each partner where its mask (B, H, W, 1) is 1.

    Labels are mixed with the mean of their own mask ("paper") or of all masks.
    """
    share = tf.reduce_mean(masks, axis=(1, 2)) if style == "paper" else tf.reduce_mean(masks)
    return _mix_reversed(images, masks), _mix_reversed(labels, share)
