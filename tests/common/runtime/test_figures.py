"""Figures are written whole, in the format that the suffix names, or not at all."""

import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from common.runtime.figures import check_picture_path, write_figure


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("new/folder/a.svg", b"<?xml")])
def test_suffix_names_the_format_and_folders_are_made(tmp_path, name, start):
    write_figure(Figure(figsize=(1, 1)), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a.txt", "a", "png"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: a picture's suffix must be one of .*png"):
        check_picture_path(tmp_path / name)
    with pytest.raises(ValueError, match="a picture's suffix"):
        write_figure(Figure(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_files_are_whole_or_untouched(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_figure(Figure(figsize=(1, 1)), path)
    before = path.read_bytes()

    def half(figure, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        write_figure(Figure(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
