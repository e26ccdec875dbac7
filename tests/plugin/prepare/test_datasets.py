"""Walkers in the layout of every set through the whole preparation, and what each set's files can have wrong."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from common.keypoints import COCO_17, OPENPOSE_18
from common.runtime.arrays import load_array, save_array
from plugin.partition import read_partition
from plugin.prepare import PrepareSettings, main, normalise_silhouette, place_keypoints, prepare
from plugin.synthesize import LAYOUT_NAMES, SynthesisSettings, render_sequence, sequence_names, synthesize

SIZES = {"subjects": 4, "frames": 4, "cameras": 2, "sequences_per_subject": 2, "train_share": 0.5, "seed": 3}
QUIET = {"pose_noise": 0.0, "missed_joints": 0.0}
ONE_ROOT = {"Gait3D": ("2D_Silhouettes", "2D_Poses"), "SUSTech1K": ("", "")}


def roots(raw, layout):
    return [raw / name for name in ONE_ROOT.get(layout, ("silhouettes", "poses"))]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A set of walkers in each layout, without noise."""
    base = tmp_path_factory.mktemp("walkers")
    return {
        name: synthesize(SynthesisSettings(layout=name, **SIZES, **QUIET), base / name, workers=1)
        for name in LAYOUT_NAMES
    }


@pytest.fixture
def raw(written, tmp_path):
    """A copy of a set that may be spoilt, and its settings."""

    def copy(layout, **changes):
        target = tmp_path / layout
        shutil.copytree(written[layout], target)
        return target, settings_of(target, layout, tmp_path / "out", **changes)

    return copy


def settings_of(raw, layout, out, **changes):
    silhouettes, poses = roots(raw, layout)
    options = {"silhouettes": silhouettes, "poses": poses, "partition": raw / "partition.json", "out": out}
    return PrepareSettings(**{**options, "dataset": layout, "progress": False, **changes})


def arguments(settings):
    names = ("silhouettes", "poses", "partition", "out", "dataset")
    return [text for name in names for text in (f"--{name}", str(getattr(settings, name)))] + ["--workers", "1"]


def expected(layout, subject, index):
    """Silhouettes and joints of a walk by the two public pieces, whatever the files in between."""
    frames = render_sequence(SynthesisSettings(layout=layout, **SIZES, **QUIET), subject, index)
    pairs = []
    for frame in frames:
        image, joints = frame.silhouette, frame.joints
        if layout == "OUMVLP":  # the crop back in an image three times as wide
            left = max(other.size_wh[0] for other in frames) + 20
            right = 2 * left - 20 - image.shape[1]
            image, joints = np.pad(image, ((20, 20), (left, right))), joints + np.array([left, 20, 0])
        pairs.append((*normalise_silhouette(image), joints))
    joints = [place_keypoints(joints[None], np.array([place]))[0] for _, place, joints in pairs]
    return np.stack([window for window, _, _ in pairs]), np.stack(joints)


def read(out, sequence):
    folder = out / sequence
    return load_array(folder / "0-silhouettes.pkl"), load_array(folder / "1-keypoints.pkl")


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_every_set_comes_out_as_its_walkers_are(layout, written, tmp_path):
    settings = settings_of(written[layout], layout, tmp_path)
    report = prepare(settings)
    synthesis = SynthesisSettings(layout=layout, **SIZES, **QUIET)
    names = {subject: sequence_names(synthesis, subject) for subject in range(SIZES["subjects"])}
    assert (report.failed, report.dropped) == ({}, {})
    assert report.written == report.planned == sum(map(len, names.values()))
    exact = layout in ("Gait3D", "OUMVLP")
    assert report.estimated == (0 if exact else report.written)
    assert bool(read_partition(settings.partition).probes) == (layout == "Gait3D")
    assert report.warnings == []
    errors = []
    for subject, index in ((0, 0), (3, len(names[3]) - 1)):
        silhouettes, keypoints = read(tmp_path, "/".join(names[subject][index]))
        windows, joints = expected(layout, subject, index)
        np.testing.assert_array_equal(silhouettes, windows)
        seen = (keypoints[..., 2] > 0.3) & (joints[..., 2] > 0.3)
        assert seen.mean() > 0.7
        errors.append(np.hypot(*np.moveaxis((keypoints - joints)[seen], -1, 0)[:2]))
    if exact:
        assert np.concatenate(errors).max() < 2e-3  # three digits of text, then times 64 / rows
    else:
        assert np.median(np.concatenate(errors)) < 2.0


def test_estimates_are_in_the_report(written, tmp_path):
    report = prepare(settings_of(written["GREW"], "GREW", tmp_path))
    assert f"placed by estimate, their silhouettes' crop being lost: {report.written}" in report.to_text()


def test_the_command_line_prepares_a_set(written, tmp_path, capsys):
    settings = settings_of(written["OUMVLP"], "OUMVLP", tmp_path / "out")
    assert main(arguments(settings)) == 0
    assert "16 found, 16 written, 0 failed" in capsys.readouterr().out


