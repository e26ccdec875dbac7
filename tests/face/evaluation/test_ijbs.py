"""IJB-S as tables: what they say, and every way in which they can be wrong."""

import numpy as np
import pytest

from face.evaluation.ijbs import NON_MATED, PROTOCOLS, open_ijbs

COLUMNS = "image,template," + ",".join(f"{axis}{point}" for point in range(5) for axis in "xy") + ",score"
MARKS = {
    "b/0.jpg": ",".join(f"{value / 10}" for value in range(11)),
    "b/1.jpg": ",".join(["0.5"] * 11),
    "v/0.jpg": "," * 10,
}
ROWS = [
    "b/0.jpg,book-a",
    "b/1.jpg,book-a",
    "b/0.jpg,single-a",
    "v/0.jpg,video-a1",
    "v/1.jpg,video-a1",
    "v/2.jpg,video-a2",
    "v/3.jpg,video-b",
]
TABLES = {
    "surveillance_to_single_gallery": ["single-a,Ada"],
    "surveillance_to_single_probes": ["video-b,-1", "video-a1,Ada", "video-a2,Ada"],
    "surveillance_to_booking_gallery": ["book-a,Ada"],
    "surveillance_to_booking_probes": ["video-a1,Ada", "video-b,"],
    "surveillance_to_surveillance_gallery": ["video-a1,Ada", "video-b,Bo"],
    "surveillance_to_surveillance_probes": ["video-a2,Ada", "video-a1,", "video-b,-1"],
}


@pytest.fixture
def ijbs(tmp_path):
    """A folder with everything, some tables of which are replaced; None leaves one out."""

    def make(frames=ROWS, header="image,template", images=True, **tables):
        (tmp_path / "frames.csv").write_text("\n".join([header, *frames]) + "\n")
        for image in {row.split(",")[0] for row in ROWS} if images else ():
            (tmp_path / image).parent.mkdir(exist_ok=True)
            (tmp_path / image).write_bytes(image.encode())
        for name, rows in {**TABLES, **tables}.items():
            if rows is not None:
                (tmp_path / f"{name}.csv").write_text("\n".join(["template,identity", *rows]) + "\n")
        return tmp_path

    return make


def with_marks(rows=ROWS, **changed):
    marks = {**MARKS, **changed}
    return [f"{row},{marks.get(row.split(',')[0], MARKS['b/1.jpg'])}" for row in rows]


def test_what_the_tables_say(ijbs):
    found = open_ijbs(ijbs())
    images = [found.images.key_of(index) for index in range(len(found.images))]
    assert images == ["b/0.jpg", "b/1.jpg", "v/0.jpg", "v/1.jpg", "v/2.jpg", "v/3.jpg"]
    assert found.images.read_bytes(4) == b"v/2.jpg"
    assert found.template_names == ("book-a", "single-a", "video-a1", "video-a2", "video-b")
    assert found.frame_images.tolist() == [0, 1, 0, 2, 3, 4, 5]
    assert found.frame_templates.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert found.identity_names == ("Ada", "Bo")
    assert found.landmarks is None
    assert tuple(found.protocols) == PROTOCOLS
    single, booking, surveillance = found.protocols.values()
    assert (single.gallery_templates.tolist(), single.gallery_labels.tolist()) == ([1], [0])
    assert (single.probe_templates.tolist(), single.probe_labels.tolist()) == ([4, 2, 3], [NON_MATED, 0, 0])
    assert (booking.gallery_templates.tolist(), booking.gallery_labels.tolist()) == ([0], [0])
    assert (booking.probe_templates.tolist(), booking.probe_labels.tolist()) == ([2, 4], [0, NON_MATED])
    assert (surveillance.gallery_templates.tolist(), surveillance.gallery_labels.tolist()) == ([2, 4], [0, 1])
    assert surveillance.probe_templates.tolist() == [3, 2, 4]
    assert surveillance.probe_labels.tolist() == [0, NON_MATED, NON_MATED]


def test_landmarks_of_images(ijbs):
    found = open_ijbs(ijbs(with_marks(), COLUMNS)).landmarks
    assert found.found.tolist() == [True, True, False, True, True, True]
    np.testing.assert_allclose(found.points[0], np.arange(10).reshape(5, 2) / 10)
    assert np.isnan(found.points[2]).all()
    assert found.scores.tolist() == [1, 0.5, 0, 0.5, 0.5, 0.5]
    assert found.points.dtype == found.scores.dtype == np.float32


def test_one_protocol_is_enough(ijbs):
    root = ijbs(**{name: None for name in TABLES if "booking" not in name})
    assert list(open_ijbs(root).protocols) == ["surveillance_to_booking"]


def test_a_gallery_of_videos_may_have_two_of_one_identity(ijbs):
    root = ijbs(
        surveillance_to_surveillance_gallery=["video-a1,Ada", "video-a2,Ada"],
        surveillance_to_surveillance_probes=["video-a2,Ada", "video-a1,Ada", "video-b,-1"],
    )
    found = open_ijbs(root).protocols["surveillance_to_surveillance"]
    assert found.gallery_labels.tolist() == [0, 0]
    assert found.probe_labels.tolist() == [0, 0, NON_MATED]


