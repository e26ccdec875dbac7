"""One sequence: pair the frames of the two streams, normalise them, count what is left out.

Frames pair by the number in their names, and order by it. A stream that is already pickled has lost its numbers; it
pairs with the other stream one to one if both are equally long, in the order of the names, which is the order in
which OpenGait's pretreatment stacks frames (f1002 before f998). Files beside a pickle give their numbers back, so
such sequences are put into numerical order again; of two pickles the order is kept.

What pairs with what:

| silhouettes | poses  | pairs by | place of the joints                                       |
| ----------- | ------ | -------- | --------------------------------------------------------- |
| PNG         | text   | number   | exact                                                     |
| PNG         | pickle | position | exact                                                     |
| pickle      | either | position | estimated (estimate.py), or as given when `normalised`    |

Shape letters: T frames, W columns of the silhouette (64 or 44).
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from common.runtime.arrays import load_array
from plugin.prepare.estimate import estimate_placement
from plugin.prepare.normalise import (
    HEIGHT,
    SIDE_CUT,
    Placement,
    clean_keypoints,
    normalise_silhouette,
    place_keypoints,
)
from plugin.prepare.raw import NUM_JOINTS, DroppedFrame, FrameFiles, list_frames, read_pose, read_silhouette
from plugin.prepare.records import Ledger, SequenceRecord
from plugin.prepare.settings import PrepareSettings

__all__ = ["check_streams", "count_on_silhouette", "prepare_sequence"]

_SILHOUETTES = {".png files", "pickled silhouettes"}
_POSES = {".txt files", "pickled poses"}
_SILHOUETTE_SHAPES = ((64, 64), (64, 44))
_LOOKED_AT = 8

Frame: TypeAlias = str | np.ndarray
"""A file's path, or one frame of a pickled array."""


@dataclass
class _Frames:
    """What has been collected of a sequence."""

    silhouettes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    size_mismatches: int = 0

    def drop(self, reason: str, count: int, example: str) -> None:
        if count:
            self.dropped[reason] += count
            self.examples.setdefault(reason, example)


def prepare_sequence(sequence: str, settings: PrepareSettings) -> SequenceRecord:
    """Prepare ID/type/view and write its arrays and its record.

    Returns:
        The record as written; with `failed` set, no arrays were.

    Raises:
        OSError: the output cannot be written. Unreadable input does not raise, it is in the record.
        ValueError: another run has taken over the output with other settings.
    """
    fingerprint = settings.fingerprint()
    ledger = Ledger(settings.out, fingerprint)
    ledger.check()
    record = SequenceRecord(sequence=sequence, settings=fingerprint)
    frames = _Frames()
    try:
        try:
            silhouettes, keypoints = _prepare_arrays(sequence, settings, frames, record)
        finally:
            record.dropped = dict(sorted(frames.dropped.items()))
            record.examples = dict(sorted(frames.examples.items()))
        ledger.store(record, silhouettes, keypoints)
    except ValueError as error:
        dropped, examples = record.dropped, record.examples
        record = SequenceRecord(sequence=sequence, settings=fingerprint, dropped=dropped, examples=examples)
        record.failed = str(error)
        _discard_failed(ledger, record)
        ledger.write(record)
    return record


def _discard_failed(ledger: Ledger, record: SequenceRecord) -> None:
    try:
        ledger.discard(record.sequence)
    except ValueError as error:
        if record.failed != str(error):
            record.failed = f"{record.failed}; {error}"


def check_streams(plan: Sequence[str], settings: PrepareSettings) -> None:
    """Look at the first few sequences of `plan` for a mistake that would make every single one fail.

    Raises:
        ValueError: --silhouettes and --poses are swapped, or text poses are said to be in normalised coordinates.
    """
    silhouettes, poses = (
        set().union(*(_kinds(root / sequence) for sequence in plan[:_LOOKED_AT]))
        for root in (settings.silhouettes, settings.poses)
    )
    for option, root, kinds, right in (
        ("--silhouettes", settings.silhouettes, silhouettes, _SILHOUETTES),
        ("--poses", settings.poses, poses, _POSES),
    ):
        if kinds and not kinds & right:
            raise ValueError(
                f"{option} {root}: expected {' or '.join(sorted(right))}, found {' and '.join(sorted(kinds))}; "
                "are --silhouettes and --poses swapped?"
            )
    if settings.pose_coordinates == "normalised" and poses == {".txt files"}:
        raise ValueError(
            f"--pose-coordinates normalised is for pickled poses; --poses {settings.poses}: found .txt files, "
            "which are in crop pixels"
        )


