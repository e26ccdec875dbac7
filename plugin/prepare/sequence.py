"""One sequence: pair the frames of the two streams, normalise them, count what is left out.

What pairs with what (streams.py says how):

| silhouettes                       | poses        | pairs by | place of the joints                                    |
| --------------------------------- | ------------ | -------- | ------------------------------------------------------ |
| PNG of a crop or an image         | text or JSON | number   | exact                                                  |
| PNG of a crop or an image         | pickle       | position | exact                                                  |
| PNG, normalised already (GREW)    | text         | number   | estimated (estimate.py)                                |
| pickle                            | any          | position | estimated, or as given when `normalised`               |

Shape letters: T frames, W columns of the silhouette (64 or 44).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from plugin.prepare.estimate import estimate_placement
from plugin.prepare.normalise import (
    HEIGHT,
    SIDE_CUT,
    Placement,
    clean_keypoints,
    normalise_silhouette,
    place_keypoints,
)
from plugin.prepare.people import choose_person, read_people
from plugin.prepare.raw import DroppedFrame, read_pose, read_silhouette
from plugin.prepare.records import Ledger, SequenceRecord
from plugin.prepare.settings import PrepareSettings
from plugin.prepare.streams import Frame, open_poses, open_silhouettes, pair_frames

__all__ = ["count_on_silhouette", "prepare_sequence"]


@dataclass
class _Frames:
    """What has been collected of a sequence."""

    settings: PrepareSettings
    normalised: bool
    """Whether PNG silhouettes are."""

    silhouettes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    size_mismatches: int = 0
    no_person: int = 0
    several_people: int = 0

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
    frames = _Frames(settings, settings.layout.silhouette_pixels == "normalised")
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


def _prepare_arrays(
    sequence: str, settings: PrepareSettings, frames: _Frames, record: SequenceRecord
) -> tuple[np.ndarray, np.ndarray]:
    silhouettes = open_silhouettes(sequence, settings)
    poses = open_poses(sequence, settings)
    lost_crop = frames.normalised or isinstance(silhouettes, np.ndarray)
    record.estimated = lost_crop and settings.pose_coordinates == "crop"

    pairs = pair_frames(silhouettes, poses, frames.drop)
    for silhouette, pose in pairs:
        try:
            _add_frame(silhouette, pose, frames)
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
    record.no_person, record.several_people = frames.no_person, frames.several_people
    record.missing_joints = int((keypoints[..., 2] == 0).sum())
    record.confident_joints, record.joints_on_silhouette = count_on_silhouette(pixels, keypoints, settings.confident)
    return pixels, keypoints


def _counts(dropped: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    return f" ({counts})" if counts else ""


def _add_frame(silhouette: Frame, pose: Frame, frames: _Frames) -> None:
    """Read and normalise one pair; nothing is added unless both are good."""
    crop, pixels, placement = _silhouette(silhouette, frames.normalised)
    size, keypoints, people = _pose(pose, crop)
    settings = frames.settings
    if settings.pose_coordinates == "crop":
        if placement is None:
            placement = Placement.from_similarity(*estimate_placement(pixels, keypoints, settings.confident))
        frames.placements.append(placement)
    if size is not None and crop is not None:
        frames.size_mismatches += size != (crop.shape[1], crop.shape[0])
    frames.no_person += people == 0
    frames.several_people += people > 1
    frames.silhouettes.append(pixels)
    frames.keypoints.append(keypoints)


def _silhouette(frame: Frame, normalised: bool) -> tuple[np.ndarray | None, np.ndarray, Placement | None]:
    """The crop and the placement where they are known, and the normalised silhouette."""
    if isinstance(frame, np.ndarray):
        if not frame.any():
            raise DroppedFrame("empty_silhouette", "a pickled frame is all zero")
        return None, frame, None
    image = read_silhouette(frame)
    if normalised:
        if image.shape != (HEIGHT, HEIGHT):
            found = f"{image.shape[1]} x {image.shape[0]}"
            raise DroppedFrame("not_normalised", f"{frame}: expected {HEIGHT} x {HEIGHT}, found {found}")
        if not image.any():
            raise DroppedFrame("empty_silhouette", f"{frame}: all zero")
        return None, image, None
    try:
        return image, *normalise_silhouette(image)
    except DroppedFrame as dropped:
        raise DroppedFrame(dropped.reason, f"{frame}: {dropped}") from None


def _pose(frame: Frame, crop: np.ndarray | None) -> tuple[tuple[float, float] | None, np.ndarray, int]:
    """The crop's size where the pose names it, the joints [17, 3], and how many people were seen."""
    if isinstance(frame, np.ndarray):
        return None, frame.astype(np.float64), 1
    if frame.endswith(".json"):
        people = read_people(frame)
        return None, choose_person(people, crop), len(people)
    return *read_pose(frame), 1


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
