"""What a test does to crops and joints before the model sees them: a detector and a pose estimator at their worst."""

from dataclasses import dataclass
from typing import Any

from plugin.transforms import CropMisalignment, JointDropout, JointNoise

__all__ = ["TestCondition"]


@dataclass(frozen=True, kw_only=True)
class TestCondition:
    """How hard a test is. Its draws depend on the sequence and the run's seed alone, so every model meets the same.

    Raises:
        ValueError: a value out of its range.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    misalign: float = 0.0
    """Crops are shifted and scaled by up to this share of their size."""

    joint_noise: float = 0.0
    """Standard deviation of noise on the joints' places, as a share of the silhouette's height."""

    joint_loss: float = 0.0
    """Share of joints that go missing; 1 is a test without poses."""

    def __post_init__(self) -> None:
        for name, low, high in (("misalign", 0, 1), ("joint_noise", 0, 1), ("joint_loss", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high or (name == "misalign" and value == 1):
                below = "less than 1" if name == "misalign" else "at most 1"
                raise ValueError(f"{name} must be at least 0 and {below}, got {value:g}")

    @property
    def name(self) -> str:
        """As results are filed: "clean", or what is done and how much."""
        parts = (("misaligned", self.misalign), ("joint-noise", self.joint_noise), ("joint-loss", self.joint_loss))
        return "+".join(f"{word}-{value:g}" for word, value in parts if value) or "clean"

    def transforms(self) -> list[Any]:
        """What comes before the run's own transforms."""
        moves: list[Any] = []
        if self.misalign:
            moves.append(CropMisalignment(shift=self.misalign, scale=self.misalign))
        if self.joint_noise:
            moves.append(JointNoise(std=self.joint_noise))
        if self.joint_loss:
            moves.append(JointDropout(prob=self.joint_loss))
        return moves
