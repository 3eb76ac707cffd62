"""MixUp, CutMix and label smoothing on batches, as the official EfficientNetV2 training mixes.

Source: google/automl, efficientnetv2/datasets.py (`mixup`, `cutmix`, `cutmix_mask`, `mixing`).
Methods: Zhang et al. 2018, arXiv:1710.09412 (MixUp); Yun et al. 2019, arXiv:1905.04899 (CutMix).
Example i of a batch is always mixed with example B - 1 - i, so the middle one of an odd batch, and
the only one of a batch of one, meets itself.

Where the official code leaves the papers:

- MixUp weights are per example and at least 0.5, lambda = max(v, 1 - v) with v ~ Beta(alpha,
  alpha); the paper takes v itself (`style="paper"`).
- CutMix cuts one box per example, with halves and sides truncated, yet weighs the labels of the
  whole batch with ONE number, the mean area of all its boxes.
- With both, the first half of the batch gets MixUp and the second CutMix, each reversed inside
  its half; nothing is mixed twice.

Drawing is apart from applying: `draw_*` takes a stateless seed, `apply_*` is plain arithmetic.
"""

import tensorflow as tf

from keras_effnetv2.augment.randaugment import check_seed, is_number

MIXUP_STYLES = ("official", "paper")
LOSSES = ("softmax", "sigmoid")


def _check_choice(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}. Received: {value!r}.")


def _check_alpha(argument: str, alpha: float) -> None:
    """Raises unless alpha is a finite number >= 0."""
    if not is_number(alpha) or alpha < 0:
        raise ValueError(
            f"{argument} must be a Python number >= 0; 0 switches it off. Received: {alpha!r}."
        )


def _checked_labels(labels: tf.Tensor) -> tf.Tensor:
    """Returns the labels as a float32 (B, C) tensor, or raises."""
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_floating or not labels.shape.is_compatible_with([None, None]):
        raise ValueError(
            "labels must be one-hot or probabilities: floating, shape (B, C). "
            f"Received: dtype {labels.dtype.name}, shape {labels.shape}. "
            "tf.one_hot(labels, num_classes) makes them from class indices."
        )
    return tf.cast(labels, tf.float32)


