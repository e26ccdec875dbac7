"""Settings: what loads, what is refused, and that one error lists everything that is wrong with a file."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from common.runtime.settings import ConfigError, build_settings, load_settings, merge, to_mapping


@dataclass(frozen=True, kw_only=True)
class Bias:
    num_keypoints: int
    method: Literal["product", "euclidean", "quant", "cross"] = "product"

    def __post_init__(self) -> None:
        if self.num_keypoints < 1:
            raise ValueError(f"num_keypoints must be >= 1, got {self.num_keypoints}")


@dataclass(frozen=True, kw_only=True)
class Flip:
    type: Literal["Flip"] = "Flip"
    prob: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Rotate:
    degrees: float
    type: Literal["Rotate"] = "Rotate"


@dataclass(frozen=True, kw_only=True)
class Compose:
    type: Literal["Compose"] = "Compose"
    trf_cfg: "list[Flip | Rotate | Compose]" = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Restarts:
    scheduler: Literal["CosineAnnealingWarmRestarts"] = "CosineAnnealingWarmRestarts"
    first_cycle: int = field(metadata={"yaml": "T_0"})


@dataclass(frozen=True, kw_only=True)
class Steps:
    milestones: list[int]
    scheduler: Literal["MultiStepLR"] = "MultiStepLR"


@dataclass(frozen=True, kw_only=True)
class Trainer:
    lr: float = 0.1
    total_iter: int = 100
    enable_float16: bool = True
    restore_hint: int | str = 0
    clip: float | None = None
    batch_size: tuple[int, int] = (8, 4)
    sizes: tuple[float, ...] = ()
    data_in_use: list[bool] | list[int] | None = None
    transform: list[Flip | Rotate | Compose] = field(default_factory=list)
    scheduler_cfg: Restarts | Steps = field(default_factory=lambda: Steps(milestones=[10]))


@dataclass(frozen=True, kw_only=True)
class Run:
    bias: Bias
    trainer_cfg: Trainer = field(default_factory=Trainer)
    name: str = "run"
    root: Path = Path(".")
    extra: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def problems_of(mapping, cls=Run) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_settings(mapping, cls, source="a.yaml")
    header, *problems = str(caught.value).splitlines()
    assert header == f"a.yaml: {len(problems)} problem(s)"
    assert all(problem.startswith("  ") for problem in problems)
    return [problem[2:] for problem in problems]


def trainer_problems(**entries) -> list[str]:
    return problems_of({"bias": {"num_keypoints": 5}, "trainer_cfg": entries})


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


FULL = """
bias: {num_keypoints: 17, method: quant}
trainer_cfg:
  lr: 3.0e-4
  clip: 5
  restore_hint: ./start.pt
  batch_size: [32, 4]
  sizes: [1, 2.5]
  data_in_use: [true, false]
  transform:
    - type: Compose
      trf_cfg:
        - {type: Rotate, degrees: 10}
        - type: Flip
  scheduler_cfg: {scheduler: CosineAnnealingWarmRestarts, T_0: 7}
