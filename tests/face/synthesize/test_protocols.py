"""Pairs, gallery and probes by their definitions."""

import numpy as np
import pytest

from face.synthesize.protocols import draw_gallery, draw_pairs


@pytest.mark.parametrize(("identities", "images", "count"), [(4, 4, 40), (6, 3, 20), (60, 10, 600)])
def test_pairs(identities, images, count):
    pairs = draw_pairs(np.random.default_rng(0), identities, images, count)
    assert len(pairs) == count
    for fold in np.array_split(np.arange(count), 10):
        assert sum(pairs[index].same for index in fold) == len(fold) // 2
    for pair in pairs:
        assert pair.first != pair.second
        assert (pair.first[0] == pair.second[0]) == pair.same
        for who, image in (pair.first, pair.second):
            assert 0 <= who < identities
            assert 0 <= image < images
    assert len({frozenset((pair.first, pair.second)) for pair in pairs}) == count


def test_every_pair_can_be_drawn():
    """As many as there are: 3 identities of 5 images have 30 pairs of one, so 60 with half of them of two."""
    pairs = draw_pairs(np.random.default_rng(1), 3, 5, 60)
    same = {(pair.first, pair.second) for pair in pairs if pair.same}
    assert same == {((who, i), (who, j)) for who in range(3) for i in range(5) for j in range(i + 1, 5)}
    different = draw_pairs(np.random.default_rng(1), 5, 4, 20)
    assert len({frozenset((p.first[0], p.second[0])) for p in different if not p.same}) > 3


def test_gallery_and_probes_share_out_all_images():
    gallery, probes = draw_gallery(np.random.default_rng(0), 5, 3)
    assert [who for who, _ in gallery] == [0, 1, 2, 3, 4]
    assert sorted(gallery + probes) == [(who, image) for who in range(5) for image in range(3)]
    assert len({image for _, image in gallery}) > 1
