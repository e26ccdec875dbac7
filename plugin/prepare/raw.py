"""The files of the Gait3D release: folders of sequences, frame numbers in names, PNG silhouettes, text poses.

Layout: `2D_Silhouettes/ID/camidC_videoidV/seqS/human_crop_fNNN.png` and `2D_Poses/ID/camidC_videoidV/seqS/
human_crop_fNNN.txt`.
Coordinates: joints are (x, y, confidence), x right and y down, in pixels of the human crop, the centre of the
crop's top-left pixel at (0, 0).
"""

import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.keypoints import COCO_17

__all__ = ["NUM_JOINTS", "DroppedFrame", "FrameFiles", "list_frames", "read_pose", "read_silhouette"]

NUM_JOINTS = len(COCO_17)
NUM_VALUES = 2 + 3 * NUM_JOINTS

_NUMBER = re.compile(r"[0-9]+")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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


def list_frames(folder: Path, names: Iterable[str]) -> FrameFiles:
    """Number the files of a stream by the last run of digits in the stem (`human_crop_f17279.png` is frame 17279).

    Raises:
        ValueError: two files carry the same number, as f7 and f007 do.
    """
    numbered: dict[int, str] = {}
    unnumbered = []
    for name in sorted(names):
        digits = _NUMBER.findall(os.path.splitext(name)[0])
        if not digits:
            unnumbered.append(name)
            continue
        number = int(digits[-1])
        if number in numbered:
            raise ValueError(f"{folder}: {numbered[number]} and {name} are both frame {number}")
        numbered[number] = name
    return FrameFiles(folder, numbered, tuple(unnumbered))


def read_silhouette(path: str | Path) -> np.ndarray:
    """Read one PNG as [rows, columns] uint8 grey values, as `cv2.imread(path, cv2.IMREAD_GRAYSCALE)` does.

    Raises:
        DroppedFrame: "unreadable_png" for what is no PNG or not all of it. Decoders return the upper part of a
            truncated PNG as if nothing were wrong, so the file's own checksums are checked first.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        problem = _png_problem(data)
        if problem is not None:
            raise DroppedFrame("unreadable_png", f"{path}: {problem}")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (OSError, cv2.error) as error:
        raise DroppedFrame("unreadable_png", f"{path}: {error}") from None
    if image is None:
        raise DroppedFrame("unreadable_png", f"{path}: cannot be decoded")
    return image


def _png_problem(data: bytes) -> str | None:
    """What is wrong with the chunks (length, type, content, CRC-32) of a PNG; https://www.w3.org/TR/png-3/ 5.3."""
    if not data.startswith(_PNG_SIGNATURE):
        return "empty file" if not data else "not a PNG file"
    view = memoryview(data)
    start = len(_PNG_SIGNATURE)
    while start + 12 <= len(data):
        kind_at, content_at = start + 4, start + 8
        end = content_at + int.from_bytes(data[start:kind_at], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(view[kind_at:end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"damaged PNG: wrong checksum in the chunk at byte {start}"
        if data[kind_at:content_at] == b"IEND":
            return None
        start = end + 4
    return f"truncated PNG: {len(data)} bytes without the end mark"


def read_pose(path: str | Path) -> tuple[tuple[float, float], np.ndarray]:
    """Read one pose: a line of crop width, crop height, then 17 x (x, y, confidence), separated by commas.

    Returns:
        The two leading numbers (undocumented, most likely the size of the crop), and [17, 3] float64 as written;
        values may be non-finite.

    Raises:
        DroppedFrame: "bad_pose" for more than one line, another count of values, or what is not a number.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            line = file.read().strip()
    except OSError as error:
        raise DroppedFrame("bad_pose", str(error)) from None
    if b"\n" in line or b"\r" in line:
        raise DroppedFrame("bad_pose", f"{path}: expected one line, found {len(line.split())}")
    fields = line.split(b",") if line else []
    if len(fields) != NUM_VALUES:
        raise DroppedFrame("bad_pose", f"{path}: expected {NUM_VALUES} values, found {len(fields)}")
    try:
        values = [float(field) for field in fields]
    except ValueError as error:
        raise DroppedFrame("bad_pose", f"{path}: {error}") from None
    return (values[0], values[1]), np.array(values[2:]).reshape(NUM_JOINTS, 3)
