"""IJB-B and IJB-C: what the lists say, and every way in which they can be wrong."""

import shutil

import cv2
import numpy as np
import pytest

from face.evaluation.ijb import open_ijb

MEMBERS = ["3.jpg 7 20", "1.jpg 7 20", "2.jpg 7 21", "4.jpg 5 22", "5.jpg 6 23", "6.jpg 8 24"]
PAIRS = ["7 5 1", "5 6 0", "6 6 1"]
SEARCH = {
    "gallery_G1": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "7,100,img/1.png", "7,100,frames/2.png"],
    "gallery_G2": ["TEMPLATE_ID,SUBJECT_ID", "5,200"],
    "probe_mixed": ["Template_ID, Subject_ID ,X", "8,200,a", "6,100,b", "8,200,c"],
}


def mark(line):
    name = MEMBERS[line].split()[0]
    return f"{name} " + " ".join(f"{value:.3f}" for value in np.arange(10) * 1.5 + line) + f" 0.{line + 1}00"


MARKS = [mark(line) for line in range(len(MEMBERS))]


@pytest.fixture
def ijb(tmp_path):
    """A folder with everything, some lists of which are replaced."""

    def make(which="ijbc", members=MEMBERS, marks=MARKS, pairs=PAIRS, search=True, **lists):
        root = tmp_path / which.upper()
        (root / "meta").mkdir(parents=True)
        (root / "loose_crop").mkdir()
        for number in range(1, 7):
            image = np.full((10 + number, 12, 3), 20 * number, np.uint8)
            cv2.imwrite(str(root / f"loose_crop/{number}.jpg"), image)
        files = {"face_tid_mid.txt": members, "name_5pts_score.txt": marks, "template_pair_label.txt": pairs}
        if search:
            files |= {f"1N_{name}.csv": lists.get(name, rows) for name, rows in SEARCH.items()}
        for name, rows in files.items():
            (root / f"meta/{which}_{name}").write_text("\n".join(rows) + "\n")
        return root

    return make


