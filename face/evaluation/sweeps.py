"""How results change while one thing gets worse: alignment, landmarks, their number, the place of the face.

* alignment: images on their way from the frame of a detector (0) to their alignment (1), see `moved_images`; Figure 5
  of Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024,
  https://arxiv.org/abs/2403.14852.
* noise: landmarks given to the model are disturbed, images are not (supplementary 2.3, Figure 6). Their eq. 12,
  L + a L with a up to 0.1, has no noise in it as it is printed: it moves all landmarks away from the upper left corner.
  Three readings are offered: "gaussian", L + a e with e normal, a being the standard deviation in fractions of the
  image; "proportional", L + a e L; and "printed". At a = 0.1 they move landmarks of aligned faces by 0.125, 0.073 and
  0.083 of the image on average; an NME of 0.12, which the paper has there, fits the first, and in units of a face's box
  the last.
* keypoints: all but k of the five are hidden (visibility 0), the last ones first or all choices of k. Supplementary 2.2
  trains a model for each k instead: such models can be given too, and are evaluated up to their own number.
* affine: aligned images turned and scaled about their middle, and shifted, landmarks moved along.

What is random follows from the seed alone: each image has its own draws, the same at every step and for every model.

Shape letters: n images, L = 5 keypoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common.runtime.progress import progress_bar
from face.data.landmarks import Landmarks
from face.evaluation.fewer_keypoints import HidingPipeline, first_keypoints, num_keypoints
from face.evaluation.galleries import GallerySet
from face.evaluation.images import ImageList
from face.evaluation.moved_images import (
    AlignmentPath,
    MovedImages,
    alignment_path,
    centred_map,
    image_sizes,
    move_landmarks,
    resize_maps,
)
from face.evaluation.pairs import PairSet
from face.evaluation.sets import EvaluationSet, measure
from face.evaluation.sweep_settings import SweepSettings, SweepStep, step_title, sweep_steps
from face.evaluation.tinyface import TinyFaceSet
from face.pipelines import RecognitionPipeline

__all__ = ["Sweep", "SweepResult", "SweepRow", "metric_of"]

_BAR_FROM = 2000  # images of a set that have a bar of their own


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One model at one step."""

    model: str

    step: SweepStep

    metrics: dict[str, float]
    """In percent, by name."""

    mean_shift: float | None = None
    """noise: how far landmarks were moved on average, in fractions of the image."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """All of it."""

    settings: SweepSettings

    rows: list[SweepRow] = field(default_factory=list)
    """Model by model, step by step."""

    notes: list[str] = field(default_factory=list)
    """What a reader should know."""

    def models(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def curve(self, model: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Of a sweep with one axis: steps [k], and the metric of each variant [k, v], NaN beyond those there are."""
        found: dict[float, list[float]] = {}
        for row in self.rows:
            if row.model == model:
                found.setdefault(next(iter(row.step.values.values())), []).append(row.metrics[metric])
        values = np.full((len(found), max(map(len, found.values()))), np.nan)
        for place, each in enumerate(found.values()):
            values[place, : len(each)] = each
        return np.array(list(found)), values

    def grid(self, model: str, metric: str, axes: tuple[str, str]) -> np.ndarray:
        """Of an affine sweep: the metric over two axes, [second axis, first axis]."""
        columns, rows = self.axis(axes[0]), self.axis(axes[1])
        values = np.full((len(rows), len(columns)), np.nan)
        for row in self.rows:
            if row.model == model and set(row.step.values) == set(axes):
                place = rows.index(row.step.values[axes[1]]), columns.index(row.step.values[axes[0]])
                values[place] = row.metrics[metric]
        return values

    def axis(self, name: str) -> list[float]:
        """The values that steps have of one thing, rising."""
        return sorted({row.step.values[name] for row in self.rows if name in row.step.values})


def metric_of(rows: list[SweepRow], asked: str | None = None) -> str:
    """The metric that is looked at: the one that was asked for, else the set's first (accuracy, rank-1).

    Raises:
        ValueError: there is no such metric; those that there are, are listed.
    """
    known = list(rows[0].metrics)
    if asked is None:
        return known[0]
    if asked not in known:
        raise ValueError(f"no metric {asked}; this set has {', '.join(known)}")
    return asked


