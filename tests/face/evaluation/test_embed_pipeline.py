"""Evaluation through pipelines that find landmarks: sizes, order, faces that cannot be aligned, results."""

import cv2
import numpy as np
import pytest
import torch

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from face.evaluation.embed import embed_images
from face.evaluation.images import FolderImages
from face.evaluation.sets import EvaluationSetSettings, measure, open_set
from face.pipelines import RecognitionPipeline

SIZES = [(60, 60), (90, 70), (60, 60), (50, 80), (60, 60), (90, 70), (300, 200)]
BLANK = 4


@pytest.fixture
def truth(dot_points):
    shifts = np.random.default_rng(0).uniform(-0.08, 0.08, (len(SIZES), 1, 2))
    return dot_points + shifts


@pytest.fixture
def photos_of_dots(tmp_path, dots, truth):
    """Images of several sizes, one without a face, and a table of pairs of them."""
    names = []
    for number, (size_hw, points) in enumerate(zip(SIZES, truth, strict=True)):
        image = dots(size_hw, points) if number != BLANK else np.full((*size_hw, 3), 128, np.uint8)
        names.append(f"{number}.png")
        cv2.imwrite(str(tmp_path / names[-1]), image[..., ::-1])
    pairs = [f"{names[i % 7]},{names[(i * 3 + 1) % 7]},{i % 2}" for i in range(20)]
    (tmp_path / "pairs.csv").write_text("image1,image2,same\n" + "\n".join(pairs) + "\n")
    return FolderImages(tmp_path, names, tmp_path / "pairs.csv")


def make(toy, dot_aligner, kind, needs_keypoints=True, **options):
    model = toy((48, 48), needs_keypoints)
    return RecognitionPipeline(model, kind, dot_aligner(out_hw=(48, 48)), **options)


@pytest.mark.parametrize("needs_keypoints", [True, False])
@pytest.mark.parametrize("kind", ["dfa", "dfa_aligned"])
def test_equals_one_image_at_a_time(photos_of_dots, truth, toy, dot_aligner, kind, needs_keypoints):
    pipeline = make(toy, dot_aligner, kind, needs_keypoints)
    found = embed_images(pipeline, photos_of_dots, batch_size=5, missing_landmarks="error")
    pipeline.eval()
    for number in range(len(SIZES)):
        image = photos_of_dots.read(number)
        if number == 6:  # 300 x 200, of which 224 are left
            image = cv2.resize(image, (149, 224), interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
            expected = pipeline.recognise(x, flip_test=True)
            given = expected.inputs
            points = given.keypoints
            by_hand = pipeline.model(given.images, points, given.visibility)
            mirrored = None if points is None else flip_keypoints(points, FIVE_POINT_FACE)
            by_hand = by_hand + pipeline.model(given.images.flip(-1), mirrored, given.visibility)
        np.testing.assert_allclose(found.values[number], by_hand[0].numpy(), atol=2e-5)
        np.testing.assert_allclose(found.landmarks[number], given.landmarks[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(found.scores[number], given.score[0].numpy(), atol=1e-6)
    seen = np.arange(len(SIZES)) != BLANK
    np.testing.assert_allclose(found.landmarks[seen], truth[seen], atol=0.01)
    assert found.valid.tolist() == seen.tolist()
    assert (found.degenerate, found.without_landmarks) == (1, 0)
    assert found.landmarks.dtype == found.scores.dtype == np.float32


def test_loader_processes_give_the_same(photos_of_dots, toy, dot_aligner):
    pipeline = make(toy, dot_aligner, "dfa")
    alone = embed_images(pipeline, photos_of_dots, batch_size=4)
    other = embed_images(pipeline, photos_of_dots, batch_size=4, num_workers=1)
    for one, two in zip(alone, other, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_alone_has_no_landmarks_to_tell_of(photos_of_dots, toy):
    found = embed_images(toy((48, 48)), photos_of_dots)
    assert (found.landmarks, found.scores, found.valid, found.degenerate) == (None, None, None, 0)


def test_images_are_reduced_as_far_as_asked_for(photos_of_dots, toy, dot_aligner):
    sizes = []
    pipeline = make(toy, dot_aligner, "dfa", source_size=64)
    prepare = pipeline.prepare
    pipeline.prepare = lambda images, *rest: (sizes.append(tuple(images.shape)), prepare(images, *rest))[1]
    embed_images(pipeline, photos_of_dots, batch_size=7)
    assert sorted(sizes) == sorted([(3, 3, 60, 60), (2, 3, 64, 50), (1, 3, 40, 64), (1, 3, 64, 43)])


def test_sets_need_no_table(photos_of_dots, toy, dot_aligner):
    """Not even where images without landmarks would be an error."""
    pipeline = make(toy, dot_aligner, "dfa")
    settings = EvaluationSetSettings(name="dots", path=photos_of_dots.root)
    with pytest.raises(ValueError, match="7 of 7 images have no landmarks"):
        open_set(settings, needs_keypoints=pipeline.model.needs_keypoints)
    opened = open_set(settings, needs_keypoints=pipeline.needs_keypoints)
    result = measure(opened, pipeline, batch_size=3)
    assert (result.images, result.without_landmarks, result.degenerate) == (7, 0, 1)
    assert 0 <= result.metrics["accuracy"] <= 100
    assert measure(opened, toy((48, 48))).degenerate == 0


def test_modes_come_back(photos_of_dots, toy, dot_aligner):
    pipeline = make(toy, dot_aligner, "dfa")
    pipeline.train()
    pipeline.aligner.eval()
    embed_images(pipeline, photos_of_dots)
    assert pipeline.model.training
    assert not pipeline.aligner.training
    assert not pipeline.aligner.network.training
