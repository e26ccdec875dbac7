"""The YAML of a training run as dataclasses: what is trained, on what, how, and what it is tested on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.runtime.distribution import Precision
from common.runtime.settings import load_settings
from face.augment import AugmentationSettings
from face.evaluation.sets import EvaluationSetSettings
from face.losses import AdaFaceSettings, MarginSettings
from face.pipelines import PipelineSettings
from face.training.optimisation import AdamWSettings, OptimizerSettings, ScheduleSettings

__all__ = [
    "DataSettings",
    "EvaluationSettings",
    "IntervalSettings",
    "LossSettings",
    "ModelSettings",
    "NamedRun",
    "TrainSettings",
    "TrainerSettings",
    "load_train_settings",
]

MissingLandmarks = Literal["error", "drop", "reference", "hide"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network."""

    name: str = "vit_small"
    """Of `face.create_model`."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Of that model, such as position_bias: kprpe."""

    start_from: str | None = None
    """Weights to start from: whatever `face.load_pretrained` takes. Their model must be this one."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The training set."""

    root: Path
    """A folder with train.rec and train.idx, or with a folder for each identity."""

    landmarks: str | None = None
    """File of landmarks, below `root` unless it is an absolute path; needed by KP-RPE alone."""

    missing_landmarks: MissingLandmarks = "error"
    """What happens to images without landmarks, which are counted: "error" stops before training, "drop" leaves them
    out, "reference" takes the points of the alignment template, "hide" trains them with landmarks of visibility 0."""

    min_images: int = 1
    """Identities with fewer images than this are left out, and counted; labels are numbered anew."""

    skip_broken: bool = False
    """An image that does not decode is replaced by another one and counted, instead of stopping the run."""

    num_workers: int = 4
    """Processes that load and augment images, beside each training process; 0: that one does it."""

    repeat_probability: float = 0.0
    """Repeated augmentation: how likely an image is followed by another one of its identity."""

    repeat_same_image: bool = False
    """The repeat shows the same image, augmented anew."""

    def __post_init__(self) -> None:
        wrong = []
        if self.min_images < 1:
            wrong.append(f"min_images must be >= 1, got {self.min_images}")
        if self.num_workers < 0:
            wrong.append(f"num_workers must be >= 0, got {self.num_workers}")
        if not 0 <= self.repeat_probability <= 1:
            wrong.append(f"repeat_probability must be within 0 and 1, got {self.repeat_probability}")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def landmarks_path(self) -> Path | None:
        """Where the landmarks are."""
        return None if self.landmarks is None else self.root / self.landmarks


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The classifier behind the network."""

    margin: MarginSettings = field(default_factory=AdaFaceSettings)

    sampling_rate: float = 1.0
    """PartialFC: share of the classes that take part in a step."""

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must be above 0 and at most 1, got {self.sampling_rate}")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How the run goes."""

    batch_size: int = 512
    """Images of a step, over all processes and accumulated parts."""

    accumulate: int = 1
    """Into how many parts a process's share of a batch is cut, for its memory. Batch norms, AdaFace's statistics and
    PartialFC's draw see a part at a time."""

    precision: Precision = "fp32"
    """Of the network; the classifier and its loss are always float32."""

    compile: bool = False
    """torch.compile."""

    sync_batch_norm: bool = False
    """Statistics of batch norms over all processes."""

    max_grad_norm: float | None = 5.0
    """Gradients of the network are scaled down to this norm, as in insightface; CVLface counts the classes' in."""

    most_skipped_steps: int = 10
    """A step whose loss or gradients are not finite changes nothing; after more than so many in a row the run stops."""

    log_steps: int = 50
    """Every so many steps a line in the log and a point in TensorBoard."""

    picture_steps: int = 2000
    """Every so many steps a picture of the batch with its landmarks in TensorBoard."""

    save_epochs: float = 1.0
    """Every so many epochs, or parts of one, a checkpoint."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay; 0: all."""

    def __post_init__(self) -> None:
        least = {
            "batch_size": 2,
            "accumulate": 1,
            "most_skipped_steps": 0,
            "log_steps": 1,
            "picture_steps": 1,
            "keep_checkpoints": 0,
        }
        wrong = [
            f"{name} must be >= {low}, got {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if self.save_epochs <= 0:
            wrong.append(f"save_epochs must be > 0, got {self.save_epochs}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            wrong.append(f"max_grad_norm must be > 0 or null, got {self.max_grad_norm}")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class IntervalSettings:
    """How often a run is tested, and how; a subclass says on which `sets`, each of which has a name."""

    sets: Sequence[Any] = ()

    every_epochs: float = 1.0
    """Every so many epochs, or parts of one; always at the end."""

    batch_size: int = 128
    """Images at a time, in each process."""

    num_workers: int = 2

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.sets]
        wrong = [f"two sets are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
        if not self.every_epochs > 0:
            wrong.append(f"every_epochs must be > 0, got {self.every_epochs}")
        if self.batch_size < 1 or self.num_workers < 0:
            wrong.append(f"batch_size must be >= 1 and num_workers >= 0, got {self.batch_size} and {self.num_workers}")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(IntervalSettings):
    """Tests in the course of training."""

    sets: list[EvaluationSetSettings] = field(default_factory=list)

    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    """Where the landmarks of test images are from, and whether the images are aligned by them first."""


@dataclass(frozen=True, kw_only=True)
class NamedRun:
    """What all runs have."""

    name: str
    """Of the run's folder below the output folder, and of its checkpoints."""

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name == "..":
            raise ValueError(f"name must name one folder, got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(NamedRun):
    """One run."""

    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    optimizer: OptimizerSettings = field(default_factory=AdamWSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def load_train_settings(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainSettings:
    """The settings of a file, with those of a command line in their place.

    Raises:
        ConfigError: any problems, all listed.
    """
    return load_settings(path, TrainSettings, overrides=overrides)
