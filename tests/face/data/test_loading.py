"""Batches of decoded images: order, sizes, what cannot be read, and arrays that do not grow without bounds."""

import numpy as np
import pytest

from face.data import ImageError, loading
from face.data.loading import load_batches


def read(index):
    """Index 3 is broken; odd ones are wide."""
    if index == 3:
        raise ImageError("image 3: broken")
    return np.full((4, 6 if index % 2 else 5, 3), index, np.uint8)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_keep_order_and_sizes_apart(num_workers):
    first, second = load_batches(read, [[7, 2, 3, 0], np.array([4, 6])], num_workers)
    assert first.indices.tolist() == [7, 2, 3, 0]
    assert {place: str(error) for place, error in first.errors.items()} == {2: "image 3: broken"}
    assert isinstance(first.errors[2], ImageError)
    assert [group.places.tolist() for group in first.groups] == [[0], [1, 3]]
    for batch in (first, second):
        for group in batch.groups:
            for place, pixels in zip(group.places, group.pixels, strict=True):
                index = int(batch.indices[place])
                np.testing.assert_array_equal(np.asarray(pixels), read(index).transpose(2, 0, 1))
    assert second.groups[0].places.tolist() == [0, 1]


def test_large_images_are_cut_into_several_arrays(monkeypatch):
    monkeypatch.setattr(loading, "_MOST_PIXELS", 45)
    (batch,) = load_batches(read, [[0, 2, 4, 6, 8]])
    assert [group.places.tolist() for group in batch.groups] == [[0, 1], [2, 3], [4]]


def test_a_batch_of_which_nothing_can_be_read():
    (batch,) = load_batches(read, [[3]])
    assert batch.groups == []
    assert list(batch.errors) == [0]
