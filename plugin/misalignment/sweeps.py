"""The rows of ever harder test conditions that models are compared over."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from plugin.conditions import TestCondition

__all__ = ["SWEEPS", "Sweep", "all_conditions", "as_met", "describe"]

_NOISE = (0.0, 0.01, 0.02, 0.04, 0.08)
_LOSS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_MISALIGNED = TestCondition(misalign=0.15)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One thing that gets worse while the rest stays as it is."""

    title: str
    """Above its panel."""

    axis: str
    """What the strength, in percent, is a share of."""

    varied: Literal["misalign", "joint_noise", "joint_loss"]
    """The setting of `TestCondition` that takes the strengths."""

    strengths: tuple[float, ...]
    """Rising, as fractions."""

    base: TestCondition = field(default_factory=TestCondition)
    """What holds at every strength."""

    def conditions(self) -> list[TestCondition]:
        """One a strength."""
        return [replace(self.base, **{self.varied: strength}) for strength in self.strengths]


SWEEPS = (
    Sweep(
        title="Misaligned crops",
        axis="largest shift and scaling (% of the crop)",
        varied="misalign",
        strengths=(0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    Sweep(
        title="Noise on the joints",
        axis="standard deviation (% of the height)",
        varied="joint_noise",
        strengths=_NOISE,
    ),
    Sweep(title="Joints lost", axis="share of the joints (%)", varied="joint_loss", strengths=_LOSS),
    Sweep(
        title="Noise, crops misaligned by 15 %",
        axis="standard deviation (% of the height)",
        varied="joint_noise",
        strengths=_NOISE,
        base=_MISALIGNED,
    ),
    Sweep(
        title="Joints lost, crops misaligned by 15 %",
        axis="share of the joints (%)",
        varied="joint_loss",
        strengths=_LOSS,
        base=_MISALIGNED,
    ),
)


def all_conditions(sweeps: Sequence[Sweep]) -> list[TestCondition]:
    """Every condition once, in the order of the sweeps."""
    return list(dict.fromkeys(condition for sweep in sweeps for condition in sweep.conditions()))


def as_met(condition: TestCondition, takes_joints: bool) -> TestCondition:
    """The condition without what a model that takes no joints never meets.

    Crops and joints draw from two random streams (`PairedCompose`), so to such a model the two are the same test.
    """
    return condition if takes_joints else replace(condition, joint_noise=0.0, joint_loss=0.0)


def describe(condition: TestCondition) -> str:
    """A condition in words, strengths in percent."""
    parts = (
        ("crops misaligned", condition.misalign),
        ("joint noise", condition.joint_noise),
        ("joints lost", condition.joint_loss),
    )
    return ", ".join(f"{what} {100 * share:g} %" for what, share in parts if share) or "clean"
