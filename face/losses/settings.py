"""Which margin a run uses, as settings; `type` tells them apart in a YAML file."""

from dataclasses import asdict, dataclass
from typing import Literal

from face.losses.margins import AdaFace, ArcFace, CosFace, Margin

__all__ = ["AdaFaceSettings", "ArcFaceSettings", "CosFaceSettings", "MarginSettings", "make_margin"]


@dataclass(frozen=True, kw_only=True)
class ArcFaceSettings:
    """An angle added to that of the right class."""

    type: Literal["arcface"] = "arcface"

    margin_rad: float = 0.5
    """The angle, in radians."""

    scale: float = 64.0
    """What cosines are multiplied by."""

    interclass_filtering_threshold: float = 0.0
    """Cosines to wrong classes above it are left out; 0 keeps all."""

    def __post_init__(self) -> None:
        make_margin(self)  # the margin's own checks


@dataclass(frozen=True, kw_only=True)
class CosFaceSettings:
    """A margin taken off the cosine of the right class."""

    type: Literal["cosface"] = "cosface"

    margin: float = 0.4
    """A cosine."""

    scale: float = 64.0
    """What cosines are multiplied by."""

    interclass_filtering_threshold: float = 0.0
    """Cosines to wrong classes above it are left out; 0 keeps all."""

    def __post_init__(self) -> None:
        make_margin(self)


@dataclass(frozen=True, kw_only=True)
class AdaFaceSettings:
    """A margin that grows with the norm of the embedding."""

    type: Literal["adaface"] = "adaface"

    margin: float = 0.4
    """In radians where it is an angle, and a cosine where it is taken off one."""

    h: float = 0.333
    """How much of [-1, 1] one standard deviation of the norms is."""

    t_alpha: float = 0.01
    """Share of the newest batch in the running statistics of the norms."""

    scale: float = 64.0
    """What cosines are multiplied by."""

    interclass_filtering_threshold: float = 0.0
    """Cosines to wrong classes above it are left out; 0 keeps all."""

    def __post_init__(self) -> None:
        make_margin(self)


MarginSettings = ArcFaceSettings | CosFaceSettings | AdaFaceSettings

_MARGINS: dict[str, type[Margin]] = {"arcface": ArcFace, "cosface": CosFace, "adaface": AdaFace}


def make_margin(settings: MarginSettings) -> Margin:
    """The margin that the settings describe.

    Raises:
        ValueError: a number out of its range, see `face.losses.margins`.
    """
    arguments = asdict(settings)
    return _MARGINS[arguments.pop("type")](**arguments)
