"""Tables of numbers: what is in them, in pieces of any size, and the line of everything that is wrong."""

import numpy as np
import pytest

from face.evaluation import number_tables
from face.evaluation.number_tables import read_integers, read_named_numbers


@pytest.fixture
def table(tmp_path):
    def make(text):
        path = tmp_path / "table.txt"
        path.write_bytes(text.encode())
        return path

    return make


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("end", ["\n", "", "\r\n", "\n\n  \n"], ids=["newline", "none", "crlf", "empty"])
def test_integers(table, monkeypatch, chunk, end):
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 10 ** rng.integers(1, 10, (40, 3)))
    expected[7] = 0, 2**31 - 1, 5
    newline = "\r\n" if end == "\r\n" else "\n"
    text = newline.join(" ".join(map(str, row)) for row in expected.tolist()) + end
    monkeypatch.setattr(number_tables, "_CHUNK", chunk)
    found = read_integers(table(text), 3)
    assert [column.dtype for column in found] == [np.int32] * 3
    assert all(column.flags.c_contiguous for column in found)
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)


def test_any_space_separates(table):
    assert [each.tolist() for each in read_integers(table(" 1\t2 \n003   4\n"), 2)] == [[1, 3], [2, 4]]


@pytest.mark.parametrize("chunk", [1, 11, 1 << 22])
@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ("1 2", "'1 2'"),
        ("1 2 3 4", "'1 2 3 4'"),
        ("1 2 x", "'1 2 x'"),
        ("1 -2 3", "'1 -2 3'"),
        ("1 2.5 3", r"'1 2\.5 3'"),
        ("1 2147483648 3", "'1 2147483648 3'"),
        ("1 2 99999999999999999999", "'1 2 9+'"),
        ("", "''"),
    ],
    ids=["short", "long", "letter", "minus", "point", "large", "larger", "empty"],
)
def test_the_line_is_named(table, monkeypatch, chunk, bad, found):
    monkeypatch.setattr(number_tables, "_CHUNK", chunk)
    path = table(f"1 2 3\n4 5 6\n{bad}\n7 8 9\n1 2\n")
    with pytest.raises(ValueError, match=rf"table\.txt, line 3: expected 3 whole numbers, found {found}"):
        read_integers(path, 3)


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["nothing", "empty"])
def test_no_rows(table, text):
    with pytest.raises(ValueError, match=r"table\.txt: it has no rows"):
        read_integers(table(text), 3)
    with pytest.raises(ValueError, match=r"table\.txt: it has no rows"):
        read_named_numbers(table(text), 3, whole=True)


def test_named(table):
    names, values = read_named_numbers(table("a.jpg 1 2\nb/c.jpg  30\t4\n\n"), 2, whole=True)
    assert names == ["a.jpg", "b/c.jpg"]
    assert values.dtype == np.int32
    assert values.tolist() == [[1, 2], [30, 4]]
    names, values = read_named_numbers(table("a.jpg -1.5 2e3\n"), 2, whole=False)
    assert values.tolist() == [[-1.5, 2000]]


@pytest.mark.parametrize(
    ("bad", "whole", "message"),
    [
        ("b 1", True, "expected a name and 2 whole numbers, found 'b 1'"),
        ("b 1 2 3", False, "expected a name and 2 numbers, found 'b 1 2 3'"),
        ("b 1 2.0", True, "expected a name and 2 whole numbers"),
        ("b 1 2147483648", True, "expected a name and 2 whole numbers"),
        ("b 1 x", False, "expected a name and 2 numbers"),
        ("b 1 nan", False, "a number is NaN or infinite"),
        ("", False, "found an empty line"),
    ],
    ids=["short", "long", "point", "large", "letter", "nan", "empty"],
)
def test_the_line_of_a_named_row(table, bad, whole, message):
    with pytest.raises(ValueError, match=rf"table\.txt, line 2: .*{message}"):
        read_named_numbers(table(f"a 1 2\n{bad}\nc 1 2\n"), 2, whole=whole)
