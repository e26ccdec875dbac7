"""Every image of a set by its numbers.

Every random number comes from a generator of its own for (seed, what for, split, identity, image): the bytes depend
neither on the number of processes nor on how many identities or images there are.
"""

from enum import IntEnum

import numpy as np

from face.synthesize.conditions import draw_camera, draw_light, draw_occluder, paint_backdrop
from face.synthesize.crops import Crop, aligned_crop, detector_crop
from face.synthesize.face import Face, draw_face
from face.synthesize.pose import Head, draw_take
from face.synthesize.render import Scene, paint_scene
from face.synthesize.settings import SynthesisSettings

__all__ = ["Purpose", "Split", "crop_scene", "face_of", "generator", "render_scene"]

MEAN_UNIT = 56 / 192  # half a head's height, as a share of the scene


class Purpose(IntEnum):
    """What a random generator is for."""

    FACE = 0
    TAKE = 1
    PLACE = 2
    SURROUNDINGS = 3
    OCCLUDER = 4
    CAMERA = 5
    CROP = 6
    PAIRS = 7
    GALLERY = 8
    PHOTOGRAPH = 9


class Split(IntEnum):
    """Identities of one never are those of another."""

    TRAIN = 0
    TEST = 1
    BENCHMARK = 2


def generator(seed: int, purpose: Purpose, split: Split, identity: int = 0, image: int = 0) -> np.random.Generator:
    """The random generator of one thing."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, split, identity, image)))


def face_of(settings: SynthesisSettings, split: Split, identity: int) -> Face:
    """The identity of a number; depends on the seed alone."""
    return draw_face(generator(settings.seed, Purpose.FACE, split, identity))


def render_scene(
    settings: SynthesisSettings, split: Split, identity: int, image: int, face: Face | None = None
) -> Scene:
    """The scene that the crops of an image are cut from; `face`, where it is at hand, is that of `face_of`."""

    def rng(purpose: Purpose) -> np.random.Generator:
        return generator(settings.seed, purpose, split, identity, image)

    size = settings.scene_size
    place = rng(Purpose.PLACE)
    unit = MEAN_UNIT * size * place.uniform(0.9, 1.1)
    x, y = size * (0.5 + place.uniform(-0.03, 0.03, 2))
    take = draw_take(rng(Purpose.TAKE), settings.max_yaw, settings.max_pitch, settings.max_roll)
    head = Head(face or face_of(settings, split, identity), take, unit, (x, y))
    surroundings, shots = rng(Purpose.SURROUNDINGS), rng(Purpose.CAMERA)
    return paint_scene(
        head,
        paint_backdrop(surroundings, size),
        light=draw_light(surroundings),
        clothes=surroundings.uniform(20, 230, 3),
        occluder=draw_occluder(rng(Purpose.OCCLUDER), settings.occlusion, head.box),
        camera=draw_camera(shots, settings.poor_camera),
        rng=shots,
    )


def crop_scene(settings: SynthesisSettings, scene: Scene, kind: str, split: Split, identity: int, image: int) -> Crop:
    """The "aligned" or the "unaligned" crop of a scene."""
    if kind == "aligned":
        return aligned_crop(scene, settings.crop_size)
    rng = generator(settings.seed, Purpose.CROP, split, identity, image)
    return detector_crop(scene, settings.crop_size, settings.crop_shift, settings.crop_scale, rng)
