"""Ranking a gallery for each probe: against its definition, from files and folders, as table, CSV and picture."""

import csv

import cv2
import numpy as np
import pytest
import torch

from common.runtime.checkpoint import save_checkpoint
from common.runtime.settings import to_mapping
from plugin import embed, pictures
from plugin.embeddings import Embeddings
from plugin.identify import main, rank_gallery
from plugin.pictures import MatchPicture, draw_matches
from plugin.runtime.host import MODELS


def embeddings(values, labels, prefix):
    names = tuple(f"{prefix}{number}" for number in range(len(values)))
    empty = ("",) * len(values)
    return Embeddings(
        embeddings=np.asarray(values, np.float32).reshape(-1, 1, 1),
        names=names,
        labels=tuple(labels),
        types=empty,
        views=empty,
        folders=names,
        fingerprint="f",
        metric="euc",
    )


@pytest.mark.parametrize("top", [1, 3, 9])
def test_ranking_matches_definition(top):
    random = np.random.default_rng(top)
    values = random.integers(0, 6, (2, 7))  # equal distances among them
    labels = random.choice(["a", "b", ""], (2, 7))
    gallery, probe = (embeddings(v, x, p) for v, x, p in zip(values, labels, "gp", strict=True))
    rankings, first_right = rank_gallery(gallery, probe, top, torch.device("cpu"))
    for i, matches in enumerate(rankings):
        order = sorted(range(7), key=lambda j: (abs(values[0, j] - values[1, i]), j))[:top]
        assert [match.index for match in matches] == order
        for match in matches:
            assert match.distance == pytest.approx(abs(values[0, match.index] - values[1, i]), abs=1e-5)
            known = labels[0, match.index] and labels[1, i]
            assert match.same == (labels[0, match.index] == labels[1, i] if known else None)
        assert (first_right[i] is None) or first_right[i] == matches[0].same
        if not labels[1, i] or labels[1, i] not in labels[0]:
            assert first_right[i] is None


def test_a_sequence_is_not_its_own_match():
    both = embeddings([0, 1, 5], ["a", "b", "b"], "s")
    rankings, first_right = rank_gallery(both, both, 3, torch.device("cpu"))
    assert [[match.index for match in matches] for matches in rankings] == [[1, 2], [0, 2], [1, 0]]
    assert first_right == [None, False, True]  # nobody else is "a"
    alone = embeddings([0], ["a"], "s")
    with pytest.raises(ValueError, match="s0: the gallery holds nothing but the probe itself"):
        rank_gallery(alone, alone, 1, torch.device("cpu"))


