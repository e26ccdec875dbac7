"""Encoded images (JPEG, PNG, BMP, WebP) to RGB arrays, and those to another size.

OpenCV returns what it could make of a JPEG that ends too early, grey below, without an error; here that is one.
"""

import cv2
import numpy as np

__all__ = ["ImageError", "decode_image", "resize_image"]

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND"


class ImageError(ValueError):
    """An image is damaged or of a format that is not read. The message begins with its name."""


def decode_image(encoded: bytes, name: str) -> np.ndarray:
    """Decode one image; grey becomes RGB, transparency is dropped, 16 bits become 8, EXIF orientation is followed.

    Args:
        encoded: the bytes of the file.
        name: what error messages call the image.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        ImageError: it does not decode, or ends too early.
    """
    if not encoded:
        raise ImageError(f"{name}: no bytes, expected an encoded image")
    for start, end in ((_JPEG, _JPEG_END), (_PNG, _PNG_END)):
        if encoded.startswith(start) and encoded.rfind(end) < 0:
            raise ImageError(f"{name}: the image is cut off: its {len(encoded)} bytes lack the format's end marker")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"{name}: does not decode: {error}") from error
    if image is None:
        raise ImageError(f"{name}: {len(encoded)} bytes, beginning with {encoded[:8]!r}, do not decode as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] to another size: by the mean over areas where both sides shrink, else bilinear.

    Height and width are scaled each on their own. An image of the size already is returned as it is.
    """
    if image.shape[:2] == tuple(size_hw):
        return image
    height, width = size_hw
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