def _kinds(folder: Path) -> set[str]:
    """Which of the known kinds of frames lie in a folder; what is unknown or unreadable is for the report."""
    try:
        names = _names(folder)
    except ValueError:
        return set()
    kinds = {f"{suffix} files" for suffix in (".png", ".txt") if any(name.endswith(suffix) for name in names)}
    for name in names:
        if name.endswith(".pkl"):
            try:
                shape = load_array(folder / name).shape[1:]
            except (ValueError, OSError):
                continue
            kinds |= {"pickled poses"} if shape == (NUM_JOINTS, 3) else set()
            kinds |= {"pickled silhouettes"} if shape in _SILHOUETTE_SHAPES else set()
    return kinds


def _prepare_arrays(
    sequence: str, settings: PrepareSettings, frames: _Frames, record: SequenceRecord
) -> tuple[np.ndarray, np.ndarray]:
    silhouettes = _open_stream(settings.silhouettes / sequence, ".png")
    poses = _open_stream(settings.poses / sequence, ".txt")
    _check_pickles(silhouettes, poses, settings)
    record.estimated = isinstance(silhouettes, np.ndarray) and settings.pose_coordinates == "crop"

    pairs = _pair(silhouettes, poses, frames)
    for silhouette, pose in pairs:
        try:
            _add_frame(silhouette, pose, settings, frames)
        except DroppedFrame as dropped:
            frames.drop(dropped.reason, 1, str(dropped))
    kept = len(frames.silhouettes)
    if not pairs:
        raise ValueError(f"silhouettes and poses share no frame{_counts(frames.dropped)}")
    if kept < settings.min_frames:
        problem = f"{kept} usable frames, --min-frames asks for {settings.min_frames}{_counts(frames.dropped)}"
        frames.drop("short_sequence", kept, f"its {kept} usable frames")
        raise ValueError(problem)

    pixels = np.stack(frames.silhouettes)
    keypoints = np.stack(frames.keypoints)
    if settings.pose_coordinates == "crop":
        keypoints = place_keypoints(keypoints, np.array(frames.placements))
    if pixels.shape[2] != settings.width:
        pixels = np.ascontiguousarray(pixels[:, :, SIDE_CUT:-SIDE_CUT])
        keypoints[..., 0] -= SIDE_CUT
    keypoints = clean_keypoints(keypoints)

    record.frames = kept
    record.size_mismatches = frames.size_mismatches
    record.missing_joints = int((keypoints[..., 2] == 0).sum())
    record.confident_joints, record.joints_on_silhouette = count_on_silhouette(pixels, keypoints, settings.confident)
    return pixels, keypoints


