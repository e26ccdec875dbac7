"""Which image is where: a permutation, repeats of neighbours, and the same batches however they are shared out."""

import numpy as np
import pytest

from face.training.sampler import EpochBatches, epoch_order

LABELS = np.repeat(np.arange(40), 5)[np.random.default_rng(0).permutation(200)]


def batches(**settings):
    arguments = {"labels": LABELS, "batch_size": 12, "seed": 3, "first_batch": 0, "last_batch": 40} | settings
    return list(EpochBatches(**arguments))


def test_without_repeats_an_epoch_is_a_permutation():
    order = epoch_order(LABELS, seed=1, epoch=2)
    assert sorted(order) == list(range(len(LABELS)))
    assert not np.array_equal(order, epoch_order(LABELS, seed=1, epoch=3))
    assert not np.array_equal(order, epoch_order(LABELS, seed=2, epoch=2))
    np.testing.assert_array_equal(order, epoch_order(LABELS, seed=1, epoch=2))


def test_a_repeat_is_of_its_neighbours_identity_and_never_two_in_a_row():
    labels = np.repeat(np.arange(4000), 3)
    plain, repeated = epoch_order(labels, 5, 0), epoch_order(labels, 5, 0, repeat_probability=0.5)
    changed = np.flatnonzero(plain != repeated)
    np.testing.assert_array_equal(labels[repeated[changed]], labels[plain[changed - 1]])
    assert np.diff(changed).min() >= 2
    # A chain that goes on with p and always returns: p / (1 + p) of the places, less one in three that drew the image
    # of its own place (never here) or of the neighbour itself, which is a repeat all the same.
    assert len(changed) / len(labels) == pytest.approx(0.5 / 1.5, abs=0.015)
    others = repeated[changed] != plain[changed - 1]
    assert others.mean() == pytest.approx(2 / 3, abs=0.03)  # one of an identity's three images


def test_always_repeating_shows_every_second_place_twice():
    order = epoch_order(LABELS, 5, 0, repeat_probability=1.0, repeat_same_image=True)
    np.testing.assert_array_equal(order[0::2], order[1::2])
    assert len(set(order[0::2])) == 100


def test_going_on_from_a_batch_gives_the_batches_that_would_have_come():
    assert batches(first_batch=17) == batches()[17:]
    assert len(EpochBatches(LABELS, 12, 3, 17, 40, parts=2)) == 46


def test_batches_cross_epochs_and_leave_out_what_does_not_fill_one():
    drawn = batches()
    assert [key.epoch for key in (drawn[15][-1], drawn[16][0])] == [0, 1]  # 16 batches of 12 in 200 images
    first = [key.image for batch in drawn[:16] for key in batch]
    np.testing.assert_array_equal(first, epoch_order(LABELS, 3, 0)[:192])


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 3), (2, 3), (4, 1)])
def test_shares_of_all_processes_and_parts_make_up_the_batch(world, parts):
    whole = batches(repeat_probability=0.5)
    shares = [batches(rank=rank, world=world, parts=parts, repeat_probability=0.5) for rank in range(world)]
    for number, batch in enumerate(whole):
        together = [key for share in shares for part in share[number * parts : (number + 1) * parts] for key in part]
        assert sorted(together) == sorted(batch)
        assert {len(part) for share in shares for part in share} == {12 // (world * parts)}


def test_refusals():
    with pytest.raises(ValueError, match=r"batch_size 256 is more than the 200 images"):
        batches(batch_size=256)
    with pytest.raises(ValueError, match=r"batch_size 12 cannot be shared out over 5 process\(es\) x 1"):
        batches(world=5)
