"""Which source a folder is, views of sources, and reading from data loaders' workers."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from common.runtime.workers import loader_processes
from face.data import FolderSource, RecordSource, SourceView, keep_identities, open_source


def test_either_kind(cvlface_set, face_folder):
    assert isinstance(open_source(cvlface_set), RecordSource)
    assert open_source(cvlface_set / "train.rec").root == cvlface_set
    assert isinstance(open_source(str(face_folder[0])), FolderSource)


def test_neither(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        open_source(tmp_path / "none")
    (tmp_path / ".git").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither train\.rec nor a folder for each identity is there"):
        open_source(tmp_path)
    (tmp_path / "train.idx").touch()
    with pytest.raises(FileNotFoundError, match=r"has train\.idx but no train\.rec"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.idx: a file; expected the folder"):
        open_source(tmp_path / "train.idx")


class Images:
    """All that there is of each image of several sources, as a data set."""

    def __init__(self, *sources):
        self.items = [(source, index) for source in sources for index in range(len(source))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        source, index = self.items[position]
        return position, source.read_bytes(index), source.read(index).tobytes(), int(source.labels[index])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_what_this_process_reads(start, cvlface_set, face_folder):
    """Every image once, after this process has read as well, whose descriptors the forked ones inherit."""
    images = Images(open_source(cvlface_set), open_source(face_folder[0]))
    here = [images[position] for position in range(13)]
    options = {"shuffle": True, "collate_fn": list, "timeout": 60, "multiprocessing_context": start}
    there = [item for batch in DataLoader(images, batch_size=2, **options, **loader_processes(2)) for item in batch]
    assert sorted(there) == here
    assert [images[position] for position in range(13)] == here


def test_views(cvlface_set):
    source = open_source(cvlface_set)  # labels 0, 0, 1, 2, 2, 2, 3
    view = SourceView(source, np.array([6, 3, 4, 1, 4]))
    assert view.labels.tolist() == [2, 1, 1, 0, 1]
    assert view.classes.tolist() == [0, 2, 3]
    assert (len(view), view.num_classes, view.root) == (5, 3, cvlface_set)
    assert (view.key_of(0), view.name_of(1)) == ("6", "train.rec, record 3")
    assert [view.read_bytes(index) for index in range(5)] == [source.read_bytes(index) for index in (6, 3, 4, 1, 4)]
    np.testing.assert_array_equal(view.read(3), source.read(1))
    with pytest.raises(IndexError, match="image 5 of 5"):
        view.read(5)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([], r"\[n\] with n >= 1, got \[0\]"), ([[1]], r"got \[1, 1\]"), ([7], "from 0 to 6, got 7"), ([-1, 2], "got -1")],
)
def test_views_of_what_is_not_there(indices, message, cvlface_set):
    with pytest.raises(ValueError, match=message):
        SourceView(open_source(cvlface_set), np.array(indices, int))


def test_identities_with_few_images(cvlface_set):
    source = open_source(cvlface_set)
    assert keep_identities(source, 1) is source
    assert keep_identities(source, 3, "keep") is source
    two = keep_identities(source, 2)
    assert two.indices.tolist() == [0, 1, 3, 4, 5]
    assert two.labels.tolist() == [0, 0, 1, 1, 1]
    assert two.classes.tolist() == [0, 2]
    with pytest.raises(ValueError, match="2 identities have fewer than 2 images, such as class 1 with 1"):
        keep_identities(source, 2, "error")
    with pytest.raises(ValueError, match="none of its 4 identities has 4 images"):
        keep_identities(source, 4)
    with pytest.raises(ValueError, match="min_images must be >= 1, got 0"):
        keep_identities(source, 0)
    with pytest.raises(ValueError, match="fewer must be keep, drop or error, got 'remove'"):
        keep_identities(source, 1, "remove")


def test_classes_without_images_are_few(cvlface_set):
    (cvlface_set / "property").write_text("6,112,112")
    source = open_source(cvlface_set)
    assert source.num_classes == 6
    assert keep_identities(source, 1).num_classes == 4
