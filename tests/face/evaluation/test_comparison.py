"""Runs and quoted numbers side by side."""

import csv
import json

import pytest

from face.evaluation.comparison import comparison_notes, comparison_table, read_rows, rows_of_run, write_comparison


def run(folder, results, complete=True, sha="1", **settings):
    """results.json of models by name, sets by name, metrics by name."""
    folder.mkdir(exist_ok=True)
    sets = {name for metrics in results.values() for name in metrics}
    content = {
        "format": "kprpe-face-evaluation",
        "complete": complete,
        "settings": {"pipeline": "given", "fusion": None, "flip_test": True, **settings},
        "sets": {name: {"sha256": {"lists": {f"{name}.bin": sha}, "landmarks": {}}} for name in sets},
        "results": [
            {"model": model, "set": name, "metrics": found}
            for model, metrics in results.items()
            for name, found in metrics.items()
        ],
    }
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_table_of_runs_and_quoted_numbers(tmp_path):
    first = run(tmp_path / "a", {"ViT": {"lfw": {"accuracy": 99.5, "auc": 99.9}, "tinyface": {"rank-1": 68.24}}})
    second = run(tmp_path / "b", {"KP-RPE": {"lfw": {"accuracy": 99.496}}, "iRPE": {"lfw": {"accuracy": 98.0}}})
    (tmp_path / "paper.csv").write_text(
        'model,set,metric,value,source\nKP-RPE,TinyFace,rank-1,69.88,"CVPR 2024, Table 1"\nKP-RPE,lfw,auc,50,CVPR\n'
    )
    rows = [*read_rows(first), *read_rows(second / "results.json"), *read_rows(tmp_path / "paper.csv")]
    head, _, *body = cells(comparison_table(rows))
    assert head == ["model", "source", "LFW", "TinyFace Rank-1"]
    assert body == [
        ["ViT", "measured", "**99.50**", "68.24"],
        ["KP-RPE", "measured", "**99.50** (+0.00)", "-"],
        ["iRPE", "measured", "98.00 (-1.50)", "-"],
        ["KP-RPE", "CVPR 2024, Table 1", "-", "**69.88** (+1.64)"],
        ["KP-RPE", "CVPR", "-", "-"],
    ]
    text = write_comparison(tmp_path, rows)
    assert (tmp_path / "compare.md").read_text() == text
    with (tmp_path / "compare.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["model"], row["metric"], row["source"], row["difference"][:5]) for row in found] == [
        ("ViT", "accuracy", "", "0.0"),
        ("ViT", "auc", "", "0.0"),
        ("ViT", "rank-1", "", "0.0"),
        ("KP-RPE", "accuracy", "", "-0.00"),
        ("iRPE", "accuracy", "", "-1.5"),
        ("KP-RPE", "rank-1", "CVPR 2024, Table 1", "1.640"),
        ("KP-RPE", "auc", "CVPR", "-49.9"),
    ]
    assert {row["run"] for row in found} == {
        f"{tmp_path}/{name}" for name in ("a/results.json", "b/results.json", "paper.csv")
    }


def test_what_tells_rows_apart_is_said(tmp_path):
    metrics = {"ViT": {"lfw": {"accuracy": 90.0}}}
    paths = [run(tmp_path / "a", metrics), run(tmp_path / "b", metrics, fusion="landmark", flip_test=False)]
    rows = [row for path in paths for row in read_rows(path)]
    table = cells(comparison_table(rows))
    assert table[0] == ["model", "run", "fusion", "flip test", "LFW"]
    assert table[2][1:4] == [f"{tmp_path}/a/results.json", "default", "yes"]
    assert table[3][1:4] == [f"{tmp_path}/b/results.json", "landmark", "no"]


