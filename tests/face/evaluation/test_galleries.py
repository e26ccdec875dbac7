"""open_gallery: who is in it, who is looked for, and what is refused before a run."""

import numpy as np
import pytest

from face.data import write_landmarks
from face.evaluation.galleries import open_gallery

GALLERY = ["person0/person0_0001.png,a", "person1/person1_0001.png,b", "person0/person0_0003.png,a"]
PROBE = ["person1/person1_0002.png,b", "person0/person0_0002.png,a"]


def lists(folder, gallery=GALLERY, probe=PROBE):
    for name, rows in (("gallery.csv", gallery), ("probe.csv", probe)):
        (folder / name).write_text("image,identity\n" + "\n".join(rows) + "\n")
    return folder


def test_set(photos, points):
    folder = lists(photos())
    assert open_gallery(folder).landmarks is None
    write_landmarks(folder / "landmarks.csv", [row.split(",")[0] for row in GALLERY], np.stack([points] * 3))
    found = open_gallery(folder)
    assert found.name == folder.name
    assert found.gallery_labels.tolist() == ["a", "b", "a"]
    assert found.probe_labels.tolist() == ["b", "a"]
    assert [found.images.name_of(i) for i in range(5)] == [row.split(",")[0] for row in GALLERY + PROBE]
    assert found.landmarks.found.tolist() == [True] * 3 + [False] * 2
    assert open_gallery(folder, with_landmarks=False).landmarks is None


TWICE = "person0/person0_0003.png,a"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"probe": [*PROBE, TWICE]}, r"probe\.csv, line 4: .*_0003\.png is in .*gallery\.csv, line 4 already"),
        (
            {"probe": [*PROBE, "person2/person2_0001.png,c"]},
            r"probe\.csv: 1 of 3 probes are of persons that the gallery lacks, first: person2/.*_0001\.png \(c\)",
        ),
        ({"probe": [*PROBE, "person0/none.png,a"]}, r"1 of 6 images are not in .*, first: person0/none\.png"),
        ({"gallery": []}, r"gallery\.csv: it has no rows"),
    ],
)
def test_refuses(change, match, photos):
    with pytest.raises(ValueError, match=match):
        open_gallery(lists(photos(), **change))


def test_missing(tmp_path, photos):
    with pytest.raises(FileNotFoundError, match=r"none: no such folder"):
        open_gallery(tmp_path / "none")
    folder = lists(photos())
    (folder / "probe.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"probe\.csv"):
        open_gallery(folder)
