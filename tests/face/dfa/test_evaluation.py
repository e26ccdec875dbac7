"""Networks and tables on photographs, against errors that are computed in the photographs' pixels, face by face."""

import math

import cv2
import numpy as np
import pytest
import torch

from face.augment import AugmentationSettings
from face.data import ImageError, write_landmarks
from face.dfa.annotations import read_retinaface_labels
from face.dfa.crops import PhotographCrops
from face.dfa.dataset import CropSet
from face.dfa.evaluation import AGGREGATED, BEST_ANCHOR, both_predictions, evaluate_landmarks, evaluate_table
from face.dfa.landmark_errors import LandmarkMetricSettings
from face.dfa.network import DFANetwork, DFAPrediction, DFASettings

PADDING, SIDE = 0.15, 64


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Three oblong photographs with two, one and three faces; the second face has no landmarks."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    lines = []
    for name, count in (("a/0.png", 2), ("a/1.png", 1), ("b/2.png", 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(small, (200, 120)))
        lines.append(f"# {name}")
        for face in range(count):
            x, y, w, h = rng.uniform([5, 5, 40, 50], [90, 40, 70, 75])
            points = rng.uniform([x, y], [x + w, y + h], (5, 2))
            points[:2, 0] = sorted(points[:2, 0])
            marks = (
                [f"{px:.3f} {py:.3f} 0.0" for px, py in points] if (name, face) != ("a/0.png", 1) else ["-1 -1 -1"] * 5
            )
            lines.append(f"{x:.3f} {y:.3f} {w:.3f} {h:.3f} {' '.join(marks)} 0.5")
    (folder / "label.txt").write_text("\n".join(lines) + "\n")
    return folder / "label.txt"


@pytest.fixture
def crops(labels):
    return CropSet(PhotographCrops(read_retinaface_labels(labels, labels.parent), PADDING), (SIDE, SIDE))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    built = DFANetwork(DFASettings(image_hw=(SIDE, SIDE)))
    for module in built.modules():  # statistics of one batch, or predictions would hardly differ from face to face
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        built(torch.randn(8, 3, SIDE, SIDE))
    return built


def images_of(crops, indices):
    pixels = np.stack([crops[int(index)].image for index in indices])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def errors_in_pixels(crops, index, landmarks):
    """Percent of each point, in the photograph."""
    faces = crops.crops.annotations
    left, top, right, bottom = faces.boxes_px[index].astype(float)
    side = max(right - left, bottom - top) * (1 + 2 * PADDING)
    corner = ((left + right - side) / 2, (top + bottom - side) / 2)
    found = []
    for point, true in zip(landmarks, faces.landmarks_px[index], strict=True):
        pixels = [float(point[axis]) * side + corner[axis] - 0.5 for axis in (0, 1)]
        found.append(100 * math.dist(pixels, true) / math.sqrt((right - left) * (bottom - top)))
    return found


def test_one_pass_predicts_with_and_without_aggregator(network, crops):
    images = images_of(crops, range(6))
    network.eval()
    with torch.no_grad():
        found = both_predictions(network, images)
        for name, aggregate in ((AGGREGATED, True), (BEST_ANCHOR, False)):
            for value, expected in zip(found[name], network.predict(images, aggregate=aggregate), strict=True):
                torch.testing.assert_close(value, expected)
    assert not torch.allclose(found[AGGREGATED].landmarks, found[BEST_ANCHOR].landmarks, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_errors_are_those_in_the_photographs(network, crops, batch_size):
    found = evaluate_landmarks(network, crops, batch_size=batch_size)
    assert list(found) == [AGGREGATED, BEST_ANCHOR]
    network.eval()
    for name, aggregate in ((AGGREGATED, True), (BEST_ANCHOR, False)):
        result = found[name]
        assert result.indices.tolist() == [0, 2, 3, 4, 5]
        for row, index in enumerate(result.indices):
            with torch.no_grad():
                alone = network.predict(images_of(crops, [index]), aggregate=aggregate)
            np.testing.assert_allclose(result.predicted[row], alone.landmarks[0], atol=2e-5)
            np.testing.assert_allclose(result.scores[row], alone.score[0], atol=1e-5)
            expected = errors_in_pixels(crops, index, alone.landmarks[0])
            np.testing.assert_allclose(result.errors[row], expected, rtol=1e-4)
        assert np.ptp(result.per_face) > 1


def test_oblong_input_and_other_settings(labels):
    """A crop that is stretched to the network's input is measured as it was."""
    crops = CropSet(PhotographCrops(read_retinaface_labels(labels, labels.parent), PADDING), (32, SIDE))
    points = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.4, 0.8], [0.6, 0.8]])

    def predict(images):
        assert images.shape[1:] == (3, 32, SIDE)
        count = len(images)
        return {"mean face": DFAPrediction(points.expand(count, 5, 2), torch.ones(count), torch.zeros(count, 4))}

    settings = LandmarkMetricSettings(failure_percent=20, auc_percent=40)
    result = evaluate_landmarks(predict, crops, settings)["mean face"]
    expected = np.array([errors_in_pixels(crops, index, points) for index in result.indices])
    np.testing.assert_allclose(result.errors, expected, rtol=1e-4)
    assert result.metrics["failure_rate@20"] == pytest.approx(100 * (expected.mean(axis=1) > 20).mean())


