"""Prepared sequences to batches: everything wrong is found before training, everything random follows from its seed."""

import math
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.runtime.arrays import load_array, save_array
from plugin.partition import read_partition
from plugin.runtime.data import Collate, Draw, GaitDataset, InferenceSampler, TripletSampler, make_loader
from plugin.runtime.settings import DataSettings, EvaluatorSampler, TrainerSampler
from plugin.transforms import BaseSilCuttingTransform, BaseSilTransform, PairedCompose, RandomHorizontalFlip

SUBJECTS = ["0001", "0002", "0003", "0004", "0005"]
SEQUENCE = ("camid0_videoid1", "seq0")


def settings(data, **changes):
    paths = {"dataset_root": str(data.root), "dataset_partition": str(data.partition)}
    return DataSettings(dataset_name="tiny", **{**paths, **changes})


def dataset(data, training=True, needs_keypoints=True, **changes):
    return GaitDataset(settings(data, **changes), training, needs_keypoints)


# --- partition ---


def test_partition_is_read(prepared):
    partition = read_partition(prepared.partition)
    assert partition.train == tuple(SUBJECTS)
    assert partition.probes[0] == "0006-camid0_videoid1-seq0"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "partition is not JSON"),
        ("[]", "expected an object with TRAIN_SET, TEST_SET, PROBE_SET, found a list"),
        ('{"TRAIN_SET": []}', "TEST_SET is missing"),
        ('{"TRAIN_SET": [1], "TEST_SET": "0001", "PROBE_SET": []}', "TRAIN_SET is not a list of strings; TEST_SET"),
    ],
)
def test_wrong_partition_is_refused(own_data, content, expected):
    own_data.partition.write_text(content)
    with pytest.raises(ValueError, match=expected) as caught:
        dataset(own_data)
    assert str(own_data.partition) in str(caught.value)


def test_missing_partition_is_refused(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: partition cannot be read: No such file"):
        dataset(prepared, dataset_partition=str(tmp_path / "none.json"))


# --- data set ---


def test_sequences_labels_and_frames(prepared):
    train, test = dataset(prepared), dataset(prepared, training=False)
    assert train.label_set == SUBJECTS
    assert test.label_set == ["0006", "0007", "0008"]
    assert len(train) == 15
    assert [sequence.name for sequence in train.sequences[:3]] == [
        "0001-camid0_videoid1-seq0",
        "0001-camid0_videoid1-seq1",
        "0001-camid1_videoid2-seq0",
    ]
    for sequence in train.sequences:
        assert sequence.frames == len(load_array(sequence.paths[0]))
    assert train.indices_dict["0002"] == [3, 4, 5]


def test_labels_are_numbered_in_sorted_order_whatever_the_partition_says(own_data):
    own_data.write_partition(TRAIN_SET=["0003", "0001", "0002", "9999"])
    data = dataset(own_data)
    assert data.label_set == ["0001", "0002", "0003"]
    for index, sequence in enumerate(data.sequences):
        assert data[Draw(index, 0)].label_index == int(sequence.label) - 1


def test_subject_named_twice_is_there_once(own_data):
    own_data.write_partition(TEST_SET=["0006", "0007", "0006"])
    assert len(dataset(own_data, training=False)) == 6


def test_missing_folder_is_refused(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset_root: no such folder: .*nowhere"):
        dataset(prepared, dataset_root=str(tmp_path / "nowhere"))


def test_folder_of_other_subjects_is_refused(own_data):
    own_data.write_partition(TRAIN_SET=["A", "B"])
    with pytest.raises(ValueError, match=r"none of the 2 subjects of TRAIN_SET is in .* 8 folders: 0001, 0002"):
        dataset(own_data)


def test_subjects_without_sequences_are_refused(own_data):
    shutil.rmtree(own_data.root)
    (own_data.root / "0001").mkdir(parents=True)
    with pytest.raises(ValueError, match="the 1 subjects of the partition have no sequences"):
        dataset(own_data)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (None, [0, 1]),
        ([True, True], [0, 1]),
        ([True, False], [0]),
        ([True], [0]),
        ([0, 1], [0, 1]),
        ([0], [0]),
        ([0, 7], [0]),
    ],
)
def test_streams_in_use_as_mask_or_indices(prepared, use, expected):
    data = dataset(prepared, needs_keypoints=False, data_in_use=use)
    files = [prepared.silhouettes("0001"), prepared.keypoints("0001")]
    assert list(data.sequences[0].paths) == [files[index] for index in expected]