def test_what_is_missing(ijbs, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder, expected one with IJB-S as tables"):
        open_ijbs(tmp_path / "nowhere")
    root = ijbs(**dict.fromkeys(TABLES))
    with pytest.raises(FileNotFoundError, match=r"not there: surveillance_to_single_gallery\.csv or surveillance_to_b"):
        open_ijbs(root)
    for name in ("surveillance_to_single_gallery", "surveillance_to_booking_probes"):
        (root / f"{name}.csv").write_text("template,identity\n")
    halves = r"not there: surveillance_to_single_probes\.csv, surveillance_to_booking_gallery\.csv$"
    with pytest.raises(FileNotFoundError, match=halves):
        open_ijbs(root)
    (root / "frames.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"not there: frames\.csv"):
        open_ijbs(root)


def test_images_that_are_not_there(ijbs):
    root = ijbs()
    (root / "v/3.jpg").unlink()
    with pytest.raises(ValueError, match=r"frames\.csv: 1 of 6 images are not in .*, first: v/3\.jpg"):
        open_ijbs(root)


SINGLE, VIDEOS = "surveillance_to_single", "surveillance_to_surveillance"
DAMAGE = {
    "frames_header": ({"header": "image,tid"}, r"frames\.csv: the header must be image,template or image,template,x0"),
    "no_frames": ({"frames": []}, r"frames\.csv: it has no rows below the header"),
    "long_row": ({"frames": ["a.jpg,t,0"]}, r"frames\.csv, line 2: expected 2 entries \(image,template\), found 'a"),
    "no_image": ({"frames": [",t"]}, r"frames\.csv, line 2: expected 2 entries"),
    "no_template": ({"frames": [*ROWS, "v/3.jpg,"]}, r"frames\.csv, line 9: v/3\.jpg has no template"),
    "twice": ({"frames": [*ROWS, ROWS[4]]}, r"line 9: v/1\.jpg is in template video-a1 already \(line 6\)"),
    "some_marks": (
        {"header": COLUMNS, "frames": with_marks(**{"b/1.jpg": "0.5" + "," * 10})},
        r"frames\.csv, line 3: expected landmarks and a score, all or none",
    ),
    "words": (
        {"header": COLUMNS, "frames": with_marks(**{"b/1.jpg": ",".join(["0.5"] * 10) + ",high"})},
        r"frames\.csv, line 3: expected landmarks and a score",
    ),
    "nan": (
        {"header": COLUMNS, "frames": with_marks(**{"b/1.jpg": ",".join(["nan"] * 10) + ",1"})},
        r"frames\.csv, line 3: a number is NaN",
    ),
    "score": (
        {"header": COLUMNS, "frames": with_marks(**{"b/1.jpg": ",".join(["0.5"] * 10) + ",1.5"})},
        r"frames\.csv, line 3: scores must be from 0 to 1, found 1\.5",
    ),
    "pixels": (
        {"header": COLUMNS, "frames": [f"{row},{','.join(['50'] * 10)},1" for row in ROWS]},
        r"frames\.csv: keypoints must be fractions of the image",
    ),
    "other_marks": (
        {"header": COLUMNS, "frames": [*with_marks()[:2], *with_marks(**{"b/0.jpg": MARKS["b/1.jpg"]})[2:]]},
        r"frames\.csv, line 4: b/0\.jpg has other landmarks here",
    ),
    "unknown_template": (
        {f"{SINGLE}_probes": ["video-a1,Ada", "video-x,Ada"]},
        r"single_probes\.csv, line 3: template video-x has no frame in frames\.csv",
    ),
    "template_twice": (
        {f"{SINGLE}_probes": ["video-a1,Ada", "video-a1,Ada"]},
        r"single_probes\.csv, line 3: template video-a1 is in .*single_probes\.csv, line 2 already",
    ),
    "empty_table": ({f"{SINGLE}_probes": []}, r"single_probes\.csv: it has no rows"),
    "nobody_in_gallery": (
        {f"{SINGLE}_gallery": ["single-a,-1"]},
        r"single_gallery\.csv, line 2: a template of the gallery needs an identity",
    ),
    "identity_twice": (
        {f"{SINGLE}_gallery": ["single-a,Ada", "book-a,Ada"]},
        r"single_gallery\.csv, line 3: identity Ada is in the gallery already \(.*single_gallery\.csv, line 2\)",
    ),
    "other_identity": (
        {f"{VIDEOS}_gallery": ["video-a1,Cy", "video-b,Bo"]},
        r"surveillance_gallery\.csv, line 2: template video-a1 is of Cy, but of Ada in .*single_probes\.csv, line 3",
    ),
    "not_enrolled": (
        {f"{SINGLE}_probes": ["video-a1,Ada", "video-b,Bo"]},
        r"single_probes\.csv, line 3: the gallery has no \(other\) template of identity Bo; a probe of nobody",
    ),
    "probe_in_gallery": (
        {f"{SINGLE}_probes": ["single-a,Ada"]},
        r"single_probes\.csv, line 2: the probe is in the gallery too \(.*single_gallery\.csv, line 2\)",
    ),
    "only_itself": (
        {f"{VIDEOS}_probes": ["video-a1,Ada"]},
        r"surveillance_probes\.csv, line 2: the gallery has no \(other\) template of identity Ada",
    ),
    "said_to_be_nobody": (
        {
            f"{VIDEOS}_gallery": ["video-a1,Ada", "video-a2,Ada"],
            f"{VIDEOS}_probes": ["video-b,-1", "video-a1,-1"],
        },
        r"surveillance_probes\.csv, line 3: the probe is said to be of nobody, but the gallery has templates of Ada",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(ijbs, name):
    tables, message = DAMAGE[name]
    root = ijbs(**tables)
    with pytest.raises(ValueError, match=message):
        open_ijbs(root)