class Sweep:
    """A sweep over one set, checked when it is made.

    Args:
        settings: what changes.
        opened: the set, with landmarks where they are needed (see `needs_landmarks`).
        progress: whether bars are shown.

    Raises:
        ValueError: a set of another kind than pairs, identification or tinyface, or landmarks that are missing or (of
            alignment) give none; the set is named.
    """

    def __init__(self, settings: SweepSettings, opened: EvaluationSet, progress: bool = False) -> None:
        self.settings, self._opened, self._progress = settings, opened, progress
        content = opened.content
        if not isinstance(content, PairSet | GallerySet | TinyFaceSet):
            kinds = "pairs, identification and tinyface"
            raise ValueError(
                f"evaluation set {opened.settings.name}: sweeps are over {kinds}, got {opened.settings.kind}"
            )
        self._images: ImageList = content.images
        self._landmarks = content.landmarks
        self._sizes: np.ndarray | None = None
        self._paths: dict[tuple[int, int], AlignmentPath] = {}
        if settings.kind in ("alignment", "affine"):
            self._sizes = image_sizes(self._images, progress)
        if settings.kind == "alignment":
            name = opened.settings.name
            if self._landmarks is None:
                raise ValueError(f"evaluation set {name}: there is no table of landmarks to align its images by")
            try:
                self._path((112, 112))
            except ValueError as error:
                raise ValueError(f"evaluation set {name}: {error}") from error

    def check(self, name: str, pipeline: RecognitionPipeline) -> str | None:
        """Whether a model can be asked for; a remark about it where there is one to make.

        Raises:
            ValueError: it cannot: a pipeline that finds landmarks itself has none to disturb or to hide.
        """
        if self.settings.kind not in ("noise", "keypoints"):
            return None
        if pipeline.kind != "given":
            raise ValueError(
                f"{name}: {self.settings.kind} is about landmarks that are given, and not of kind {pipeline.kind}"
            )
        if not pipeline.model.needs_keypoints:
            return f"{name} takes no keypoints: it is evaluated once, and its line is flat"
        return None

    def view(self, step: SweepStep, out_hw: tuple[int, int]) -> EvaluationSet:
        """The set at a step, for a model whose images are [H, W]."""
        kind, values = self.settings.kind, step.values
        landmarks = self._landmarks
        if kind == "noise":
            if landmarks is None or not values["noise"]:
                return self._opened
            return self._with(self._images, self._disturbed(landmarks, values["noise"], step.draw))
        if kind == "keypoints" or self._sizes is None:
            return self._opened
        if kind == "alignment":
            matrices = self._path(out_hw).at(values["alignment"])
            plain = not values["alignment"]
        else:
            shift = values.get("shift_x", 0.0), values.get("shift_y", 0.0)
            degrees, scale = values.get("rotation", 0.0), values.get("scale", 1.0)
            matrices = centred_map(out_hw, degrees, scale, shift) @ resize_maps(self._sizes, out_hw)
            plain = (degrees, scale, *shift) == (0, 1, 0, 0)
        if plain:
            return self._opened
        moved = None if landmarks is None else move_landmarks(landmarks, matrices, self._sizes, out_hw)
        return self._with(MovedImages(self._images, matrices, out_hw), moved)

    def pipeline(self, step: SweepStep, pipeline: RecognitionPipeline) -> RecognitionPipeline:
        """The pipeline at a step."""
        if step.shown is None or all(step.shown) or not pipeline.model.needs_keypoints:
            return pipeline
        return HidingPipeline(pipeline, step.shown)

    def run(
        self,
        models: Mapping[str, RecognitionPipeline],
        after: Callable[[SweepRow], None] | None = None,
        **options: Any,
    ) -> SweepResult:
        """Evaluate every model at every step.

        Args:
            models: by name, on `options["device"]`.
            after: called with each row as it comes.
            options: of `measure`: batch_size, device, precision, num_workers.

        Raises:
            ValueError: a model that cannot be asked for (before anything is evaluated), or as `measure`.
        """
        notes = [note for name, each in models.items() if (note := self.check(name, each)) is not None]
        result = SweepResult(settings=self.settings, notes=notes)
        steps = sweep_steps(self.settings)
        own_bar = self._progress and len(self._images) >= _BAR_FROM
        with progress_bar(total=len(steps) * len(models), unit="step", disable=not self._progress) as bar:
            for name, pipeline in models.items():
                known: dict[str, dict[str, float]] = {}
                for step in steps:
                    bar.set_postfix_str(f"{name}, {step_title(step)}", refresh=False)
                    if self.settings.kind == "keypoints" and step.values["keypoints"] > num_keypoints(pipeline.model):
                        bar.update()
                        continue
                    opened, usable = self.view(step, pipeline.image_hw), self.pipeline(step, first_keypoints(pipeline))
                    key = self._same_for(step, pipeline, opened)
                    metrics = known.get(key) or measure(opened, usable, progress=own_bar, **options).metrics
                    known[key] = metrics
                    row = SweepRow(model=name, step=step, metrics=metrics, mean_shift=self._mean_shift(opened))
                    result.rows.append(row)
                    if after is not None:
                        after(row)
                    bar.update()
        return result

    def _same_for(self, step: SweepStep, pipeline: RecognitionPipeline, opened: EvaluationSet) -> str:
        """Steps of one text are the same to a model."""
        landmarks_alone = self.settings.kind in ("noise", "keypoints")
        if landmarks_alone and not pipeline.model.needs_keypoints:
            return "anything"
        if not landmarks_alone and opened is self._opened:
            return "as it is"  # in both grids
        return step_title(step) + step.variant

    def _mean_shift(self, opened: EvaluationSet) -> float | None:
        before, after = self._landmarks, getattr(opened.content, "landmarks", None)
        if self.settings.kind != "noise" or before is None or after is None:
            return None
        return float(np.nanmean(np.linalg.norm(after.points - before.points, axis=-1)))

    def _disturbed(self, landmarks: Landmarks, a: float, draw: int) -> Landmarks:
        points = landmarks.points
        noise = np.random.default_rng([self.settings.seed, draw]).standard_normal(points.shape)
        how = {"gaussian": noise, "proportional": noise * points, "printed": points}[self.settings.noise]
        return Landmarks(points=(points + a * how).astype(np.float32), scores=landmarks.scores, found=landmarks.found)

    def _path(self, out_hw: tuple[int, int]) -> AlignmentPath:
        if out_hw not in self._paths:
            assert self._landmarks is not None
            self._paths[out_hw] = alignment_path(self._images, self._landmarks, out_hw, self._sizes)
        return self._paths[out_hw]

    def _with(self, images: Any, landmarks: Landmarks | None) -> EvaluationSet:
        content: Any = self._opened.content
        return replace(self._opened, content=replace(content, images=images, landmarks=landmarks))