def test_what_the_lists_say(ijb):
    found = open_ijb(ijb())
    assert found.which == "ijbc"
    assert [found.images.key_of(index) for index in range(6)] == ["3.jpg", "1.jpg", "2.jpg", "4.jpg", "5.jpg", "6.jpg"]
    assert found.images.read(0).shape == (13, 12, 3)
    assert found.templates.tolist() == [7, 7, 7, 5, 6, 8]
    assert found.medias.tolist() == [20, 20, 21, 22, 23, 24]
    assert found.templates.dtype == found.medias.dtype == found.pairs.a.dtype == np.int32
    np.testing.assert_allclose(found.scores, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert found.landmarks_px.shape == (6, 5, 2)
    assert found.landmarks_px.dtype == np.float32
    assert found.landmarks_px[2].tolist() == [[2, 3.5], [5, 6.5], [8, 9.5], [11, 12.5], [14, 15.5]]
    assert found.pairs.a.tolist() == [7, 5, 6]
    assert found.pairs.b.tolist() == [5, 6, 6]
    assert found.pairs.same.tolist() == [True, False, True]
    assert [gallery.templates.tolist() for gallery in found.search.galleries] == [[7], [5]]
    assert [gallery.subjects.tolist() for gallery in found.search.galleries] == [[100], [200]]
    assert found.search.probes.templates.tolist() == [6, 8]
    assert found.search.probes.subjects.tolist() == [100, 200]


def test_both_views(ijb):
    found = open_ijb(ijb())
    image, landmarks = found.unaligned().read_marked(3)
    assert image.shape == (14, 12, 3)
    np.testing.assert_allclose(landmarks[0], [3.5 / 12, 5 / 14], rtol=1e-6)
    with pytest.raises(ValueError, match="landmarks of 6 of 6 images give no alignment"):
        open_ijb_on_a_point(found).aligned()


def open_ijb_on_a_point(found):
    return type(found)(**{**vars(found), "landmarks_px": np.zeros_like(found.landmarks_px)})


def test_aligned_view(ijb):
    marks = [f"{row.split()[0]} 2 3 9 3 6 6 3 9 8 9 0.9" for row in MEMBERS]
    aligned = open_ijb(ijb(marks=marks)).aligned((56, 56))
    assert aligned.read(0).shape == (56, 56, 3)
    assert aligned.landmarks.points.shape == (6, 5, 2)
    assert aligned.key_of(0) == "3.jpg"


def test_without_search(ijb):
    assert open_ijb(ijb(search=False)).search is None


def test_ijbb_has_other_names(ijb):
    root = ijb("ijbb", search=False)
    found = open_ijb(root)
    assert found.which == "ijbb"
    for name, rows in zip(("gallery_S1", "gallery_S2", "probe_mixed"), SEARCH.values(), strict=True):
        (root / f"meta/ijbb_1N_{name}.csv").write_text("\n".join(rows))
    assert open_ijb(root, "ijbb").search.probes.templates.tolist() == [6, 8]


def test_which_must_be_clear(ijb, tmp_path):
    root = ijb()
    shutil.copy(root / "meta/ijbc_face_tid_mid.txt", root / "meta/ijbb_face_tid_mid.txt")
    with pytest.raises(ValueError, match="has the lists of both IJB-B and IJB-C"):
        open_ijb(root)
    assert open_ijb(root, "ijbc").which == "ijbc"
    with pytest.raises(ValueError, match="which must be ijbb or ijbc, got 'ijba'"):
        open_ijb(root, "ijba")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_ijb(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_ijb(tmp_path / "nowhere", "ijbc")


def test_all_missing_files_are_named(ijb):
    root = ijb()
    shutil.rmtree(root / "loose_crop")
    for name in ("name_5pts_score", "template_pair_label"):
        (root / f"meta/ijbc_{name}.txt").unlink()
    expected = r"loose_crop/, meta/ijbc_name_5pts_score\.txt, meta/ijbc_template_pair_label\.txt$"
    with pytest.raises(FileNotFoundError, match=expected):
        open_ijb(root)
    with pytest.raises(FileNotFoundError, match=r"meta/ijbb_face_tid_mid\.txt, meta/ijbb_name"):
        open_ijb(root, "ijbb")
    (root / "meta/ijbc_face_tid_mid.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"meta/ijbb_face_tid_mid\.txt or meta/ijbc_face_tid_mid\.txt"):
        open_ijb(root)


def test_cvlface_folders_are_recognised(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"data set of CVLface's \(Arrow files\), which is not read"):
        open_ijb(tmp_path)


def test_some_lists_of_search(ijb):
    root = ijb()
    (root / "meta/ijbc_1N_gallery_G2.csv").unlink()
    (root / "meta/ijbc_1N_probe_mixed.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"not there: ijbc_1N_gallery_G2\.csv, ijbc_1N_probe_mixed\.csv"):
        open_ijb(root)


def test_images_that_are_not_there(ijb):
    root = ijb()
    for number in (1, 4):
        (root / f"loose_crop/{number}.jpg").unlink()
    with pytest.raises(ValueError, match=r"face_tid_mid\.txt: 2 of 6 images are not in .*, first: 1\.jpg, 4\.jpg"):
        open_ijb(root)


HEADER = "TEMPLATE_ID,SUBJECT_ID"
DAMAGE = {
    "members_short": ({"members": [*MEMBERS[:-1], "6.jpg 8"]}, r"tid_mid\.txt, line 6: expected a name and 2 whole"),
    "marks_short": ({"marks": [MARKS[0], "1.jpg 1 2 3", *MARKS[2:]]}, r"score\.txt, line 2: expected a name and 11"),
    "marks_nan": ({"marks": [*MARKS[:-1], MARKS[-1].replace("0.600", "nan")]}, r"score\.txt, line 6: a number is NaN"),
    "score": ({"marks": [MARKS[0][:-5] + "-0.1", *MARKS[1:]]}, r"score\.txt, line 1: scores must be >= 0, found -0\.1"),
    "lengths": ({"marks": MARKS[:-1]}, r"tid_mid\.txt has 6 images, .*score\.txt has 5"),
    "order": (
        {"marks": [MARKS[0], MARKS[2], MARKS[1], *MARKS[3:]]},
        r"score\.txt, line 2: image 2\.jpg, but ijbc_face_tid_mid\.txt has 1\.jpg on that line",
    ),
    "repeated": (
        {"members": [*MEMBERS, "1.jpg 6 30"], "marks": [*MARKS, MARKS[1]]},
        r"tid_mid\.txt, line 7: image 1\.jpg is on line 2 already",
    ),
    "label": ({"pairs": ["7 5 1", "5 6 2"]}, r"label\.txt, line 2: labels must be 1 \(same\) or 0, found 2"),
    "pair_words": ({"pairs": ["7 5 1", "5 six 0"]}, r"label\.txt, line 2: expected 3 whole numbers, found '5 six 0'"),
    "pair_a": ({"pairs": ["7 5 1", "9 6 0"]}, r"label\.txt, line 2: template 9 has no image in ijbc_face_tid_mid\.txt"),
    "pair_b": ({"pairs": ["7 5 1", "5 6 0", "6 1 0"]}, r"label\.txt, line 3: template 1 has no image"),
    "header": ({"gallery_G1": ["7,100"]}, r"G1\.csv: the header must have TEMPLATE_ID and SUBJECT_ID, found 7,100"),
    "no_rows": ({"gallery_G1": [HEADER]}, r"G1\.csv: it has no rows below the header"),
    "ids": ({"gallery_G1": [HEADER, "7,x"]}, r"G1\.csv, line 2: expected whole numbers .*, found '7,x'"),
    "cut": ({"gallery_G1": [HEADER, "7"]}, r"G1\.csv, line 2: expected whole numbers .*, found '7'"),
    "two_subjects": (
        {"gallery_G1": [HEADER, "7,100", "7,101"]},
        r"G1\.csv, line 3: template 7 of subject 101, above 100",
    ),
    "no_images": (
        {"gallery_G1": [HEADER, "7,100", "70,300", "71,301"]},
        r"G1\.csv: 2 of 3 templates have no image in ijbc_face_tid_mid\.txt, first: line 3 \(70\), line 4 \(71\)",
    ),
    "subject_twice": (
        {"gallery_G1": [HEADER, "7,100", "6,100"]},
        r"G1\.csv, line 3: subject 100 is in a gallery already \(.*G1\.csv, line 2\)",
    ),
    "subject_in_both": (
        {"gallery_G2": [HEADER, "5,200", "6,100"]},
        r"G2\.csv, line 3: subject 100 is in a gallery already \(.*G1\.csv, line 2\)",
    ),
    "template_in_both": (
        {"gallery_G2": [HEADER, "7,200"]},
        r"G2\.csv, line 2: template 7 is in .*G1\.csv, line 2 already",
    ),
    "probe_in_gallery": (
        {"probe_mixed": [HEADER, "8,200", "7,100"]},
        r"mixed\.csv, line 3: template 7 is in .*G1\.csv, line 2 already",
    ),
    "unknown_probe": (
        {"probe_mixed": [HEADER, "8,200", "6,300"]},
        r"mixed\.csv, line 3: probe 6 is of subject 300, which no gallery has",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(ijb, name):
    lists, message = DAMAGE[name]
    root = ijb(**lists)
    with pytest.raises(ValueError, match=message):
        open_ijb(root)
