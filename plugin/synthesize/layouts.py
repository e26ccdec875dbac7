"""The raw layouts that walkers can be written in: names of sequences, files of a sequence, partition.

What each layout is like, and where that is known from, stands in plugin/prepare/layouts.py. Types and views have the
names that the sets' evaluation protocols go by:

| layout    | each subject walks                                                                        |
| --------- | ----------------------------------------------------------------------------------------- |
| Gait3D    | `sequences_per_subject` times, before any camera                                          |
| GREW      | for training as IDtrain/00 before each camera; for testing as ID/01 (gallery), ID/02      |
|           | (probe) and probe/03 (of a subject that is kept secret)                                   |
| SUSTech1K | in nine conditions before each camera; 00-nm is the gallery                               |
| CCPG      | in seven outfits before each camera                                                       |
| OUMVLP    | twice before each camera: 00 (probe), 01 (gallery)                                        |

A condition's name changes nothing but the random numbers of its walks. Coordinates: pixels, as in camera.py.
Shape letters: T frames.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from common.keypoints import COCO_17, OPENPOSE_18
from common.runtime.arrays import save_array
from common.runtime.files import write_bytes, write_text
from plugin.prepare.normalise import HEIGHT, normalise_silhouette
from plugin.prepare.raw import DroppedFrame

__all__ = ["LAYOUTS", "Frame", "Layout", "Place"]

Folder: TypeAlias = tuple[str, str, str]

_SUSTECH1K = ("00-nm", *(f"01-{name}" for name in ("nm", "bg", "cl", "cr", "ub", "uf", "oc", "nt")))
_CCPG = ("U0_D0_BG", "U0_D0", "U3_D3", "U1_D0", "U1_D1", "U2_D2", "U0_D3")
_OUMVLP_VIEWS = tuple(f"{angle:03d}" for start in (0, 180) for angle in range(start, start + 91, 15))
_SYNC = 3  # SUSTech1K: a LiDAR sweep every third camera frame
_RAW_PIXELS = 128  # CCPG: side of the silhouettes that are not aligned


@dataclass(frozen=True)
class Frame:
    """A frame of a sequence: its number, silhouette [h, w] of 0 and 255, joints [17, 3] in pixels of that crop.

    Either may be None in a set with dropped frames; `size_wh` is the crop's in any case.
    """

    number: int
    size_wh: tuple[int, int]
    silhouette: NDArray[np.uint8] | None
    joints: NDArray[np.float64] | None


@dataclass(frozen=True)
class Place:
    """Where a sequence lies, ID/type/view, and the number of its camera."""

    folder: Folder
    camera: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One set's way to lay out sequences."""

    subject_id: Callable[[int, bool], str]
    """Name of a subject by its number and whether it is for training."""

    places: Callable[[str, bool, int, int, np.random.Generator], list[Place]]
    """Of a subject's ID, whether it is for training, the number of cameras, that of sequences (where it is not given
    by the set) and a random generator."""

    write: Callable[[Path, Folder, Sequence[Frame], np.random.Generator], None]
    """Write a sequence below a root; the generator is for what else is in the files."""

    most_cameras: int
    """Names of views that there are."""

    named_probes: bool = False
    """Whether the partition names the probes; elsewhere types and views tell them."""

    others: tuple[str, ...] = ()
    """Entries of TEST_SET that are no subjects."""


def _each(
    types: Sequence[str], view: Callable[[int], str]
) -> Callable[[str, bool, int, int, np.random.Generator], list[Place]]:
    """Every type before every camera."""

    def places(subject: str, train: bool, cameras: int, count: int, rng: np.random.Generator) -> list[Place]:
        return [Place((subject, kind, view(camera)), camera) for kind in types for camera in range(cameras)]

    return places


def _gait3d_places(subject: str, train: bool, cameras: int, count: int, rng: np.random.Generator) -> list[Place]:
    """Every camera once before any twice, any of three videos; seqS counts those of one camera and video."""
    before = np.resize(rng.permutation(cameras), count)
    taken: Counter[str] = Counter()
    places = []
    for camera, video in zip(before, rng.integers(1, 4, count), strict=True):
        kind = f"camid{camera}_videoid{video}"
        places.append(Place((subject, kind, f"seq{taken[kind]}"), int(camera)))
        taken[kind] += 1
    return places


