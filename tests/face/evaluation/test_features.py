"""Features on disk: the same as in memory, found again, made anew when anything changes, and gone on with."""

import json
import os

import cv2
import numpy as np
import pytest
import torch

from common.runtime.run_folder import held_folder
from face.data import ImageError, Landmarks
from face.evaluation import features as module
from face.evaluation.bins import read_bin, write_bin
from face.evaluation.embed import embed_images
from face.evaluation.features import cached_features, check_cache_folder
from face.evaluation.images import FolderImages
from face.evaluation.marked_images import AlignedImages, UnalignedImages
from face.evaluation.pairs import open_pairs
from face.pipelines import RecognitionPipeline

SIZES = [(60, 60), (90, 70), (60, 60), (50, 80), (60, 60)]
BLANK = 2


@pytest.fixture
def images(pair_bin):
    return open_pairs(pair_bin()).images


@pytest.fixture
def faces(tmp_path, dots, dot_points):
    """Images of several sizes, one without a face, and where their dots are, in pixels."""
    points = dot_points + np.random.default_rng(0).uniform(-0.06, 0.06, (len(SIZES), 1, 2))
    (tmp_path / "faces").mkdir()
    for number, (size_hw, each) in enumerate(zip(SIZES, points, strict=True)):
        image = dots(size_hw, each) if number != BLANK else np.full((*size_hw, 3), 128, np.uint8)
        cv2.imwrite(str(tmp_path / f"faces/{number}.png"), image[..., ::-1])
    pixels = points * np.array(SIZES)[:, None, ::-1] - 0.5
    names = [f"{number}.png" for number in range(len(SIZES))]
    return FolderImages(tmp_path / "faces", names, tmp_path), pixels.astype(np.float32)


def calls(model):
    """How many images the model has seen since it was asked last, mirrors too."""
    count = sum(len(call[0]) for call in model.calls)
    model.calls.clear()
    return count


def folders(cache):
    return sorted(path.name for path in cache.iterdir())


def test_as_in_memory_and_found_again(images, toy, tmp_path):
    model, cache = toy(), tmp_path / "cache"
    expected = embed_images(model, images, batch_size=5).values
    calls(model)
    made = cached_features(model, images, folder=cache, batch_size=5)
    assert calls(model) == 72
    again = cached_features(model, images, folder=cache, batch_size=11)
    assert calls(model) == 0
    assert (made.reused, again.reused) == (False, True)
    for found in (made, again):
        assert isinstance(found.embeddings, np.memmap)
        assert not found.embeddings.flags.writeable
        np.testing.assert_array_equal(found.embeddings, expected)
        assert (found.landmarks, found.scores, found.valid, found.without_landmarks) == (None, None, None, 0)
    np.testing.assert_array_equal(cached_features(model, images, batch_size=5).embeddings, expected)
    (folder,) = cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["embeddings.npy", "features.json"]
    assert json.loads((folder / "features.json").read_text())["made_of"]["images"]["count"] == 36


def test_whatever_counts_makes_them_anew(images, toy, points, tmp_path):
    model, cache = toy(needs_keypoints=True), tmp_path / "cache"
    known = Landmarks(points=np.stack([points] * 36), scores=np.ones(36, np.float32), found=np.arange(36) != 3)
    moved = Landmarks(points=known.points + 0.01, scores=known.scores, found=known.found)

    def made(**options):
        given = {"images": images, "landmarks": known, "missing_landmarks": "hide", **options}
        return not cached_features(model, folder=cache, **given).reused

    assert made()
    assert not made(batch_size=7, num_workers=1)
    assert made(flip_test=False)
    assert made(precision="bf16")
    assert made(landmarks=moved)
    assert made(missing_landmarks="reference")
    path = images.path
    content = read_bin(path)
    write_bin(path, content.images[::-1], content.same)
    assert made(images=open_pairs(path).images)
    with torch.no_grad():
        model.norm.running_mean[0] += 1e-3  # a buffer
    assert made()
    with torch.no_grad():
        model.pixels[0, 0] += 1e-3
    assert made()
    assert not made()
    assert len(folders(cache)) == 8


