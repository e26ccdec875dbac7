"""Label files in the distributed formats, byte for byte, and what is wrong with others."""

import numpy as np
import pytest

from face.dfa.annotations import WFLW_FIVE_POINTS, read_annotations, read_retinaface_labels, read_wflw

FIRST = (
    "449 330 122 149 488.906 373.643 0.0 542.089 376.442 0.0 515.031 412.83 0.0 485.174 425.893 0.0 538.357 431.491 "
    "0.0 0.82"
)
ABSENT = "7 9 13 18 " + " ".join(["-1.0"] * 16)
LABELS = f"""# 0--Parade/0_Parade_marchingband_1_849.jpg
{FIRST}
# 0--Parade/0_Parade_Parade_0_904.jpg
# 1--Handshaking/1_Handshaking_Handshaking_1_356.jpg
{ABSENT}
40 50 30 36
"""


def read(tmp_path, content: bytes | str, **settings):
    path = tmp_path / "label.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_retinaface_labels(path, tmp_path / "images", check_images=False, **settings)


def face(left, top, width, height, eyes=(0.3, 0.7), blur="0.5"):
    """A line whose landmarks lie in the box."""
    places = [(eyes[0], 0.4), (eyes[1], 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = " ".join(f"{left + x * width} {top + y * height} 0.0" for x, y in places)
    return f"{left} {top} {width} {height} {points} {blur}"


def test_distributed_labels(tmp_path):
    faces = read(tmp_path, LABELS)
    assert faces.images == (
        "0--Parade/0_Parade_marchingband_1_849.jpg",
        "0--Parade/0_Parade_Parade_0_904.jpg",
        "1--Handshaking/1_Handshaking_Handshaking_1_356.jpg",
    )
    assert len(faces) == 3
    assert faces.image_of.tolist() == [0, 2, 2]
    assert faces.lines.tolist() == [2, 5, 6]
    assert faces.boxes_px.tolist() == [[449, 330, 571, 479], [7, 9, 20, 27], [40, 50, 70, 86]]
    expected = [[488.906, 373.643], [542.089, 376.442], [515.031, 412.83], [485.174, 425.893], [538.357, 431.491]]
    np.testing.assert_allclose(faces.landmarks_px[0], expected, rtol=1e-6)
    assert faces.has_landmarks.tolist() == [True, False, False]
    assert np.isnan(faces.landmarks_px[1:]).all()
    np.testing.assert_allclose(faces.blur, [0.82, -1, np.nan], rtol=1e-6)
    assert faces.name_of(1) == f"1--Handshaking/1_Handshaking_Handshaking_1_356.jpg ({tmp_path}/label.txt, line 5)"
    assert faces.image_path(2) == tmp_path / "images/1--Handshaking/1_Handshaking_Handshaking_1_356.jpg"
    assert faces.landmarks_px.dtype == faces.boxes_px.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "  \t\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("# ", "#"),
        lambda text: text.replace(" 0.0 ", "  0.0 "),
    ],
    ids=["crlf", "trailing blanks", "byte order mark", "no line break at the end", "no blank", "two blanks"],
)
def test_other_ways_to_write_the_same(tmp_path, change):
    plain, other = read(tmp_path, LABELS), read(tmp_path, change(LABELS))
    assert other.images == plain.images
    assert other.digest == plain.digest


def test_a_point_left_of_the_photograph_is_a_landmark(tmp_path):
    line = "-4 10 30 30 -1.0 20.0 1.0 12.0 20.0 0.0 2.0 25.0 0.0 -0.5 33.0 0.0 10.0 33.0 0.0 0.4"
    faces = read(tmp_path, f"# a.jpg\n{line}\n")
    assert faces.has_landmarks.all()
    assert faces.landmarks_px[0, 0].tolist() == [-1, 20]
    assert faces.boxes_px.tolist() == [[-4, 10, 26, 40]]


