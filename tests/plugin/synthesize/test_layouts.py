"""Walkers in the layouts of the other sets: the names that protocols go by, and what is in the files."""

import json
import re

import cv2
import numpy as np
import pytest

from common.keypoints import OPENPOSE_18
from common.runtime.arrays import load_array
from plugin.synthesize import SynthesisSettings, main, partition, places, render_sequence, sequence_names, synthesize

SMALL = {"subjects": 3, "frames": 3, "cameras": 2, "train_share": 0.4}


def set_of(layout, **changes):
    return SynthesisSettings(layout=layout, **{**SMALL, **changes})


@pytest.mark.parametrize(
    ("layout", "train", "test", "others"),
    [
        ("GREW", "00001train", "00002", ["probe"]),
        ("SUSTech1K", "0000", "0001", []),
        ("CCPG", "000", "001", []),
        ("OUMVLP", "00001", "00002", []),
    ],
)
def test_partition_names_no_probes(layout, train, test, others):
    parts = partition(set_of(layout))
    assert set(parts) == {"TRAIN_SET", "TEST_SET"}
    assert parts["TRAIN_SET"] == [train]
    assert parts["TEST_SET"][0] == test
    assert parts["TEST_SET"][2:] == others
    assert partition(set_of(layout, train_share=1.0))["TEST_SET"] == []


def test_types_and_views():
    def found(layout, cameras=2):
        names = sequence_names(set_of(layout, cameras=cameras), 1)
        return {kind for _, kind, _ in names}, sorted({view for *_, view in names}), len(names)

    kinds, views, count = found("OUMVLP", 14)
    assert kinds == {"00", "01"}
    assert views == [f"{angle:03d}" for angle in (*range(0, 91, 15), *range(180, 271, 15))]
    assert count == 28
    kinds, views, _ = found("SUSTech1K", 8)
    assert {"00-nm", "01-nm"} < kinds
    assert views == ["000", "045", "090", "135", "180", "225", "270", "315"]
    for condition in ("bg", "cl", "cr", "ub", "uf", "oc", "nt"):
        assert any(condition in kind for kind in kinds)
    kinds, views, count = found("CCPG")
    assert kinds == {"U0_D0_BG", "U0_D0", "U3_D3", "U1_D0", "U1_D1", "U2_D2", "U0_D3"}
    assert (views, count) == (["00_0", "01_0"], 14)


def test_grew_trains_and_tests_on_other_types():
    settings = set_of("GREW")
    assert [name[:2] for name in sequence_names(settings, 0)] == [("00001train", "00")] * 2
    assert [name[:2] for name in sequence_names(settings, 1)] == [("00002", "01"), ("00002", "02"), ("probe", "03")]
    tokens = [name[2] for subject in range(3) for name in sequence_names(settings, subject)]
    assert len(set(tokens)) == len(tokens)
    assert all(re.fullmatch(r"\w{8}", token) for token in tokens)
    assert len({place.camera for place in places(set_of("GREW", cameras=3), 1)}) == 3


def test_oumvlp_images_and_everybody_in_them(tmp_path):
    synthesize(set_of("OUMVLP", frames=12, pose_noise=0.0, missed_joints=0.0, seed=1), tmp_path, workers=1)
    hits, passers_by, nobody = [], 0, 0
    for path in sorted((tmp_path / "poses").rglob("*.json")):
        place = path.relative_to(tmp_path / "poses").with_suffix(".png")
        image = cv2.imread(str(tmp_path / "silhouettes" / place), cv2.IMREAD_GRAYSCALE)
        people = [np.reshape(p["pose_keypoints_2d"], (18, 3)) for p in json.loads(path.read_text())["people"]]
        passers_by += len(people) > 1
        nobody += not people
        on = []
        for person in people:
            body = person[[OPENPOSE_18.names.index(name) for name in ("neck", "left_hip", "right_hip")], :2]
            column, row = np.clip(np.rint(body).astype(int), 0, np.array(image.shape[::-1]) - 1).T
            on.append(int((image[row, column] > 0).sum()))
        hits += on[-1:]
        assert all(other < on[-1] for other in on[:-1])
    assert np.mean(hits) > 2.8
    assert passers_by > 5
    assert nobody > 0


def test_sustech1k_has_both_rates_in_one_folder(tmp_path):
    settings = set_of("SUSTech1K", frames=7, drop_frames=0.3)
    synthesize(settings, tmp_path, workers=1)
    folder = tmp_path / "0001" / "01-bg" / "045"
    pose, sync = load_array(folder / "03-045-Camera-Pose.pkl"), load_array(folder / "11-sync-045-Camera-Pose.pkl")
    np.testing.assert_array_equal(sync, pose[::3])
    assert load_array(folder / "06-045-Camera-Sils_aligned.pkl").shape == (len(pose), 64, 64)
    index = sequence_names(settings, 1).index(("0001", "01-bg", "045"))
    frames = [f for f in render_sequence(settings, 1, index) if f.joints is not None and f.silhouette is not None]
    np.testing.assert_array_equal(pose, np.stack([frame.joints for frame in frames]))
    assert load_array(folder / "04-045-Camera-Ratios-HW.pkl").tolist() == [list(f.size_wh[::-1]) for f in frames]


def test_more_cameras_than_views(tmp_path):
    with pytest.raises(ValueError, match="cameras must be <= 14 for OUMVLP, which names so many views"):
        synthesize(set_of("OUMVLP", cameras=15), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_unknown_layout(tmp_path, capsys):
    with pytest.raises(ValueError, match="layout must be one of Gait3D, GREW, SUSTech1K, CCPG, OUMVLP, got 'CASIA'"):
        SynthesisSettings(layout="CASIA")
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "out"), "--layout", "CASIA"])
    assert "invalid choice: 'CASIA'" in capsys.readouterr().err
