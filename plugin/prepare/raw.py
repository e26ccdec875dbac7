"""Files that hold one frame: numbers in their names, PNG silhouettes, text poses.

Layout (Gait3D; layouts.py has the others): `2D_Silhouettes/ID/camidC_videoidV/seqS/human_crop_fNNN.png` and
`2D_Poses/ID/camidC_videoidV/seqS/human_crop_fNNN.txt`.
Coordinates: joints are (x, y, confidence), x right and y down, in pixels of the human crop, the centre of the
crop's top-left pixel at (0, 0).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.keypoints import COCO_17
from plugin.prepare.layouts import FrameNumber
from plugin.prepare.png import PngError, decode_grey, read_size

__all__ = [
    "NUM_JOINTS",
    "DroppedFrame",
    "FrameFiles",
    "list_frames",
    "read_bytes",
    "read_png_size",
    "read_pose",
    "read_silhouette",
]

NUM_JOINTS = len(COCO_17)
NUM_VALUES = 2 + 3 * NUM_JOINTS

_NUMBER = re.compile(r"[0-9]+")
_AT_ONCE = 1 << 16


class DroppedFrame(Exception):  # noqa: N818 - no error of the run: the frame is counted and left out
    """A frame cannot be used. `reason` is one of the counted reasons, the message names the file and says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class FrameFiles:
    """The frames of one stream of a sequence that lie in files of their own."""

    folder: Path
    names: dict[int, str]
    """File name by frame number, in the order of the names (the order in which OpenGait reads them)."""

    unnumbered: tuple[str, ...]
    """Names without a number, which nothing can be paired with."""


def list_frames(folder: Path, names: Iterable[str], number: FrameNumber = "last") -> FrameFiles:
    """Number the files of a stream by a run of digits in the stem.

    Args:
        folder: of the stream.
        names: of its files.
        number: which run, where there are several: the last (`human_crop_f17279.png` is frame 17279) or the first
            (`pose_00001_2d_pose.txt` is frame 1).

    Raises:
        ValueError: two files carry the same number, as f7 and f007 do.
    """
    which = -1 if number == "last" else 0
    numbered: dict[int, str] = {}
    unnumbered = []
    for name in sorted(names):
        digits = _NUMBER.findall(name[: name.rindex(".")] if "." in name else name)
        if not digits:
            unnumbered.append(name)
            continue
        frame = int(digits[which])
        if frame in numbered:
            raise ValueError(f"{folder}: {numbered[frame]} and {name} are both frame {frame}")
        numbered[frame] = name
    return FrameFiles(folder, numbered, tuple(unnumbered))


def read_bytes(path: str | Path) -> bytes:
    """All of a small file; half the time of `open(path, "rb").read()`, of which a data set has millions.

    Raises:
        OSError: as `open`.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = []
        while part := os.read(descriptor, _AT_ONCE):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_png_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG file by its header; None for what is no PNG or cannot be read."""
    try:
        return read_size(read_bytes(path))
    except (OSError, PngError):
        return None


def read_silhouette(path: str | Path) -> np.ndarray:
    """Read one PNG as [rows, columns] uint8 grey values, as `cv2.imread(path, cv2.IMREAD_GRAYSCALE)` does.

    Raises:
        DroppedFrame: "unreadable_png" for what is no PNG or not all of it.
    """
    try:
        return decode_grey(read_bytes(path))
    except (OSError, PngError) as error:
        raise DroppedFrame("unreadable_png", f"{path}: {error}") from None


def read_pose(path: str | Path) -> tuple[tuple[float, float], np.ndarray]:
    """Read one pose: a line of crop width, crop height, then 17 x (x, y, confidence), separated by commas.

    Returns:
        The two leading numbers (undocumented, most likely the size of the crop), and [17, 3] float64 as written;
        values may be non-finite.

    Raises:
        DroppedFrame: "bad_pose" for more than one line, another count of values, or what is not a number.
    """
    try:
        line = read_bytes(path).strip()
    except OSError as error:
        raise DroppedFrame("bad_pose", str(error)) from None
    if b"\n" in line or b"\r" in line:
        raise DroppedFrame("bad_pose", f"{path}: expected one line, found {len(line.split())}")
    fields = line.split(b",") if line else []
    if len(fields) != NUM_VALUES:
        raise DroppedFrame("bad_pose", f"{path}: expected {NUM_VALUES} values, found {len(fields)}")
    try:
        values = list(map(float, fields))
    except ValueError as error:
        raise DroppedFrame("bad_pose", f"{path}: {error}") from None
    return (values[0], values[1]), np.array(values[2:]).reshape(NUM_JOINTS, 3)
