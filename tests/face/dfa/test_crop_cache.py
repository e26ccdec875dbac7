"""Crops that are kept: the same faces as in the photographs, made once, anew or not at all."""

import json

import cv2
import numpy as np
import pytest

from common.runtime.run_folder import held_folder
from face.data import ImageError
from face.dfa import crop_cache
from face.dfa.annotations import read_retinaface_labels
from face.dfa.crop_cache import CropCache, CropSettings, StaleCropsError, cached_crops, make_crops
from face.dfa.crops import PhotographCrops
from face.dfa.dataset import CropSet


def smooth(rng, height, width):
    """A photograph that JPEG hardly changes."""
    small = rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def line(left, top, width, height):
    places = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = " ".join(f"{left + x * width} {top + y * height} 0.0" for x, y in places)
    return f"{left} {top} {width} {height} {points} 0.5"


@pytest.fixture
def faces(tmp_path):
    """Three photographs of six faces, one of them at a corner, one outside of its photograph, one tiny."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    root.mkdir()
    for name, size_hw in (("a.png", (200, 300)), ("b.png", (480, 360)), ("c.png", (120, 144))):
        cv2.imwrite(str(root / name), smooth(rng, *size_hw)[..., ::-1])
    text = f"""# a.png
{line(20, 30, 40, 52)}
200 100 30 24
{line(270, 160, 40, 60)}
# b.png
{line(30, 40, 280, 400)}
# c.png
150 20 30 30
{line(60, 50, 3, 4)}
"""
    path = tmp_path / "label.txt"
    path.write_text(text)
    return read_retinaface_labels(path, root)


def contents(folder):
    names = ("train.rec", "train.idx", "property", "crops.npz", "crops.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_crops_are_those_of_the_photographs(faces, tmp_path):
    crops = make_crops(faces, tmp_path / "crops", CropSettings(max_side=400, quality=100))
    assert crops.faces.tolist() == [0, 1, 2, 3, 5]
    assert crops.kinds.tolist() == [1, -1, 1, 1, 1]
    assert crops.stamp["left_out"] == {"boxes outside of their photograph": 1}
    kept, direct = CropSet(crops), CropSet(PhotographCrops(faces))
    for index, face in enumerate(crops.faces.tolist()):
        one, other = kept[index], direct[face]
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-5)
        np.testing.assert_allclose(one.box, other.box, atol=1e-5)
        if face != 3:  # which has been shrunk, once more than the other
            assert np.abs(one.image.astype(int) - other.image).mean() < 2
    assert np.abs(kept[3].image.astype(int) - direct[3].image).mean() < 4
    assert "a.png" in crops.name_of(2)
    assert crops.describe().endswith(
        "4 crops of faces with landmarks, 1 without, 0 of no face; left out: 1 boxes outside of their photograph"
    )


def test_context_and_largest_side(faces, tmp_path):
    crops = make_crops(faces, tmp_path / "crops", CropSettings(padding=0.1, context=0.25, max_side=100))
    # First face: the longer side is 52, its square 62.4, with context 31.2 + 15.6 about (40, 56), from -6.8 to 86.8
    # along x, which the photograph cuts off at 0, and from 9.2 to 102.8 along y.
    assert crops.read(0).image.shape == (94, 87, 3)
    frame = crops.read(0).frame * (87, 94, 87, 94) + (0, 9, 0, 9)
    np.testing.assert_allclose(frame, [8.8, 24.8, 71.2, 87.2], rtol=1e-5)
    assert max(crops.read(3).image.shape) == 100
    assert all(max(crops.read(index).image.shape[:2]) <= 100 for index in range(len(crops)))


def test_it_is_made_once(faces, tmp_path, monkeypatch):
    folder = tmp_path / "crops"
    cached_crops(faces, folder)
    before = contents(folder)
    monkeypatch.setattr(crop_cache, "work_all", None)  # whoever works now fails
    again = cached_crops(faces, folder)
    assert len(again) == 5
    assert contents(folder) == before
    (tmp_path / "label.txt").rename(tmp_path / "moved.txt")
    assert len(cached_crops(read_retinaface_labels(tmp_path / "moved.txt", tmp_path / "images"), folder)) == 5


def test_crops_of_something_else(faces, tmp_path):
    folder = tmp_path / "crops"
    cached_crops(faces, folder)
    before = contents(folder)
    with pytest.raises(StaleCropsError, match=r"other padding \(0.1 instead of 0.2\) and quality \(95 instead of 90\)"):
        cached_crops(faces, folder, CropSettings(padding=0.2, quality=90))
    with pytest.raises(StaleCropsError, match=r"other annotations \(of .*label.txt\)"):
        cached_crops(faces.at_least(10), folder)
    assert contents(folder) == before
    again = cached_crops(faces.at_least(10), folder, remake=True)
    assert again.faces.tolist() == [0, 1, 2, 3]
    assert cached_crops(faces.at_least(10), folder).stamp == again.stamp
    stamp = json.loads((folder / "crops.json").read_text())
    (folder / "crops.json").write_text(json.dumps({**stamp, "version": 0}))
    with pytest.raises(StaleCropsError, match=r"other version of this program \(0 instead of 1\)"):
        cached_crops(faces.at_least(10), folder)


def test_other_folders_are_left_alone(faces, tmp_path):
    for content in ("train.rec", "crops.json"):
        folder = tmp_path / content.replace(".", "_")
        folder.mkdir()
        (folder / content).write_text("{}")
        with pytest.raises(FileExistsError, match="expected a new or empty folder for crops"):
            cached_crops(faces, folder, remake=True)
        assert (folder / content).read_text() == "{}"
        with pytest.raises(FileNotFoundError, match=r"crops\.json: no such file, or none of crops"):
            CropCache(folder)
    (tmp_path / "empty").mkdir()
    assert len(cached_crops(faces, tmp_path / "empty")) == 5
    # something of somebody's beside the crops outlives their being made anew
    (tmp_path / "empty/notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        cached_crops(faces, tmp_path / "empty", CropSettings(quality=80), remake=True)
    assert (tmp_path / "empty/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_what_is_interrupted_leaves_nothing(faces, tmp_path, monkeypatch, error):
    monkeypatch.setattr(crop_cache, "_CHUNK", 1)

    def some(work, tasks, workers):
        yield work(tasks[0])
        raise error

    monkeypatch.setattr(crop_cache, "work_all", some)
    place = tmp_path / "below"
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError):
        cached_crops(faces, place / "crops")
    assert list(place.iterdir()) == []
    monkeypatch.undo()
    assert len(cached_crops(faces, place / "crops")) == 5


def test_one_process_cuts_at_a_time_and_clears_what_was_killed(faces, tmp_path):
    parts = tmp_path / ".crops.parts"
    (parts / "shards").mkdir(parents=True)
    (parts / "shards/0").write_text("half of a shard")
    with held_folder(parts), pytest.raises(ValueError, match=r"\.crops\.parts: another run writes to it"):
        cached_crops(faces, tmp_path / "crops")
    assert (parts / "shards/0").read_text() == "half of a shard"
    assert len(cached_crops(faces, tmp_path / "crops")) == 5
    assert not parts.exists()


def test_workers_change_nothing(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(crop_cache, "_CHUNK", 1)
    settings = CropSettings(background_share=2.0, context=0.1)
    make_crops(faces, tmp_path / "one", settings)

    def backwards(work, tasks, workers):
        assert workers == 3
        yield from map(work, reversed(tasks))

    monkeypatch.setattr(crop_cache, "work_all", backwards)
    make_crops(faces, tmp_path / "three", settings, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.slow
def test_real_worker_processes(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(crop_cache, "_CHUNK", 1)
    make_crops(faces, tmp_path / "one")
    make_crops(faces, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_photographs_that_do_not_decode(faces, tmp_path):
    faces.image_path(1).write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(ImageError, match=r"images/b\.png: the image is cut off"):
        make_crops(faces, tmp_path / "crops")
    assert not (tmp_path / "crops").exists()
    crops = make_crops(faces, tmp_path / "crops", CropSettings(skip_broken=True))
    assert crops.faces.tolist() == [0, 1, 2, 5]
    assert crops.stamp["left_out"]["photographs that do not decode"] == 1


def test_crops_without_a_face_stay_away_from_faces(faces, tmp_path):
    settings = CropSettings(background_share=5.0, background_side=(16.0, 60.0), context=0.2)
    crops = make_crops(faces.at_least(10), tmp_path / "crops", settings)
    empty = np.flatnonzero(crops.kinds == 0)
    assert len(empty) >= 10
    assert (crops.faces[empty] == -1).all()
    chosen = []
    for index in empty.tolist():
        sample = CropSet(crops)[index]
        assert sample.kind == 0
        assert not sample.box.any()
        assert not sample.landmarks.any()
        # What is kept is found again in its photograph, whose boxes lie elsewhere, that of the tiny face too.
        name = crops.name_of(index).split(" ")[0]
        photograph = cv2.imread(str(faces.root / name))[..., ::-1]
        kept = crops.read(index).image
        score = cv2.matchTemplate(np.ascontiguousarray(photograph), kept, cv2.TM_SQDIFF)
        _, _, (left, top), _ = cv2.minMaxLoc(score)
        right, bottom = left + kept.shape[1], top + kept.shape[0]
        for image, box in zip(faces.image_of, faces.boxes_px, strict=True):
            if faces.images[image] == name:
                assert right <= box[0] or left >= box[2] or bottom <= box[1] or top >= box[3]
        chosen.append((name, left, top))
    assert len(set(chosen)) > len(chosen) / 2
    other = make_crops(faces.at_least(10), tmp_path / "other", CropSettings(**{**vars(settings), "seed": 1}))
    assert contents(tmp_path / "crops")["train.rec"] != contents(tmp_path / "other")["train.rec"]
    assert len(other) > 5


def test_damaged(faces, tmp_path):
    folder = tmp_path / "crops"
    make_crops(faces, folder)
    stamp = json.loads((folder / "crops.json").read_text())
    (folder / "crops.json").write_text(json.dumps({**stamp, "crops": 4}))
    with pytest.raises(ValueError, match="records, table and stamp have 5, 5 and 4 crops"):
        CropCache(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": -0.1}, "padding must be a number from 0 to 4, got -0.1"),
        ({"context": float("nan")}, "context must be a number from 0 to 4, got nan"),
        ({"max_side": 8}, "max_side must be a whole number from 16 to 4096, got 8"),
        ({"quality": 95.0}, "quality must be a whole number from 1 to 100, got 95.0"),
        ({"background_share": True}, "background_share must be a number from 0 to 10, got True"),
        ({"background_side": (64.0, 32.0)}, "background_side must be two numbers, 4 <= smallest <= largest"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CropSettings(**change)


def test_no_workers(faces, tmp_path):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        make_crops(faces, tmp_path / "crops", workers=0)
