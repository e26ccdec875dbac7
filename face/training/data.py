"""Opening a training set: images, labels and landmarks are looked at, and what is left out is counted and said."""

import numpy as np

from common.runtime.log import RunLog
from face.augment import AugmentationSettings, FaceAugmentation
from face.data import ImageSource, Landmarks, SourceView, keep_identities, open_source, read_landmarks
from face.training.dataset import TrainingSet
from face.training.settings import DataSettings

__all__ = ["open_training_set"]


def open_training_set(
    settings: DataSettings,
    augmentation: AugmentationSettings,
    image_hw: tuple[int, int],
    needs_keypoints: bool,
    seed: int,
    log: RunLog,
) -> TrainingSet:
    """The training set of a run.

    Args:
        settings: where it is.
        augmentation: of its images.
        image_hw: of the model.
        needs_keypoints: whether the model takes landmarks.
        seed: of the run.
        log: told what there is, and what is left out.

    Raises:
        OSError, ValueError: it cannot be read, has one identity or none, or no landmarks where they are needed.
    """
    source = open_source(settings.root)
    log.log_info(f"{settings.root}: {len(source)} images of {source.num_classes} identities")
    landmarks = None
    if needs_keypoints:
        source, landmarks = _with_landmarks(settings, source, log)
    kept = keep_identities(source, settings.min_images)
    if kept is not source:
        assert isinstance(kept, SourceView)
        landmarks = None if landmarks is None else landmarks.take(kept.indices)
        log.log_warning(
            f"{source.num_classes - kept.num_classes} identities with fewer than {settings.min_images} images are left "
            f"out, {len(source) - len(kept)} images of theirs with them (data.min_images)"
        )
    if kept.num_classes < 2:
        raise ValueError(f"{settings.root}: training needs at least 2 identities, found {kept.num_classes}")
    if not settings.skip_broken:  # the first image, since a set of another kind shows in it and not in an hour
        kept.read(0)
    augment = FaceAugmentation(augmentation, image_hw)
    return TrainingSet(kept, landmarks, augment, seed, settings.missing_landmarks, settings.skip_broken)


def _with_landmarks(settings: DataSettings, source: ImageSource, log: RunLog) -> tuple[ImageSource, Landmarks]:
    """A source, and landmarks of its images; images without them are treated as `missing_landmarks` says."""
    path, rule = settings.landmarks_path, settings.missing_landmarks
    count = len(source)
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(f"data.landmarks: {path}: no such file")
        landmarks = read_landmarks(path, source)
    elif rule in ("reference", "hide"):
        none = np.zeros(count, bool)
        points = np.full((count, 5, 2), np.nan, np.float32)
        landmarks = Landmarks(points=points, scores=none.astype(np.float32), found=none)
    else:
        raise ValueError(
            f"data.landmarks: the model needs landmarks, and no file of them is named (data.missing_landmarks {rule})"
        )
    missing = np.flatnonzero(~landmarks.found)
    if not len(missing):
        return source, landmarks
    what = f"{len(missing)} of {count} images have no landmarks, such as {source.name_of(int(missing[0]))}"
    if rule == "error":
        raise ValueError(f"{path}: {what}; data.missing_landmarks says what to do (drop, reference, hide)")
    done = {
        "drop": "they are left out",
        "reference": "they get those of the alignment template",
        "hide": "they are trained with landmarks of visibility 0",
    }
    log.log_warning(f"{what}; {done[rule]} (data.missing_landmarks)")
    if rule == "drop":
        if len(missing) == count:
            raise ValueError(f"{path}: no image is left (data.missing_landmarks drop)")
        found = np.flatnonzero(landmarks.found)
        return SourceView(source, found), landmarks.take(found)
    return source, landmarks
