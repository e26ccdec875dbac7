"""Files on disk: the raw layout, its partition, the same bytes every time, and refusals."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugin.synthesize import SynthesisSettings, main, partition, render_sequence, synthesize

SMALL = {"subjects": 4, "sequences_per_subject": 3, "frames": 5, "cameras": 2, "train_share": 0.5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthesize(SynthesisSettings(**SMALL), tmp_path_factory.mktemp("walkers") / "new" / "set", workers=1)


def test_layout(written):
    expected = {"2D_Silhouettes", "2D_Poses", "settings.json", "partition.json"}
    assert {path.name for path in written.iterdir()} == expected
    pattern = re.compile(r"\d{4}/camid\d+_videoid\d+/seq\d+/human_crop_f\d+")
    silhouettes, poses = (
        {str(path.relative_to(written / top).with_suffix("")) for path in (written / top).rglob(f"*.{end}")}
        for top, end in (("2D_Silhouettes", "png"), ("2D_Poses", "txt"))
    )
    assert silhouettes == poses
    assert all(pattern.fullmatch(name) for name in silhouettes)
    assert len({name.rsplit("/", 1)[0] for name in silhouettes}) == 4 * 3


def test_pose_file_and_silhouette_say_the_same_size(written):
    for path in (written / "2D_Poses").rglob("*.txt"):
        lines = path.read_text().splitlines()
        assert len(lines) == 1
        values = [float(value) for value in lines[0].split(",")]
        assert len(values) == 2 + 17 * 3
        picture = cv2.imread(
            str(written / "2D_Silhouettes" / path.relative_to(written / "2D_Poses").with_suffix(".png")), -1
        )
        assert picture.dtype == np.uint8
        assert picture.ndim == 2
        assert picture.shape == (values[1], values[0])


def test_files_hold_what_render_sequence_gives(written):
    settings = SynthesisSettings(**SMALL)
    folders = {path.parent for path in (written / "2D_Poses" / "0002").rglob("*.txt")}
    by_numbers = {tuple(sorted(int(path.stem[12:]) for path in folder.iterdir())): folder for folder in folders}
    frames = render_sequence(settings, 2, 1)
    folder = by_numbers[tuple(frame.number for frame in frames)]
    for frame in frames:
        values = (folder / f"human_crop_f{frame.number}.txt").read_text().split(",")[2:]
        np.testing.assert_allclose(np.array(values, float).reshape(17, 3), frame.joints, atol=6e-4)


def test_partition_gives_every_probe_a_gallery_sequence(written):
    parts = json.loads((written / "partition.json").read_text())
    assert parts["TRAIN_SET"] == ["0000", "0001"]
    assert parts["TEST_SET"] == ["0002", "0003"]
    assert len(parts["PROBE_SET"]) == 2
    sequences = {"-".join(p.relative_to(written / "2D_Poses").parts) for p in (written / "2D_Poses").glob("*/*/*")}
    for probe in parts["PROBE_SET"]:
        assert probe in sequences
        subject = probe.split("-")[0]
        assert subject in parts["TEST_SET"]
        assert any(s.startswith(f"{subject}-") and s not in parts["PROBE_SET"] for s in sequences)


def test_settings_file_says_what_it_is(written):
    record = json.loads((written / "settings.json").read_text())
    assert SynthesisSettings(**record["settings"]) == SynthesisSettings(**SMALL)
    assert "nothing about accuracy on people" in record["note"]


def test_same_bytes_whatever_the_number_of_processes(written, tmp_path):
    synthesize(SynthesisSettings(**SMALL), tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(written)


def test_more_subjects_leave_the_others_as_they_were(written, tmp_path):
    synthesize(SynthesisSettings(**(SMALL | {"subjects": 5})), tmp_path, workers=1)
    before, after = contents(written), contents(tmp_path)
    frames = [name for name in before if name.startswith("2D_")]
    assert all(after[name] == before[name] for name in frames)
    assert len(after) > len(before)


def test_another_seed_gives_other_walkers():
    first, second = (render_sequence(SynthesisSettings(**SMALL, seed=seed), 0, 0) for seed in (0, 1))
    assert first[0].size_wh != second[0].size_wh or (first[0].silhouette != second[0].silhouette).any()


def test_dropped_frames_are_missing_files(tmp_path):
    synthesize(SynthesisSettings(**SMALL, drop_frames=0.5), tmp_path, workers=1)
    silhouettes, poses = ({path.stem for path in tmp_path.rglob(f"*.{end}")} for end in ("png", "txt"))
    assert silhouettes - poses
    assert poses - silhouettes


def test_nothing_is_written_over_what_is_there(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"expected an empty or new folder, found mine\.txt"):
        synthesize(SynthesisSettings(**SMALL), tmp_path, workers=1)
    with pytest.raises(FileExistsError, match="found a file"):
        synthesize(SynthesisSettings(**SMALL), tmp_path / "mine.txt", workers=1)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_no_workers(tmp_path):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        synthesize(SynthesisSettings(**SMALL), tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": 0}, "subjects must be >= 1, got 0"),
        ({"frames": 2.5}, "frames must be a whole number, got 2.5"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"train_share": 1.5}, "train_share must be >= 0 and <= 1, got 1.5"),
        ({"pose_noise": float("nan")}, "pose_noise must be >= 0"),
        ({"missed_joints": "0.1"}, "missed_joints must be a number, got '0.1'"),
        ({"occlusion": True}, "occlusion must be a number, got True"),
        ({"miscrop": 0.8}, "miscrop must be >= 0 and <= 0.5, got 0.8"),
        ({"drop_frames": 1.0}, "drop_frames must be >= 0 and < 1, got 1.0"),
        ({"sequences_per_subject": 1}, r"probes_per_subject \(1\) must be less than sequences_per_subject"),
    ],
)
def test_bad_settings_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(**changes)


def test_all_subjects_may_train_on_one_sequence():
    parts = partition(SynthesisSettings(train_share=1.0, sequences_per_subject=1, subjects=3))
    assert parts == {"TRAIN_SET": ["0000", "0001", "0002"], "TEST_SET": [], "PROBE_SET": []}


def test_command_line(tmp_path, capsys):
    arguments = ["--subjects", "1", "--sequences-per-subject", "2", "--frames", "2", "--workers", "1"]
    assert main(["--out", str(tmp_path / "out"), *arguments, "--train-share", "0"]) == 0
    assert (tmp_path / "out" / "partition.json").is_file()
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}: expected an empty")
    assert main(["--out", str(tmp_path / "other"), "--miscrop", "2"]) == 2
    assert capsys.readouterr().err == "error: miscrop must be >= 0 and <= 0.5, got 2.0\n"


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_with_its_whole_group(number, code, tmp_path, capsys, start_program):
    """A run far too long to end, once it has begun to write sequences."""
    out = tmp_path / "out"
    arguments = ["--subjects", "2000", "--workers", "2"]
    program = start_program(sys.executable, "-m", "plugin.synthesize", "--out", out, *arguments)
    program.wait_until(lambda: any(out.glob("2D_Poses/*/*/*")))
    program.send(number, to_group=True)
    shown = program.finish()[1]
    assert program.returncode == code
    lines = [line for line in shown.splitlines() if line.strip() and "sequence" not in line]  # without the bar's
    assert lines == [f"interrupted: {out} is incomplete (no partition.json); remove it and run again"]
    assert main(["--out", str(out), "--subjects", "2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out}: expected an empty or new folder, found an interrupted run")
    assert error.endswith("(no partition.json); remove it and run again\n")


def test_interrupted_before_anything_is_written(tmp_path, monkeypatch, capsys):
    def interrupted(settings, out, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("plugin.synthesize.cli.synthesize", interrupted)
    assert main(["--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_folder_of_others_is_no_interrupted_run(tmp_path):
    (tmp_path / "settings.json").write_text('{"made_by": "someone else"}')
    with pytest.raises(FileExistsError, match=r"found settings\.json in it"):
        synthesize(SynthesisSettings(**SMALL), tmp_path, workers=1)


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert main(["--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --out {out}: cannot be written: ")
    assert error.count("\n") == 1


def test_redirected_progress_is_short(tmp_path, capsys):
    settings = SynthesisSettings(**(SMALL | {"frames": 1, "subjects": 8}))
    synthesize(settings, tmp_path / "out", workers=1, progress=True)
    assert capsys.readouterr().err.count("sequence/s") <= 1


def test_help_says_what_the_walkers_are_not(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing about accuracy on people" in shown
    assert "(default: 0.02)" in shown
