"""Which keypoint is which, which of them a mirror swaps, and which are joined by a line in a picture.

Sources: COCO person keypoints (17 joints, the order of Gait3D's HRNet poses and of OpenGait); OpenPose's COCO model
(18 joints, the order of OU-MVLP's poses); and the five face points of the community's 112 px alignment template, named
by where they are in the image as CVLface orders them.
"""

from dataclasses import dataclass

__all__ = ["COCO_17", "FIVE_POINT_FACE", "OPENPOSE_18", "SCHEMAS", "KeypointSchema", "matching_order"]


@dataclass(frozen=True, kw_only=True)
class KeypointSchema:
    """An ordered set of named keypoints.

    Raises:
        ValueError: a pair or an edge names a keypoint that is not in `names`, or a keypoint is in two pairs.
    """

    name: str
    """What configs and error messages call it."""

    names: tuple[str, ...]
    """One name a keypoint, in the order of the last but one axis of every `[..., L, 2]` array."""

    flip_pairs: tuple[tuple[int, int], ...]
    """Indices that trade places when the image is mirrored; a keypoint in no pair keeps its place."""

    edges: tuple[tuple[int, int], ...]
    """Pairs of keypoints that pictures join by a line."""

    def __post_init__(self) -> None:
        paired = [index for pair in self.flip_pairs for index in pair]
        for index in [*paired, *(index for edge in self.edges for index in edge)]:
            if not 0 <= index < len(self.names):
                raise ValueError(f"schema {self.name}: keypoint {index} is not one of 0..{len(self.names) - 1}")
        if len(set(paired)) != len(paired):
            raise ValueError(f"schema {self.name}: a keypoint is in two flip pairs: {self.flip_pairs}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flip_order(self) -> list[int]:
        """[L] indices: `keypoints[..., flip_order, :]` names the points rightly again after a mirror."""
        order = list(range(len(self.names)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order


COCO_17 = KeypointSchema(
    name="coco17",
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    edges=(
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (5, 6),
        (5, 7),
        (7, 9),
        (6, 8),
        (8, 10),
        (5, 11),
        (6, 12),
        (11, 12),
        (11, 13),
        (13, 15),
        (12, 14),
        (14, 16),
    ),
)

OPENPOSE_18 = KeypointSchema(
    name="openpose18",
    names=(
        "nose",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ),
    flip_pairs=((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)),
    edges=(
        (0, 1),
        (0, 14),
        (0, 15),
        (14, 16),
        (15, 17),
        (1, 2),
        (2, 3),
        (3, 4),
        (1, 5),
        (5, 6),
        (6, 7),
        (1, 8),
        (8, 9),
        (9, 10),
        (1, 11),
        (11, 12),
        (12, 13),
    ),
)

FIVE_POINT_FACE = KeypointSchema(
    name="face5",
    names=("image_left_eye", "image_right_eye", "nose", "image_left_mouth", "image_right_mouth"),
    flip_pairs=((0, 1), (3, 4)),
    edges=((0, 2), (1, 2), (2, 3), (2, 4)),
)

SCHEMAS = {schema.name: schema for schema in (COCO_17, OPENPOSE_18, FIVE_POINT_FACE)}


def matching_order(source: KeypointSchema, target: KeypointSchema) -> list[int]:
    """[L of target] indices: `keypoints[..., order, :]` brings keypoints of `source` into the order of `target`.

    Raises:
        ValueError: `target` has keypoints that `source` lacks.
    """
    missing = [name for name in target.names if name not in source.names]
    if missing:
        raise ValueError(f"schema {source.name} has no {', '.join(missing)}, which {target.name} needs")
    return [source.names.index(name) for name in target.names]