def _counts(dropped: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    return f" ({counts})" if counts else ""


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None


def _open_stream(folder: Path, suffix: str) -> FrameFiles | np.ndarray:
    """The numbered files of a sequence's folder, or the array of its one pickle."""
    names = _names(folder)
    pickles = [name for name in names if name.endswith(".pkl")]
    files = [name for name in names if name.endswith(suffix)]
    if bool(files) == bool(pickles) or len(pickles) > 1:
        raise ValueError(f"{folder}: expected {suffix} files or one .pkl, found {len(files)} and {len(pickles)}")
    if files:
        return list_frames(folder, files)
    try:
        return load_array(folder / pickles[0])
    except OSError as error:
        raise ValueError(f"{folder / pickles[0]}: {error.strerror}") from None


def _check_pickles(
    silhouettes: FrameFiles | np.ndarray, poses: FrameFiles | np.ndarray, settings: PrepareSettings
) -> None:
    if isinstance(silhouettes, np.ndarray):
        shape = silhouettes.shape
        if len(shape) != 3 or shape[1:] not in _SILHOUETTE_SHAPES or silhouettes.dtype != np.uint8:
            raise ValueError(
                f"pickled silhouettes must be [T, 64, 64] or [T, 64, 44] uint8, found {list(shape)} {silhouettes.dtype}"
            )
        if shape[2] < settings.width:
            raise ValueError(f"pickled silhouettes are {shape[2]} wide, {settings.width} cannot be made of them")
    if isinstance(poses, np.ndarray):
        if poses.ndim != 3 or poses.shape[1:] != (NUM_JOINTS, 3) or poses.dtype.kind not in "iuf":
            raise ValueError(
                f"pickled poses must be [T, {NUM_JOINTS}, 3] numbers, found {list(poses.shape)} {poses.dtype}"
            )
    elif settings.pose_coordinates == "normalised":
        raise ValueError("text poses are in crop pixels; normalised coordinates are for pickled poses")


def _pair(
    silhouettes: FrameFiles | np.ndarray, poses: FrameFiles | np.ndarray, frames: _Frames
) -> list[tuple[Frame, Frame]]:
    for stream in (silhouettes, poses):
        if isinstance(stream, FrameFiles) and stream.unnumbered:
            first = f"{stream.folder / stream.unnumbered[0]}: no number in the name"
            frames.drop("no_number", len(stream.unnumbered), first)
    by_silhouette, by_pose = _numbered(silhouettes), _numbered(poses)
    if isinstance(silhouettes, np.ndarray) or isinstance(poses, np.ndarray):
        if len(by_silhouette) != len(by_pose):
            raise ValueError(
                f"{len(by_silhouette)} silhouettes and {len(by_pose)} poses: "
                "pickled frames have no numbers, so only equally long streams can be paired"
            )
        # Position by position; where one stream knows the numbers, the other gets them.
        numbers = list(by_pose if isinstance(silhouettes, np.ndarray) else by_silhouette)
        by_silhouette = dict(zip(numbers, by_silhouette.values(), strict=True))
        by_pose = dict(zip(numbers, by_pose.values(), strict=True))

    for reason, some, other in (
        ("no_pose", by_silhouette, by_pose),
        ("no_silhouette", by_pose, by_silhouette),
    ):
        alone = sorted(some.keys() - other.keys())
        frames.drop(reason, len(alone), f"frame {alone[0]}" if alone else "")
    return [(by_silhouette[number], by_pose[number]) for number in sorted(by_silhouette.keys() & by_pose.keys())]


def _numbered(stream: FrameFiles | np.ndarray) -> dict[int, Frame]:
    if isinstance(stream, np.ndarray):
        return dict(enumerate(stream))
    folder = os.fspath(stream.folder)
    return {number: os.path.join(folder, name) for number, name in stream.names.items()}


def _add_frame(silhouette: Frame, pose: Frame, settings: PrepareSettings, frames: _Frames) -> None:
    """Read and normalise one pair; nothing is added unless both are good."""
    exact: Placement | None = None
    size: tuple[float, float] | None = None
    if isinstance(silhouette, str):
        crop = read_silhouette(silhouette)
        try:
            pixels, exact = normalise_silhouette(crop)
        except DroppedFrame as dropped:
            raise DroppedFrame(dropped.reason, f"{silhouette}: {dropped}") from None
    else:
        pixels = silhouette
        if not pixels.any():
            raise DroppedFrame("empty_silhouette", "a pickled frame is all zero")
    if isinstance(pose, str):
        size, keypoints = read_pose(pose)
    else:
        keypoints = pose.astype(np.float64)
    if settings.pose_coordinates == "crop":
        if exact is None:
            scale, shift_x, shift_y = estimate_placement(pixels, keypoints, settings.confident)
            exact = Placement.from_similarity(scale, shift_x, shift_y)
        frames.placements.append(exact)
    if size is not None and isinstance(silhouette, str):
        frames.size_mismatches += size != (crop.shape[1], crop.shape[0])
    frames.silhouettes.append(pixels)
    frames.keypoints.append(keypoints)


def count_on_silhouette(silhouettes: np.ndarray, keypoints: np.ndarray, confident: float) -> tuple[int, int]:
    """Count the confident joints, and those of them that lie on the silhouette widened by one pixel.

    Args:
        silhouettes: [T, 64, W] uint8.
        keypoints: [T, 17, 3] (x, y, confidence), pixels of the silhouette.
        confident: confidence from which a joint counts.

    Returns:
        (confident joints, those whose nearest pixel or a neighbour of it is not zero). A joint whose nearest pixel
        is outside the frame is not on the silhouette.
    """
    frame, joint = np.nonzero(keypoints[..., 2] >= confident)
    nearest = np.rint(keypoints[frame, joint, :2])
    inside = ((nearest >= 0) & (nearest < (silhouettes.shape[2], HEIGHT))).all(axis=1)
    frame_inside = frame[inside]
    column, row = nearest[inside].astype(np.int64).T
    padded = np.pad(silhouettes, ((0, 0), (1, 1), (1, 1)))
    on = np.zeros(len(row), bool)
    for down in range(3):
        for right in range(3):
            on |= padded[frame_inside, row + down, column + right] > 0
    return len(frame), int(on.sum())