@pytest.mark.parametrize("use", [[True, False], [0], [False, True]])
def test_model_with_keypoints_needs_both_streams(prepared, use):
    with pytest.raises(ValueError, match=r"silhouettes and keypoints, data_in_use .* leaves 1 of these: 0-silh"):
        dataset(prepared, data_in_use=use)


def test_swapped_streams_are_refused(prepared):
    with pytest.raises(ValueError, match=r"1-keypoints\.pkl: expected silhouettes, uint8 \[T, h, w\], found float32"):
        dataset(prepared, data_in_use=[1, 0])


def test_three_streams_are_refused(own_data):
    shutil.copy(own_data.keypoints("0001"), own_data.folder("0001") / "2-more.pkl")
    with pytest.raises(ValueError, match="at most 2 streams in use"):
        dataset(own_data)
    assert len(dataset(own_data, data_in_use=[True, True, False])) == 15


def spoil_truncated(data):
    path = data.silhouettes("0001")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def spoil_objects(data):
    path = data.silhouettes("0002")
    path.write_bytes(pickle.dumps([Path("anything")]))
    return path


def spoil_missing(data):
    data.keypoints("0003").unlink()
    return data.folder("0003")


def spoil_shape(data):
    path = data.keypoints("0004")
    save_array(path, load_array(path)[:, :16])
    return path


def spoil_length(data):
    path = data.keypoints("0004", ("camid0_videoid1", "seq1"))
    save_array(path, load_array(path)[1:])
    return path


def spoil_dtype(data):
    path = data.silhouettes("0004", ("camid1_videoid2", "seq0"))
    save_array(path, load_array(path).astype(np.float32))
    return path


def spoil_nan(data):
    path = data.keypoints("0005")
    keypoints = load_array(path)
    keypoints[2, 3, 1] = math.nan
    save_array(path, keypoints)
    return path


def spoil_scale(data):
    path = data.keypoints("0005", ("camid1_videoid2", "seq0"))
    save_array(path, load_array(path) * np.float32([50, 50, 1]))
    return path


def spoil_empty(data):
    path = data.silhouettes("0005", ("camid0_videoid1", "seq1"))
    save_array(path, load_array(path)[:0])
    return path


SPOILERS = {
    spoil_truncated: "not a whole pickled NumPy array",
    spoil_objects: "not part of a pickled NumPy array; refused",
    spoil_missing: "leaves 1 of these: 0-silhouettes.pkl",
    spoil_shape: "17, 3] (the silhouettes' frames, joints, x y confidence), found float32 [",
    spoil_length: "expected keypoints",
    spoil_dtype: "expected silhouettes, uint8 [T, h, w], found float32",
    spoil_nan: "keypoints must be finite",
    spoil_scale: "keypoints must be fractions of the image",
    spoil_empty: "at least one frame",
}


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_spoilt_sequence_is_named(own_data, spoil):
    path = spoil(own_data)
    with pytest.raises(ValueError, match=r"1 sequence\(s\) cannot be used") as caught:
        dataset(own_data)
    assert f"{path}: " in str(caught.value)
    assert SPOILERS[spoil] in str(caught.value)