def _grew_places(subject: str, train: bool, cameras: int, count: int, rng: np.random.Generator) -> list[Place]:
    def token() -> str:
        return "".join(rng.choice(list("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"), 8))

    if train:
        return [Place((subject, "00", token()), camera) for camera in range(cameras)]
    camera = rng.permutation(max(3, cameras))[:3] % cameras
    folders = ((subject, "01"), (subject, "02"), ("probe", "03"))
    return [Place((*folder, token()), int(where)) for folder, where in zip(folders, camera, strict=True)]


def _pose_line(frame: Frame) -> str:
    assert frame.joints is not None
    return ",".join([*map(str, frame.size_wh), *(f"{value:.3f}" for value in frame.joints.ravel())]) + "\n"


def _png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _new(root: Path, *parts: str) -> Path:
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True)
    return folder


def _write_gait3d(root: Path, folder: Folder, frames: Sequence[Frame], rng: np.random.Generator) -> None:
    silhouettes, poses = _new(root, "2D_Silhouettes", *folder), _new(root, "2D_Poses", *folder)
    for frame in frames:
        name = f"human_crop_f{frame.number}"
        if frame.silhouette is not None:
            write_bytes(silhouettes / f"{name}.png", _png(frame.silhouette))
        if frame.joints is not None:
            write_text(poses / f"{name}.txt", _pose_line(frame))


def _write_grew(root: Path, folder: Folder, frames: Sequence[Frame], rng: np.random.Generator) -> None:
    silhouettes, poses = _new(root, "silhouettes", *folder), _new(root, "poses", *folder)
    for number, frame in enumerate(frames, start=1):
        if (aligned := _aligned(frame)) is not None:
            write_bytes(silhouettes / f"{number:05d}.png", _png(aligned))
        if frame.joints is not None:
            write_text(poses / f"pose_{number:05d}_2d_pose.txt", _pose_line(frame))


def _write_sustech1k(root: Path, folder: Folder, frames: Sequence[Frame], rng: np.random.Generator) -> None:
    """Four of the camera's sixteen files, and two at the LiDAR's rate, which must not be taken for them."""
    aligned, joints, whole = _stacked(frames)
    sizes = np.array([frame.size_wh[::-1] for frame in whole])
    raw = np.stack([cv2.resize(_known(f), (HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC) for f in whole])
    place, view = _new(root, *folder), folder[2]
    arrays = {"03-{}-Camera-Pose": joints, "04-{}-Camera-Ratios-HW": sizes, "06-{}-Camera-Sils_aligned": aligned}
    arrays |= {"07-{}-Camera-Sils_raw": raw, "11-sync-{}-Camera-Pose": joints[::_SYNC]}
    for name, array in {**arrays, "14-sync-{}-Camera-Sils_aligned": aligned[::_SYNC]}.items():
        save_array(place / f"{name.format(view)}.pkl", np.ascontiguousarray(array))


def _write_ccpg(root: Path, folder: Folder, frames: Sequence[Frame], rng: np.random.Generator) -> None:
    aligned, joints, whole = _stacked(frames)
    place, view = _new(root, "silhouettes", *folder), folder[2]
    raw = np.stack([cv2.resize(_known(f), (_RAW_PIXELS, _RAW_PIXELS)) for f in whole])
    save_array(place / f"{view}-aligned-sils.pkl", aligned)
    save_array(place / f"{view}-ratios.pkl", np.array([frame.size_wh[0] / frame.size_wh[1] for frame in whole]))
    save_array(place / f"{view}-sils.pkl", raw)
    save_array(_new(root, "poses", *folder) / f"{view}.pkl", joints)


def _known(frame: Frame) -> NDArray[np.uint8]:
    assert frame.silhouette is not None
    return frame.silhouette


def _aligned(frame: Frame) -> NDArray[np.uint8] | None:
    """[64, 64], or None for what no preparation would keep."""
    try:
        return None if frame.silhouette is None else normalise_silhouette(frame.silhouette)[0]
    except DroppedFrame:
        return None


def _stacked(frames: Sequence[Frame]) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[Frame]]:
    """Normalised silhouettes [T, 64, 64], joints [T, 17, 3] and the frames that have both: a pickle has no gaps."""
    kept = [
        (aligned, frame.joints, frame)
        for frame in frames
        if frame.joints is not None and (aligned := _aligned(frame)) is not None
    ]
    if not kept:
        raise ValueError("a sequence without a frame that has both streams cannot be pickled: lower drop_frames")
    return np.stack([aligned for aligned, _, _ in kept]), np.stack([j for _, j, _ in kept]), [f for _, _, f in kept]


