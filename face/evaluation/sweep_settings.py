"""What a sweep changes, over which steps; see `face.evaluation.sweeps`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from common.keypoints import FIVE_POINT_FACE

__all__ = ["NoiseKind", "SweepKind", "SweepSettings", "SweepStep", "step_title", "sweep_steps"]

SweepKind = Literal["alignment", "noise", "keypoints", "affine"]
NoiseKind = Literal["gaussian", "proportional", "printed"]
_ALL = len(FIVE_POINT_FACE)
_STEPS: dict[str, tuple[float, ...]] = {
    "alignment": tuple(k / 10 for k in range(11)),
    "noise": (0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    "keypoints": (0, 1, 2, 3, 4, 5),
}


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What changes, and over which steps."""

    kind: SweepKind
    """See `face.evaluation.sweeps`."""

    steps: tuple[float, ...] = ()
    """alignment: shares of the way, 0 to 1; noise: a; keypoints: k, 0 to 5. Empty: the defaults. Not for affine."""

    noise: NoiseKind = "gaussian"
    """Of the landmarks."""

    repeats: int = 1
    """Draws of the noise; the mean over them counts."""

    subsets: Literal["first", "all"] = "first"
    """Which keypoints stay: the first k (eyes, nose, mouth corners), or the mean over all choices of k."""

    rotations: tuple[float, ...] = (-40.0, -20.0, 0.0, 20.0, 40.0)
    """affine: degrees, clockwise."""

    scales: tuple[float, ...] = (0.6, 0.8, 1.0, 1.2, 1.4)
    """affine: together with each rotation."""

    shifts: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2)
    """affine: along x, together with each along y; fractions of the image."""

    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SweepKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(SweepKind))}, got {self.kind!r}")
        if self.noise not in get_args(NoiseKind):
            raise ValueError(f"noise must be one of {', '.join(get_args(NoiseKind))}, got {self.noise!r}")
        if self.subsets not in ("first", "all"):
            raise ValueError(f"subsets must be first or all, got {self.subsets!r}")
        if self.repeats < 1 or self.seed < 0:
            raise ValueError(f"repeats must be >= 1 and seed >= 0, got {self.repeats} and {self.seed}")
        if self.kind == "affine":
            if self.steps:
                raise ValueError("affine has rotations, scales and shifts, and no steps")
            _check_values("rotations", self.rotations, -180, 180)
            _check_values("scales", self.scales, 0.1, 10)
            _check_values("shifts", self.shifts, -1, 1)
            return
        high = {"alignment": 1, "noise": 1, "keypoints": _ALL}[self.kind]
        values = self.steps or _STEPS[self.kind]
        _check_values("steps", values, 0, high)
        if self.kind == "keypoints" and any(value != int(value) for value in values):
            raise ValueError(f"steps of keypoints must be whole numbers, got {_shown(values)}")
        object.__setattr__(self, "steps", tuple(values))


def _check_values(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    rising = all(first < second for first, second in itertools.pairwise(values))
    if not values or not rising or not all(low <= value <= high for value in values):
        raise ValueError(f"{name} must rise within {low:g} and {high:g}, got {_shown(values)}")


def _shown(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


@dataclass(frozen=True, kw_only=True)
class SweepStep:
    """One thing to evaluate."""

    values: dict[str, float]
    """What the step has of what changes: alignment, noise, keypoints; rotation and scale; shift_x and shift_y."""

    variant: str = ""
    """One of several ways to have these values: a draw of the noise, the keypoints that stay."""

    shown: tuple[bool, ...] | None = None
    """[L] which keypoints stay; None: all."""

    draw: int = 0
    """Of the noise."""


def sweep_steps(settings: SweepSettings) -> list[SweepStep]:
    """What is evaluated, in this order."""
    if settings.kind == "affine":
        turned = [{"rotation": r, "scale": s} for s in settings.scales for r in settings.rotations]
        shifted = [{"shift_x": x, "shift_y": y} for y in settings.shifts for x in settings.shifts]
        return [SweepStep(values=values) for values in (*turned, *shifted)]
    if settings.kind == "alignment":
        return [SweepStep(values={"alignment": share}) for share in settings.steps]
    if settings.kind == "noise":
        draws = 1 if settings.noise == "printed" else settings.repeats
        return [
            SweepStep(values={"noise": a}, variant=f"draw {draw}" if a and draws > 1 else "", draw=draw)
            for a in settings.steps
            for draw in range(draws if a else 1)
        ]
    return [step for k in settings.steps for step in _choices(int(k), settings.subsets)]


def _choices(count: int, subsets: str) -> Iterator[SweepStep]:
    chosen = itertools.combinations(range(_ALL), count)
    for kept in chosen if subsets == "all" else [next(chosen)]:
        shown = tuple(point in kept for point in range(_ALL))
        names = ", ".join(FIVE_POINT_FACE.names[point].removeprefix("image_") for point in kept)
        yield SweepStep(values={"keypoints": count}, variant=names, shown=shown)


def step_title(step: SweepStep) -> str:
    """Its values in words."""
    return " ".join(f"{name} {value:g}" for name, value in step.values.items())
