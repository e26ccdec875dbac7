"""The YAML of a gait run as dataclasses: OpenGait's keys and defaults, as far as the embedded runtime goes.

Field names are the YAML's. Defaults are OpenGait's (its configs/default.yaml), except where a default would be for
another data set than the plugin's. What is not here the embedded runtime does not do, and refuses by name.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.keypoints import COCO_17
from common.rpe import DistanceMethod, KeypointGrid, KeypointRPEForm, PositionBiasName, PositionBiasSettings
from common.rpe.image_rpe import ImageRPEPlaces
from common.runtime.settings import ConfigError, load_settings
from plugin.evaluation import EvalFunc, Protocol
from plugin.transforms import PairedComposeSettings

__all__ = ["GaitSettings", "load_gait_settings"]

_BEYOND = (
    "The embedded runtime knows the keys and values that the plugin's configs use; "
    "others need OpenGait itself (https://github.com/ShiqiYu/OpenGait)."
)


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise ValueError("; ".join(wrong))


def _positive(**values: float) -> None:
    wrong = [f"{name} must be > 0, got {value}" for name, value in values.items() if not value > 0]
    _refuse(wrong)


def _within(low: float, high: float, **values: float) -> None:
    wrong = [
        f"{name} must be within {low:g} and {high:g}, got {v}" for name, v in values.items() if not low <= v <= high
    ]
    _refuse(wrong)


def _folder_name(**values: str) -> None:
    """Names of output folders must stay below the output folder."""
    wrong = [
        f"{name} must name one folder, got {v!r}"
        for name, v in values.items()
        if not v or Path(v).name != v or v == ".."
    ]
    _refuse(wrong)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the prepared sequences are."""

    dataset_name: str
    """Part of the output folder's path."""

    dataset_root: str
    """Folder of ID/TYPE/VIEW/*.pkl, as `python -m plugin.prepare` writes it."""

    dataset_partition: str
    """JSON with TRAIN_SET and TEST_SET (subjects) and PROBE_SET (ID-TYPE-VIEW)."""

    num_workers: int = 1
    """Processes that load and transform sequences; 0 does it in the training process."""

    data_in_use: list[bool] | list[int] | None = None
    """Which files of a sequence's folder are its streams, as a mask or as indices; silhouettes first."""

    remove_no_gallery: bool = False
    """Leave out probes whose subject has no gallery sequence, instead of refusing to test."""

    test_dataset_name: str | None = None
    """What evaluators call the data set (OUMVLP, GREW, ...), if not dataset_name; evaluate_Gait3D does not ask."""

    cache: bool = False
    """Keep every sequence in memory once it is loaded."""

    def __post_init__(self) -> None:
        _folder_name(dataset_name=self.dataset_name)
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}")
        if any(index < 0 for index in self.data_in_use or []):
            raise ValueError(f"data_in_use: an index must be >= 0, got {self.data_in_use}")


@dataclass(frozen=True, kw_only=True)
class EvaluatorSampler:
    """Which frames are tested on."""

    batch_size: int = 4
    """Sequences at a time, over all processes."""

    sample_type: Literal["all_ordered"] = "all_ordered"
    """Whole sequences in their order."""

    type: Literal["InferenceSampler"] = "InferenceSampler"

    batch_shuffle: bool = False
    """In OpenGait's configs; testing shuffles nothing."""

    frames_all_limit: int | None = None
    """At most this many frames of a sequence, from its start."""

    def __post_init__(self) -> None:
        _positive(batch_size=self.batch_size)
        if self.frames_all_limit is not None:
            _positive(frames_all_limit=self.frames_all_limit)


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """The test phase."""

    save_name: str
    """Folder and prefix of the checkpoint that is tested."""

    enable_float16: bool = False
    """Half precision where the device has it (CUDA); float32 elsewhere."""

    restore_ckpt_strict: bool = True
    """Refuse a checkpoint that does not fit in every tensor."""

    restore_hint: int | str = 80000
    """Iteration, or path, of the checkpoint."""

    eval_func: EvalFunc = "evaluate_Gait3D"
    """The test protocol, see `plugin.evaluation.Protocol`. Its data set is data_cfg.test_dataset_name."""

    cross_view_gallery: bool = False
    """For evaluate_indoor_dataset: all views at once in the gallery."""

    sampler: EvaluatorSampler = field(default_factory=EvaluatorSampler)

    transform: list[PairedComposeSettings] = field(default_factory=lambda: [PairedComposeSettings()])
    """One chain for both streams together."""

    metric: Literal["euc", "cos"] = "euc"
    """Distance between embeddings, averaged over parts."""

    def __post_init__(self) -> None:
        _folder_name(save_name=self.save_name)
        _check_hint(self.restore_hint)
        _one_chain(self.transform)


