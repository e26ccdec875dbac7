"""What a set of synthetic walkers is made of: one frozen, checked record.

Everything that changes the files is in here; the number of worker processes is not, because it changes nothing.
"""

from dataclasses import dataclass, field

from common.runtime.synthesis import check_settings, setting

__all__ = ["LAYOUT_NAMES", "MAX_MISCROP", "SynthesisSettings"]

MAX_MISCROP = 0.5
"""Beyond this a crop can miss the walker altogether."""


LAYOUT_NAMES = ("Gait3D", "GREW", "SUSTech1K", "CCPG", "OUMVLP")


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Settings of `synthesize`. Each field's meaning is its `metadata["text"]`, which the command line shows.

    Raises:
        ValueError: naming the field, the allowed range and the value found; or when every sequence of a test
            subject would be a probe, so that no gallery is left.
    """

    layout: str = field(default="Gait3D", metadata={"text": "set whose raw layout is written", "choices": LAYOUT_NAMES})
    subjects: int = setting(20, "number of subjects", 1)
    sequences_per_subject: int = setting(4, "sequences of each subject; Gait3D only, other sets have theirs", 1)
    frames: int = setting(40, "mean number of frames in a sequence (a sequence has 0.7 to 1.3 times that)", 1)
    cameras: int = setting(6, "number of cameras, spread around the scene", 1)
    train_share: float = setting(0.6, "share of subjects for training: the first ids; the rest test", 0, 1)
    probes_per_subject: int = setting(1, "probe sequences of each test subject; Gait3D only", 1)
    seed: int = setting(0, "same seed and settings, same bytes", 0)
    pose_noise: float = setting(0.01, "standard deviation of joints, as a share of the person's height", 0, 1)
    missed_joints: float = setting(0.02, "probability that a joint is missed, written as 0,0,0", 0, 1)
    occlusion: float = setting(0.0, "probability that something hides a part of a sequence's walker", 0, 1)
    miscrop: float = setting(0.0, "how wrong crops are, as a share of their size", 0, MAX_MISCROP)
    drop_frames: float = setting(0.0, "probability that a frame lacks its pose or its silhouette", 0, 1, True)

    def __post_init__(self) -> None:
        check_settings(self)
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
