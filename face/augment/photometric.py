"""Operations on brightness and colour, RandAug's choice of them, and colour jitter. Landmarks stay where they are.

Source: the operations are torchvision's (functional.adjust_brightness and so on, on uint8 images), computed with tables
and OpenCV: within one grey level of its results, at a fraction of its time. Which of them are drawn, and how strong, is
the KP-RPE authors' RandAug (mk-minchul/CVLface@d3d09c9, run_v1/data_augs/gridsample_augmenter.py), after
Cubuk et al., https://arxiv.org/abs/1909.13719, without its geometric operations. Whoever draws Equalize or Grayscale
draws again, up to twice: 4 of 343 draws stay with either, 67 with each of the other five.

No function here changes its input; one that has nothing to do returns it.
Images: [h, w, 3] uint8 RGB.
"""

from collections.abc import Callable

import cv2
import numpy as np

from face.augment.settings import AugmentationSettings

__all__ = [
    "OPERATIONS",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "adjust_sharpness",
    "colour_jitter",
    "equalize",
    "rand_augment",
    "to_grayscale",
]

_LEVELS = np.arange(256, dtype=np.float64)
_STRONGEST = 0.9  # relative change of RandAug's last bin
_TRUNCATE = -0.498  # OpenCV rounds where torchvision truncates; not quite -0.5, which whole numbers would not survive
_SOFT = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's SMOOTH, against which sharpness is set


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 gives black, 1 the image, more than 1 a brighter one."""
    return cv2.LUT(image, np.clip(_LEVELS * factor, 0, 255).astype(np.uint8))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean of the image's grey: 0 gives an even grey, 1 the image, more than 1 stronger contrast."""
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return cv2.LUT(image, np.clip(_LEVELS * factor + mean * (1 - factor), 0, 255).astype(np.uint8))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey image: 0 gives that, 1 the image, more than 1 stronger colours."""
    return cv2.addWeighted(image, factor, to_grayscale(image), 1 - factor, _TRUNCATE)


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with a smoothed image: 0 gives that, 1 the image, more than 1 a sharper one. The outermost pixels stay."""
    out = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, _SOFT), 1 - factor, _TRUNCATE)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = image[edge]
    return out


def equalize(image: np.ndarray) -> np.ndarray:
    """Spread each channel's grey levels so that they are about equally frequent, by PIL's rule in whole numbers."""
    tables = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        brightest = counts[np.nonzero(counts)[0][-1]]
        step = (image.shape[0] * image.shape[1] - brightest) // 255
        if step == 0:  # (almost) one level alone: nothing to spread
            tables[0, :, channel] = _LEVELS
            continue
        below = np.cumsum(counts) - counts
        tables[0, :, channel] = np.minimum((below + step // 2) // step, 255)
    return cv2.LUT(image, tables)


def to_grayscale(image: np.ndarray) -> np.ndarray:
    """Grey in three equal channels: 0.299 red + 0.587 green + 0.114 blue."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


_Adjust = Callable[[np.ndarray, float], np.ndarray]

OPERATIONS: dict[str, _Adjust] = {
    "identity": lambda image, _: image,
    "brightness": adjust_brightness,
    "saturation": adjust_saturation,
    "contrast": adjust_contrast,
    "sharpness": adjust_sharpness,
    "equalize": lambda image, _: equalize(image),
    "grayscale": lambda image, _: to_grayscale(image),
}
"""RandAug's operations by name: an image and a factor (1: no change; the last two ignore it) to an image."""

_RARE = ("equalize", "grayscale")
_ORDER = [name for name in OPERATIONS for _ in range(4 if name in _RARE else 67)]  # a uniform draw has their frequency


def rand_augment(image: np.ndarray, settings: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    """`randaug_ops` random operations one after the other, each of a random strength (see the module's source)."""
    if not settings.randaug_ops:
        return image
    low = settings.randaug_magnitude - settings.randaug_spread
    bins = max(1, 2 * settings.randaug_spread)
    for which, strength, sign in rng.random((settings.randaug_ops, 3)).tolist():
        chosen = min(max(low + int(bins * strength), 0), settings.randaug_bins - 1)
        change = _STRONGEST * chosen / (settings.randaug_bins - 1)
        operation = OPERATIONS[_ORDER[int(len(_ORDER) * which)]]
        image = operation(image, 1 + change if sign < 0.5 else 1 - change)
    return image


def colour_jitter(image: np.ndarray, settings: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    """With `jitter_prob`, brightness, contrast and saturation by uniform factors, in random order."""
    if rng.random() >= settings.jitter_prob:
        return image
    steps: list[tuple[_Adjust, float]] = [
        (adjust_brightness, settings.jitter_brightness),
        (adjust_contrast, settings.jitter_contrast),
        (adjust_saturation, settings.jitter_saturation),
    ]
    factors = rng.uniform(-1, 1, len(steps)).tolist()
    for index in rng.permutation(len(steps)).tolist():
        adjust, largest = steps[index]
        if largest:
            image = adjust(image, 1 + largest * factors[index])
    return image
