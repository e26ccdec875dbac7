"""Where the five landmarks of an aligned face stand: the 112 px template that the community's data and weights use.

Source: the alignment template of the MTCNN / SphereFace line of work, as insightface and CVLface use it. Its 112 x 112
form is the older 96 x 112 one (width x height) with 8 columns more on each side, which is why an image that is not
square gets the middle of a square one here.

Coordinates: `REFERENCE_LANDMARKS` are pixel-index coordinates, the centre of the first pixel is (0, 0). Fractions of
the image are (pixel + 0.5) / size; dividing by 112 alone is half a pixel off. Order: `common.FIVE_POINT_FACE`.
"""

import numpy as np

from common.keypoints import pixels_to_fractions

__all__ = ["REFERENCE_LANDMARKS", "REFERENCE_SIZE", "reference_landmarks"]

REFERENCE_SIZE = 112
"""Height and width, in pixels, of the image that `REFERENCE_LANDMARKS` are in."""

REFERENCE_LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""[5, 2] (x, y) in pixels of a 112 x 112 image: left-of-image eye, right eye, nose, mouth corners."""
REFERENCE_LANDMARKS.setflags(write=False)


def reference_landmarks(out_hw: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE), pixels: bool = True) -> np.ndarray:
    """The template in an image of any size.

    Args:
        out_hw: (height, width) of the image. The template's square has the longer side and stands in the middle.
        pixels: pixel-index coordinates; False for fractions of the image.

    Returns:
        [5, 2] float64, (x, y).

    Raises:
        ValueError: a side below 1.
    """
    height, width = out_hw
    if height < 1 or width < 1:
        raise ValueError(f"out_hw must be (height, width), both >= 1, got {out_hw}")
    side = max(height, width)
    margin = np.array([side - width, side - height]) / 2
    points = (REFERENCE_LANDMARKS + 0.5) * side / REFERENCE_SIZE - 0.5 - margin
    return points if pixels else pixels_to_fractions(points, out_hw)
