"""What differs between two photographs of one person: light, backdrop, clothes, something in front, the camera.

Coordinates: the viewer's frame (x right, y down, z towards the viewer) for light; pixels of the scene elsewhere.
Shape letters: h and w height and width, G cells of the backdrop.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Light", "Occluder", "draw_camera", "draw_light", "draw_occluder", "paint_backdrop", "photograph"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Light:
    """`direction` [3] points to the lamp and has length 1; `ambient` and `lamp` are RGB factors."""

    direction: Array
    ambient: Array
    lamp: Array


def draw_light(rng: np.random.Generator) -> Light:
    """A lamp somewhere before and above the face; a face that looks at it is about as bright as its paint."""
    direction = np.array([rng.normal(0, 0.7), rng.normal(-0.5, 0.5), rng.uniform(0.5, 1.2)])
    lamp = rng.uniform(0.3, 0.75)
    level = rng.uniform(0.8, 1.2)
    cast = np.exp(rng.normal(0, 0.07, 3))
    return Light(
        direction / np.linalg.norm(direction),
        level * (1 - lamp) * cast,
        level * lamp * 1.3 * cast * np.exp(rng.normal(0, 0.04, 3)),
    )


def paint_backdrop(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """[size, size, 3]: a blurred room of coloured patches."""
    cells = rng.integers(3, 7)
    base = rng.uniform(50, 210) + rng.normal(0, 16, 3)
    patches = base + rng.normal(0, 30, (cells, cells, 1)) + rng.normal(0, 9, (cells, cells, 3))
    patches = np.clip(patches, 0, 255).astype(np.uint8)
    small = cv2.resize(patches, (64, 64), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 5)):
        corner = rng.integers(-10, 60, 2)
        end = corner + rng.integers(5, 40, 2)
        colour = tuple(float(v) for v in np.clip(base + rng.normal(0, 40) + rng.normal(0, 16, 3), 0, 255))
        cv2.rectangle(small, corner.tolist(), end.tolist(), colour, cv2.FILLED)
    return np.asarray(cv2.resize(cv2.blur(small, (3, 3)), (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass(frozen=True)
class Occluder:
    """A convex polygon [K, 2] in pixels of the scene, and its colour."""

    points: Array
    colour: Array


def draw_occluder(
    rng: np.random.Generator, probability: float, box: tuple[float, float, float, float]
) -> Occluder | None:
    """Something that hides a part of the face, from any side; None for most images."""
    hides, angle, reach, half, bend = rng.random(), *rng.uniform([0, 0.1, 0.15, -0.3], [2 * np.pi, 0.45, 0.4, 0.3])
    colour = rng.uniform(20, 230, 3)
    if hides >= probability:
        return None
    left, top, right, bottom = box
    middle = np.array([left + right, top + bottom]) / 2
    size = max(right - left, bottom - top)
    out = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-out[1], out[0]])
    near = middle + size * (0.55 - reach) * out
    far = near + size * out
    width = size * half
    points = [near + width * (across + bend * out), far + width * across * 1.3]
    points += [far - width * across * 1.3, near - width * (across - bend * out)]
    return Occluder(np.array(points), colour)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What a camera does to a picture."""

    shrink: float = 1.0
    """Resolution that is left, as a share of the scene's."""

    blur: float = 0.0
    """Standard deviation in pixels."""

    motion: float = 0.0
    """Length of the streak in pixels."""

    motion_angle: float = 0.0
    """Direction of the streak in radians."""

    noise: float = 0.0
    """Standard deviation in grey levels."""

    contrast: float = 1.0
    """Factor about mid-grey."""

    quality: int = 100
    """Of a JPEG in between; 100 for none."""


def draw_camera(rng: np.random.Generator, poor: float) -> Camera:
    """A camera at random; `poor` is the probability of a really bad one."""
    values = rng.random(8)
    bad = values[0] < poor
    return Camera(
        shrink=float(1 / (1 + 2.2 * values[1])) if bad else 1.0,
        blur=float(1.6 * values[2]) if bad else float(0.6 * values[2]),
        motion=float(7 * values[3]) if bad and values[4] < 0.4 else 0.0,
        motion_angle=float(np.pi * values[5]),
        noise=float(2 + 8 * values[6]) if bad else float(4 * values[6]),
        contrast=float(0.8 + 0.35 * values[7]),
        quality=int(25 + 60 * values[4]) if bad else 100,
    )


def photograph(image: NDArray[np.uint8], camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scene [h, w, 3] as the camera hands it on, the same size; the geometry does not move."""
    height, width = image.shape[:2]
    if camera.blur > 0.2:
        image = _u8(cv2.GaussianBlur(image, (0, 0), camera.blur))
    if camera.motion > 1:
        image = _u8(cv2.filter2D(image, -1, _streak(camera.motion, camera.motion_angle)))
    if camera.shrink < 1:
        # By its size, not by the factor: OpenCV would take the factor as it is and shift what does not divide.
        small_wh = max(1, round(width * camera.shrink)), max(1, round(height * camera.shrink))
        small = cv2.resize(image, small_wh, interpolation=cv2.INTER_AREA)
        image = _u8(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    table = np.clip((np.arange(256) - 128) * camera.contrast + 128, 0, 255).astype(np.uint8)
    image = _u8(cv2.LUT(image, table))
    if camera.noise > 0:
        noise = rng.standard_normal((height, width), dtype=np.float32) * camera.noise
        tinted = cv2.merge([noise, noise, noise])
        image = _u8(cv2.add(image, tinted, dtype=cv2.CV_8U))
    if camera.quality < 100:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, camera.quality])[1]
        image = _u8(cv2.cvtColor(_u8(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB))
    return image


def _streak(length: float, angle: float) -> Array:
    """A symmetric kernel that smears along a line, so that nothing moves."""
    size = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((size, size), np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    for share in np.linspace(-1, 1, 4 * size + 1):
        x, y = np.rint(size // 2 + share * reach).astype(int)
        kernel[y, x] += 1
    return kernel / kernel.sum()


def _u8(image: NDArray | None) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)
