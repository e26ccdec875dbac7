"""whole_file and whole_folder: a name means the old content or the new one, whatever goes wrong in between."""

import os
from pathlib import Path

import pytest

from common.runtime.files import whole_file, whole_folder, write_bytes, write_text


def test_takes_the_name_when_the_block_ends(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        assert partial.parent == tmp_path  # another folder may be another disk, where a rename is a copy
        assert partial.name.startswith(".")
        partial.write_text("half")
        assert path.read_text() == "old"
        partial.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["table.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "table.txt"
    path.write_text("old")

    def half():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise error("stop")

    with pytest.raises(error):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.txt"]


def test_a_failed_rename_leaves_nothing_behind(tmp_path):
    """The name is a folder."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_text(tmp_path / "taken", "text")
    assert os.listdir(tmp_path) == ["taken"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "table.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the outer block ends last
    assert os.listdir(tmp_path) == ["table.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "a.bin", b"1")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [str, Path])
def test_bytes_and_text(tmp_path, kind):
    content = bytes(range(256))
    write_bytes(kind(tmp_path / "a.bin"), content)
    assert (tmp_path / "a.bin").read_bytes() == content
    write_text(kind(tmp_path / "a.txt"), "Ä 走\n")
    assert (tmp_path / "a.txt").read_bytes() == "Ä 走\n".encode()


def test_a_folder_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "above" / "set"
    with whole_folder(path) as partial:
        assert partial.parent == path.parent
        (partial / "a.txt").write_text("new")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "new"
    assert os.listdir(path.parent) == ["set"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_of_a_folder_an_error_leaves_nothing(tmp_path, error):
    def half():
        with whole_folder(tmp_path / "set") as partial:
            (partial / "a.txt").write_text("half")
            raise error("stop")

    with pytest.raises(error):
        half()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("old")
    with pytest.raises(OSError, match="set"), whole_folder(tmp_path / "set") as partial:
        (partial / "a.txt").write_text("new")
    assert (tmp_path / "set" / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["set"]