def _check_hint(restore_hint: int | str) -> None:
    if isinstance(restore_hint, int) and restore_hint < 0:
        raise ValueError(f"restore_hint must be >= 0 or a path, got {restore_hint}")


def _one_chain(transform: list[PairedComposeSettings]) -> None:
    if len(transform) != 1:
        raise ValueError(f"transform must be one PairedCompose for both streams, got {len(transform)} entries")


@dataclass(frozen=True, kw_only=True)
class TrainerSampler:
    """Which sequences and frames make a batch."""

    batch_size: tuple[int, int] = (8, 16)
    """Subjects, and sequences of each."""

    batch_shuffle: bool = False
    """Shuffle the sequences of a batch."""

    sample_type: Literal["fixed_ordered", "fixed_unordered"] = "fixed_unordered"
    """A fixed number of frames, in their order from one stretch of the sequence, or drawn from anywhere."""

    type: Literal["TripletSampler"] = "TripletSampler"

    frames_num_fixed: int = 30
    """Frames of a sequence."""

    frames_skip_num: int = 0
    """For fixed_ordered: the stretch is this much longer than the frames drawn from it."""

    frames_num_max: int | None = None
    """In OpenGait's defaults; for sample types that the embedded runtime does not have."""

    frames_num_min: int | None = None
    """As frames_num_max."""

    def __post_init__(self) -> None:
        _positive(subjects=self.batch_size[0], sequences=self.batch_size[1], frames_num_fixed=self.frames_num_fixed)
        if self.frames_skip_num < 0:
            raise ValueError(f"frames_skip_num must be >= 0, got {self.frames_skip_num}")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The train phase."""

    save_name: str
    """Output folder, and prefix of checkpoint files."""

    total_iter: int = 80000
    save_iter: int = 2000
    """Iterations between checkpoints; one is also written at the end."""

    log_iter: int = 100
    """Iterations between lines of the log and points in TensorBoard."""

    with_test: bool = False
    """Test at every checkpoint."""

    enable_float16: bool = True
    """Half precision with loss scaling where the device has it (CUDA); float32 elsewhere."""

    find_unused_parameters: bool = False
    """Of DistributedDataParallel."""

    fix_BN: bool = False  # noqa: N815 (OpenGait's key)
    """Keep batch norm statistics as they are."""

    sync_BN: bool = False  # noqa: N815 (OpenGait's key)
    """Batch norm over all processes (CUDA only)."""

    restore_hint: int | str = 0
    """Iteration, or path, of a checkpoint to start from; 0: none."""

    restore_ckpt_strict: bool = True
    """Refuse a checkpoint that does not fit in every tensor; otherwise take what fits."""

    optimizer_reset: bool = False
    """Do not take the optimizer's state from the checkpoint."""

    scheduler_reset: bool = False
    """Do not take the scheduler's state from the checkpoint."""

    sampler: TrainerSampler = field(default_factory=TrainerSampler)

    transform: list[PairedComposeSettings] = field(default_factory=lambda: [PairedComposeSettings()])
    """One chain for both streams together."""

    def __post_init__(self) -> None:
        _folder_name(save_name=self.save_name)
        _positive(total_iter=self.total_iter, save_iter=self.save_iter, log_iter=self.log_iter)
        _check_hint(self.restore_hint)
        _one_chain(self.transform)


@dataclass(frozen=True, kw_only=True)
class _BackboneSettings:
    in_channels: int = 1
    channels: tuple[int, int] = (64, 128)
    layers: tuple[int, int, int, int] = (1, 4, 4, 2)
    feature_size: tuple[int, int] = (30, 20)
    patch_size: int = 2
    embed_dim: int = 256
    num_heads: tuple[int, int] = (16, 32)
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.1
    position_bias: PositionBiasName = "kprpe"
    num_keypoints: int = 17
    keypoint_grid: KeypointGrid = "window"
    form: KeypointRPEForm = "multihead"
    shared: bool = False
    method: DistanceMethod = "product"
    ratio: float = 1.9
    irpe_on: ImageRPEPlaces = "k"
    irpe_per_head: bool = False
    confidence: Literal["weight", "threshold", "ignore"] = "weight"
    min_confidence: float = 0.1

    def __post_init__(self) -> None:
        _positive(
            in_channels=self.in_channels,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            ratio=self.ratio,
            num_keypoints=self.num_keypoints,
            mlp_ratio=self.mlp_ratio,
            **{f"{n}[{i}]": v for n in ("channels", "layers", "num_heads") for i, v in enumerate(getattr(self, n))},
        )
        PositionBiasSettings(position_bias=self.position_bias, irpe_on=self.irpe_on)
        _within(0, 1, min_confidence=self.min_confidence)
        _within(0.5, 1000, ratio=self.ratio)
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")
        if self.num_keypoints != len(COCO_17):
            raise ValueError(f"num_keypoints must be {len(COCO_17)}, the joints of the data, got {self.num_keypoints}")
        wrong = [
            f"num_heads[{stage}] must divide the {self.embed_dim * 2**stage} channels of its stage, got {heads}"
            for stage, heads in enumerate(self.num_heads)
            if self.embed_dim * 2**stage % heads
        ]
        wrong += [
            f"feature_size[{axis}] must be a multiple of patch_size {self.patch_size}, got {size}"
            for axis, size in enumerate(self.feature_size)
            if size % self.patch_size or size < 1
        ]
        _refuse(wrong)

    def _check_window(self, window_size: tuple[int, ...]) -> None:
        """(rows, cols), or (frames, rows, cols)."""
        first = len(window_size) - len(self.feature_size)
        wrong = [
            f"window_size[{axis}] must be 1 to {size // self.patch_size}, the tokens along its axis, got {window}"
            for axis, (window, size) in enumerate(zip(window_size[first:], self.feature_size, strict=True), first)
            if not 1 <= window <= size // self.patch_size
        ]
        _refuse(wrong)