def test_other_data_and_interrupted_runs_are_noted(tmp_path):
    metrics = {"ViT": {"lfw": {"accuracy": 90.0}}}
    same = [run(tmp_path / "a", metrics), run(tmp_path / "b", metrics)]
    assert comparison_notes([row for path in same for row in read_rows(path)]) == []
    other = run(tmp_path / "c", metrics, sha="2", complete=False)
    rows = [row for path in (*same, other) for row in read_rows(path)]
    runs = [f"{tmp_path}/{name}/results.json" for name in "abc"]
    notes = [
        f"{runs[2]} was interrupted, it lacks results",
        f"lfw: other data (lfw.bin) in {runs[2]} than in {runs[0]}",
        f"lfw: other data (lfw.bin) in {runs[2]} than in {runs[1]}",
    ]
    assert comparison_notes(rows) == notes
    assert write_comparison(tmp_path, rows).endswith("".join(f"- {note}\n" for note in notes))


def test_a_bin_and_a_folder_are_other_data_and_landmarks_count_where_both_have_them(tmp_path):
    def rows(lists, landmarks):
        content = json.loads((run(tmp_path / "a", {"V": {"lfw": {"accuracy": 1.0}}}) / "results.json").read_text())
        content["sets"]["lfw"]["sha256"] = {"lists": lists, "landmarks": landmarks}
        return rows_of_run(content, "x")

    base = rows({"lfw.bin": "1"}, {"lfw.bin.csv": "1"})
    assert comparison_notes([*base, *rows({"lfw.bin": "1"}, {})]) == []
    assert (
        "other landmarks (lfw.bin.csv)" in comparison_notes([*base, *rows({"lfw.bin": "1"}, {"lfw.bin.csv": "2"})])[0]
    )
    assert "other data (lfw.bin, pairs.csv)" in comparison_notes([*base, *rows({"pairs.csv": "1"}, {})])[0]


def test_quoted_json_may_name_its_source_once(tmp_path):
    content = {
        "source": "Table 4",
        "results": [
            {"model": "ArcFace", "set": "ijbc", "metrics": {"tar@far=1e-4": 96.03}},
            {"model": "ArcFace", "set": "agedb_30", "metrics": {"accuracy": 98}, "source": "Table 7"},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    rows = read_rows(tmp_path / "a.json")
    assert [(row.source, dict(row.metrics)) for row in rows] == [
        ("Table 4", {"ijbc": {"tar@far=1e-4": 96.03}}),
        ("Table 7", {"agedb": {"accuracy": 98.0}}),
    ]


HEAD = "model,set,metric,value,source\n"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "model,set,metric,value\nA,lfw,accuracy,9\n", "not there: source .*name results.json"),
        ("a.csv", HEAD, "no numbers in it"),
        ("a.csv", HEAD + "A,lfw,accuracy,9,\n", "must name model and source, found 'A' and ''"),
        ("a.csv", HEAD + "A,lwf,accuracy,9,x\n", "no benchmark is called 'lwf'"),
        ("a.csv", HEAD + "A,lfw,acc,9,x\n", "no metric is called 'acc'; there are accuracy, "),
        ("a.csv", HEAD + "A,lfw,accuracy,many,x\n", "line 2: value must be a number, found 'many'"),
        ("a.csv", HEAD + "A,lfw,accuracy,101,x\n", "accuracy must be a percentage, found 101"),
        ("a.csv", HEAD + "A,lfw,accuracy,nan,x\n", "accuracy must be a percentage, found nan"),
        ("a.csv", HEAD + "A,lfw,accuracy,9,x\nA,LFW,accuracy,8,x\n", "A has accuracy of lfw twice"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "expected an object with results"),
        ("a.json", '{"results": [{"set": "lfw"}]}', "not results of face.evaluate"),
        ("a.json", '{"format": "kprpe-face-evaluation", "results": [3]}', "not results of face.evaluate"),
        ("a.json", '{"results": [{"model": "A", "set": "lfw", "metrics": {"auc": 1}}]}', "must name model and source"),
    ],
    ids=range(14),
)
def test_refuses(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}.*{match}"):
        read_rows(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json: no such file"):
        read_rows(tmp_path)
