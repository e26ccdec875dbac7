"""What a folder of a benchmark lacks."""

import pytest

from face.evaluation.release_folders import check_parts


def test_everything_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "list.txt").touch()
    check_parts(tmp_path, ["images/", "list.txt"], "a benchmark")


def test_all_that_is_missing_is_named(tmp_path):
    (tmp_path / "images").touch()
    (tmp_path / "list.txt").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a benchmark, not there: images/, list\.txt, more/2\.txt$"):
        check_parts(tmp_path, ["images/", "list.txt", "more/2.txt"], "a benchmark")
    with pytest.raises(FileNotFoundError, match=r"list\.txt/x: no such folder, expected one with a benchmark"):
        check_parts(tmp_path / "list.txt/x", [], "a benchmark")
