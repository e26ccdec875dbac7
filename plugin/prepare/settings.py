"""What a preparation run is told: PrepareSettings, checked on construction."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from plugin.prepare.layouts import RAW_LAYOUTS, FrameNumber, RawLayout, SilhouettePixels

__all__ = ["PrepareSettings"]


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Settings of one run.

    Raises:
        ValueError: a value out of its range; the message lists every one.
    """

    silhouettes: Path
    """Root of ID/type/view folders, each with the silhouettes of a sequence."""

    poses: Path
    """Root of ID/type/view folders, each with the poses of a sequence; the same root where a set has both in one."""

    partition: Path
    """JSON file with TRAIN_SET, TEST_SET and, of Gait3D, PROBE_SET."""

    out: Path
    """Root of the prepared sequences; records and reports go to its hidden folder `.prepare`."""

    dataset: str = "Gait3D"
    """Whose layout the files are in, one of RAW_LAYOUTS; the next four replace parts of it."""

    silhouette_files: tuple[str, ...] | None = None
    pose_files: tuple[str, ...] | None = None
    frame_number: FrameNumber | None = None
    silhouette_pixels: SilhouettePixels | None = None

    width: Literal[64, 44] = 64
    """Columns of the prepared silhouettes."""

    workers: int = 1
    """Processes; 1 works in the calling process."""

    shard: tuple[int, int] | None = None
    """(I, N): do every N-th sequence, starting with the I-th, I from 1 to N. None does all."""

    min_frames: int = 1
    """Sequences with fewer usable pairs of frames are not written."""

    low_share: float = 0.7
    """The report lists sequences with a smaller share of confident joints on the silhouette than this."""

    confident: float = 0.3
    """Confidence from which a joint counts in that share, and in an estimated placement."""

    pose_coordinates: Literal["crop", "normalised"] = "crop"
    """What pickled poses are in: pixels of the human crop (as released) or of the normalised silhouette."""

    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {expected}, got {getattr(self, name)!r}"
            for name, expected, good in (
                ("width", "64 or 44", self.width in (64, 44)),
                ("workers", ">= 1", self.workers >= 1),
                ("shard", "(I, N) with 1 <= I <= N", self.shard is None or 1 <= self.shard[0] <= self.shard[1]),
                ("min_frames", ">= 1", self.min_frames >= 1),
                ("low_share", "in [0, 1]", 0 <= self.low_share <= 1),
                ("confident", "in (0, 1]", 0 < self.confident <= 1),
                ("dataset", f"one of {', '.join(RAW_LAYOUTS)}", self.dataset in RAW_LAYOUTS),
                ("frame_number", "first or last", self.frame_number in (None, *get_args(FrameNumber))),
                (
                    "silhouette_pixels",
                    "crop or normalised",
                    self.silhouette_pixels in (None, *get_args(SilhouettePixels)),
                ),
                ("pose_coordinates", "crop or normalised", self.pose_coordinates in ("crop", "normalised")),
            )
            if not good
        ]
        if problems:
            raise ValueError("; ".join(problems))
        _ = self.layout  # its patterns are checked here, too

    @property
    def layout(self) -> RawLayout:
        """The set's layout with what was given singly."""
        return replace(RAW_LAYOUTS[self.dataset], **self._given_singly())

    def _given_singly(self) -> dict[str, Any]:
        names = ("silhouette_files", "pose_files", "frame_number", "silhouette_pixels")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def fingerprint(self) -> dict[str, object]:
        """The settings that every sequence of one output folder must share.

        Not the input folders: the shards of one job often read from different scratch disks. The layout is in it where
        it is not Gait3D's, so that folders of earlier releases can be gone on with.
        """
        singly = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self._given_singly().items()
        }
        return {
            "format": 1,
            **({} if self.dataset == "Gait3D" else {"dataset": self.dataset}),
            **singly,
            "width": self.width,
            "min_frames": self.min_frames,
            "confident": self.confident,
            "pose_coordinates": self.pose_coordinates,
        }
