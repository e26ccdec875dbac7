"""What a set of synthetic walkers is made of: one frozen, checked record.

Everything that changes the files is in here; the number of worker processes is not, because it changes nothing.
"""

import math
from dataclasses import dataclass, field, fields

__all__ = ["LAYOUT_NAMES", "MAX_MISCROP", "SynthesisSettings"]

MAX_MISCROP = 0.5
"""Beyond this a crop can miss the walker altogether."""


LAYOUT_NAMES = ("Gait3D", "GREW", "SUSTech1K", "CCPG", "OUMVLP")


def _setting(default: int | float, text: str, low: float, high: float = math.inf, below: bool = False):
    """A dataclass field that carries its help text and its allowed range (`below`: `high` itself is refused)."""
    return field(default=default, metadata={"text": text, "low": low, "high": high, "below": below})


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Settings of `synthesize`. Each field's meaning is its `metadata["text"]`, which the command line shows.

    Raises:
        ValueError: naming the field, the allowed range and the value found; or when every sequence of a test
            subject would be a probe, so that no gallery is left.
    """

    layout: str = field(default="Gait3D", metadata={"text": "set whose raw layout is written", "choices": LAYOUT_NAMES})
    subjects: int = _setting(20, "number of subjects", 1)
    sequences_per_subject: int = _setting(4, "sequences of each subject; Gait3D only, other sets have theirs", 1)
    frames: int = _setting(40, "mean number of frames in a sequence (a sequence has 0.7 to 1.3 times that)", 1)
    cameras: int = _setting(6, "number of cameras, spread around the scene", 1)
    train_share: float = _setting(0.6, "share of subjects for training: the first ids; the rest test", 0, 1)
    probes_per_subject: int = _setting(1, "probe sequences of each test subject; Gait3D only", 1)
    seed: int = _setting(0, "same seed and settings, same bytes", 0)
    pose_noise: float = _setting(0.01, "standard deviation of joints, as a share of the person's height", 0, 1)
    missed_joints: float = _setting(0.02, "probability that a joint is missed, written as 0,0,0", 0, 1)
    occlusion: float = _setting(0.0, "probability that something hides a part of a sequence's walker", 0, 1)
    miscrop: float = _setting(0.0, "how wrong crops are, as a share of their size", 0, MAX_MISCROP)
    drop_frames: float = _setting(0.0, "probability that a frame lacks its pose or its silhouette", 0, 1, True)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUT_NAMES:
            raise ValueError(f"layout must be one of {', '.join(LAYOUT_NAMES)}, got {self.layout!r}")
        for entry in fields(self):
            if "low" not in entry.metadata:
                continue
            value, kind = getattr(self, entry.name), type(entry.default)
            allowed = (int,) if kind is int else (int, float)
            if not isinstance(value, allowed) or isinstance(value, bool):
                what = "a whole number" if kind is int else "a number"
                raise ValueError(f"{entry.name} must be {what}, got {value!r}")
            low, high, below = (entry.metadata[key] for key in ("low", "high", "below"))
            if not (low <= value <= high) or (below and value == high):
                bound = "" if high == math.inf else f" and {'<' if below else '<='} {high}"
                raise ValueError(f"{entry.name} must be >= {low}{bound}, got {value}")
        if self.layout == "Gait3D" and self.test_subjects and self.probes_per_subject >= self.sequences_per_subject:
            raise ValueError(
                f"probes_per_subject ({self.probes_per_subject}) must be less than sequences_per_subject "
                f"({self.sequences_per_subject}): a probe needs a gallery sequence of the same subject"
            )

    @property
    def train_subjects(self) -> int:
        """Subjects in the training set."""
        return round(self.train_share * self.subjects)

    @property
    def test_subjects(self) -> int:
        """Subjects in the test set."""
        return self.subjects - self.train_subjects