@pytest.fixture
def model(config, tmp_path):
    """Options that name a tiny model."""
    settings = config.settings()
    torch.manual_seed(0)
    weights = tmp_path / "tiny.pt"
    save_checkpoint(weights, {"model": MODELS["SwinGait2D"](to_mapping(settings), False, None).state_dict()})
    return ["--cfgs", str(config.file()), "--weights", str(weights), "--device", "cpu"]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "unknown"
    folder.mkdir()
    for number in range(3):
        image = np.zeros((120, 80), np.uint8)
        cv2.ellipse(image, (40, 60), (14 + number, 50), 0, 0, 360, 255, cv2.FILLED)
        cv2.imwrite(str(folder / f"frame{number}.png"), image)
    return folder


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_folders(model, prepared, tmp_path, capsys):
    out, table = tmp_path / "matches.png", tmp_path / "matches.csv"
    probe = prepared.folder("0007")
    arguments = ["--gallery", prepared.root, "--probe", probe, "--top", "3", "--out", out, "--csv", table]
    assert main([*model, *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    rows = read_csv(table)
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {row["probe"] for row in rows} == {"0007-camid0_videoid1-seq0"}
    assert "0007-camid0_videoid1-seq0" not in {row["match"] for row in rows}
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances)
    for row in rows:
        assert row["same_identity"] == ("yes" if row["match"].startswith("0007-") else "no")
        assert row["match"] in text
    assert "% of 1 probes whose identity is in the gallery" in text
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 4 * 64


def test_files_give_the_same_as_folders(model, prepared, tmp_path, capsys):
    tables = []
    for name, folder in (("gallery", prepared.root), ("probe", prepared.root / "0006")):
        assert embed.main([*model, "--data", str(folder), "--out", str(tmp_path / f"{name}.npz")]) == 0
    sources = [
        [tmp_path / "gallery.npz", tmp_path / "probe.npz"],
        [prepared.root, prepared.root / "0006"],
        [tmp_path / "gallery.npz", prepared.root / "0006"],
    ]
    for number, (gallery, probe) in enumerate(sources):
        table = tmp_path / f"{number}.csv"
        options = [] if number == 0 else model
        assert main([*options, "--gallery", str(gallery), "--probe", str(probe), "--csv", str(table)]) == 0
        tables.append([(row["probe"], row["match"], round(float(row["distance"]), 4)) for row in read_csv(table)])
    assert len(tables[0]) == 3 * 5
    assert tables[0] == tables[1] == tables[2]


def test_picture_of_files_needs_their_data(model, prepared, tmp_path, capsys):
    file, out = tmp_path / "all.npz", tmp_path / "matches.png"
    assert embed.main([*model, "--data", str(prepared.root), "--out", str(file)]) == 0
    arguments = ["--gallery", str(file), "--probe", str(file), "--out", str(out), "--shown", "2"]
    assert main(arguments) == 2
    assert "--out draws silhouettes, which embeddings files do not hold: give --data" in capsys.readouterr().err
    assert main([*arguments, "--data", str(tmp_path)]) == 2
    assert f"--data: 0001-camid0_videoid1-seq0 is not in {tmp_path}" in capsys.readouterr().err
    assert main([*arguments, "--data", str(tmp_path), str(prepared.root)]) == 0
    assert "... and 22 more probes" in capsys.readouterr().out
    assert out.exists()


def test_raw_silhouettes_without_poses(model, prepared, raw, tmp_path, capsys):
    table = tmp_path / "raw.csv"
    arguments = ["--gallery", prepared.root / "0006", prepared.root / "0007", "--probe", raw, "--csv", table]
    assert main([*model, *map(str, arguments), "--out", str(tmp_path / "raw.png")]) == 0
    rows = read_csv(table)
    assert len(rows) == 5
    assert {(row["probe"], row["probe_identity"], row["same_identity"]) for row in rows} == {
        (str(raw.resolve()), "", "")
    }
    assert "Rank-1" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gallery", "a.npz", "--probe", "folder"], "folder: folders need a model: give --cfgs, and --weights or"),
        (
            ["--gallery", "a.npz", "b", "--probe", "c.npz"],
            "--gallery: expected one .npz file, or folders, got a.npz, b",
        ),
        (["--gallery", "a.npz", "--probe", "c.npz"], "a.npz: no such file"),
        (["--gallery", "a.npz", "--probe", "c.npz", "--top", "0"], "--top must be >= 1, got 0"),
        (["--gallery", "a.npz", "--probe", "c.npz", "--out", "x.doc"], "x.doc: a picture's suffix must be one of"),
        (["--gallery", "a.npz", "--probe", "c.npz", "--csv", "no/x.csv"], "no such folder to write to: no"),
    ],
)
def test_wrong_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_file_of_another_model(model, config, prepared, tmp_path, capsys):
    file = tmp_path / "other.npz"
    assert embed.main([*model, "--data", str(prepared.root / "0001"), "--out", str(file)]) == 0
    torch.manual_seed(1)
    other = MODELS["SwinGait2D"](to_mapping(config.settings()), False, None)
    save_checkpoint(tmp_path / "tiny.pt", {"model": other.state_dict()})
    assert main([*model, "--gallery", str(file), "--probe", str(prepared.root / "0002")]) == 2
    assert f"{file}: made by another model (" in capsys.readouterr().err


def item(label, same=None, distance=1.0, size=(20, 16), frames=2):
    return MatchPicture(label=label, silhouettes=np.zeros((frames, *size), np.uint8), same=same, distance=distance)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_frames_have_the_colours_of_their_verdicts_in_order(tmp_path):
    row = [item("probe", distance=None), item("a", True), item("b", False), item("c", None)]
    draw_matches(tmp_path / "a.png", [row], scale=3)
    line = read(tmp_path / "a.png")[pictures.LEGEND_HEIGHT + 40 + pictures.FRAME_WIDTH + 10]
    places = [np.nonzero((line == colour).all(-1))[0] for _, colour in pictures.VERDICTS.values()]
    assert all(len(place) == 2 * pictures.FRAME_WIDTH for place in places)
    assert places[0].max() < places[1].min() < places[2].min()
    width = 2 * 16 * 3
    assert [place.max() - place.min() for place in places] == [width + 2 * pictures.FRAME_WIDTH - 1] * 3


def test_rows_of_different_lengths_and_long_names(tmp_path):
    rows = [
        [item("a-very-long-name-of-a-probe-" * 4, distance=None), item("x" * 90, True)],
        [item("p2", distance=None, frames=1), item("a", False), item("$b\\", True, frames=4)],
    ]
    draw_matches(tmp_path / "a.png", rows)
    picture = read(tmp_path / "a.png")
    assert picture.shape[0] > 2 * 40
    for _, colour in list(pictures.VERDICTS.values())[:2]:
        assert (picture == colour).all(-1).sum() > 100


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "need rows with a probe each"),
        ([[]], "need rows with a probe each"),
        ([[item("flat", size=(0, 4))]], "flat: silhouettes must be bool, uint8 or float"),
        ([[item("p", frames=3)]] * 2000, "the sheet would be 560 x .* pixels, draw fewer rows"),
    ],
)
def test_picture_refuses(tmp_path, rows, match):
    with pytest.raises(ValueError, match=match):
        draw_matches(tmp_path / "a.png", rows)
    assert not (tmp_path / "a.png").exists()