def test_synchronised_frames_are_taken_on_request(written, tmp_path):
    raw = written["SUSTech1K"]
    settings = settings_of(raw, "SUSTech1K", tmp_path / "all")
    sync = ["--silhouette-files", "*-sync-*-Camera-Sils_aligned.pkl", "--pose-files", "*-sync-*-Camera-Pose.pkl"]
    prepare(settings)
    assert main([*arguments(dataclasses.replace(settings, out=tmp_path / "sync")), *sync]) == 0
    sequence = "0000/01-nm/045"
    np.testing.assert_array_equal(read(tmp_path / "sync", sequence)[0], read(tmp_path / "all", sequence)[0][::3])
    with pytest.raises(ValueError, match=r"holds sequences made with other settings \(pose_files \["):
        prepare(dataclasses.replace(settings, out=tmp_path / "sync"))


def test_an_output_of_another_set_is_refused(written, tmp_path):
    prepare(settings_of(written["OUMVLP"], "OUMVLP", tmp_path))
    with pytest.raises(ValueError, match=r"made with other settings \(dataset 'OUMVLP', now None\)"):
        prepare(settings_of(written["Gait3D"], "Gait3D", tmp_path))
    # What says the same as before there were other sets goes on from where it was.
    assert settings_of(written["Gait3D"], "Gait3D", tmp_path).fingerprint() == {
        "format": 1,
        "width": 64,
        "min_frames": 1,
        "confident": 0.3,
        "pose_coordinates": "crop",
    }


def test_a_missing_modality_is_named(raw, capsys):
    folder, settings = raw("SUSTech1K")
    for path in folder.glob("*/*/*/03-*"):
        path.unlink()
    assert main(arguments(settings)) == 2
    error = capsys.readouterr().err
    first = "0000/00-nm/000"
    assert error == (
        f"error: --poses {folder}: expected pickled poses named ??-[0-9]*-Camera-Pose.pkl (--dataset SUSTech1K), found "
        "04-000-Camera-Ratios-HW.pkl, 06-000-Camera-Sils_aligned.pkl, 07-000-Camera-Sils_raw.pkl, "
        f"11-sync-000-Camera-Pose.pkl, 14-sync-000-Camera-Sils_aligned.pkl in {folder / first}\n"
    )
    assert not settings.out.exists()


def test_a_modality_missing_here_and_there_fails_those_sequences(raw):
    folder, settings = raw("SUSTech1K")
    sequence = "0002/01-bg/045"
    (folder / sequence / "06-045-Camera-Sils_aligned.pkl").unlink()
    shutil.copy(folder / sequence / "03-045-Camera-Pose.pkl", folder / sequence / "33-045-Camera-Pose.pkl")
    other = "0002/01-cl/045"
    shutil.copy(folder / other / "03-045-Camera-Pose.pkl", folder / other / "33-045-Camera-Pose.pkl")
    report = prepare(settings)
    assert sorted(report.failed) == [sequence, other]
    assert f"{folder / sequence}: expected one ??-[0-9]*-Camera-Sils_aligned.pkl, found " in report.failed[sequence]
    assert report.failed[other].endswith("Pose.pkl, found 03-045-Camera-Pose.pkl, 33-045-Camera-Pose.pkl")


