"""Which files of a folder are which stream, by the names that each set has."""

import dataclasses

import pytest

from plugin.prepare.layouts import RAW_LAYOUTS, matching
from plugin.prepare.raw import list_frames

SUSTECH1K = [
    "00-000-LiDAR-PCDs.pkl",
    "01-000-LiDAR-PCDs_depths.pkl",
    "02-000-LiDAR-PCDs_sils.pkl",
    "03-000-Camera-Pose.pkl",
    "04-000-Camera-Ratios-HW.pkl",
    "05-000-Camera-RGB_raw.pkl",
    "06-000-Camera-Sils_aligned.pkl",
    "07-000-Camera-Sils_raw.pkl",
    "08-sync-000-LiDAR-PCDs.pkl",
    "09-sync-000-LiDAR-PCDs_depths.pkl",
    "10-sync-000-LiDAR-PCDs_sils.pkl",
    "11-sync-000-Camera-Pose.pkl",
    "12-sync-000-Camera-Ratios-HW.pkl",
    "13-sync-000-Camera-RGB_raw.pkl",
    "14-sync-000-Camera-Sils_aligned.pkl",
    "15-sync-000-Camera-Sils_raw.pkl",
]


@pytest.mark.parametrize(
    ("dataset", "names", "silhouettes", "poses"),
    [
        ("Gait3D", ["f1.png", "f1.txt", "f1.json", "f1.jpg"], ["f1.png"], ["f1.txt"]),
        ("GREW", ["1.png", "pose_1_2d_pose.txt", "pose_1_3d_pose.txt"], ["1.png"], ["pose_1_2d_pose.txt"]),
        ("SUSTech1K", SUSTECH1K, [SUSTECH1K[6]], [SUSTECH1K[3]]),
        ("SUSTech1K", [name.replace("000", "000-far") for name in SUSTECH1K],
         ["06-000-far-Camera-Sils_aligned.pkl"], ["03-000-far-Camera-Pose.pkl"]),
        ("CCPG", ["00_0-rgbs.pkl", "00_0-sils.pkl", "00_0-ratios.pkl", "00_0-aligned-sils.pkl"],
         ["00_0-aligned-sils.pkl"], None),
        ("CCPG", ["00_0.pkl"], [], ["00_0.pkl"]),
        ("OUMVLP", ["0001.png", "0001.json"], ["0001.png"], ["0001.json"]),
        ("OUMVLP", ["000.pkl"], ["000.pkl"], ["000.pkl"]),
    ],
)  # fmt: skip
def test_names(dataset, names, silhouettes, poses):
    layout = RAW_LAYOUTS[dataset]
    assert matching(names, layout.silhouette_files) == silhouettes
    if poses is not None:
        assert matching(names, layout.pose_files) == poses


def test_frame_numbers_are_the_first_digits_where_the_set_says_so(tmp_path):
    names = ["pose_00002_2d_pose.txt", "pose_00010_2d_pose.txt", "cover_d_pose.txt"]
    frames = list_frames(tmp_path, names, RAW_LAYOUTS["GREW"].frame_number)
    assert frames.names == {2: names[0], 10: names[1]}
    assert frames.unnumbered == (names[2],)
    # OU-MVLP's subject 00001 has another form of name.
    assert list(list_frames(tmp_path, ["0007_keypoints.json"], RAW_LAYOUTS["OUMVLP"].frame_number).names) == [7]
    with pytest.raises(ValueError, match="are both frame 2"):
        list_frames(tmp_path, names, "last")


def test_a_pattern_needs_a_suffix_that_can_be_read():
    with pytest.raises(ValueError, match=r"silhouette_files: patterns must end in \.png, \.pkl, got \*\.jpg and \*"):
        dataclasses.replace(RAW_LAYOUTS["CCPG"], silhouette_files=("*.jpg", "*.png", "*"))
    with pytest.raises(ValueError, match=r"pose_files: patterns must end in \.txt, \.json, \.pkl, got none"):
        dataclasses.replace(RAW_LAYOUTS["CCPG"], pose_files=())
