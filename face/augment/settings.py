"""What an augmentation draws, and how often: one frozen, checked record. The defaults are the KP-RPE paper's.

Source: Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, Table 6 (flip, brightness, contrast, scaling,
translation, RandAug of magnitude 14/31, blur, cutout, rotation by 20 degrees). Values that the table leaves open are
those of the authors' code (mk-minchul/CVLface@d3d09c9, run_v1/data_augs/configs/{gridsample_v1,basic_v1}.yaml).
The table's brightness and contrast are two of RandAug's operations there, and so they are here; `jitter_prob` adds them
by themselves. Repeated augmentation, the table's last row, decides which image comes when: that is the sampler's.
"""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["AugmentationSettings"]


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Settings of `FaceAugmentation`. Pixels are those of the augmented image; probabilities are of an image.

    Raises:
        ValueError: naming every field that is wrong, what was expected and what was found.
    """

    flip_prob: float = 0.5
    """Probability of a mirror, left to right."""

    rotation_prob: float = 0.2
    """Probability of a rotation about the image's centre."""

    rotation_degrees: float = 20.0
    """Largest angle either way, in degrees; angles are uniform."""

    scale_range: tuple[float, float] = (0.8, 1.2)
    """Smallest and largest size of the face, relative to the image's plain resizing; uniform."""

    translation_room: float = 1.0
    """Share of the room that scaling leaves between face and border within which the face is moved, 0 to 1."""

    translation_extra: float = 0.1
    """Half of the face's width and height times this is the most that is added to that room (the added share is
    uniform between 0 and this)."""

    border: int = 0
    """Grey level, 0 to 255, of what comes from outside the image."""

    cutout_prob: float = 0.2
    """Probability that parts of the image become black."""

    cutout_holes_share: float = 0.05
    """Share of the cutouts that punch square holes; the others keep one rectangle and blacken everything around it."""

    cutout_area: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of the rectangle that is kept, as a fraction of the image's; uniform."""

    cutout_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height of that rectangle; log-uniform."""

    cutout_holes: tuple[int, int] = (12, 20)
    """Fewest and most holes of one image."""

    cutout_hole_px: int = 16
    """Side of a hole in pixels, at most the image's."""

    blur_prob: float = 0.2
    """Probability of one of three blurs."""

    blur_shares: tuple[float, float, float] = (0.1, 0.1, 0.8)
    """How the blurs are shared out among averaging, a Gaussian, and shrinking and enlarging again; their sum is 1."""

    blur_average_px: int = 9
    """Largest side of the square that is averaged, in pixels; sides are uniform from 1 on."""

    blur_sigma_px: float = 4.0
    """Largest standard deviation of the Gaussian in pixels; uniform from 0 on."""

    blur_resize_range: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest size to which an image is shrunk, as a fraction of its own; uniform."""

    randaug_ops: int = 2
    """Photometric operations that RandAug applies one after the other; 0: none."""

    randaug_magnitude: int = 14
    """RandAug's strength, in bins."""

    randaug_spread: int = 9
    """Bins are uniform from `randaug_magnitude - randaug_spread` to `randaug_magnitude + randaug_spread - 1`."""

    randaug_bins: int = 31
    """Bins from no change (bin 0) to a factor of 1 - 0.9 or 1 + 0.9 (the last bin)."""

    jitter_prob: float = 0.0
    """Probability of brightness, contrast and saturation all being changed, in random order."""

    jitter_brightness: float = 0.5
    """Largest relative change of brightness either way."""

    jitter_contrast: float = 0.5
    """Largest relative change of contrast either way."""

    jitter_saturation: float = 0.5
    """Largest relative change of saturation either way."""

    @classmethod
    def none(cls) -> "AugmentationSettings":
        """Nothing is ever changed; steps are switched on with `dataclasses.replace`."""
        return cls(
            flip_prob=0.0,
            rotation_prob=0.0,
            scale_range=(1.0, 1.0),
            translation_room=0.0,
            translation_extra=0.0,
            cutout_prob=0.0,
            blur_prob=0.0,
            randaug_ops=0,
        )

    @classmethod
    def basic(cls) -> "AugmentationSettings":
        """The authors' `basic_v1`, which AdaFace's baselines train with: mirror, and each with probability 0.2 a kept
        rectangle, low resolution, and changes of brightness, contrast and saturation. Nothing moves but by the mirror.
        """
        return cls(
            rotation_prob=0.0,
            scale_range=(1.0, 1.0),
            translation_room=0.0,
            translation_extra=0.0,
            cutout_holes_share=0.0,
            blur_shares=(0.0, 0.0, 1.0),
            randaug_ops=0,
            jitter_prob=0.2,
        )

    def __post_init__(self) -> None:
        problems = [
            *(_number(self, name, 0, 1) for name in _FRACTIONS),
            _number(self, "rotation_degrees", 0, 180),
            _number(self, "blur_sigma_px", 0, math.inf),
            _whole(self, "border", 0, 255),
            _whole(self, "cutout_hole_px", 1),
            _whole(self, "blur_average_px", 1),
            _whole(self, "randaug_ops", 0),
            _whole(self, "randaug_bins", 2),
            _whole(self, "randaug_magnitude", 0),
            _whole(self, "randaug_spread", 0),
            _range(self, "scale_range", math.inf),
            _range(self, "cutout_area", 1),
            _range(self, "cutout_aspect", math.inf),
            _range(self, "blur_resize_range", 1),
            self._holes_problem(),
            self._shares_problem(),
        ]
        found = [problem for problem in problems if problem]
        if not found and self.randaug_magnitude >= self.randaug_bins:
            bins = self.randaug_bins
            found = [f"randaug_magnitude must be a bin below randaug_bins ({bins}), got {self.randaug_magnitude}"]
        if found:
            raise ValueError("; ".join(found))

    def _holes_problem(self) -> str | None:
        holes = self.cutout_holes
        if isinstance(holes, tuple) and list(map(type, holes)) == [int, int] and 0 <= holes[0] <= holes[1]:
            return None
        return f"cutout_holes must be two whole numbers, 0 <= fewest <= most, got {holes!r}"

    def _shares_problem(self) -> str | None:
        shares = self.blur_shares
        right = isinstance(shares, tuple) and len(shares) == 3 and all(map(_is_number, shares))
        if right and min(shares) >= 0 and math.isclose(sum(shares), 1):
            return None
        return f"blur_shares must be three numbers >= 0 whose sum is 1, got {shares!r}"


