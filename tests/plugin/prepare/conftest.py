"""A tiny raw data set in the layout of the Gait3D release: bodies of ellipses whose joints are known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugin.prepare import PrepareSettings

# Joints of a body of height 1 and centre line 0: (x, y), y down from the top of the head.
_BODY = [(0.0, 0.07)] * 5 + [(-0.08, 0.19), (0.08, 0.19), (-0.1, 0.35), (0.1, 0.35), (-0.1, 0.48), (0.1, 0.48)]
_BODY += [(-0.05, 0.48), (0.05, 0.48), (-0.05, 0.72), (0.05, 0.72), (-0.05, 0.95), (0.05, 0.95)]


def draw_body(width=70, height=130, centre_x=33.0, top=8.0, stature=115.0):
    """A crop [height, width] uint8 and its joints [17, 3] in pixels of the crop."""
    joints = np.array([(centre_x + x * stature, top + y * stature, 0.9) for x, y in _BODY])
    crop = np.zeros((height, width), np.uint8)
    thick = round(0.09 * stature)
    for a, b in ((5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (5, 12), (6, 11), (11, 13), (12, 14), (13, 15), (14, 16)):
        start, end = (tuple(round(v) for v in joints[joint, :2]) for joint in (a, b))
        cv2.line(crop, start, end, 255, thick)
    head = tuple(round(v) for v in joints[0, :2])
    cv2.circle(crop, head, round(0.07 * stature), 255, -1)
    return crop, joints


def pose_line(joints, size):
    """What the release writes for one frame."""
    return ",".join(f"{value:.3f}" for value in [*size, *np.ravel(joints)])


@dataclass
class RawData:
    """Folders under `root`, and writers of single files."""

    root: Path
    subjects: dict[str, list[str]] = field(default_factory=lambda: {"TRAIN_SET": [], "TEST_SET": [], "PROBE_SET": []})

    def png(self, sequence, number):
        return self.root / "2D_Silhouettes" / sequence / f"human_crop_f{number}.png"

    def txt(self, sequence, number):
        return self.root / "2D_Poses" / sequence / f"human_crop_f{number}.txt"

    def write(self, sequence, numbers, **body):
        """Write both streams of a sequence; returns the crops and joints by frame number."""
        frames = {}
        for position, number in enumerate(numbers):
            crop, joints = draw_body(**{"centre_x": 30.0 + position, **body})
            self.write_png(sequence, number, crop)
            self.write_pose(sequence, number, pose_line(joints, crop.shape[::-1]) + "\n")
            frames[number] = (crop, joints)
        return frames

    def write_png(self, sequence, number, crop):
        self.png(sequence, number).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(self.png(sequence, number)), crop)

    def write_pose(self, sequence, number, line):
        self.txt(sequence, number).parent.mkdir(parents=True, exist_ok=True)
        self.txt(sequence, number).write_text(line)

    def settings(self, out, **changes):
        """Settings over this data; every subject on disk is for training unless `subjects` says otherwise."""
        partition = dict(self.subjects)
        if not any(partition.values()):
            partition["TRAIN_SET"] = sorted(path.name for path in (self.root / "2D_Silhouettes").iterdir())
        (self.root / "partition.json").write_text(json.dumps(partition))
        return PrepareSettings(
            **{
                "silhouettes": self.root / "2D_Silhouettes",
                "poses": self.root / "2D_Poses",
                "partition": self.root / "partition.json",
                "out": out,
                "progress": False,
                **changes,
            }
        )


@pytest.fixture
def raw(tmp_path):
    return RawData(tmp_path / "release")


@pytest.fixture(name="draw_body")
def draw_body_fixture():
    return draw_body


@pytest.fixture(name="pose_line")
def pose_line_fixture():
    return pose_line