def test_modes_are_restored_and_evaluation_is_in_evaluation_mode(network, crops):
    network.train()
    network.body.eval()
    modes = [module.training for module in network.modules()]
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    first = evaluate_landmarks(network, crops, batch_size=2)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.named_buffers():
        assert torch.equal(value, statistics[name]), name
    network.eval()
    again = evaluate_landmarks(network, crops, batch_size=2)
    np.testing.assert_array_equal(first[AGGREGATED].errors, again[AGGREGATED].errors)


def test_loader_processes_change_nothing(network, crops):
    one, two = (evaluate_landmarks(network, crops, batch_size=2, num_workers=workers) for workers in (0, 1))
    np.testing.assert_array_equal(one[AGGREGATED].errors, two[AGGREGATED].errors)


def test_a_prediction_that_is_not_finite_is_named(crops, labels):
    def predict(images):
        landmarks = torch.full((len(images), 5, 2), 0.5)
        landmarks[2, 1, 0] = torch.nan  # the fourth face, of the third photograph
        return {("net", "aggregated"): DFAPrediction(landmarks, torch.ones(len(images)), torch.zeros(len(images), 4))}

    with pytest.raises(
        ValueError, match=r"b/2.png \(.*label.txt, line 7\): its predicted landmarks \(net, aggregated\)"
    ):
        evaluate_landmarks(predict, crops)


def test_an_image_that_does_not_decode_is_named(labels, tmp_path, network):
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((labels.parent / name).read_bytes())
    (tmp_path / "a/1.png").write_bytes(b"no image")
    faces = PhotographCrops(read_retinaface_labels(labels, tmp_path), PADDING)
    for skip_broken in (False, True):
        with pytest.raises(ImageError, match=r"a/1.png: 8 bytes"):
            evaluate_landmarks(network, CropSet(faces, (SIDE, SIDE), skip_broken=skip_broken))
    with pytest.raises(ImageError, match=r"a/1.png: 8 bytes"):
        evaluate_table(table_of(tmp_path, faces.annotations, [0]), faces)


def test_refusals(network, crops, labels):
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        evaluate_landmarks(network, crops, batch_size=0)
    augmented = CropSet(crops.crops, (SIDE, SIDE), AugmentationSettings())
    with pytest.raises(ValueError, match="must have no augmentation"):
        evaluate_landmarks(network, augmented)
    crops.crops.kinds = np.full(6, -1)
    with pytest.raises(ValueError, match="none of the 6 faces has landmarks"):
        evaluate_landmarks(network, crops)


def table_of(folder, faces, rows, shift=(0.0, 0.0)):
    """True landmarks of some faces, moved by pixels, as fractions of their photographs (200 x 120)."""
    names = [f"{faces.images[faces.image_of[row]]}#{faces.lines[row]}" for row in rows]
    write_landmarks(
        folder / "t.csv", names, (faces.landmarks_px[rows] + shift + 0.5) / (200, 120), np.full(len(rows), 0.5)
    )
    return folder / "t.csv"


def test_a_table_of_another_detector(crops, tmp_path):
    faces = crops.crops.annotations
    result = evaluate_table(table_of(tmp_path, faces, [5, 0, 3], shift=(3, -4)), crops.crops)
    assert result.indices.tolist() == [0, 2, 3, 4, 5]
    sides = faces.boxes_px[:, 2:] - faces.boxes_px[:, :2]
    for row, index in enumerate(result.indices):
        if index in (0, 3, 5):
            np.testing.assert_allclose(result.errors[row], 100 * 5 / math.sqrt(sides[index].prod()), rtol=1e-3)
        else:
            assert np.isinf(result.errors[row]).all()
    assert result.scores.tolist() == [0.5, 0, 0.5, 0, 0.5]
    assert result.found == 3


def test_a_table_of_a_network_has_its_errors(network, crops, tmp_path):
    """Also where it has faces that are left out here for their size."""
    whole = evaluate_landmarks(network, crops)[AGGREGATED]
    faces = crops.crops.annotations
    points = []
    for row, index in enumerate(whole.indices):
        frame = crops.crops.read(index).frame
        points.append(whole.predicted[row] * (frame[2:] - frame[:2]) + frame[:2])
    names = [f"{faces.images[faces.image_of[index]]}#{faces.lines[index]}" for index in whole.indices]
    write_landmarks(tmp_path / "t.csv", names, np.stack(points), whole.scores)
    sides = (faces.boxes_px[whole.indices, 2:] - faces.boxes_px[whole.indices, :2]).min(axis=1)
    larger = PhotographCrops(faces.at_least(float(np.median(sides))), PADDING)
    found = evaluate_table(tmp_path / "t.csv", larger)
    kept = sides >= np.median(sides)
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_allclose(found.errors, whole.errors[kept], rtol=1e-3)


def test_a_table_of_other_photographs_is_refused(crops, tmp_path):
    write_landmarks(tmp_path / "t.csv", ["a/0.png"], np.full((1, 5, 2), 0.5))
    with pytest.raises(ValueError, match=r"t.csv: has no row of an image of .*label.txt"):
        evaluate_table(tmp_path / "t.csv", crops.crops)