def test_all_spoilt_sequences_are_listed_at_once(own_data):
    paths = [spoil(own_data) for spoil in SPOILERS]
    with pytest.raises(ValueError, match=rf"{len(paths)} sequence\(s\) cannot be used") as caught:
        dataset(own_data)
    for path in paths:
        assert str(path) in str(caught.value)


def test_baseline_does_not_mind_spoilt_keypoints(own_data):
    spoil_missing(own_data)
    spoil_nan(own_data)
    assert len(dataset(own_data, needs_keypoints=False, data_in_use=[True, False])) == 15


def test_cache_reads_a_file_once(own_data):
    cached, fresh = dataset(own_data, cache=True), dataset(own_data)
    before = cached[Draw(0, 0)].streams
    fresh_before = fresh[Draw(0, 0)].streams
    assert all(np.array_equal(a, b) for a, b in zip(before, fresh_before, strict=True))
    own_data.silhouettes("0001").unlink()
    assert cached[Draw(0, 0)].streams[0] is before[0]
    with pytest.raises(FileNotFoundError):
        fresh[Draw(0, 0)]


# --- gallery ---


def test_gallery_check_keeps_everything(prepared):
    assert dataset(prepared, training=False).gallery_check(False) == list(range(9))


def test_no_probe_is_refused(own_data):
    own_data.write_partition(PROBE_SET=["0099-a-b"])
    with pytest.raises(ValueError, match=r"PROBE_SET names none of the 9 test sequences \(for example 0006-camid0"):
        dataset(own_data, training=False).gallery_check(True)


def test_probe_without_gallery_is_refused_or_left_out(own_data):
    shutil.rmtree(own_data.folder("0007", ("camid0_videoid1", "seq1")))
    shutil.rmtree(own_data.folder("0007", ("camid1_videoid2", "seq0")))
    data = dataset(own_data, training=False)
    with pytest.raises(ValueError, match=r"1 of 3 probes have no gallery.*0007-camid0_videoid1-seq0"):
        data.gallery_check(False)
    kept = data.gallery_check(True)
    assert [data.sequences[index].name for index in kept] == [
        sequence.name for sequence in data.sequences if sequence.label != "0007"
    ]


def test_test_set_of_probes_alone_is_refused(own_data):
    names = [sequence.name for sequence in dataset(own_data, training=False).sequences]
    own_data.write_partition(PROBE_SET=names)
    for remove in (False, True):
        with pytest.raises(ValueError, match="9 of 9 probes have no gallery"):
            dataset(own_data, training=False).gallery_check(remove)


# --- samplers ---


def sampler(data, subjects=3, each=2, seed=0, first=0, rank=0, world=1, **changes):
    return TripletSampler(data, TrainerSampler(batch_size=(subjects, each), **changes), seed, first, rank, world)


def take(batches, count):
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_have_p_subjects_with_k_sequences(prepared, shuffle):
    data = dataset(prepared)
    drawn = Counter()
    for batch in take(sampler(data, batch_shuffle=shuffle), 200):
        labels = Counter(data.sequences[draw.sequence].label for draw in batch)
        assert list(labels.values()) == [2, 2, 2]
        assert len({draw.sequence for draw in batch}) == 6
        assert len({draw.seed for draw in batch}) == 6
        drawn.update(draw.sequence for draw in batch)
    assert len(drawn) == 15
    assert min(drawn.values()) > 200 * 6 / 15 / 2  # each sequence is expected 80 times


def test_unshuffled_batches_lie_subject_by_subject(prepared):
    data = dataset(prepared)
    for batch in take(sampler(data), 20):
        labels = [data.sequences[draw.sequence].label for draw in batch]
        assert labels == sorted(labels, key=labels.index)
    mixed = [[data.sequences[d.sequence].label for d in batch] for batch in take(sampler(data, batch_shuffle=True), 20)]
    assert any(labels != sorted(labels, key=labels.index) for labels in mixed)


