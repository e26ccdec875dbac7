"""Whole runs over a tiny release: pairing, every reason to drop a frame or a sequence, going on, shards, report."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

import plugin.prepare.run
from common.runtime.arrays import load_array, save_array
from plugin.prepare import main, normalise_silhouette, place_keypoints, prepare
from plugin.prepare.sequence import count_on_silhouette

SEQUENCE = "0001/camid0_videoid1/seq0"


def read(out, sequence=SEQUENCE):
    folder = out / sequence
    assert sorted(os.listdir(folder)) == ["0-silhouettes.pkl", "1-keypoints.pkl"]
    return load_array(folder / "0-silhouettes.pkl"), load_array(folder / "1-keypoints.pkl")


def expected_frames(frames, numbers):
    """Both streams from the two public pieces, in the order of `numbers`."""
    pairs = [(*normalise_silhouette(frames[number][0]), frames[number][1]) for number in numbers]
    keypoints = [place_keypoints(joints[None], np.array([place]))[0] for _, place, joints in pairs]
    return np.stack([window for window, _, _ in pairs]), np.stack(keypoints)


def arguments(settings):
    """The command line of the same run."""
    options = {"silhouettes": "--silhouettes", "poses": "--poses", "partition": "--partition", "out": "--out"}
    return [text for name, option in options.items() for text in (option, str(getattr(settings, name)))]


def test_pairs_by_number_in_numerical_order(raw, tmp_path):
    frames = raw.write(SEQUENCE, [1002, 998, 999, 1000])
    raw.txt(SEQUENCE, 999).unlink()
    raw.png(SEQUENCE, 1000).unlink()
    (raw.png(SEQUENCE, 998).parent / "._human_crop_f998.png").write_text("left by an archive")
    report = prepare(raw.settings(tmp_path / "out"))
    silhouettes, keypoints = read(tmp_path / "out")
    expected_silhouettes, expected_keypoints = expected_frames(frames, [998, 1002])
    np.testing.assert_array_equal(silhouettes, expected_silhouettes)
    np.testing.assert_allclose(keypoints, expected_keypoints, atol=1e-3)
    assert (silhouettes.dtype, keypoints.dtype) == (np.uint8, np.float32)
    assert report.dropped == {"no_pose": 1, "no_silhouette": 1}
    assert (report.frames, report.written, report.failed) == (2, 1, {})


def test_width_44_cuts_both_streams(raw, tmp_path):
    raw.write(SEQUENCE, range(3))
    prepare(raw.settings(tmp_path / "wide"))
    prepare(raw.settings(tmp_path / "narrow", width=44))
    wide_silhouettes, wide_keypoints = read(tmp_path / "wide")
    silhouettes, keypoints = read(tmp_path / "narrow")
    np.testing.assert_array_equal(silhouettes, wide_silhouettes[:, :, 10:54])
    np.testing.assert_allclose(keypoints, wide_keypoints - np.float32([10, 0, 0]), atol=1e-5)
    # Plain pickle, as OpenGait reads it.
    with open(tmp_path / "narrow" / SEQUENCE / "0-silhouettes.pkl", "rb") as file:
        assert pickle.load(file).shape == (3, 64, 44)


def test_every_reason_to_drop_a_frame(raw, tmp_path, pose_line):
    frames = raw.write(SEQUENCE, range(10))
    crop, joints = frames[0]
    raw.txt(SEQUENCE, 1).unlink()
    raw.png(SEQUENCE, 2).unlink()
    raw.write_png(SEQUENCE, 3, np.zeros_like(crop))
    column = np.zeros_like(crop)
    column[:, 0] = 255
    raw.write_png(SEQUENCE, 4, column)
    raw.png(SEQUENCE, 5).write_bytes(raw.png(SEQUENCE, 5).read_bytes()[:-20])
    raw.write_pose(SEQUENCE, 6, "1,2,3")
    missing = joints.copy()
    missing[[7, 8]] = [(5, 5, 0), (np.nan, 5, 1)]
    raw.write_pose(SEQUENCE, 7, pose_line(missing, (1, 1)))  # another size: counted, kept
    (raw.png(SEQUENCE, 0).parent / "cover.png").write_bytes(b"")

    report = prepare(raw.settings(tmp_path / "out"))
    assert report.dropped == dict.fromkeys(
        ["bad_pose", "empty_silhouette", "no_centre", "no_number", "no_pose", "no_silhouette", "unreadable_png"], 1
    )
    assert "expected 53 values, found 3" in report.examples["bad_pose"]
    assert "human_crop_f5.png: truncated" in report.examples["unreadable_png"]
    assert (report.frames, report.size_mismatches, report.missing_joints) == (4, 1, 2)
    silhouettes, keypoints = read(tmp_path / "out")
    assert len(silhouettes) == len(keypoints) == 4
    np.testing.assert_array_equal(keypoints[1, [7, 8]], np.zeros((2, 3)))
    text = report.to_text()
    assert "frames: 4 kept, 7 dropped" in text
    assert "68, of which 2 missing" in text


def test_sequences_that_fail_are_lines_in_the_report(raw, tmp_path):
    for index in range(9):
        raw.write(f"0001/camid{index}_videoid1/seq0", range(3))
    place = "0001/camid{}_videoid1/seq0".format
    for number in range(3):
        raw.txt(place(1), number).rename(raw.txt(place(1), number + 100))
    shutil.rmtree(raw.txt(place(2), 0).parent)
    shutil.rmtree(raw.png(place(3), 0).parent)
    shutil.copy(raw.png(place(4), 1), raw.png(place(4), "01"))
    for number in range(2):
        raw.write_png(place(5), number, np.zeros((60, 60), np.uint8))
    for path in raw.png(place(6), 0).parent.iterdir():
        path.unlink()
    (raw.png(place(6), 0).parent / "seq0.pkl").write_bytes(b"\x80\x04 not an array")
    for path in raw.txt(place(7), 0).parent.iterdir():
        path.unlink()
    foreign = tmp_path / "out" / place(8) / "2-other.pkl"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"kept")

    report = prepare(raw.settings(tmp_path / "out", min_frames=2))
    expected = {
        1: "share no frame \\(3 no_pose, 3 no_silhouette\\)",
        2: "2D_Poses/.*: No such file",
        3: "2D_Silhouettes/.*: No such file",
        4: "human_crop_f01.png and human_crop_f1.png are both frame 1",
        5: "1 usable frames, --min-frames asks for 2 \\(2 empty_silhouette\\)",
        6: r"seq0\.pkl: not a whole pickled NumPy array",
        7: r"expected \*\.txt files or one \*\.pkl, found no files",
        8: r"holds 2-other\.pkl, which OpenGait would read",
    }
    assert sorted(report.failed) == [place(index) for index in sorted(expected)]
    for index, message in expected.items():
        with pytest.raises(ValueError, match=message):
            raise ValueError(report.failed[place(index)])
    assert (report.planned, report.written, report.frames) == (9, 1, 3)
    assert report.dropped == {"empty_silhouette": 2, "no_pose": 3, "no_silhouette": 3, "short_sequence": 1}
    assert foreign.read_bytes() == b"kept"
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("0*/*/*/*"))
    assert found == [f"{place(0)}/0-silhouettes.pkl", f"{place(0)}/1-keypoints.pkl", f"{place(8)}/2-other.pkl"]


def test_a_rerun_skips_what_is_whole_and_retries_what_failed(raw, tmp_path, monkeypatch):
    for index in range(4):
        raw.write(f"000{index}/camid0_videoid1/seq0", range(2))
    settings = raw.settings(tmp_path / "out")
    hidden = raw.txt("0003/camid0_videoid1/seq0", 0).parent
    hidden.rename(tmp_path / "elsewhere")
    first = prepare(settings)
    assert list(first.failed) == ["0003/camid0_videoid1/seq0"]
    (tmp_path / "elsewhere").rename(hidden)
    (tmp_path / "out" / "0001/camid0_videoid1/seq0/1-keypoints.pkl").write_bytes(b"cut")
    (tmp_path / "out" / ".prepare/sequences/0002/camid0_videoid1/seq0.json").write_text('{"sequence": ')

    done = []
    original = plugin.prepare.run.prepare_sequence
    monkeypatch.setattr(
        plugin.prepare.run,
        "prepare_sequence",
        lambda sequence, settings: done.append(sequence) or original(sequence, settings),
    )
    second = prepare(settings)
    assert done == [f"000{index}/camid0_videoid1/seq0" for index in (1, 2, 3)]
    assert second == prepare(raw.settings(tmp_path / "fresh"))
    done.clear()
    assert prepare(settings) == second
    assert done == []


@pytest.mark.parametrize("change", [{"width": 44}, {"confident": 0.5}, {"min_frames": 2}])
def test_a_rerun_with_other_settings_is_refused(change, raw, tmp_path):
    raw.write(SEQUENCE, range(2))
    settings = raw.settings(tmp_path / "out")
    prepare(settings)
    before = read(tmp_path / "out")
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=rf"other settings \({name} {getattr(settings, name)}, now {value}\)"):
        prepare(dataclasses.replace(settings, **change))
    for kept, found in zip(before, read(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(kept, found)
    prepare(dataclasses.replace(settings, low_share=0.9))  # the report's own affair


def test_settings_may_change_until_something_is_written(raw, tmp_path):
    place = "0001/camid{}_videoid1/seq0".format
    for index in range(3):
        raw.write(place(index), range(2 + index))
    settings = raw.settings(tmp_path / "out")
    assert len(prepare(dataclasses.replace(settings, min_frames=9, width=44)).failed) == 3
    shutil.rmtree(settings.silhouettes / "0001/camid2_videoid1")  # its old failure must not be counted any more
    shutil.rmtree(settings.poses / "0001/camid2_videoid1")
    assert prepare(settings) == prepare(dataclasses.replace(settings, out=tmp_path / "fresh"))
    assert not any((tmp_path / "out/.prepare/sequences").glob("0001/camid2_videoid1/*"))
    with pytest.raises(ValueError, match="holds sequences made with other settings"):
        prepare(dataclasses.replace(settings, width=44))


def test_a_run_whose_output_was_taken_over_stops(raw, tmp_path, monkeypatch):
    """Another run changes the settings while this one has written nothing yet: their sequences must not mix."""
    raw.write(SEQUENCE, range(2))
    settings = raw.settings(tmp_path / "out")
    original = plugin.prepare.run.prepare_sequence

    def late(sequence, settings):
        monkeypatch.setattr(plugin.prepare.run, "prepare_sequence", original)
        assert prepare(dataclasses.replace(settings, width=44)).written == 1
        return original(sequence, settings)

    monkeypatch.setattr(plugin.prepare.run, "prepare_sequence", late)
    with pytest.raises(ValueError, match="width 44, now 64"):
        prepare(settings)
    assert read(tmp_path / "out")[0].shape == (2, 64, 44)


def test_examples_name_the_sequence(raw, tmp_path):
    place = "0001/camid{}_videoid1/seq0".format
    for index in range(4):
        raw.write(place(index), range(3))
    raw.txt(place(1), 2).unlink()
    raw.txt(place(2), 0).unlink()
    raw.write_pose(place(3), 1, "?")
    report = prepare(raw.settings(tmp_path / "out", min_frames=3))
    text = report.to_text()
    assert f"  no_pose: 2 (first: {place(1)}: frame 2)\n" in text
    assert f"  short_sequence: 6 (first: {place(1)}: its 2 usable frames)\n" in text
    assert f"  bad_pose: 1 (first: {raw.txt(place(3), 1)}: expected 53 values, found 1)\n" in text
    assert f"failed {place(1)}: 2 usable frames, --min-frames asks for 3 (1 no_pose)\n" in text

    whole = prepare(raw.settings(tmp_path / "strict", min_frames=4))
    assert whole.failed[place(0)] == "3 usable frames, --min-frames asks for 4"


def test_redirected_progress_is_short(raw, tmp_path, capsys):
    for index in range(30):
        raw.write(f"{index:04d}/camid0_videoid1/seq0", [0])
    prepare(raw.settings(tmp_path / "out", progress=True))
    assert capsys.readouterr().err.count("sequence/s") <= 1


def test_settings_that_slipped_in_at_the_same_moment_are_found(raw, tmp_path):
    raw.write(SEQUENCE, range(2))
    prepare(raw.settings(tmp_path / "out", width=44))
    (tmp_path / "out/.prepare/settings.json").unlink()
    with pytest.raises(ValueError, match="width 44, now 64"):
        prepare(raw.settings(tmp_path / "out"))


def test_killed_at_any_step_nothing_half_is_left(raw, tmp_path, monkeypatch):
    """Die at every call that changes the disk in turn; each time the folders are whole or absent, and a rerun ends
    as an undisturbed run does."""
    for index in range(2):
        raw.write(f"000{index}/camid0_videoid1/seq0", range(2))
    expected = prepare(raw.settings(tmp_path / "undisturbed"))
    settings = raw.settings(tmp_path / "out")

    class Killed(BaseException):
        pass

    countdown = 0
    originals = {name: getattr(os, name) for name in ("replace", "rename", "mkdir")}

    def dying(name):
        def call(*args, **options):
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                raise Killed
            return originals[name](*args, **options)

        return call

    survived = 0
    for step in range(1, 40):
        shutil.rmtree(settings.out, ignore_errors=True)
        countdown = step
        with monkeypatch.context() as patch:
            for name in originals:
                patch.setattr(os, name, dying(name))
            try:
                prepare(settings)
                survived += 1
            except Killed:
                pass
        for folder in settings.out.glob("0*/*/*"):
            read(settings.out, folder.relative_to(settings.out))
        assert prepare(settings) == expected
    assert 0 < survived < 39


def test_sigkill_with_workers(raw, tmp_path, start_program):
    for index in range(40):
        raw.write(f"{index:04d}/camid0_videoid1/seq0", range(12))
    settings = raw.settings(tmp_path / "out")
    program = start_program(sys.executable, "-m", "plugin.prepare", *arguments(settings), "--workers", "2")
    records = tmp_path / "out" / ".prepare" / "sequences"
    program.wait_until(lambda: any(records.glob("*/*/*.json")))
    program.send(signal.SIGKILL)
    program.finish()  # and its workers follow
    assert any(records.glob("*/*/*.json"))
    report = prepare(settings)
    assert (report.written, report.frames) == (40, 480)
    for index in range(40):
        assert len(read(tmp_path / "out", f"{index:04d}/camid0_videoid1/seq0")[0]) == 12


def test_interrupt_says_how_to_go_on(raw, tmp_path, monkeypatch, capsys):
    for index in range(3):
        raw.write(f"000{index}/camid0_videoid1/seq0", range(2))
    settings = raw.settings(tmp_path / "out")
    original = plugin.prepare.run.prepare_sequence

    def interrupted(sequence, settings):
        if sequence.startswith("0001"):
            raise KeyboardInterrupt
        return original(sequence, settings)

    with monkeypatch.context() as patch:
        patch.setattr(plugin.prepare.run, "prepare_sequence", interrupted)
        assert main([*arguments(settings), "--workers", "1"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [path.name for path in sorted((tmp_path / "out").glob("0*"))] == ["0000"]
    assert main([*arguments(settings), "--workers", "1"]) == 0
    assert "3 found, 3 written, 0 failed, 0 not done" in capsys.readouterr().out


def test_shards_and_workers_merge_to_one_run(raw, tmp_path):
    for index in range(5):
        raw.write(f"000{index}/camid0_videoid1/seq0", range(2 + index))
        raw.write(f"000{index}/camid1_videoid1/seq0", range(3))
        if index % 2:
            raw.txt(f"000{index}/camid1_videoid1/seq0", 0).unlink()
    raw.txt("0004/camid1_videoid1/seq0", 1).write_text("?")
    raw.subjects.update(TRAIN_SET=["0000"], TEST_SET=["0001", "0002", "0003", "0004"])
    raw.subjects["PROBE_SET"] = ["0001-camid0_videoid1-seq0"]
    prepare(raw.settings(tmp_path / "one", workers=2))
    totals = [prepare(raw.settings(tmp_path / "shards", shard=(index, 3))) for index in (2, 3, 1)]
    names = ["report.json", "report.txt", "settings.json"]
    for name in names:
        assert (tmp_path / "one/.prepare" / name).read_text() == (tmp_path / "shards/.prepare" / name).read_text()
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("0*/*/*/*"))
    assert len(files) == 20
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "shards" / path).read_bytes()
    merged = json.loads((tmp_path / "shards/.prepare/report.json").read_text())
    assert [total.planned for total in totals] == [3, 3, 4]
    assert sum(total.frames for total in totals) == merged["frames"]
    assert sum((Counter(total.dropped) for total in totals), Counter()) == merged["dropped"]
    part = json.loads((tmp_path / "shards/.prepare/report-2-of-3.json").read_text())
    assert part["frames"] == totals[0].frames


def test_merged_report_of_the_first_shard_counts_what_is_still_to_do(raw, tmp_path):
    for index in range(4):
        raw.write(f"000{index}/camid0_videoid1/seq0", range(2))
    raw.subjects.update(TEST_SET=[f"000{index}" for index in range(4)], PROBE_SET=["0001-camid0_videoid1-seq0"])
    prepare(raw.settings(tmp_path / "out", shard=(1, 2)))
    merged = json.loads((tmp_path / "out/.prepare/report.json").read_text())
    assert (merged["planned"], merged["written"], merged["pending"]) == (4, 2, 2)
    assert "when every sequence is done" in merged["warnings"][0]


def test_share_on_the_silhouette_by_loop():
    draw = np.random.default_rng(0)
    silhouettes = (draw.uniform(size=(4, 64, 44)) > 0.9).astype(np.uint8) * 255
    keypoints = draw.uniform(-5, 69, (4, 17, 3)).astype(np.float32)
    keypoints[..., 2] = draw.uniform(size=(4, 17))
    keypoints[0, 0] = (1e30, 5, 1)
    confident = on = 0
    for frame in range(4):
        for x, y, confidence in keypoints[frame]:
            if confidence < 0.3:
                continue
            confident += 1
            if not (-0.5 <= x <= 43.5 and -0.5 <= y <= 63.5):
                continue
            column, row = round(float(x)), round(float(y))
            near = silhouettes[frame, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            on += bool(near.any())
    assert 0 < on < confident
    assert count_on_silhouette(silhouettes, keypoints, 0.3) == (confident, on)


def test_report_finds_the_wrong_skeleton(raw, tmp_path, pose_line):
    raw.write(SEQUENCE, range(3))
    other = "0001/camid1_videoid1/seq0"
    for number, (crop, joints) in raw.write(other, range(3)).items():
        raw.write_pose(other, number, pose_line(np.add(joints, [60, 0, 0]), crop.shape[::-1]))
    report = prepare(raw.settings(tmp_path / "out"))
    assert list(report.low_sequences) == [other]
    assert report.low_sequences[other] < 0.2
    assert report.confident_joints == 2 * 3 * 17
    assert 0.5 <= report.on_share < 0.6
    assert other in (tmp_path / "out/.prepare/report.txt").read_text()


def test_subjects_and_probes(raw, tmp_path):
    for subject, cameras in (("0001", 2), ("0002", 1), ("0003", 1), ("0004", 2)):
        for camera in range(cameras):
            raw.write(f"{subject}/camid{camera}_videoid1/seq0", range(2))
    raw.write_pose("0004/camid1_videoid1/seq0", 0, "?")
    raw.write_pose("0004/camid1_videoid1/seq0", 1, "?")
    raw.subjects.update(TRAIN_SET=["0003"], TEST_SET=["0001", "0004", "0099"])
    raw.subjects["PROBE_SET"] = ["0001-camid0_videoid1-seq0", "0004-camid0_videoid1-seq0"]
    report = prepare(raw.settings(tmp_path / "out"))
    assert (report.planned, report.subjects_left_out, report.subjects_absent) == (5, 1, 1)
    assert report.warnings == ["probe 0004-camid0_videoid1-seq0 has no gallery sequence of the same subject"]
    assert not (tmp_path / "out" / "0002").exists()


def test_bad_settings_stop_before_any_work(raw, tmp_path):
    raw.write(SEQUENCE, range(2))
    out = tmp_path / "out"
    settings = raw.settings(out)
    for change, message in (
        ({"silhouettes": tmp_path / "none"}, "--silhouettes .*none: no such folder"),
        ({"poses": tmp_path / "none"}, "--poses .*none: no such folder"),
        ({"partition": tmp_path / "none.json"}, r"none\.json: partition cannot be read: No such file"),
        ({"out": settings.poses / "out"}, "--out .*lies in --poses"),
        ({"out": settings.silhouettes}, "--out .*lies in --silhouettes"),
        ({"out": settings.partition / "out"}, "cannot be written: .*Not a directory"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(dataclasses.replace(settings, **change))
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "expected an object with TRAIN_SET, TEST_SET, PROBE_SET, found a list"),
        ('{"TRAIN_SET": [1]}', "TRAIN_SET is not a list of strings; TEST_SET is missing"),
        ('{"TRAIN_SET": ["7"], "TEST_SET": [], "PROBE_SET": []}', "names none of the 1 subjects"),
    ):
        settings.partition.write_text(text)
        with pytest.raises(ValueError, match=message):
            prepare(settings)
    with pytest.raises(ValueError, match=r"width must be 64 or 44, got 32; shard must be .* got \(0, 2\)"):
        raw.settings(out, width=32, shard=(0, 2))
    assert not out.exists()


def test_command_line_errors_are_one_line(raw, tmp_path, capsys):
    raw.write(SEQUENCE, range(2))
    settings = raw.settings(tmp_path / "out")
    assert main([*arguments(settings), "--confident", "2"]) == 2
    assert capsys.readouterr().err == "error: confident must be in (0, 1], got 2.0\n"
    for shard in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit, match="2"):
            main([*arguments(settings), "--shard", shard])
        assert "is not I/N with I from 1 to N" in capsys.readouterr().err
    raw.write_pose(SEQUENCE, 0, "?")
    raw.write_pose(SEQUENCE, 1, "?")
    assert main([*arguments(settings), "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert f"failed {SEQUENCE}: 0 usable frames" in captured.out
    assert "no sequence was prepared" in captured.err


@pytest.fixture
def pickled(raw, tmp_path):
    """The same frames as files and as OpenGait pickles them: in the order of the names."""
    numbers = [8, 9, 10, 11]
    frames = raw.write(SEQUENCE, numbers)
    by_name = sorted(numbers, key=str)
    silhouettes, keypoints = expected_frames(frames, by_name)
    crops = np.stack([frames[number][1] for number in by_name])
    for root, array in (("silhouettes", silhouettes), ("narrow", silhouettes[:, :, 10:-10]), ("poses", crops)):
        (tmp_path / root / SEQUENCE).mkdir(parents=True)
        save_array(tmp_path / root / SEQUENCE / "seq0.pkl", np.ascontiguousarray(array))
    (tmp_path / "placed" / SEQUENCE).mkdir(parents=True)
    save_array(tmp_path / "placed" / SEQUENCE / "seq0.pkl", keypoints)
    return silhouettes, keypoints


def test_png_with_pickled_poses_is_exact(raw, pickled, tmp_path):
    prepare(raw.settings(tmp_path / "files"))
    report = prepare(raw.settings(tmp_path / "mixed", poses=tmp_path / "poses"))
    assert report.estimated == 0
    for expected, found in zip(read(tmp_path / "files"), read(tmp_path / "mixed"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)  # text keeps three digits


@pytest.mark.parametrize("width", [64, 44])
def test_both_pickled(width, raw, pickled, tmp_path):
    silhouettes, keypoints = pickled
    cut = (64 - width) // 2
    pickles = {"silhouettes": tmp_path / "silhouettes", "poses": tmp_path / "poses", "width": width}
    report = prepare(raw.settings(tmp_path / "out", **pickles))
    assert report.estimated == 1
    assert "placed by estimate, their silhouettes' crop being lost: 1" in report.to_text()
    found_silhouettes, found_keypoints = read(tmp_path / "out")
    np.testing.assert_array_equal(found_silhouettes, silhouettes[:, :, cut : 64 - cut])
    error = np.hypot(*np.moveaxis(found_keypoints - keypoints + [cut, 0, 0], -1, 0)[:2])
    assert np.median(error) < 2.0

    pickles["poses"] = tmp_path / "placed"
    report = prepare(raw.settings(tmp_path / "copied", pose_coordinates="normalised", **pickles))
    assert report.estimated == 0
    np.testing.assert_allclose(read(tmp_path / "copied")[1], keypoints - [cut, 0, 0], atol=1e-4)


def test_narrow_pickles_stay_narrow(raw, pickled, tmp_path):
    silhouettes, keypoints = pickled
    pickles = {"silhouettes": tmp_path / "narrow", "poses": tmp_path / "poses"}
    prepare(raw.settings(tmp_path / "out", width=44, **pickles))
    found_silhouettes, found_keypoints = read(tmp_path / "out")
    np.testing.assert_array_equal(found_silhouettes, silhouettes[:, :, 10:-10])
    assert np.median(np.hypot(*np.moveaxis(found_keypoints - keypoints + [10, 0, 0], -1, 0)[:2])) < 2.0
    report = prepare(raw.settings(tmp_path / "wide", **pickles))
    assert report.failed == {SEQUENCE: "pickled silhouettes are 44 wide, 64 cannot be made of them"}


def test_pickled_silhouettes_with_text_poses_get_their_order_back(raw, pickled, tmp_path):
    silhouettes, _ = pickled
    prepare(raw.settings(tmp_path / "out", silhouettes=tmp_path / "silhouettes"))
    by_number = [2, 3, 0, 1]  # 10, 11, 8, 9 -> 8, 9, 10, 11
    np.testing.assert_array_equal(read(tmp_path / "out")[0], silhouettes[by_number])


@pytest.mark.parametrize(
    ("root", "array", "message"),
    [
        ("poses", np.zeros((3, 17, 3)), "4 silhouettes and 3 poses: .*only equally long"),
        ("poses", np.zeros((4, 18, 3)), r"poses must be \[T, 17, 3\] numbers, found \[4, 18, 3\] float64"),
        ("poses", np.zeros((4, 17, 3)), r"0 usable frames.*4 no_placement"),
        ("silhouettes", np.zeros((4, 128, 128), np.uint8), r"\[T, 64, 44\] uint8, found \[4, 128, 128\] uint8"),
        ("silhouettes", np.zeros((4, 64, 64)), r"found \[4, 64, 64\] float64"),
        ("silhouettes", np.zeros((4, 64, 64), np.uint8), r"0 usable frames.*4 empty_silhouette"),
    ],
)
def test_pickles_that_cannot_be_used(root, array, message, raw, pickled, tmp_path):
    save_array(tmp_path / root / SEQUENCE / "seq0.pkl", array)
    report = prepare(raw.settings(tmp_path / "out", silhouettes=tmp_path / "silhouettes", poses=tmp_path / "poses"))
    with pytest.raises(ValueError, match=message):
        raise ValueError(report.failed[SEQUENCE])


def test_text_poses_are_never_taken_as_normalised(raw, pickled, tmp_path, capsys):
    settings = raw.settings(tmp_path / "out")
    assert main([*arguments(settings), "--pose-coordinates", "normalised"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --pose-coordinates normalised is for pickled poses; --poses {settings.poses}: ")
    assert error.count("\n") == 1
    assert not settings.out.exists()
    # Among pickled poses they are one failed sequence.
    mixed = "0001/camid5_videoid1/seq0"
    raw.write(mixed, range(2))
    shutil.copytree(settings.poses / mixed, tmp_path / "placed" / mixed)
    report = prepare(dataclasses.replace(settings, poses=tmp_path / "placed", pose_coordinates="normalised"))
    assert report.written == 1
    assert "text poses are in crop pixels" in report.failed[mixed]


@pytest.mark.parametrize("kind", ["files", "pickles"])
def test_swapped_folders_are_refused_before_the_output_is_claimed(kind, raw, pickled, tmp_path, capsys):
    settings = raw.settings(tmp_path / "out")
    right = (
        (settings.silhouettes, settings.poses) if kind == "files" else (tmp_path / "silhouettes", tmp_path / "poses")
    )
    for silhouettes, poses, option, found in (
        (right[1], right[0], "--silhouettes", {"files": ".txt files", "pickles": "pickled poses"}[kind]),
        (right[0], right[0], "--poses", {"files": ".png files", "pickles": "pickled silhouettes"}[kind]),
    ):
        wrong = dataclasses.replace(settings, silhouettes=silhouettes, poses=poses)
        assert main(arguments(wrong)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {option} ")
        assert error.endswith(f"found {found}; are --silhouettes and --poses swapped?\n")
        assert not settings.out.exists()


def test_grey_edges_survive(raw, tmp_path, draw_body):
    """Silhouettes are not thresholded: the resize's grey values are what the networks are trained on."""
    raw.write(SEQUENCE, range(1))
    soft = cv2.GaussianBlur(draw_body()[0], (5, 5), 0)
    raw.write_png(SEQUENCE, 0, soft)
    prepare(raw.settings(tmp_path / "out"))
    np.testing.assert_array_equal(read(tmp_path / "out")[0][0], normalise_silhouette(soft)[0])