def test_files_count_by_name_size_and_time(photos, toy, tmp_path):
    root = photos(people=2, each=2)
    names = [f"person{i}/person{i}_000{j}.png" for i in range(2) for j in (1, 2)]
    model, cache = toy(), tmp_path / "cache"

    def made(names=names, root=root):
        return not cached_features(model, FolderImages(root, names, root), folder=cache).reused

    assert made()
    assert not made()
    assert made(names[::-1])
    assert made(names[:3])
    moved = tmp_path / "moved"
    moved.mkdir()
    for person in range(2):
        os.rename(root / f"person{person}", moved / f"person{person}")
    assert not made(root=moved)
    entry = os.stat(moved / names[1])
    os.utime(moved / names[1], ns=(entry.st_atime_ns, entry.st_mtime_ns + 1))
    assert made(root=moved)


def test_aligners_and_alignments_count(faces, toy, dot_aligner, tmp_path):
    images, pixels = faces
    cache = tmp_path / "cache"
    model = toy((48, 48), needs_keypoints=True)

    def made(kind="dfa", source_size=224, images=images, **settings):
        pipeline = RecognitionPipeline(model, kind, dot_aligner(out_hw=(48, 48), **settings), source_size)
        return not cached_features(pipeline, images, folder=cache).reused

    assert made()
    assert not made()
    assert made("dfa_aligned")
    assert made(source_size=64)
    assert made(padding_ratio=0.1)
    assert made(images=UnalignedImages(images, pixels))
    assert made(images=AlignedImages(images, pixels, (48, 48)))
    assert made(images=AlignedImages(images, pixels + 1, (48, 48)))
    with torch.no_grad():
        dot_aligner().network.sharpness += 0.1
    assert made()


@pytest.mark.parametrize("second_size", [5, 7])
def test_an_interrupted_run_goes_on(images, toy, tmp_path, monkeypatch, second_size):
    monkeypatch.setattr(module, "BLOCK", 10)
    model, cache = toy(), tmp_path / "cache"
    expected = embed_images(model, images, batch_size=5).values
    calls(model)
    read = type(images).read

    def stops(self, index):
        if index == 23:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(type(images), "read", stops)
        with pytest.raises(KeyboardInterrupt):
            cached_features(model, images, folder=cache, batch_size=5)
    assert calls(model) == 40
    (partial,) = folders(cache)
    assert partial.endswith(".partial")
    (note,) = (cache / partial).glob("done.*.txt")
    note.write_text(note.read_text() + "30 3")  # a line that was cut off
    found = cached_features(model, images, folder=cache, batch_size=second_size)
    assert calls(model) == 2 * (
        16 if second_size == 5 else 22
    )  # of 7: those from 14 on, a batch in which some are done
    np.testing.assert_allclose(found.embeddings, expected, rtol=0, atol=1e-5)
    if second_size == 5:
        np.testing.assert_array_equal(found.embeddings, expected)
    assert not any(name.startswith(".") for name in folders(cache))


def test_what_was_done_before_an_error_is_kept(pair_bin, toy, tmp_path):
    path = pair_bin()
    content = read_bin(path)
    write_bin(path, [*content.images[:30], content.images[30][:60], *content.images[31:]], content.same)
    model, cache = toy(), tmp_path / "cache"
    images = open_pairs(path).images
    with pytest.raises(ImageError, match=r"toy\.bin, image 30: "):
        cached_features(model, images, folder=cache, batch_size=5)
    first = calls(model)
    assert first > 0
    with pytest.raises(ImageError, match=r"toy\.bin, image 30: "):
        cached_features(model, images, folder=cache, batch_size=5)
    assert calls(model) == 0


def test_nan_is_an_error_that_names_the_image(images, toy, tmp_path):
    model = toy()
    brightest = int(np.argmax([images.read(index).mean() for index in range(36)]))
    limit = images.read(brightest).mean() / 127.5 - 1 - 1e-4

    def spoil(_, inputs, output):
        output[inputs[0].mean((1, 2, 3)) > limit] = float("nan")

    model.register_forward_hook(spoil)
    for folder in (None, tmp_path / "cache"):
        with pytest.raises(ValueError, match=rf"1 of 4 embeddings hold NaN .*: {images.name_of(brightest)}$"):
            cached_features(model, images, folder=folder, batch_size=4)
    assert all(name.endswith(".partial") for name in folders(tmp_path / "cache"))