_PASSER_BY, _NOBODY = 0.15, 0.03


def _write_oumvlp(root: Path, folder: Folder, frames: Sequence[Frame], rng: np.random.Generator) -> None:
    """Crops back in an image, and the JSON of everybody in it: at times a passer-by first, at times nobody."""
    silhouettes, poses = _new(root, "silhouettes", *folder), _new(root, "poses", *folder)
    width, height = (max(frame.size_wh[axis] for frame in frames) for axis in (0, 1))
    image_hw = (height + 40, 3 * width + 40)
    corner = np.array([width + 20, 20])
    for number, frame in enumerate(frames, start=1):
        draw = rng.random()
        if frame.silhouette is not None:
            image = np.zeros(image_hw, np.uint8)
            rows, columns = frame.silhouette.shape
            image[corner[1] : corner[1] + rows, corner[0] : corner[0] + columns] = frame.silhouette
            write_bytes(silhouettes / f"{number:04d}.png", _png(image))
        if frame.joints is None:
            continue
        walker = _to_openpose(frame.joints)
        walker[walker[:, 2] > 0, :2] += corner
        people = [] if draw < _NOBODY else [walker]
        if draw > 1 - _PASSER_BY:
            side = -1 if rng.random() < 0.5 else 1
            people.insert(0, walker + np.array([side * (width + 10), 0, 0]))
        record = {"people": [{"pose_keypoints_2d": [round(float(v), 3) for v in who.ravel()]} for who in people]}
        write_text(poses / f"{number:04d}.json", json.dumps(record))


def _to_openpose(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """[18, 3]: COCO's joints in OpenPose's order, the neck between the shoulders."""
    found = dict(zip(COCO_17.names, joints, strict=True))
    shoulders = np.stack([found["left_shoulder"], found["right_shoulder"]])
    found["neck"] = shoulders.mean(0) if shoulders[:, 2].all() else np.zeros(3)
    return np.stack([found[name] for name in OPENPOSE_18.names])


LAYOUTS: dict[str, Layout] = {
    "Gait3D": Layout(
        subject_id=lambda subject, train: f"{subject:04d}",
        places=_gait3d_places,
        write=_write_gait3d,
        most_cameras=1000,
        named_probes=True,
    ),
    "GREW": Layout(
        subject_id=lambda subject, train: f"{subject + 1:05d}" + ("train" if train else ""),
        places=_grew_places,
        write=_write_grew,
        most_cameras=1000,
        others=("probe",),
    ),
    "SUSTech1K": Layout(
        subject_id=lambda subject, train: f"{subject:04d}",
        places=_each(_SUSTECH1K, lambda camera: f"{45 * camera:03d}"),
        write=_write_sustech1k,
        most_cameras=8,
    ),
    "CCPG": Layout(
        subject_id=lambda subject, train: f"{subject:03d}",
        places=_each(_CCPG, lambda camera: f"{camera:02d}_0"),
        write=_write_ccpg,
        most_cameras=100,
    ),
    "OUMVLP": Layout(
        subject_id=lambda subject, train: f"{subject + 1:05d}",
        places=_each(("00", "01"), _OUMVLP_VIEWS.__getitem__),
        write=_write_oumvlp,
        most_cameras=len(_OUMVLP_VIEWS),
    ),
}