def _checked_batch(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns images (B, H, W, 3) and labels (B, C), both float32, or raises."""
    images, labels = tf.convert_to_tensor(images), _checked_labels(labels)
    if not images.shape.is_compatible_with([None, None, None, 3]):
        raise ValueError(
            f"images must be a batch of shape (B, H, W, 3). Received: shape {images.shape}. "
            "Mix after dataset.batch(...)."
        )
    if not images.shape[:1].is_compatible_with(labels.shape[:1]):
        raise ValueError(
            "images and labels must have the same batch size. "
            f"Received: images {images.shape}, labels {labels.shape}."
        )
    return tf.cast(images, tf.float32), labels


def _mix_reversed(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Gives `share` of each example to its partner in the reversed batch."""
    # values[::-1] would copy number by number, ten times as slowly.
    partners = tf.gather(values, tf.range(tf.shape(values)[0] - 1, -1, -1))
    return (1.0 - share) * values + share * partners


def draw_beta(size: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws Beta(alpha, alpha) numbers.

    Gamma(a) = Gamma(a + 1) * U ** (1 / a), taken in logarithms: at a small alpha both gammas of the
    ratio underflow to 0, and nearly all mass is next to 0 and 1.

    Args:
        size: how many.
        alpha: number > 0.
        seed: integer (2,), stateless.

    Returns:
        float32 (size,), in [0, 1].
    """
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed, 2))
    gammas = tf.random.stateless_gamma([size, 2], gamma_seed, alpha=alpha + 1.0)
    uniforms = 1.0 - tf.random.stateless_uniform([size, 2], uniform_seed)  # (0, 1]: log is finite
    first, second = tf.unstack(tf.math.log(gammas) + tf.math.log(uniforms) / alpha, axis=1)
    return tf.sigmoid(first - second)


def apply_mixup(
    images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with its partner in the reversed batch.

    Args:
        images: float32 (B, H, W, 3).
        labels: float32 (B, C).
        weights: float32 (B,), the share of the example itself, 0..1.

    Returns:
        images and labels, mixed; same shapes and dtypes.
    """
    share = (1.0 - weights)[:, tf.newaxis]
    return _mix_reversed(images, share[..., tf.newaxis, tf.newaxis]), _mix_reversed(labels, share)


def cutmix_masks(
    rows: tf.Tensor, columns: tf.Tensor, shares: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Makes one mask per example: 1 in the box that the partner's pixels fill, 0 elsewhere.

    The box reaches side // 2 to either side of its centre, side = int(sqrt(1 - share) * H or W),
    and is clipped to the picture; an odd side loses a pixel.

    Args:
        rows: int32 (B,), row of the centre.
        columns: int32 (B,), column of the centre.
        shares: float32 (B,), area that the example keeps before clipping, 0..1.
        height: int32 scalar, pixels.
        width: int32 scalar, pixels.

    Returns:
        float32 (B, H, W, 1).
    """

    def span(centers: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Tells which positions along one side are in the box: bool (B, size)."""
        half = tf.cast(tf.sqrt(1.0 - shares) * tf.cast(size, tf.float32), tf.int32) // 2
        positions = tf.range(size)
        low, high = (centers - half)[:, tf.newaxis], (centers + half)[:, tf.newaxis]
        return (positions >= low) & (positions < high)

    inside = span(rows, height)[:, :, tf.newaxis] & span(columns, width)[:, tf.newaxis, :]
    return tf.cast(inside, tf.float32)[..., tf.newaxis]


def draw_cutmix_masks(images: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws the CutMix masks of a batch: uniform centres, shares ~ Beta(alpha, alpha).

    Args:
        images: (B, H, W, 3); only its shape is read.
        alpha: number > 0.
        seed: integer (2,), stateless.

    Returns:
        float32 (B, H, W, 1), see `cutmix_masks`.
    """
    size, height, width = tf.unstack(tf.shape(images)[:3])
    row_seed, column_seed, share_seed = tf.unstack(tf.random.split(seed, 3))
    return cutmix_masks(
        rows=tf.random.stateless_uniform([size], row_seed, 0, height, tf.int32),
        columns=tf.random.stateless_uniform([size], column_seed, 0, width, tf.int32),
        shares=draw_beta(size, alpha, share_seed),
        height=height,
        width=width,
    )


def apply_cutmix(
    images: tf.Tensor, labels: tf.Tensor, masks: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes the masked pixels of each partner in the reversed batch.

    Args:
        images: float32 (B, H, W, 3).
        labels: float32 (B, C).
        masks: float32 (B, H, W, 1), 1 where the partner's pixels go.

    Returns:
        images and labels, mixed; same shapes and dtypes. All labels take the mean of all masks.
    """
    return _mix_reversed(images, masks), _mix_reversed(labels, tf.reduce_mean(masks))


def mixup(
    images: tf.Tensor,
    labels: tf.Tensor,
    alpha: float,
    seed: tf.Tensor,
    *,
    style: str = "official",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with its partner, with a weight of its own.

    Args:
        images: (B, H, W, 3), float32 of any range, or uint8.
        labels: floating (B, C), one-hot or probabilities.
        alpha: parameter of Beta(alpha, alpha), >= 0; 0 returns the inputs untouched.
        seed: integer (2,), stateless: the result depends on the arguments alone.
        style: "official" (the example keeps at least one half) or "paper" (any share).

    Returns:
        images float32 (B, H, W, 3) and labels float32 (B, C).

    Raises:
        ValueError: an argument has another shape, dtype or range.
    """
    _check_alpha("alpha", alpha)
    _check_choice("style", style, MIXUP_STYLES)
    if alpha == 0:
        return images, labels
    images, labels = _checked_batch(images, labels)
    weights = draw_beta(tf.shape(images)[0], alpha, check_seed(seed))
    if style == "official":
        weights = tf.maximum(weights, 1.0 - weights)
    return apply_mixup(images, labels, weights)


def cutmix(
    images: tf.Tensor, labels: tf.Tensor, alpha: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a box of each example's partner into it.

    Args:
        images: (B, H, W, 3), float32 of any range, or uint8.
        labels: floating (B, C), one-hot or probabilities.
        alpha: parameter of Beta(alpha, alpha), >= 0; 0 returns the inputs untouched.
        seed: integer (2,), stateless: the result depends on the arguments alone.

    Returns:
        images float32 (B, H, W, 3) and labels float32 (B, C).

    Raises:
        ValueError: an argument has another shape, dtype or range.
    """
    _check_alpha("alpha", alpha)
    if alpha == 0:
        return images, labels
    images, labels = _checked_batch(images, labels)
    return apply_cutmix(images, labels, draw_cutmix_masks(images, alpha, check_seed(seed)))


def mix_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: tf.Tensor,
    mixup_style: str = "official",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes a batch as the official training does: MixUp, CutMix, one half each, or neither.

    Args:
        images: (B, H, W, 3), float32 of any range, or uint8.
        labels: floating (B, C), one-hot or probabilities.
        mixup_alpha: parameter of MixUp's Beta(alpha, alpha), >= 0; 0 is off.
        cutmix_alpha: parameter of CutMix's Beta(alpha, alpha), >= 0; 0 is off.
        seed: integer (2,), stateless: the result depends on the arguments alone.
        mixup_style: the `style` of `mixup`.

    Returns:
        images float32 (B, H, W, 3) and labels float32 (B, C); the inputs untouched if both are off.

    Raises:
        ValueError: an argument has another shape, dtype or range.
    """
    _check_alpha("mixup_alpha", mixup_alpha)
    _check_alpha("cutmix_alpha", cutmix_alpha)
    _check_choice("mixup_style", mixup_style, MIXUP_STYLES)
    if cutmix_alpha == 0:
        return mixup(images, labels, mixup_alpha, seed, style=mixup_style)
    if mixup_alpha == 0:
        return cutmix(images, labels, cutmix_alpha, seed)
    images, labels = _checked_batch(images, labels)
    mixup_seed, cutmix_seed = tf.unstack(tf.random.split(check_seed(seed), 2))
    half = tf.shape(images)[0] // 2
    first = mixup(images[:half], labels[:half], mixup_alpha, mixup_seed, style=mixup_style)
    second = cutmix(images[half:], labels[half:], cutmix_alpha, cutmix_seed)
    mixed_images = tf.concat([first[0], second[0]], axis=0)
    mixed_labels = tf.concat([first[1], second[1]], axis=0)
    return tf.ensure_shape(mixed_images, images.shape), tf.ensure_shape(mixed_labels, labels.shape)


def smooth_labels(labels: tf.Tensor, smoothing: float, loss: str = "softmax") -> tf.Tensor:
    """Moves labels towards the even distribution.

    Args:
        labels: floating (B, C), one-hot or probabilities.
        smoothing: share that is moved, in [0, 1); official training takes 0.1.
        loss: "softmax": towards 1 / C; "sigmoid": towards 1 / 2, as each class is its own decision.

    Returns:
        float32 (B, C).

    Raises:
        ValueError: an argument has another shape, dtype or range.
    """
    _check_choice("loss", loss, LOSSES)
    if not is_number(smoothing) or not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be a Python number in [0, 1). Received: {smoothing!r}.")
    labels = _checked_labels(labels)
    even = 0.5 if loss == "sigmoid" else 1.0 / tf.cast(tf.shape(labels)[-1], tf.float32)
    return labels * (1.0 - smoothing) + smoothing * even