@pytest.mark.parametrize("layout", ["GREW", "CCPG", "OUMVLP"])
def test_swapped_folders(layout, raw, capsys):
    _, settings = raw(layout)
    swapped = dataclasses.replace(settings, silhouettes=settings.poses, poses=settings.silhouettes)
    assert main(arguments(swapped)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --silhouettes {settings.poses}: expected ")
    assert error.endswith("are --silhouettes and --poses swapped?\n")
    assert not settings.out.exists()


def test_another_set_than_was_said(raw, capsys):
    _, settings = raw("CCPG")
    assert main(arguments(dataclasses.replace(settings, dataset="SUSTech1K"))) == 2
    assert (
        "expected pickled silhouettes named ??-[0-9]*-Camera-Sils_aligned.pkl (--dataset SUSTech1K), found "
        "00_0-aligned-sils.pkl, 00_0-ratios.pkl, 00_0-sils.pkl in"
    ) in capsys.readouterr().err
    with pytest.raises(ValueError, match="dataset must be one of Gait3D, GREW, SUSTech1K, CCPG, OUMVLP, got 'CASIA-B'"):
        dataclasses.replace(settings, dataset="CASIA-B")
    with pytest.raises(ValueError, match="frame_number must be first or last, got 'middle'; silhouette_pixels must be"):
        dataclasses.replace(settings, frame_number="middle", silhouette_pixels="grey")


def first_frames(root, suffix, count):
    """Files of the first sequence below a root."""
    folder = sorted(root.glob("*/*/*"))[0]
    return sorted(path for path in folder.iterdir() if path.suffix == suffix)[:count]


def test_grew_silhouettes_must_be_normalised(raw, capsys):
    _, settings = raw("GREW")
    first, second, third = first_frames(settings.silhouettes, ".png", 3)
    assert cv2.imwrite(str(second), np.full((128, 88), 255, np.uint8))
    assert cv2.imwrite(str(third), np.zeros((64, 64), np.uint8))
    report = prepare(settings)
    assert report.dropped == {"empty_silhouette": 1, "not_normalised": 1}
    assert report.examples["not_normalised"] == f"{second}: expected 64 x 64, found 88 x 128"
    assert cv2.imwrite(str(first), np.full((128, 88), 255, np.uint8))
    assert main(arguments(dataclasses.replace(settings, out=settings.out / "other"))) == 2
    assert f"error: {first}: expected silhouettes that are normalised already, 64 x 64" in capsys.readouterr().err
    # The same walkers as Gait3D's: crops, which are normalised here, in files of GREW's names.
    crops = dataclasses.replace(settings, out=settings.out / "crops", silhouette_pixels="crop")
    assert prepare(crops).estimated == 0


def test_grew_pickles_may_hold_whole_lines(raw):
    folder, settings = raw("GREW")
    for place in settings.poses.glob("*/*/*"):
        lines = [np.loadtxt(path, delimiter=",") for path in sorted(place.iterdir())]
        pickled = folder / "pickled" / place.relative_to(settings.poses)
        pickled.mkdir(parents=True)
        save_array(pickled / f"{place.name}.pkl", np.stack(lines))
    of_text = prepare(settings)
    of_lines = prepare(dataclasses.replace(settings, poses=folder / "pickled", out=settings.out / "lines"))
    assert (of_lines.written, of_lines.joints_on_silhouette) == (of_text.written, of_text.joints_on_silhouette)


@pytest.mark.parametrize("layout", ["CCPG", "OUMVLP"])
def test_eighteen_joints_pickled(layout, raw):
    """COCO's joints, and the same ones in OpenPose's order with a neck, give the same data."""
    folder, settings = raw(layout)
    synthesis = SynthesisSettings(layout=layout, **SIZES, **QUIET)
    order = [COCO_17.names.index(name) if name in COCO_17.names else 0 for name in OPENPOSE_18.names]
    for subject in range(SIZES["subjects"]):
        for index, name in enumerate(sequence_names(synthesis, subject)):
            joints = np.stack([frame.joints for frame in render_sequence(synthesis, subject, index)])
            for root, array in (("coco", joints), ("openpose", joints[:, order])):
                (folder / root).joinpath(*name).mkdir(parents=True)
                save_array((folder / root).joinpath(*name) / f"{name[2]}.pkl", array)
    reports = [
        prepare(dataclasses.replace(settings, poses=folder / root, out=folder.parent / root))
        for root in ("coco", "openpose")
    ]
    assert [report.failed for report in reports] == [{}, {}]
    for path in (folder.parent / "coco").glob("0*/*/*/1-keypoints.pkl"):
        other = folder.parent / "openpose" / path.relative_to(folder.parent / "coco")
        np.testing.assert_array_equal(load_array(path), load_array(other))


def test_oumvlp_json(raw):
    """The walker among others, nobody, and what is no JSON."""
    _, settings = raw("OUMVLP")
    lonely, crowded, broken, _ = first_frames(settings.poses, ".json", 4)
    walker = json.loads(crowded.read_text())["people"][-1]["pose_keypoints_2d"]
    aside = [value + 70 * (index % 3 == 0) for index, value in enumerate(walker)]
    lonely.write_text('{"people": []}')
    crowded.write_text(json.dumps({"people": [{"pose_keypoints_2d": v} for v in (aside, walker, aside)]}))
    broken.write_text('{"people": [{"pose_keypoints_2d": [1, 2')
    report = prepare(settings)
    assert report.dropped == {"bad_pose": 1}
    assert str(broken) in report.examples["bad_pose"]
    sequence = lonely.parent.relative_to(settings.poses).as_posix()
    silhouettes, keypoints = read(settings.out, sequence)
    windows, joints = expected("OUMVLP", 0, 0)
    np.testing.assert_array_equal(silhouettes, windows[[0, 1, 3]])
    np.testing.assert_array_equal(keypoints[0], np.zeros((17, 3)))
    seen = keypoints[1, :, 2] > 0
    assert seen.sum() > 8
    np.testing.assert_allclose(keypoints[1, seen, :2], joints[1, seen, :2], atol=2e-3)
    record = json.loads((settings.out / ".prepare/sequences" / f"{sequence}.json").read_text())
    assert (record["no_person"], record["several_people"] >= 1) == (1, True)
    text = report.to_text()
    assert f"frames without a person in their pose: {report.no_person} (kept" in text
    assert f"frames with several people: {report.several_people} (" in text


def test_a_partition_without_probes(tmp_path):
    path = tmp_path / "partition.json"
    path.write_text('{"TRAIN_SET": ["1"], "TEST_SET": ["2"]}')
    assert read_partition(path).probes == ()
    path.write_text('{"TRAIN_SET": ["1"], "TEST_SET": ["2"], "PROBE_SET": "2"}')
    with pytest.raises(ValueError, match="PROBE_SET is not a list of strings"):
        read_partition(path)
