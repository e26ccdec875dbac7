"""Cameras around the scene, each with its own direction, height, distance and resolution.

A camera pans with the walker and keeps it in the middle, so a walk may be of any length; what a fixed camera
would see of its coming closer is a slow change of distance. Pinhole projection, no lens distortion.

Coordinates: world as in walker.py; image (x, y) in pixels, x right and y down, (0, 0) where the optical axis meets
the image. Pixels are pixel-index coordinates: a whole number is the centre of a pixel.
Shape letters: T frames, N nodes, K points of an outline.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin.synthesize.walker import Walk

__all__ = ["Camera", "View", "draw_cameras", "look"]

Array = NDArray[np.float64]

TARGET_HEIGHT_M = 0.9
OUTLINE_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where a camera stands. A walker whose heading equals `azimuth_rad` walks towards it."""

    azimuth_rad: float
    elevation_rad: float = 0.1
    distance_m: float = 7.0
    pixels_per_m: float = 80.0  # at distance_m

    def __post_init__(self) -> None:
        if self.distance_m < 2 or self.pixels_per_m <= 0:
            raise ValueError(
                f"a camera needs distance_m >= 2 and pixels_per_m > 0, got {self.distance_m} and {self.pixels_per_m}"
            )


@dataclass(frozen=True)
class View:
    """A walk seen by a camera.

    outlines [T, N, K, 2] (points around each node), joints [T, 17, 2] in image pixels; node_depths [T, N] and
    joint_depths [T, 17] in metres along the optical axis; pixels_per_m [T] at the walker.
    """

    outlines: Array
    joints: Array
    node_depths: Array
    joint_depths: Array
    pixels_per_m: Array


def draw_cameras(rng: np.random.Generator, count: int) -> list[Camera]:
    """`count` cameras evenly around the scene, give or take; each with its own height, distance, resolution."""
    start = rng.uniform(0, 2 * np.pi)
    return [
        Camera(
            azimuth_rad=float(start + 2 * np.pi * (index + rng.uniform(-0.15, 0.15)) / count),
            elevation_rad=float(np.deg2rad(rng.uniform(2, 25))),
            distance_m=float(rng.uniform(5, 11)),
            pixels_per_m=float(rng.uniform(54, 98)),
        )
        for index in range(count)
    ]


def look(camera: Camera, walk: Walk, zoom: Array | float = 1.0) -> View:
    """Project a walk.

    Args:
        camera: where from.
        walk: T frames.
        zoom: one number or [T]; the walker is `camera.distance_m / zoom` away.
    """
    cos, sin = np.cos, np.sin
    azimuth, elevation = camera.azimuth_rad, camera.elevation_rad
    away = np.array([cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation)])
    right = np.array([-sin(azimuth), cos(azimuth), 0.0])
    world_to_camera = np.stack([right, np.cross(-away, right), -away])  # rows: right, down, forward
    distance = np.broadcast_to(camera.distance_m / np.asarray(zoom, dtype=np.float64), walk.nodes.shape[:1])
    focal = camera.pixels_per_m * camera.distance_m

    def seen(points: Array) -> Array:
        local = (points - np.array([0.0, 0.0, TARGET_HEIGHT_M])) @ world_to_camera.T
        local[..., 2] += distance[:, None]
        return local

    nodes, joints = seen(walk.nodes), seen(walk.joints)
    flat = focal * nodes[..., :2] / nodes[..., 2:]
    outlines = flat[:, :, None] + _ellipses(walk.axes, nodes, world_to_camera, focal)
    joints_2d = focal * joints[..., :2] / joints[..., 2:]
    return View(outlines, joints_2d, nodes[..., 2], joints[..., 2], focal / distance)


def _ellipses(axes: Array, nodes: Array, world_to_camera: Array, focal: float) -> Array:
    """Outline of each projected ellipsoid about its centre, [T, N, K, 2], to first order in size / distance."""
    local = world_to_camera @ axes
    ratio = nodes[..., :2] / nodes[..., 2:]
    flat = (local[..., :2, :] - ratio[..., None] * local[..., 2:, :]) * (focal / nodes[..., 2])[..., None, None]
    covariance = flat @ flat.swapaxes(-1, -2)
    x = np.sqrt(covariance[..., 0, 0])
    skew = covariance[..., 0, 1] / x
    y = np.sqrt(np.maximum(covariance[..., 1, 1] - skew**2, 0.0))
    angle = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    unit_x, unit_y = np.cos(angle), np.sin(angle)
    return np.stack([x[..., None] * unit_x, skew[..., None] * unit_x + y[..., None] * unit_y], axis=-1)