def test_sequences_repeat_only_where_a_subject_has_too_few(own_data):
    shutil.rmtree(own_data.folder("0001"))
    data = dataset(own_data)
    for batch in take(sampler(data, subjects=5, each=3), 30):
        by_label: dict[str, list[int]] = {}
        for draw in batch:
            by_label.setdefault(data.sequences[draw.sequence].label, []).append(draw.sequence)
        assert {label: len(own) for label, own in by_label.items()} == dict.fromkeys(SUBJECTS, 3)
        assert all(len(set(own)) == 3 for label, own in by_label.items() if label != "0001")
        assert len(set(by_label["0001"])) <= 2


def test_a_batch_follows_from_seed_and_number_alone(prepared):
    data = dataset(prepared)
    straight = take(sampler(data, seed=5), 8)
    assert take(sampler(data, seed=5, first=3), 5) == straight[3:]
    assert take(sampler(data, seed=6), 8) != straight
    assert len({tuple(batch) for batch in straight}) == 8


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_without_overlap(prepared, world):
    data = dataset(prepared)
    whole = take(sampler(data), 5)
    shares = [take(sampler(data, rank=rank, world=world), 5) for rank in range(world)]
    for number in range(5):
        parts = [shares[rank][number] for rank in range(world)]
        assert {len(part) for part in parts} == {6 // world}
        assert sorted(draw for part in parts for draw in part) == sorted(whole[number])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subjects": 6}, "asks for 6 subjects, the training set has 5"),
        ({"subjects": 1}, "at least 2 subjects"),
        ({"world": 4}, "3 x 2 sequences cannot be shared by 4 processes"),
    ],
)
def test_impossible_batches_are_refused(prepared, changes, expected):
    with pytest.raises(ValueError, match=expected):
        sampler(dataset(prepared), **changes)


