"""TinyFace: labels by its lists or by names, and every way in which a folder can be wrong."""

import numpy as np
import pytest
from scipy.io import savemat

from face.data.landmarks import write_landmarks
from face.evaluation.tinyface import DISTRACTOR, open_tinyface

FILES = {
    "Gallery_Match": ["1_1.jpg", "10_1.jpg", "2_1.JPG", "2_2.png"],
    "Gallery_Distractor": ["b.jpg", "a.jpg"],
    "Probe": ["2_3.jpg", "10_2.jpg", "1_2_b.jpg"],
}
MATCH_LIST, PROBE_LIST = "gallery_match_img_ID_pairs.mat", "probe_img_ID_pairs.mat"


def cells(names):
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    return column


def write_list(path, prefix, names, ids, **more):
    savemat(path, {f"{prefix}_set": cells(names), f"{prefix}_ids": np.array(ids, float).reshape(-1, 1), **more})


@pytest.fixture
def root(tmp_path):
    """`Testing_Set`."""
    root = tmp_path / "tinyface/Testing_Set"
    for folder, names in FILES.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(f"{folder}/{name}".encode())
    (root / "Probe/Thumbs.db").touch()
    (root / "Probe/.hidden.jpg").touch()
    return root


def test_identities_by_names(root):
    found = open_tinyface(root.parent)
    assert [found.images.key_of(index) for index in range(9)] == [
        *("Gallery_Match/1_1.jpg", "Gallery_Match/2_1.JPG", "Gallery_Match/2_2.png", "Gallery_Match/10_1.jpg"),
        *("Gallery_Distractor/a.jpg", "Gallery_Distractor/b.jpg"),
        *("Probe/1_2_b.jpg", "Probe/2_3.jpg", "Probe/10_2.jpg"),
    ]
    assert found.gallery_labels.tolist() == [1, 2, 2, 10, DISTRACTOR, DISTRACTOR]
    assert found.probe_labels.tolist() == [1, 2, 10]
    assert found.images.read_bytes(7) == b"Probe/2_3.jpg"
    assert found.landmarks is None


def test_testing_set_itself(root):
    assert open_tinyface(root).probe_labels.tolist() == [1, 2, 10]


def test_identities_by_lists(root):
    write_list(root / MATCH_LIST, "gallery", ["10_1.jpg", "2_2.png", "1_1.jpg", "2_1.JPG"], [5, 6, 7, 6], other="text")
    write_list(root / PROBE_LIST, "probe", ["1_2_b.jpg", "10_2.jpg", "2_3.jpg"], [7, 5, 6])
    found = open_tinyface(root.parent)
    assert [found.images.key_of(index) for index in (0, 3, 6, 8)] == [
        *("Gallery_Match/10_1.jpg", "Gallery_Match/2_1.JPG", "Probe/1_2_b.jpg", "Probe/2_3.jpg"),
    ]
    assert found.gallery_labels.tolist() == [5, 6, 7, 6, DISTRACTOR, DISTRACTOR]
    assert found.probe_labels.tolist() == [7, 5, 6]


def test_one_list_is_enough(root):
    write_list(root / PROBE_LIST, "probe", ["1_2_b.jpg", "10_2.jpg", "2_3.jpg"], [10, 1, 2])
    found = open_tinyface(root)
    assert found.gallery_labels.tolist() == [1, 2, 2, 10, DISTRACTOR, DISTRACTOR]
    assert found.probe_labels.tolist() == [10, 1, 2]


def test_cells_in_cells(root):
    # the release's lists have been seen in both forms
    nested = cells([cells([name]) for name in ("1_2_b.jpg", "10_2.jpg", "2_3.jpg")])
    savemat(root / PROBE_LIST, {"probe_set": nested, "probe_ids": np.array([[1], [10], [2]], np.uint16)})
    assert open_tinyface(root).probe_labels.tolist() == [1, 10, 2]