def test_a_face_that_lacks_one_landmark_has_none(tmp_path):
    entries = face(10, 10, 20, 20).split()
    entries[4:7] = ["-1.0", "-1.0", "-1.0"]
    faces = read(tmp_path, f"# a.jpg\n{' '.join(entries)}\n")
    assert not faces.has_landmarks.any()
    assert faces.counts == {"faces with some of the landmarks only": 1}


def test_boxes_without_area_are_counted(tmp_path):
    faces = read(tmp_path, f"# a.jpg\n0 0 0 12\n5 5 10 -3\n{face(1, 2, 30, 40)}\n")
    assert faces.boxes_px.tolist() == [[1, 2, 31, 42]]
    assert faces.counts == {"boxes without area": 2}
    assert faces.describe().endswith("1 faces in 1 photographs, 1 with landmarks; left out: 2 boxes without area")


def test_small_boxes_become_others(tmp_path):
    text = f"# a.jpg\n{face(0, 0, 20, 9)}\n{face(0, 0, 10, 20)}\n# b.jpg\n5 6 7 8\n"
    faces = read(tmp_path, text, min_side_px=10)
    assert faces.boxes_px.tolist() == [[0, 0, 10, 20]]
    assert faces.others_px.tolist() == [[0, 0, 20, 9], [5, 6, 12, 14]]
    assert faces.others_of.tolist() == [0, 1]
    assert faces.counts == {"boxes below 10 px": 2}
    assert faces.images == ("a.jpg", "b.jpg")
    with pytest.raises(ValueError, match="none of its 1 faces has min_side_px 50"):
        faces.at_least(50)


def test_digest_is_of_faces_not_of_places(tmp_path):
    text = f"# a.jpg\n{face(1, 2, 30, 40)}\n5 6 7 8\n"
    (tmp_path / "other").mkdir()
    digest = read(tmp_path, text).digest
    assert read(tmp_path / "other", text).digest == digest
    assert read(tmp_path, text.replace("5 6 7 8", "5 6 7 9")).digest != digest
    assert read(tmp_path, text.replace("a.jpg", "b.jpg")).digest != digest
    assert read(tmp_path, text, min_side_px=8).digest != digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4\n", "line 1: expected '# image' before the first face, found '1 2 3 4'"),
        ("#  \n", "line 1: no image after the #"),
        ("# a.jpg\n1 2 3 4\n# a.jpg\n", "line 3: image a.jpg comes twice"),
        ("# a.jpg\n1 2 3\n", "line 2: expected 4 or 20 numbers .*, found 3"),
        ("# a.jpg\n" + " ".join(["5"] * 19) + "\n", "line 2: expected 4 or 20 numbers .*, found 19"),
        ("# a.jpg\n1 2 nan 4\n", "line 2: expected finite numbers, found nan"),
        ("# a.jpg\n\n1 2 x 4\n", "line 3: could not convert string to float: 'x'"),
        ("# a.jpg\n# b.jpg\n", "no face in its 2 images"),
        ("", "no face in its 0 images"),
    ],
)
def test_wrong_labels(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"label.txt.*{message}"):
        read(tmp_path, text)


def test_far_landmarks_are_left_out_where_they_are_few(tmp_path):
    good = "\n".join(face(10 * k, 5, 20, 20) for k in range(60))
    far = face(10, 10, 20, 20).split()
    far[4] = "51.5"  # the box ends at 30, its side is 20
    faces = read(tmp_path, f"# a.jpg\n{good}\n{' '.join(far)}\n")
    assert faces.has_landmarks.tolist() == [True] * 60 + [False]
    assert faces.counts == {"landmarks far outside of their box": 1}


def test_landmarks_of_another_unit(tmp_path):
    # left, top, right, bottom where width and height are due makes boxes too large; fractions lie far outside of them
    fractions = "\n".join(
        f"{400 + k} 300 50 60 0.3 0.4 0 0.7 0.4 0 0.5 0.6 0 0.4 0.8 0 0.6 0.8 0 0.5" for k in range(5)
    )
    with pytest.raises(ValueError, match=r"landmarks of 5 of 5 faces lie more than .* such as in line 2, 3, 4: are"):
        read(tmp_path, f"# a.jpg\n{fractions}\n")