def test_landmarks_are_those_of_what_the_model_got(faces, toy, dot_aligner, tmp_path):
    images, pixels = faces
    seen = np.arange(len(SIZES)) != BLANK
    aligned = AlignedImages(images, pixels, (48, 48))
    spy = toy((48, 48), needs_keypoints=True)
    for kind in ("dfa", "dfa_aligned"):
        pipeline = RecognitionPipeline(spy, kind, dot_aligner(out_hw=(48, 48)))
        for folder in (None, tmp_path / "cache", tmp_path / "cache"):
            found = cached_features(pipeline, images, folder=folder, flip_test=False)
            assert found.valid.tolist() == seen.tolist()
            assert found.degenerate == 1
            assert (found.scores[seen] > 0.5).all()
            if spy.calls:  # the model's keypoints: images of one size follow each other
                given = np.empty((5, 5, 2))
                given[[0, 2, 4, 1, 3]] = spy.calls[-1][1].numpy()
                np.testing.assert_allclose(found.landmarks[seen], given[seen], atol=1e-6)
                spy.calls.clear()
        if kind == "dfa_aligned":  # the dots as the table has them, aligned by the table
            np.testing.assert_allclose(found.landmarks[seen], aligned.landmarks.points[seen], atol=0.02)
    given = cached_features(spy, aligned, aligned.landmarks)
    np.testing.assert_array_equal(given.landmarks, aligned.landmarks.points)
    assert given.valid.all()


@pytest.mark.parametrize("needs_keypoints", [True, False])
def test_landmarks_that_come_with_images(faces, toy, tmp_path, needs_keypoints):
    """Fractions of each image, whose sizes no list has; the same keypoints as from a table of them."""
    images, pixels = faces
    fractions = ((pixels + 0.5) / np.array(SIZES)[:, None, ::-1]).astype(np.float32)
    table = Landmarks(points=fractions, scores=np.ones(5, np.float32), found=np.ones(5, bool))
    model = toy((48, 48), needs_keypoints)
    expected = embed_images(model, images, table).values
    for folder in (None, tmp_path / "cache"):
        for num_workers in (0, 1):
            marked = UnalignedImages(images, pixels)
            found = cached_features(model, marked, folder=folder, num_workers=num_workers, batch_size=3)
            np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
            np.testing.assert_allclose(found.landmarks, fractions, atol=1e-6)
            assert found.valid.all()


def test_folders_that_cannot_be_used(images, toy, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for check in (check_cache_folder, lambda folder: cached_features(toy(), images, folder=folder)):
        with pytest.raises(OSError, match=r"file: features cannot be kept there \("):
            check(tmp_path / "file")
    cache = tmp_path / "cache"
    cached_features(toy(), images, folder=cache)
    (whole,) = cache.iterdir()
    array = whole / "embeddings.npy"
    content = array.read_bytes()
    array.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=rf"{whole}: damaged features .*; remove the folder"):
        cached_features(toy(), images, folder=cache)
    array.write_bytes(content)
    (whole / "features.json").unlink()
    with pytest.raises(ValueError, match=r"damaged features, without features\.json; remove the folder"):
        cached_features(toy(), images, folder=cache)


def test_two_runs_do_not_make_the_same(images, toy, tmp_path):
    cache = tmp_path / "cache"
    cached_features(toy(), images, folder=cache)
    (whole,) = cache.iterdir()
    whole.rename(tmp_path / "away")
    with held_folder(cache / f".{whole.name}.partial"), pytest.raises(ValueError, match="another run writes to it"):
        cached_features(toy(), images, folder=cache)
    assert not cached_features(toy(), images, folder=cache).reused


def test_the_aligners_network_runs_once_a_batch(faces, toy, dot_aligner):
    images, _ = faces
    pipeline = RecognitionPipeline(toy((48, 48), needs_keypoints=True), "dfa_aligned", dot_aligner(out_hw=(48, 48)))
    network = pipeline.aligner.network
    cached_features(pipeline, images, batch_size=4)
    assert [shape[0] for shape in network.shapes] == [4, 1]
    groups = [torch.from_numpy(images.read(index)).permute(2, 0, 1)[None] / 127.5 - 1 for index in range(5)]
    together = pipeline.aligner.align_groups(groups)
    assert network.shapes[-1][0] == 5
    for found, group in zip(together, groups, strict=True):
        for one, alone in zip(found, pipeline.aligner(group), strict=True):
            torch.testing.assert_close(one, alone, atol=1e-6, rtol=0, equal_nan=True)
    assert pipeline.aligner.align_groups([]) == []
