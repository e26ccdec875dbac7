"""Names of benchmarks find their files, and say what was looked for."""

import re

import pytest

from face.evaluation.catalogue import BENCHMARKS, canonical_name, find_benchmark, find_benchmarks


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("lfw", "lfw"),
        ("LFW", "lfw"),
        ("cfp-fp", "cfp_fp"),
        ("CFPFP", "cfp_fp"),
        ("agedb_30", "agedb"),
        ("AgeDB-30", "agedb"),
        ("vgg2-fp", "vgg2_fp"),
        ("IJB-C", "ijbc"),
        ("ijbs", "ijbs"),
        ("TinyFace", "tinyface"),
    ],
)
def test_names_and_aliases(given, name):
    assert canonical_name(given) == name


def test_no_alias_means_two():
    names = [each for name, entry in BENCHMARKS.items() for each in (name, *entry.aliases)]
    assert len(set(names)) == len(names)


def test_unknown_names_list_all():
    with pytest.raises(ValueError, match=r"no benchmark is called 'lwf'; known are lfw, cfp_fp \(cfpfp\), .*ijbs"):
        canonical_name("lwf")


def test_files_and_folders(tmp_path):
    (tmp_path / "agedb_30.bin").touch()
    (tmp_path / "calfw").mkdir()
    (tmp_path / "calfw" / "pairs.txt").touch()
    for folder in ("IJB_release/IJBB", "ijbc", "TinyFace", "ijbs", "cplfw"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_benchmarks(tmp_path) == ["agedb", "calfw", "ijbb", "ijbc", "tinyface", "ijbs"]
    places = {name: find_benchmark(name, tmp_path) for name in find_benchmarks(tmp_path)}
    assert {name: str(found.path.relative_to(tmp_path)) for name, found in places.items()} == {
        "agedb": "agedb_30.bin",
        "calfw": "calfw",
        "ijbb": "IJB_release/IJBB",
        "ijbc": "ijbc",
        "tinyface": "TinyFace",
        "ijbs": "ijbs",
    }
    assert [found.kind for found in places.values()] == ["pairs", "pairs", "ijb", "ijb", "tinyface", "ijbs"]
    assert all(found.name == name for name, found in places.items())


def test_settings_reach_the_sets_that_have_them(tmp_path):
    (tmp_path / "IJBC").mkdir()
    (tmp_path / "lfw.bin").touch()
    options = {"align": "none", "missing_landmarks": "hide"}
    assert find_benchmark("ijbc", tmp_path, **options).align == "none"
    lfw = find_benchmark("lfw", tmp_path, **options)
    assert (lfw.align, lfw.missing_landmarks) == ("landmarks", "hide")


def test_a_benchmark_in_two_places_is_refused(tmp_path):
    (tmp_path / "agedb.bin").touch()
    (tmp_path / "agedb_30.bin").touch()
    with pytest.raises(ValueError, match=r"agedb: .*agedb\.bin and .*agedb_30\.bin are both there"):
        find_benchmark("agedb", tmp_path)


def test_what_differs_by_case_alone_on_a_disk_that_does_not_tell_is_one(tmp_path):
    (tmp_path / "IJBC").mkdir()
    (tmp_path / "ijbc").symlink_to(tmp_path / "IJBC")
    assert find_benchmark("ijbc", tmp_path).path == tmp_path / "IJBC"


def test_missing(tmp_path):
    expected = f"lfw: not in {tmp_path}, looked for lfw.bin, lfw/ (a folder with pairs.csv or pairs.txt)"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(expected)}$"):
        find_benchmark("lfw", tmp_path)
    (tmp_path / "lfw").mkdir()
    with pytest.raises(FileNotFoundError, match="lfw/ is there, but has neither list"):
        find_benchmark("lfw", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ijbb: not in .*, looked for IJBB/, ijbb/, IJB_release/IJBB/"):
        find_benchmark("ijb-b", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no benchmark in it, looked for lfw: .*; ijbs: ijbs/"):
        find_benchmarks(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_benchmarks(tmp_path / "none")