def test_eyes_in_the_other_order(tmp_path):
    lines = "\n".join(face(10, 10, 20, 20, eyes=(0.7, 0.3)) for _ in range(3))
    with pytest.raises(ValueError, match="in 3 of 3 faces the first eye is at the right of the second"):
        read(tmp_path, f"# a.jpg\n{lines}\n")


def test_images_are_looked_for(tmp_path):
    path, root = tmp_path / "label.txt", tmp_path / "images"
    path.write_text(LABELS)
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        read_retinaface_labels(path, root)
    (root / "0--Parade").mkdir(parents=True)
    (root / "0--Parade/0_Parade_Parade_0_904.jpg").touch()
    message = "lacks 2 of the 3 images of .*: 0--Parade/0_Parade_marchingband_1_849.jpg, 1--Handshaking/1_"
    with pytest.raises(FileNotFoundError, match=message):
        read_retinaface_labels(path, root)
    (root / "1--Handshaking").mkdir()
    for name in read_retinaface_labels(path, root, check_images=False).images:
        (root / name).touch()
    assert len(read_retinaface_labels(path, root)) == 3
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt: no such label file"):
        read_retinaface_labels(tmp_path / "nowhere.txt", root)


def wflw_line(points, box="100 100 300 320", name="37--Soccer/37_Soccer_soccer_ball_37_45.jpg"):
    return " ".join(f"{value:.6f}" for value in np.ravel(points)) + f" {box} 0 1 0 0 0 1 {name}\n"


def test_wflw(tmp_path):
    points = np.stack([np.arange(98) + 100.5, 2 * np.arange(98) + 101.25], axis=1)
    path = tmp_path / "list_98pt_rect_attr_train.txt"
    other = wflw_line(points + 7, "90 90 320 330", "a b.jpg")  # a name may have blanks
    path.write_text(wflw_line(points) + other + wflw_line(points + 1))
    faces = read_wflw(path, tmp_path, check_images=False)
    assert faces.images == ("37--Soccer/37_Soccer_soccer_ball_37_45.jpg", "a b.jpg")
    assert faces.image_of.tolist() == [0, 1, 0]
    assert faces.boxes_px.tolist() == [[100, 100, 300, 320], [90, 90, 320, 330], [100, 100, 300, 320]]
    assert faces.has_landmarks.all()
    for row, place in enumerate((96, 97, 57, 76, 82)):  # eye, eye, nose, mouth, mouth
        assert faces.landmarks_px[0, row].tolist() == [place + 100.5, 2 * place + 101.25]
    assert WFLW_FIVE_POINTS == (96, 97, 57, 76, 82)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 a.jpg\n", "line 1: expected 206 numbers .*, found 4 entries"),
        (" ".join(["1"] * 206), "line 1: expected 206 numbers .*, found 206 entries"),
        (wflw_line(np.full((98, 2), np.nan)), "line 1: expected finite numbers, found nan"),
    ],
)
def test_wrong_wflw(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"list.txt, {message}"):
        read_wflw(path, tmp_path, check_images=False)


def test_layouts_by_name(tmp_path):
    (tmp_path / "37--Soccer").mkdir()
    (tmp_path / "37--Soccer/37_Soccer_soccer_ball_37_45.jpg").touch()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "label.txt").write_text(f"# a.jpg\n{face(0, 0, 20, 9)}\n{face(0, 0, 20, 20)}\n")
    points = np.stack([np.arange(98) + 100.5, 2 * np.arange(98) + 101.25], axis=1)
    (tmp_path / "list.txt").write_text(wflw_line(points))
    wider = read_annotations("widerface", tmp_path / "label.txt", tmp_path, 10)
    assert wider.boxes_px.tolist() == [[0, 0, 20, 20]]
    assert read_annotations("wflw", tmp_path / "list.txt", tmp_path).boxes_px.tolist() == [[100, 100, 300, 320]]
