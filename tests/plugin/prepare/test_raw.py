"""Readers of the release's files: what is damaged is found out, whatever a decoder would make of it."""

import cv2
import numpy as np
import pytest

from plugin.layout import find_sequences
from plugin.prepare.raw import DroppedFrame, list_frames, read_pose, read_silhouette


def test_frames_are_numbered_by_the_last_digits(tmp_path):
    names = ["human_crop_f1002.png", "human_crop_f998.png", "cam2_f0999.png", "cover.png", "v2_f12_mask.png"]
    frames = list_frames(tmp_path, names)
    assert frames.names == {
        999: "cam2_f0999.png",
        1002: "human_crop_f1002.png",
        998: "human_crop_f998.png",
        12: "v2_f12_mask.png",
    }
    assert frames.unnumbered == ("cover.png",)
    with pytest.raises(ValueError, match=r"f007\.png and f7\.png are both frame 7"):
        list_frames(tmp_path, ["f7.png", "f007.png"])


def test_sequences_are_folders_three_deep(tmp_path):
    for folder in ("2/cam1/seq1", "2/cam1/seq0", "10/cam0/seq0", "3/cam0/seq0", "2/.cam/seq0", "2/cam1/.seq"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "2" / "cam1" / "notes.txt").write_text("not a folder")
    expected = [("10", "cam0", "seq0"), ("2", "cam1", "seq0"), ("2", "cam1", "seq1")]
    assert find_sequences(tmp_path, ["2", "10", "99"]) == expected


def test_whole_png_is_read_as_opencv_reads_it(tmp_path, draw_body):
    path = tmp_path / "f1.png"
    colour = np.stack([draw_body()[0], draw_body(centre_x=40)[0], draw_body(centre_x=20)[0]], axis=-1)
    for image in (draw_body()[0], colour):
        assert cv2.imwrite(str(path), image)
        np.testing.assert_array_equal(read_silhouette(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


def test_truncated_png_at_any_length(tmp_path, draw_body):
    path = tmp_path / "f1.png"
    assert cv2.imwrite(str(path), draw_body()[0])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DroppedFrame, match=r"f1\.png: (empty file|not a PNG|truncated PNG)") as dropped:
            read_silhouette(path)
        assert dropped.value.reason == "unreadable_png"


def test_damaged_png(tmp_path, draw_body):
    path = tmp_path / "f1.png"
    assert cv2.imwrite(str(path), draw_body()[0])
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged, message in (
        (whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "wrong checksum"),
        (whole[:middle] + bytes(len(whole) - middle), "wrong checksum|truncated"),  # size reserved, never filled
        (b"GIF89a" + whole, "not a PNG"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DroppedFrame, match=message):
            read_silhouette(path)
    with pytest.raises(DroppedFrame, match="No such file"):
        read_silhouette(tmp_path / "none.png")


def test_pose_with_spaces_and_line_end(tmp_path):
    path = tmp_path / "f1.txt"
    values = np.round(np.random.default_rng(0).uniform(0, 200, 53), 3)
    path.write_text("\n " + " , ".join(map(str, values)) + " \r\n\n")
    size, joints = read_pose(path)
    assert size == (values[0], values[1])
    np.testing.assert_array_equal(joints, values[2:].reshape(17, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 53 values, found 0"),
        ("1,2,3", "expected 53 values, found 3"),
        (",".join(["1"] * 54), "expected 53 values, found 54"),
        (",".join(["1"] * 52) + ",", "could not convert"),
        (",".join(["1"] * 52 + ["left"]), "could not convert.*left"),
        (",".join(["1"] * 53) + "\n" + ",".join(["1"] * 53), "expected one line, found 2"),
    ],
)
def test_bad_pose(text, message, tmp_path):
    path = tmp_path / "f1.txt"
    path.write_text(text)
    with pytest.raises(DroppedFrame, match=message) as dropped:
        read_pose(path)
    assert dropped.value.reason == "bad_pose"
    assert "f1.txt" in str(dropped.value)
