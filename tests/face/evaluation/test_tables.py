"""read_table: a fixed header, whole rows, and errors that name the line."""

import pytest

from face.evaluation.tables import read_table


def test_rows_and_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffimage, same\na.png, 1\n\n"b,c.png",0 \n', encoding="utf-8")
    assert read_table(path, ("image", "same")) == [(2, ["a.png", "1"]), (4, ["b,c.png", "0"])]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the header must be image,same, found no line"),
        ("image\n", "the header must be image,same, found image"),
        ("image,same\n", "it has no rows below the header"),
        ("image,same\na,1\nb\n", r"line 3: expected 2 entries \(image,same\), found b"),
        ("image,same\na,1,2\n", "line 2: expected 2 entries"),
        ("image,same\n,1\n", "line 2: expected 2 entries"),
    ],
)
def test_refuses(text, match, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.csv.*{match}"):
        read_table(path, ("image", "same"))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.csv"):
        read_table(tmp_path / "a.csv", ("image",))
