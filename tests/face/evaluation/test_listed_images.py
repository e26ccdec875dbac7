"""Images that a list names, found by one look at each folder."""

import numpy as np
import pytest

from face.evaluation.listed_images import ListedImages, files_in


def test_names_in_several_folders(photos):
    root = photos(people=3, each=2)
    names = ["person2/person2_0001.png", "person0/person0_0002.png"]
    images = ListedImages(root, names, root / "list.csv")
    assert [images.key_of(index) for index in range(len(images))] == names
    assert images.read(0).shape == (12, 10, 3)
    assert (images.read(0) != images.read(1)).any()


def test_all_that_is_missing_is_counted(photos):
    root = photos(people=1, each=1)
    (root / "folder.png").mkdir()
    names = ["person0/person0_0001.png", "person0/2.png", "nowhere/1.png", "folder.png", *(f"{n}.png" for n in "abc")]
    with pytest.raises(ValueError, match=r"list\.csv: 6 of 7 images are not in .*, first: person0/2\.png, .*, \.\.\."):
        ListedImages(root, names, root / "list.csv")


def test_links_are_files(photos):
    root = photos(people=1, each=1)
    (root / "link.png").symlink_to(root / "person0/person0_0001.png")
    (root / "broken.png").symlink_to(root / "nothing")
    assert files_in(root) == {"link.png"}
    images = ListedImages(root, ["link.png", "person0/person0_0001.png"], root / "list")
    np.testing.assert_array_equal(images.read(0), images.read(1))


def test_a_file_is_no_folder(photos):
    root = photos(people=1, each=1)
    assert files_in(root / "person0/person0_0001.png") == set()
    assert files_in(root / "nowhere") == set()