@pytest.mark.parametrize("world", [1, 2, 4, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_inference_covers_every_sequence_once(world, batch_size):
    indices = [3, 5, 7, 8, 9, 11, 20, 21, 22]
    seen = []
    for rank in range(world):
        own = InferenceSampler(indices, batch_size, 0, rank, world)
        batches = list(own)
        assert len(own) == len(batches)
        assert all(0 < len(batch) <= max(1, batch_size // world) for batch in batches)
        seen += [draw for batch in batches for draw in batch]
    assert sorted(draw.sequence for draw in seen) == indices
    single = {draw for batch in InferenceSampler(indices, 4, 0) for draw in batch}
    assert set(seen) == single  # the same random choices, however many processes


# --- collation ---


def frame_draws(frames, count, skip, sample_type="fixed_ordered", draws=400):
    settings = TrainerSampler(frames_num_fixed=count, frames_skip_num=skip, sample_type=sample_type)
    collate = Collate(settings, PairedCompose([]))
    rng = np.random.default_rng(0)
    return [collate.frame_indices(frames, rng) for _ in range(draws)]


def test_fixed_ordered_takes_ordered_frames_of_one_stretch():
    draws = frame_draws(frames=20, count=5, skip=3)
    for picked in draws:
        assert len(picked) == 5
        assert (np.diff(picked) > 0).all()
        assert picked.max() - picked.min() < 5 + 3
        assert 0 <= picked.min() <= picked.max() < 20
    assert {int(picked[0]) for picked in draws} >= set(range(13))
    assert {int(picked[-1]) for picked in draws} >= set(range(7, 20))
    assert max(int(picked[-1] - picked[0]) for picked in draws) == 7


def test_fixed_ordered_has_opengaits_distribution():
    """Start uniform over all stretches, then frames uniform without replacement: compared by frame frequencies."""
    frames, count, skip, draws = 9, 3, 2, 6000
    ours = np.bincount(np.concatenate(frame_draws(frames, count, skip, draws=draws)), minlength=frames) / draws
    expected = np.zeros(frames)
    starts = range(frames - (count + skip) + 1)
    for start in starts:
        expected[start : start + count + skip] += count / (count + skip) / len(starts)
    assert_close(ours, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_short_sequences_repeat_in_order(frames):
    count, skip = 6, 3
    for picked in frame_draws(frames, count, skip):
        assert len(picked) == count
        assert set(picked) <= set(range(frames))
        # Unrolled over repetitions, the frames lie in order within one stretch.
        steps = (np.diff(picked) - 1) % frames + 1
        assert steps.sum() < count + skip


def test_exactly_long_enough_sequence_is_not_repeated():
    for picked in frame_draws(frames=8, count=5, skip=3):
        assert (np.diff(picked) > 0).all()


def test_fixed_unordered_draws_from_anywhere():
    draws = frame_draws(frames=20, count=5, skip=0, sample_type="fixed_unordered")
    assert all(len(set(picked)) == 5 for picked in draws)
    assert any((np.diff(picked) < 0).any() for picked in draws)
    counts = np.bincount(np.concatenate(draws), minlength=20)
    assert counts.min() > 60  # expected 100
    assert all(len(picked) == 5 for picked in frame_draws(3, 5, 0, "fixed_unordered"))


@pytest.mark.parametrize(("limit", "expected"), [(None, 9), (4, 4), (20, 9)])
def test_whole_sequences_up_to_a_limit(limit, expected):
    collate = Collate(EvaluatorSampler(frames_all_limit=limit), PairedCompose([]))
    assert collate.frame_indices(9, np.random.default_rng(0)).tolist() == list(range(expected))


def loaded(data, indices, seed=0):
    return [data[Draw(index, seed + index)] for index in indices]


def test_train_batch(prepared):
    data = dataset(prepared)
    collate = Collate(TrainerSampler(frames_num_fixed=4), PairedCompose([BaseSilCuttingTransform()]))
    batch = collate(loaded(data, [0, 4, 14]))
    assert [list(stream.shape) for stream in batch.streams] == [[3, 4, 64, 44], [3, 4, 17, 3]]
    assert [stream.dtype for stream in batch.streams] == [torch.float32] * 2
    assert batch.lengths is None
    assert batch.labels.tolist() == [0, 1, 4]
    assert batch.labels.dtype == torch.int64
    assert batch.names == ["0001-camid0_videoid1-seq0", "0002-camid0_videoid1-seq1", "0005-camid1_videoid2-seq0"]
    assert (batch.types[2], batch.views[2]) == ("camid1_videoid2", "seq0")
    assert batch.streams[0].unique().tolist() == [0.0, 1.0]


def test_whole_sequences_lie_end_to_end(prepared):
    data = dataset(prepared)
    batch = Collate(EvaluatorSampler(), PairedCompose([BaseSilTransform()]))(loaded(data, [2, 7]))
    frames = [data.sequences[index].frames for index in (2, 7)]
    assert batch.lengths.tolist() == [frames]
    assert list(batch.streams[0].shape) == [1, sum(frames), 64, 64]
    stored = [load_array(data.sequences[index].paths[0]) for index in (2, 7)]
    assert torch.equal(batch.streams[0][0] * 255, torch.from_numpy(np.concatenate(stored)).float())


def test_frames_of_both_streams_stay_together(own_data):
    """Each frame's number is written into its silhouette and its joints."""
    numbers = np.arange(11, dtype=np.uint8)
    save_array(own_data.silhouettes("0001"), np.broadcast_to(numbers[:, None, None], (11, 64, 64)).copy())
    keypoints = np.full((11, 17, 3), 32, np.float32)
    keypoints[..., 2] = numbers[:, None] / 10
    save_array(own_data.keypoints("0001"), keypoints)
    data = dataset(own_data)
    for kind in ("fixed_ordered", "fixed_unordered"):
        collate = Collate(
            TrainerSampler(frames_num_fixed=6, frames_skip_num=2, sample_type=kind), PairedCompose([BaseSilTransform()])
        )
        for seed in range(10):
            silhouettes, joints = collate([data[Draw(0, seed)]]).streams
            assert_close(silhouettes[0, :, 5, 5] * 255, joints[0, :, 3, 2] * 10, rtol=0, atol=1e-4)


def test_keypoints_in_pixels_become_fractions_of_the_cut_silhouette(prepared):
    data = dataset(prepared)
    stored = load_array(data.sequences[0].paths[1])
    joints = Collate(EvaluatorSampler(), PairedCompose([BaseSilCuttingTransform()]))(loaded(data, [0])).streams[1][0]
    assert_close(joints[..., 0], torch.from_numpy((stored[..., 0] - 10 + 0.5) / 44))
    assert_close(joints[..., 1], torch.from_numpy((stored[..., 1] + 0.5) / 64))
    assert_close(joints[..., 2], torch.from_numpy(stored[..., 2]))


def test_transform_follows_from_the_draws_seed(prepared):
    data = dataset(prepared)
    collate = Collate(TrainerSampler(), PairedCompose([RandomHorizontalFlip(prob=0.5)]))
    first, again, other = (collate([data[Draw(0, seed)]]) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.streams, again.streams, strict=True))
    assert not torch.equal(first.streams[0], other.streams[0])


def test_place_in_the_batch_does_not_matter(prepared):
    data = dataset(prepared)
    collate = Collate(TrainerSampler(), PairedCompose([RandomHorizontalFlip(prob=0.5)]))
    items = loaded(data, [0, 5, 9])
    forward, backward = collate(items), collate(items[::-1])
    for a, b in zip(forward.streams, backward.streams, strict=True):
        assert torch.equal(a, b.flip(0))


def test_silhouettes_of_different_size_are_refused_by_name(own_data):
    path = own_data.silhouettes("0001")
    save_array(path, load_array(path)[:, :, :60])
    with pytest.raises(ValueError, match="must have the same size") as caught:
        dataset(own_data)
    assert "[64, 60]: for example " + str(path) in str(caught.value)
    assert "[64, 64]: for example " in str(caught.value)


def test_keypoints_in_fractions_are_refused_where_pixels_are_due(own_data):
    path = own_data.keypoints("0002")
    keypoints = load_array(path)
    keypoints[..., :2] /= 64
    save_array(path, keypoints)
    with pytest.raises(ValueError, match="must be in pixels of the 64 x 64 silhouettes") as caught:
        dataset(own_data)
    assert str(path) in str(caught.value)


def test_number_of_workers_does_not_change_the_batches(prepared):
    batches = {}
    for workers in (0, 2):
        data = dataset(prepared, cache=workers == 2)
        collate = Collate(TrainerSampler(frames_num_fixed=4), PairedCompose([RandomHorizontalFlip(prob=0.5)]))
        batches[workers] = take(make_loader(data, sampler(data), collate, workers), 4)
    for alone, together in zip(batches[0], batches[2], strict=True):
        assert alone.names == together.names
        assert torch.equal(alone.labels, together.labels)
        assert all(torch.equal(a, b) for a, b in zip(alone.streams, together.streams, strict=True))


@pytest.mark.parametrize("confidence", [87.0, -0.5])
def test_confidences_out_of_range_are_refused(own_data, confidence):
    path = own_data.keypoints("0002")
    keypoints = load_array(path)
    keypoints[0, 3, 2] = confidence
    save_array(path, keypoints)
    with pytest.raises(ValueError, match="confidences must be within 0 and 1") as caught:
        dataset(own_data)
    assert str(path) in str(caught.value)


def test_hidden_files_and_folders_are_not_data(own_data):
    sequence = own_data.silhouettes("0001").parent
    (sequence / "._0-silhouettes.pkl").write_bytes(b"left by an archive")
    (sequence.parent.parent / ".AppleDouble" / "x").mkdir(parents=True)
    (own_data.root / ".prepare").mkdir()
    assert len(dataset(own_data)) == len(dataset(own_data, needs_keypoints=False))
