"""An image and its landmarks through all steps of an augmentation, in the authors' order.

Source: mk-minchul/CVLface@d3d09c9, run_v1/data_augs/gridsample_augmenter.py: geometry, cutout, blur, colour. Their
`basic_v1` has the mirror at its end, which comes to the same.

NumPy and OpenCV alone, for worker processes of a loader. OpenCV's own threads do not pay at this size: a worker that
shares its cores with others should call `cv2.setNumThreads(1)`.
Coordinates: keypoints are (x, y) as fractions of the image, before and after.
"""

import numpy as np

from common.keypoints import FIVE_POINT_FACE, check_fractions
from face.augment.degrade import cutout, random_blur
from face.augment.geometry import draw_placement, move_image, move_keypoints
from face.augment.photometric import colour_jitter, rand_augment
from face.augment.settings import AugmentationSettings
from face.data.images import resize_image

__all__ = ["FaceAugmentation"]

_POINTS = (len(FIVE_POINT_FACE), 2)


class FaceAugmentation:
    """Random changes of a training image; the same `rng` makes the same changes.

    Args:
        settings: what is drawn; by default what the KP-RPE paper trains with.
        out_hw: height and width of every image that is returned.

    Raises:
        ValueError: `out_hw` is no size.
    """

    def __init__(self, settings: AugmentationSettings | None = None, out_hw: tuple[int, int] = (112, 112)) -> None:
        if len(out_hw) != 2 or min(out_hw) < 1:
            raise ValueError(f"out_hw must be (height, width), both >= 1, got {out_hw}")
        self.settings = settings or AugmentationSettings()
        self.out_hw = (int(out_hw[0]), int(out_hw[1]))

    def __call__(
        self, image: np.ndarray, keypoints: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """One augmented image.

        Args:
            image: [h, w, 3] uint8 RGB.
            keypoints: [5, 2] floating point fractions of the image, or None.
            rng: where every random number comes from; keypoints make no difference to them.

        Returns:
            The image as [*out_hw, 3] uint8 RGB, and keypoints [5, 2] float32 as fractions of that (or None). They may
            lie outside it. Both are arrays of their own; the inputs are left as they are.

        Raises:
            ValueError: wrong dtype or shape, keypoints in pixels or not finite.
        """
        _check_image(image)
        points = _checked_keypoints(keypoints)
        settings = self.settings
        placement = draw_placement(settings, rng)
        out = self.change_pixels(move_image(image, placement, self.out_hw, settings.border), rng)
        if points is not None:
            points = move_keypoints(points, placement, (image.shape[0], image.shape[1]), self.out_hw)
        return _own(out, image), points

    def change_pixels(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """All steps but the first, which moves the image: landmarks stay where they are. For those who move it
        themselves. Where no step changes anything, the result is `image` itself, which is left as it is."""
        out = cutout(image, self.settings, rng)
        out = random_blur(out, self.settings, rng)
        out = rand_augment(out, self.settings, rng)
        return colour_jitter(out, self.settings, rng)

    def plain(self, image: np.ndarray, keypoints: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """The same without any change but of the size: what evaluation sees. Arguments, returns and errors as above."""
        _check_image(image)
        return _own(resize_image(image, self.out_hw), image), _checked_keypoints(keypoints)


def _own(out: np.ndarray, image: np.ndarray) -> np.ndarray:
    return out.copy() if out is image else out


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be uint8 of shape [h, w, 3], got {image.dtype} {list(image.shape)}")


def _checked_keypoints(keypoints: np.ndarray | None) -> np.ndarray | None:
    """Fresh float32, or None."""
    if keypoints is None:
        return None
    if keypoints.shape != _POINTS or keypoints.dtype.kind != "f":
        found = f"{keypoints.dtype} {list(keypoints.shape)}"
        raise ValueError(f"keypoints must be floating point of shape {list(_POINTS)}, got {found}")
    check_fractions(keypoints)
    return keypoints.astype(np.float32)
