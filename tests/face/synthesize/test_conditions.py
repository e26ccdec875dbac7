"""Light, occluders and cameras: what they may change, and what they must leave."""

import numpy as np
import pytest

from face.synthesize import Split, SynthesisSettings, face_of, paint_scene
from face.synthesize.conditions import Camera, draw_occluder, photograph
from face.synthesize.pose import Head, Take

BOX = (60.0, 50.0, 130.0, 140.0)


def spot(x=40.0, y=52.0):
    columns, rows = np.meshgrid(np.arange(96), np.arange(80))
    light = 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 60.0)
    return np.repeat(light[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(),
        Camera(blur=1.6),
        Camera(motion=7.0, motion_angle=0.9),
        Camera(motion=6.0),
        Camera(shrink=0.4),
        Camera(noise=3.0),
        Camera(quality=30),
    ],
    ids=str,
)
def test_a_camera_moves_nothing(camera):
    image = photograph(spot(), camera, np.random.default_rng(0)).astype(float)[..., 0]
    weight = np.where(image > 40, image, 0)
    assert image.shape == (80, 96)
    rows, columns = np.nonzero(weight)
    assert np.average(columns, weights=weight[rows, columns]) == pytest.approx(40.0, abs=0.3)
    assert np.average(rows, weights=weight[rows, columns]) == pytest.approx(52.0, abs=0.3)


@pytest.mark.parametrize("probability", [0.0, 1.0, 0.25])
def test_occluders_come_as_often_as_said(probability):
    drawn = [draw_occluder(np.random.default_rng(seed), probability, BOX) is not None for seed in range(400)]
    assert np.mean(drawn) == pytest.approx(probability, abs=0.06)


def test_an_occluder_hides_a_part_of_the_face_and_not_all():
    head = Head(face_of(SynthesisSettings(), Split.TRAIN, 0), Take(), 50.0, (96.0, 96.0))
    backdrop = np.zeros((192, 192, 3), np.uint8)
    bare = paint_scene(head, backdrop).image
    left, top, right, bottom = np.rint(head.box).astype(int)
    hidden = []
    for seed in range(40):
        occluder = draw_occluder(np.random.default_rng(seed), 1.0, head.box)
        image = paint_scene(head, backdrop, occluder=occluder).image
        hidden.append((image != bare).any(axis=2)[top:bottom, left:right].mean())
    assert max(hidden) < 0.6
    assert np.median(hidden) > 0.03


def test_a_camera_needs_a_generator():
    head = Head(face_of(SynthesisSettings(), Split.TRAIN, 0), Take(), 20.0, (32.0, 32.0))
    with pytest.raises(ValueError, match="a camera needs rng for its noise, got None"):
        paint_scene(head, np.zeros((64, 64, 3), np.uint8), camera=Camera())
