"""The YAML of a run that trains a DFA network, as dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.runtime.settings import load_settings
from face.augment import AugmentationSettings
from face.dfa.annotations import Layout
from face.dfa.losses import DFALossSettings
from face.training.optimisation import AdamWSettings, OptimizerSettings, ScheduleSettings
from face.training.settings import IntervalSettings, NamedRun, TrainerSettings

__all__ = [
    "DFADataSettings",
    "DFAEvaluationSettings",
    "DFAModelSettings",
    "DFATestSetSettings",
    "DFATrainSettings",
    "load_dfa_train_settings",
]


@dataclass(frozen=True, kw_only=True)
class DFAModelSettings:
    """The network."""

    name: str = "dfa_mobilenet"
    """Of `face.dfa.create_dfa`: dfa_mobilenet or dfa_resnet50."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Of that network, such as aggregator: false."""

    start_from: str | None = None
    """Weights to start from: whatever `face.dfa.load_dfa` takes. Their network must be this one."""


@dataclass(frozen=True, kw_only=True)
class DFADataSettings:
    """Photographs with annotated faces to train on."""

    images: Path
    """Folder that the annotations' image names start from, such as WIDER_train/images."""

    labels: Path
    """Annotations: RetinaFace's label.txt, or one of WFLW's lists."""

    layout: Layout = "widerface"
    """Of the annotations."""

    cache: Path
    """Folder for the faces cut out of the photographs; made when a run first needs it, and used by later ones."""

    padding: float = 0.1
    """What is around a face's box in its image, as a share of the box's longer side, on each side."""

    min_side_px: float = 10.0
    """Faces whose box is smaller are left out, and counted."""

    background_share: float = 0.0
    """How many images without a face there are for each face, cut from between them."""

    skip_broken: bool = False
    """A photograph that does not decode is left out and counted, instead of stopping the run."""

    num_workers: int = 4
    """Processes that load and augment images, beside each training process; 0: that one does it."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be >= 0, got {getattr(self, name)}"
            for name in ("padding", "min_side_px", "background_share", "num_workers")
            if not getattr(self, name) >= 0
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class DFATestSetSettings:
    """Photographs with annotated faces to test on; those without landmarks are left out."""

    name: str
    """What results call it, such as wider_val."""

    images: Path
    """Folder that the annotations' image names start from."""

    labels: Path
    """Annotations."""

    layout: Layout = "widerface"
    """Of the annotations."""

    padding: float = 0.1
    """What is around a face's box in its image, as a share of the box's longer side, on each side."""

    min_side_px: float = 10.0
    """Faces whose box is smaller are left out."""

    def __post_init__(self) -> None:
        if not self.name.strip() or "/" in self.name:
            raise ValueError(f"name must be text without '/', got {self.name!r}")
        if not (self.padding >= 0 and self.min_side_px >= 0):
            raise ValueError(f"padding and min_side_px must be >= 0, got {self.padding} and {self.min_side_px}")


@dataclass(frozen=True, kw_only=True)
class DFAEvaluationSettings(IntervalSettings):
    """Tests in the course of training: the error of the landmarks, in percent of the boxes' size."""

    sets: list[DFATestSetSettings] = field(default_factory=list)

    every_epochs: float = 10.0
    """Every so many epochs, or parts of one; always at the end."""

    batch_size: int = 256
    """Images at a time, in each process."""


@dataclass(frozen=True, kw_only=True)
class DFATrainSettings(NamedRun):
    """One run."""

    data: DFADataSettings
    model: DFAModelSettings = field(default_factory=DFAModelSettings)
    loss: DFALossSettings = field(default_factory=DFALossSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    optimizer: OptimizerSettings = field(default_factory=AdamWSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    evaluation: DFAEvaluationSettings = field(default_factory=DFAEvaluationSettings)


def load_dfa_train_settings(path: str | Path, overrides: dict[str, Any] | None = None) -> DFATrainSettings:
    """The settings of a file, with those of a command line in their place.

    Raises:
        ConfigError: any problems, all listed.
    """
    return load_settings(path, DFATrainSettings, overrides=overrides)