def test_landmarks_by_path(root, tmp_path):
    points = np.linspace(0, 1, 20).reshape(2, 5, 2)
    write_landmarks(root / "landmarks.csv", ["Probe/2_3.jpg", "Gallery_Match/1_1.jpg"], points, np.array([0.25, 1.0]))
    found = open_tinyface(root.parent).landmarks
    assert np.flatnonzero(found.found).tolist() == [0, 7]
    np.testing.assert_allclose(found.points[7], points[0], atol=1e-6)
    np.testing.assert_allclose(found.scores[[0, 7]], [1, 0.25])
    assert open_tinyface(root.parent, with_landmarks=False).landmarks is None
    (root / "landmarks.csv").rename(tmp_path / "elsewhere.csv")
    assert open_tinyface(root.parent, landmarks=tmp_path / "elsewhere.csv").landmarks.found.sum() == 2
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        open_tinyface(root.parent, landmarks=tmp_path / "nowhere.csv")


def test_folders_that_are_missing(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder, expected one with TinyFace"):
        open_tinyface(tmp_path / "nowhere")
    (root / "Probe").rename(root / "Probes")
    (root / "Gallery_Distractor").rename(root / "Distractor")
    with pytest.raises(FileNotFoundError, match=r"Testing_Set: .*not there: Gallery_Distractor/, Probe/$"):
        open_tinyface(root.parent)


def test_cvlface_folders_are_recognised(tmp_path):
    (tmp_path / "metadata.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"data set of CVLface's \(Arrow files\), which is not read"):
        open_tinyface(tmp_path)


def test_no_images(root):
    for name in FILES["Gallery_Distractor"]:
        (root / "Gallery_Distractor" / name).unlink()
    with pytest.raises(ValueError, match=r"Gallery_Distractor: no images \(\.png"):
        open_tinyface(root)


@pytest.mark.parametrize("name", ["x_1.jpg", "1.jpg", "_1.jpg", "-1_1.jpg", "\u0661_1.jpg"], ids=list("abcde"))
def test_names_without_an_identity(root, name):
    (root / "Probe" / name).touch()
    with pytest.raises(ValueError, match=rf"Probe: without {PROBE_LIST} names must be .*, those of 1 of 4 .*: {name}"):
        open_tinyface(root)


def test_unknown_identities(root):
    for name in ("3_1.jpg", "4_1.jpg"):
        (root / "Probe" / name).touch()
    with pytest.raises(ValueError, match=r"Probe: 2 of 5 probes are of identities .*, first: 3_1\.jpg, 4_1\.jpg"):
        open_tinyface(root)


NAMES = ["1_2_b.jpg", "10_2.jpg", "2_3.jpg"]
DAMAGE = {
    "twice": ((["1_2_b.jpg", *NAMES], [1, 1, 10, 2]), r"1 image\(s\) come twice, first: 1_2_b\.jpg"),
    "not_there": (([*NAMES, "9_9.jpg"], [1, 10, 2, 9]), r"1 image\(s\) are not in .*Probe, first: 9_9\.jpg"),
    "not_listed": ((NAMES[:1], [1]), r"2 image\(s\) of .*Probe are not in it, first: 10_2\.jpg, 2_3\.jpg"),
    "lengths": ((NAMES, [1, 10]), r"probe_ids must be 3 whole numbers >= 0"),
    "halves": ((NAMES, [1, 10, 2.5]), r"probe_ids must be 3 whole numbers >= 0"),
    "negative": ((NAMES, [1, 10, -2]), r"probe_ids must be 3 whole numbers >= 0"),
    "nan": ((NAMES, [1, 10, np.nan]), r"probe_ids must be 3 whole numbers >= 0"),
    "numbers": (([1.0, 2.0, 3.0], [1, 10, 2]), r"probe_set must be a cell array of names"),
    "empty": (([], []), r"probe_set must be a cell array of names"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_lists(root, name):
    (names, ids), message = DAMAGE[name]
    write_list(root / PROBE_LIST, "probe", names, ids)
    with pytest.raises(ValueError, match=rf"{PROBE_LIST}: {message}"):
        open_tinyface(root)


def test_files_that_are_no_lists(root):
    path = root / PROBE_LIST
    path.write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(ValueError, match=rf"{PROBE_LIST}: not a MATLAB 5 file"):
        open_tinyface(root)
    write_list(path, "gallery", NAMES, [1, 10, 2])
    with pytest.raises(ValueError, match="expected probe_set and probe_ids in it, not there: probe_set, probe_ids"):
        open_tinyface(root)
    savemat(path, {"probe_set": "abc", "probe_ids": [1]})
    with pytest.raises(ValueError, match="probe_set must be a cell array of names"):
        open_tinyface(root)
