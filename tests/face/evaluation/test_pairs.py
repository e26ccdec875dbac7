"""open_pairs: the three forms of a set, images once each, and what is refused before a run."""

import numpy as np
import pytest

from face.data import write_landmarks
from face.evaluation.bins import read_bin, write_bin
from face.evaluation.pairs import open_pairs


def assert_same_pairs(found, content):
    """Every pair has the bytes that it has in the file."""
    for (first, second), begin in zip(found.pairs, range(0, len(content.images), 2), strict=True):
        assert found.images.read_bytes(first) == content.images[begin]
        assert found.images.read_bytes(second) == content.images[begin + 1]


def test_bin(pair_bin):
    path = pair_bin()
    found = open_pairs(path)
    content = read_bin(path)
    assert (found.name, found.folds, found.landmarks) == ("toy", 10, None)
    assert len(found.images) == len(set(content.images)) == 36
    assert_same_pairs(found, content)
    np.testing.assert_array_equal(found.same, content.same)
    assert found.images.name_of(found.pairs[13, 1]) == "toy.bin, image 27"
    assert found.images.read(0).shape == (12, 10, 3)


def test_landmarks_of_a_bin(pair_bin, points):
    path = pair_bin()
    positions = [position for position in range(48) if position != 5]
    moved = np.stack([points + (position % 24) / 1000 for position in positions])
    write_landmarks(path.with_name("toy.bin.csv"), [str(position) for position in positions], moved)
    found = open_pairs(path)
    assert len(found.images) == 36
    for pair, numbers in enumerate(found.pairs):
        for place, number in enumerate(numbers):
            position = 2 * pair + place
            assert found.landmarks.found[number] == (position != 5)
            if position != 5:
                expected = points + (position % 24) / 1000
                np.testing.assert_allclose(found.landmarks.points[number], expected, atol=1e-6)
    assert open_pairs(path, with_landmarks=False).landmarks is None


def test_the_same_bytes_with_other_landmarks_are_two_images(pair_bin, points):
    path = pair_bin()
    moved = np.stack([points + position / 1000 for position in range(48)])
    write_landmarks(path.with_name("toy.bin.csv"), [str(position) for position in range(48)], moved)
    found = open_pairs(path)
    assert len(found.images) == 48
    assert_same_pairs(found, read_bin(path))
    np.testing.assert_allclose(found.landmarks.points[found.pairs.ravel()], moved, atol=1e-6)


def csv_set(folder, rows):
    (folder / "pairs.csv").write_text("image1,image2,same\n" + "\n".join(rows) + "\n")
    return folder


ROWS = [
    f"person{pair % 4}/person{pair % 4}_0001.png,person{(pair + pair % 2) % 4}/person{(pair + pair % 2) % 4}_0002.png,"
    f"{['1', '0', 'True', 'false'][pair % 4]}"
    for pair in range(20)
]


def test_folder_with_a_csv(photos, points):
    folder = csv_set(photos(), ROWS)
    write_landmarks(
        folder / "landmarks.csv",
        ["person0/person0_0001.png", "person3/person3_0003.png"],
        points[[0, 1], None].repeat(5, 1),
    )
    found = open_pairs(folder, name="mine")
    assert found.name == "mine"
    assert [found.images.name_of(number) for number in found.pairs[1]] == [
        "person1/person1_0001.png",
        "person2/person2_0002.png",
    ]
    assert found.same.tolist() == [True, False] * 10
    assert len(found.images) == len({image for row in ROWS for image in row.split(",")[:2]})
    assert found.landmarks.found.tolist() == [True] + [False] * (len(found.images) - 1)
    by_list = open_pairs(folder / "pairs.csv")
    assert by_list.name == folder.name
    np.testing.assert_array_equal(by_list.pairs, found.pairs)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_lfw_list(photos, suffix):
    folder = photos(suffix=suffix)
    lines = ["2\t2"]
    for _ in range(2):
        lines += ["person0\t1\t2", "person1\t1\t3", "person0\t1\tperson1\t2", "person2\t3\tperson3\t1"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    found = open_pairs(folder)
    assert found.folds == 2
    assert found.same.tolist() == [True, True, False, False] * 2
    names = [[found.images.name_of(number) for number in pair] for pair in found.pairs[[1, 3]]]
    assert names == [
        [f"person1/person1_0001{suffix}", f"person1/person1_0003{suffix}"],
        [f"person2/person2_0003{suffix}", f"person3/person3_0001{suffix}"],
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "line 1: expected the numbers of folds and of pairs of a kind in one, found nothing"),
        ("person0 1 2\n", "line 1: .* found person0 1 2"),
        ("2 1\nperson0 1 2\n", r"expected 4 pairs \(2 folds of 1 of either kind\), found 1"),
        ("1 1\nperson0 1 2\nperson0 1 person1\n", "pair 2: expected name n1 n2, .*found person0 1 person1"),
        ("1 1\nperson0 1\nperson0 1 2\n", "pair 1: expected name n1 n2"),
        ("1 1\nperson0 1 9\nperson0 1 nobody 1\n", r"2 of 3 images are not in .*person0_0009\.jpg, nobody/nobody_0001"),
        ("1 1\nperson0 1 2\nperson0 1 person1 1\n", "at least 2 folds"),
    ],
)
def test_lfw_lists_that_are_refused(text, match, photos):
    folder = photos()
    (folder / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"pairs\.txt.*{match}"):
        open_pairs(folder)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([*ROWS[:-1], "a.png,b.png,2"], "line 21: same must be 1 or 0, found '2'"),
        ([*ROWS[:-1], "a.png,b.png,0"], r"2 of 8 images are not in .*, first: a\.png, b\.png"),
        (ROWS[:8], "got 10 folds and 8 pairs"),
        (ROWS[::2] + ROWS[1::2], "fold 1 of 10, pairs 0 to 1, has pairs of the same person alone"),
    ],
)
def test_csv_that_is_refused(rows, match, photos):
    with pytest.raises(ValueError, match=rf"pairs\.csv.*{match}"):
        open_pairs(csv_set(photos(), rows))


def test_which_list_is_meant(photos):
    folder = photos()
    with pytest.raises(ValueError, match=r"expected pairs\.csv or pairs\.txt in it, neither is there"):
        open_pairs(folder)
    csv_set(folder, ROWS)
    (folder / "pairs.txt").write_text("1 1\n")
    with pytest.raises(ValueError, match="both are there; name the one that is meant"):
        open_pairs(folder)
    assert len(open_pairs(folder / "pairs.csv").same) == 20


def test_what_is_no_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bin: no such file or folder"):
        open_pairs(tmp_path / "none.bin")
    (tmp_path / "a.rec").touch()
    with pytest.raises(ValueError, match=r"a\.rec: expected a \.bin file, a folder, or a list"):
        open_pairs(tmp_path / "a.rec")
    write_bin(tmp_path / "short.bin", [b"a", b"b"], [True])
    with pytest.raises(ValueError, match=r"short\.bin: expected at least 2 folds .* got 10 folds and 1 pairs"):
        open_pairs(tmp_path / "short.bin")