@dataclass(frozen=True, kw_only=True)
class SwinGait2DBackboneSettings(_BackboneSettings):
    """See `plugin.backbone.SwinGait2DBackbone`."""

    type: Literal["SwinGait2DBackbone"]
    window_size: tuple[int, int] = (3, 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_window(self.window_size)


@dataclass(frozen=True, kw_only=True)
class SwinGait3DBackboneSettings(_BackboneSettings):
    """See `plugin.backbone.SwinGait3DBackbone`."""

    type: Literal["SwinGait3DBackbone"]
    window_size: tuple[int, int, int] = (3, 3, 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        frames = self.window_size[0]
        _positive(**{"window_size[0]": frames})
        if frames > 1 and self.position_bias in ("irpe", "irpe_bias"):
            raise ValueError(
                f"position_bias must be none, table or kprpe in windows of {frames} frames, got {self.position_bias!r}"
            )
        self._check_window(self.window_size)


@dataclass(frozen=True, kw_only=True)
class SeparateFCsSettings:
    """One linear map a part."""

    in_channels: int
    out_channels: int
    parts_num: int

    def __post_init__(self) -> None:
        _positive(out_channels=self.out_channels)


@dataclass(frozen=True, kw_only=True)
class SeparateBNNecksSettings:
    """One classifier a part, behind batch norm."""

    in_channels: int
    class_num: int
    parts_num: int
    norm: bool = True
    parallel_BN1d: bool = True  # noqa: N815 (OpenGait's key)

    def __post_init__(self) -> None:
        _positive(class_num=self.class_num)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network."""

    model: Literal["SwinGait2D", "SwinGait3D"]
    backbone_cfg: SwinGait2DBackboneSettings | SwinGait3DBackboneSettings
    fcs: SeparateFCsSettings = field(metadata={"yaml": "SeparateFCs"})
    bnnecks: SeparateBNNecksSettings = field(metadata={"yaml": "SeparateBNNecks"})
    bin_num: list[int]
    """Horizontal stripes that the token map is pooled into; the last part is then repeated once."""

    @property
    def needs_keypoints(self) -> bool:
        """Whether joints make a difference to it."""
        return self.backbone_cfg.position_bias == "kprpe"

    def __post_init__(self) -> None:
        if not self.bin_num or min(self.bin_num) < 1:
            raise ValueError(f"bin_num must be numbers > 0, got {self.bin_num}")
        parts, wide = sum(self.bin_num) + 1, 2 * self.backbone_cfg.embed_dim
        wrong = []
        if self.backbone_cfg.type != f"{self.model}Backbone":
            wrong.append(
                f"backbone_cfg.type must be {self.model}Backbone for {self.model}, got {self.backbone_cfg.type}"
            )
        if self.fcs.parts_num != parts or self.bnnecks.parts_num != parts:
            wrong.append(
                f"parts_num must be the sum of bin_num and 1, {parts}, in SeparateFCs and SeparateBNNecks, "
                f"got {self.fcs.parts_num} and {self.bnnecks.parts_num}"
            )
        if self.fcs.in_channels != wide:
            wrong.append(f"SeparateFCs.in_channels must be twice embed_dim, {wide}, got {self.fcs.in_channels}")
        if self.bnnecks.in_channels != self.fcs.out_channels:
            wrong.append(
                f"SeparateBNNecks.in_channels must be SeparateFCs.out_channels, {self.fcs.out_channels}, "
                f"got {self.bnnecks.in_channels}"
            )
        rows = self.backbone_cfg.feature_size[0] // self.backbone_cfg.patch_size
        wrong += [f"bin_num {bins} does not divide the {rows} token rows" for bins in self.bin_num if rows % bins]
        _refuse(wrong)


@dataclass(frozen=True, kw_only=True)
class TripletLossSettings:
    """See `plugin.runtime.losses.TripletLoss`."""

    type: Literal["TripletLoss"]
    log_prefix: str
    margin: float = 0.2
    loss_term_weight: float = 1.0

    def __post_init__(self) -> None:
        _within(0, 1e6, margin=self.margin, loss_term_weight=self.loss_term_weight)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyLossSettings:
    """See `plugin.runtime.losses.CrossEntropyLoss`."""

    type: Literal["CrossEntropyLoss"]
    log_prefix: str
    scale: float = 16
    label_smooth: bool = True
    eps: float = 0.1
    loss_term_weight: float = 1.0
    log_accuracy: bool = False

    def __post_init__(self) -> None:
        _positive(scale=self.scale)
        _within(0, 1, eps=self.eps)
        _within(0, 1e6, loss_term_weight=self.loss_term_weight)


LossSettings = TripletLossSettings | CrossEntropyLossSettings


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """torch.optim.AdamW."""

    solver: Literal["AdamW"]
    lr: float
    weight_decay: float = 0.01
    lr_scale_cnn: float = 0.1
    """Learning rate of convolutions, part FCs and necks, relative to the transformer's."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr, lr_scale_cnn=self.lr_scale_cnn)
        _within(0, 1e3, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class SGDSettings:
    """torch.optim.SGD."""

    solver: Literal["SGD"]
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0005
    lr_scale_cnn: float = 0.1
    """As for AdamW."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr, lr_scale_cnn=self.lr_scale_cnn)
        _within(0, 1e3, lr=self.lr, weight_decay=self.weight_decay)
        _within(0, 1, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class MultiStepSettings:
    """torch.optim.lr_scheduler.MultiStepLR, in iterations."""

    scheduler: Literal["MultiStepLR"]
    milestones: list[int]
    gamma: float = 0.1


@dataclass(frozen=True, kw_only=True)
class WarmRestartsSettings:
    """torch.optim.lr_scheduler.CosineAnnealingWarmRestarts (SGDR), in iterations."""

    scheduler: Literal["CosineAnnealingWarmRestarts"]
    first_period: int = field(metadata={"yaml": "T_0"})
    growth: int = field(default=1, metadata={"yaml": "T_mult"})
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        _positive(T_0=self.first_period, T_mult=self.growth)
        _within(0, 1e3, eta_min=self.eta_min)


@dataclass(frozen=True, kw_only=True)
class GaitSettings:
    """A whole run."""

    data_cfg: DataSettings
    evaluator_cfg: EvaluatorSettings
    loss_cfg: list[LossSettings]
    model_cfg: ModelSettings
    optimizer_cfg: AdamWSettings | SGDSettings
    scheduler_cfg: MultiStepSettings | WarmRestartsSettings
    trainer_cfg: TrainerSettings

    def __post_init__(self) -> None:
        prefixes = sorted(loss.log_prefix for loss in self.loss_cfg)
        if prefixes != ["softmax", "triplet"]:
            raise ValueError(f"loss_cfg: SwinGait feeds the log_prefix softmax and triplet, got {prefixes}")
        if self.evaluator_cfg.eval_func != "evaluate_Gait3D" or self.evaluator_cfg.cross_view_gallery:
            self.protocol()

    def protocol(self, probe_names: Collection[str] = frozenset()) -> Protocol:
        """The protocol of a test.

        Args:
            probe_names: ID-TYPE-VIEW, for evaluate_Gait3D.

        Raises:
            ValueError: one that the data set does not have.
        """
        evaluator, data = self.evaluator_cfg, self.data_cfg
        name = data.test_dataset_name or data.dataset_name
        return Protocol(evaluator.eval_func, name, probe_names, evaluator.metric, evaluator.cross_view_gallery)

    def run_folder(self, output: Path, engine: TrainerSettings | EvaluatorSettings) -> Path:
        """Where a run keeps its files below the folder of all runs, as OpenGait has it."""
        return output / self.data_cfg.dataset_name / self.model_cfg.model / engine.save_name


def load_gait_settings(path: str | Path, overrides: dict[str, Any] | None = None) -> GaitSettings:
    """Read and check a run's YAML.

    Args:
        path: the file.
        overrides: nested mapping that is merged over the file's (dicts merge, all else replaces).

    Raises:
        ConfigError: everything that is wrong with it, all at once.
    """
    try:
        return load_settings(path, GaitSettings, overrides=overrides or {})
    except ConfigError as error:
        beyond = any(words in str(error) for words in ("unknown key", "is not one of"))
        raise ConfigError(f"{error}\n{_BEYOND}" if beyond else str(error)) from None