_FRACTIONS = (
    "flip_prob",
    "rotation_prob",
    "translation_room",
    "translation_extra",
    "cutout_prob",
    "cutout_holes_share",
    "blur_prob",
    "jitter_prob",
    "jitter_brightness",
    "jitter_contrast",
    "jitter_saturation",
)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(settings: AugmentationSettings, name: str, low: float, high: float) -> str | None:
    value = getattr(settings, name)
    if _is_number(value) and low <= value <= high:
        return None
    expected = f"a finite number >= {low}" if high == math.inf else f"a number from {low} to {high}"
    return f"{name} must be {expected}, got {value!r}"


def _whole(settings: AugmentationSettings, name: str, low: int, high: float = math.inf) -> str | None:
    value = getattr(settings, name)
    if type(value) is int and low <= value <= high:
        return None
    bounds = f">= {low}" if high == math.inf else f"from {low} to {high}"
    return f"{name} must be a whole number {bounds}, got {value!r}"


def _range(settings: AugmentationSettings, name: str, high: float) -> str | None:
    value = getattr(settings, name)
    right = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if right and 0 < value[0] <= value[1] <= high:
        return None
    bound = "" if high == math.inf else f" <= {high:g}"
    return f"{name} must be two numbers, 0 < smallest <= largest{bound}, got {value!r}"