root: /data/gait
extra: {anything: [1, {deep: null}]}
shares: {a: 1}
"""


def test_a_full_file_becomes_the_instance_it_spells(tmp_path):
    run = load_settings(write(tmp_path, FULL), Run)
    transforms = [Compose(trf_cfg=[Rotate(degrees=10.0), Flip()])]
    trainer = Trainer(
        lr=3e-4, clip=5.0, restore_hint="./start.pt", batch_size=(32, 4), sizes=(1.0, 2.5),
        data_in_use=[True, False], transform=transforms, scheduler_cfg=Restarts(first_cycle=7),
    )  # fmt: skip
    extra = {"anything": [1, {"deep": None}]}
    bias = Bias(num_keypoints=17, method="quant")
    assert run == Run(bias=bias, trainer_cfg=trainer, root=Path("/data/gait"), extra=extra, shares={"a": 1.0})
    assert type(run.trainer_cfg.clip) is float
    assert type(run.trainer_cfg.transform[0].trf_cfg[0].degrees) is float


def test_round_trip_through_plain_types(tmp_path):
    run = load_settings(write(tmp_path, FULL), Run)
    plain = to_mapping(run)
    assert plain["trainer_cfg"]["scheduler_cfg"] == {"scheduler": "CosineAnnealingWarmRestarts", "T_0": 7}
    assert plain["trainer_cfg"]["batch_size"] == [32, 4]
    assert plain["root"] == "/data/gait"
    assert build_settings(plain, Run) == run


def test_every_problem_of_the_style_guide_example_at_once():
    assert problems_of({"num_keypoint": 5, "method": "quantise"}, Bias) == [
        "num_keypoint: unknown key; did you mean 'num_keypoints'?",
        "num_keypoints: required, has no default",
        "method: 'quantise' is not one of product, euclidean, quant, cross",
    ]


def test_problems_of_all_depths_come_together():
    mapping = {
        "bias": {"num_keypoints": 0},
        "trainer_cfg": {"lr": "1e-4", "batch_size": [8], "transform": [{"type": "Flip", "prob": "x"}]},
        "naem": "a",
    }
    assert problems_of(mapping) == [
        "naem: unknown key; did you mean 'name'?",
        "bias: num_keypoints must be >= 1, got 0",
        "trainer_cfg.lr: expected float, found '1e-4' (str); YAML takes that for text, write 1.0e-4",
        "trainer_cfg.batch_size: expected 2 value(s), found 1: [8]",
        "trainer_cfg.transform[0].prob: expected float, found 'x' (str)",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"total_iter": True}, "total_iter: expected int, found True (bool)"),
        ({"total_iter": 6.0}, "total_iter: expected int, found 6.0 (float)"),
        ({"total_iter": "6e4"}, "total_iter: expected int, found '6e4' (str); write 60000"),
        ({"lr": True}, "lr: expected float, found True (bool)"),
        ({"lr": None}, "lr: expected float, found null"),
        ({"lr": "2.5E5"}, "lr: expected float, found '2.5E5' (str); YAML takes that for text, write 2.5e+5"),
        ({"lr": "0.1"}, "lr: expected float, found '0.1' (str); write 0.1, without quotes"),
        ({"clip": "1e3"}, "clip: expected float, found '1e3' (str); YAML takes that for text, write 1.0e+3"),
        ({"enable_float16": 1}, "enable_float16: expected bool, found 1 (int)"),
        ({"restore_hint": 1.5}, "restore_hint: expected int or str, found 1.5 (float)"),
        ({"restore_hint": False}, "restore_hint: expected int or str, found False (bool)"),
        ({"batch_size": 8}, "batch_size: expected a list, found 8 (int)"),
        ({"batch_size": [8, 4.0]}, "batch_size[1]: expected int, found 4.0 (float)"),
        ({"sizes": [1, "a"]}, "sizes[1]: expected float, found 'a' (str)"),
        ({"data_in_use": [True, 2]}, "data_in_use: expected list[bool] or list[int], found [True, 2] (list)"),
        ({"transform": [5]}, "transform[0]: expected a mapping, found 5 (int)"),
        ({"transform": [{"prob": 1}]}, "transform[0].type: required, one of Flip, Rotate, Compose"),
        (
            {"transform": [{"type": "rotat", "degrees": 1}]},
            "transform[0].type: 'rotat' is not one of Flip, Rotate, Compose; did you mean 'Rotate'?",
        ),
        (
            {"transform": [{"type": ["Flip"]}]},
            "transform[0].type: ['Flip'] is not one of Flip, Rotate, Compose",
        ),
        (
            {"transform": [{"type": "Flip", "degrees": 1}]},
            "transform[0].degrees: unknown key; known as trainer_cfg.transform[].degrees (type: Rotate)",
        ),
        (
            {"scheduler_cfg": {"scheduler": "MultiStepLR"}},
            "scheduler_cfg.milestones: required, has no default",
        ),
        ({"method": "quant"}, "method: unknown key; known as bias.method"),
        (
            {"zzz": 1},
            "zzz: unknown key; known here: " + ", ".join(f.name for f in dataclasses.fields(Trainer)),
        ),
    ],
)
def test_one_wrong_entry(entry, message):
    assert trainer_problems(**entry) == [f"trainer_cfg.{message}"]


def test_on_and_digits_that_were_meant_as_text():
    assert problems_of({"bias": {"num_keypoints": 5}, "name": 12}) == [
        "name: expected str, found 12 (int); put text in quotes"
    ]
    assert problems_of({"num_keypoints": 5, "method": True}, Bias) == [
        "method: True is not one of product, euclidean, quant, cross; put text in quotes"
    ]


def test_mapping_keys_must_be_text():
    entries = {"bias": {"num_keypoints": 5}, "shares": {1: 0.5}, True: 1}
    messages = problems_of(entries)
    assert messages[0].startswith("True: unknown key")
    assert messages[1] == "shares.1: keys must be text, found 1 (int); put text in quotes"


def test_booleans_do_not_pass_for_equal_integers_in_a_literal():
    @dataclass(frozen=True, kw_only=True)
    class Groups:
        count: Literal[1, 2] = 1

    assert problems_of({"count": True}, Groups) == ["count: True is not one of 1, 2"]


def test_number_kinds_of_a_union_stay_as_written():
    @dataclass(frozen=True, kw_only=True)
    class Sizes:
        size: float | int

    assert type(build_settings({"size": 3}, Sizes).size) is int
    assert type(build_settings({"size": 3.0}, Sizes).size) is float


def test_nothing_is_shared_with_the_mapping_it_came_from():
    mapping = {"bias": {"num_keypoints": 5}, "extra": {"list": [1]}}
    run = build_settings(mapping, Run)
    mapping["extra"]["list"].append(2)
    assert run.extra == {"list": [1]}


def test_schema_mistakes_are_the_programmers():
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        value: complex = 0j

    @dataclass(frozen=True, kw_only=True)
    class Ambiguous:
        one: Flip | Bias

    with pytest.raises(TypeError, match=r"value: settings cannot hold the type <class 'complex'>"):
        build_settings({"value": 1}, Odd)
    with pytest.raises(TypeError, match="tells the dataclasses of a union apart: Flip, Bias"):
        build_settings({"one": {"prob": 1}}, Ambiguous)
    with pytest.raises(TypeError, match="must be a dataclass"):
        build_settings({}, dict)
    with pytest.raises(TypeError, match="dataclass instance"):
        to_mapping(Flip)


def test_merge_follows_opengait():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 1}, "c": [{"k": 1}]}
    override = {"a": {"y": [3], "w": 4}, "b": 5, "c": [{"m": 2}], "d": {"n": 1}}
    expected = {"a": {"x": 1, "y": [3], "w": 4}, "b": 5, "c": [{"m": 2}], "d": {"n": 1}}
    merged = merge(base, override)
    assert merged == expected
    merged["a"]["y"].append(9)
    merged["a"]["x"] = 7
    assert override["a"]["y"] == [3]
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 1}, "c": [{"k": 1}]}


def test_defaults_lie_under_the_file(tmp_path):
    path = write(tmp_path, "bias: {method: cross}\n")
    run = load_settings(path, Run, defaults={"bias": {"num_keypoints": 17, "method": "quant"}})
    assert run.bias == Bias(num_keypoints=17, method="cross")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "bias: {num_keypoints: 5\nname: x\n",
            r"run.yaml: 1 problem\(s\)\n  line 2, column \d+: not valid YAML",
        ),
        ("name: a\nbias:\n  num_keypoints: 5\nname: b\n", "line 4: duplicate key 'name', first on line 1"),
        (
            "bias: {num_keypoints: 5, num_keypoints: 6}\n",
            "line 1: duplicate key 'num_keypoints', first on line 1",
        ),
        (
            "- a\n- b\n",
            r"line 1: the top level must be a mapping of keys to values, found \['a', 'b'\] \(list\)",
        ),
        ("", "found an empty file"),
        (
            "name: !!python/object/apply:os.getcwd []\n",
            "line 1, column 7: not valid YAML: could not determine",
        ),
        ("name: a\n---\nname: b\n", "line 2, column 1: not valid YAML: but found another document"),
        ("name: \x01\n", "not valid YAML: unacceptable character"),
        ("? [a]\n: 1\n", "not valid YAML: found unhashable key"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path, text, match):
    with pytest.raises(ConfigError, match=match):
        load_settings(write(tmp_path, text), Run)


def test_all_duplicates_are_listed(tmp_path):
    with pytest.raises(ConfigError, match=r"2 problem\(s\)"):
        load_settings(write(tmp_path, "a: 1\na: 2\nb: {c: 1, c: 2}\n"), Run)


def test_merge_keys_of_yaml_are_not_duplicates(tmp_path):
    text = "extra:\n  base: &base {x: 1, y: 2}\n  more: {<<: *base, y: 3}\nbias: {num_keypoints: 5}\n"
    assert load_settings(write(tmp_path, text), Run).extra["more"] == {"x": 1, "y": 3}


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: 1 problem\(s\)\n  no such file"):
        load_settings(tmp_path / "absent.yaml", Run)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path, Run)
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read: 'utf-8' codec"):
        load_settings(tmp_path / "latin.yaml", Run)
