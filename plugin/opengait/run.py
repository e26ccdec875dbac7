"""`python -m plugin --opengait PATH`: OpenGait's own main program with the plugin's models, the checkout untouched.

OpenGait reads ./configs/default.yaml and ./datasets/..., and writes ./output. It is run in a temporary folder that
links to the checkout's configs and datasets and to the output folder of the command line; there, the probes of
Gait3D are those of the run's own partition file. Its Python files are imported where they are.
"""

import importlib
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import yaml

from common.runtime.checkpoint import latest_checkpoint
from common.runtime.settings import ConfigError, merge, read_yaml, to_mapping
from plugin.conditions import TestCondition
from plugin.opengait.checkout import check_checkout

__all__ = ["effective_settings", "register", "run_opengait", "work_folder"]

CLEAN = TestCondition()


def effective_settings(path: Path, overrides: Mapping[str, Any], condition: TestCondition) -> dict[str, Any]:
    """The run's YAML with the command line's settings, every path in it absolute.

    Raises:
        ConfigError: no such file, no YAML, or no mapping where one must be.
    """
    settings = merge(read_yaml(path), overrides)
    for section in ("data_cfg", "evaluator_cfg", "model_cfg", "trainer_cfg"):
        if not isinstance(settings.get(section), dict):
            raise ConfigError(f"{path}: {section} must be a mapping, found {type(settings.get(section)).__name__}")
    for section, key in (
        ("data_cfg", "dataset_root"),
        ("data_cfg", "dataset_partition"),
        ("trainer_cfg", "restore_hint"),
        ("evaluator_cfg", "restore_hint"),
    ):
        if isinstance(settings[section].get(key), str):
            settings[section][key] = os.path.abspath(settings[section][key])
    moves = [to_mapping(move) for move in condition.transforms()]
    if moves:
        try:
            settings["evaluator_cfg"]["transform"][0]["trf_cfg"][:0] = moves
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: evaluator_cfg.transform must be a list of one PairedCompose") from error
    return settings


@contextmanager
def work_folder(checkout: Path, settings: Mapping[str, Any], output: Path) -> Iterator[Path]:
    """A folder that looks like the root of the checkout to OpenGait, with `run.yaml`; removed afterwards."""
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="opengait-") as name:
        folder = Path(name)
        (folder / "configs").symlink_to((checkout / "configs").resolve())
        (folder / "output").symlink_to(output.resolve())
        (folder / "datasets").mkdir()
        for entry in (checkout / "datasets").iterdir():
            if entry.name != "Gait3D":
                (folder / "datasets" / entry.name).symlink_to(entry.resolve())
        (folder / "datasets" / "Gait3D").mkdir()
        partition = settings["data_cfg"].get("dataset_partition")
        if partition is not None:
            (folder / "datasets" / "Gait3D" / "Gait3D.json").symlink_to(partition)
        (folder / "run.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        yield folder


def _newest(settings: Mapping[str, Any], phase: str, output: Path) -> int:
    engine = settings["trainer_cfg" if phase == "train" else "evaluator_cfg"]
    folder = output / settings["data_cfg"]["dataset_name"] / settings["model_cfg"]["model"] / engine["save_name"]
    found = latest_checkpoint(folder / "checkpoints", engine["save_name"])
    return int(found.stem.rsplit("-", 1)[1]) if found else 0


def _alone() -> None:
    """What torchrun would tell a process that is alone."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "0")


def run_opengait(
    checkout: Path,
    cfgs: Path,
    phase: str,
    overrides: Mapping[str, Any],
    *,
    iteration: int = 0,
    resume: bool = False,
    log_to_file: bool = False,
    output: Path = Path("output"),
    condition: TestCondition = CLEAN,
) -> None:
    """Train or test with OpenGait's main program.

    Args:
        checkout: root of an OpenGait checkout.
        cfgs: YAML of the run.
        phase: "train" or "test".
        overrides: settings instead of the file's, nested.
        iteration, resume, log_to_file, output, condition: as on the command line of `python -m plugin`.

    Raises:
        CheckoutError, ConfigError, ValueError: wrong checkout, settings or data; no CUDA device.
    """
    check_checkout(checkout)
    settings = effective_settings(cfgs, overrides, condition)
    if not torch.cuda.device_count():
        raise ValueError("OpenGait needs CUDA devices, found none; without --opengait, the same YAML runs on a CPU")
    _alone()
    number = iteration or (_newest(settings, phase, output) if resume else 0)
    source = checkout.resolve() / "opengait"
    home = Path.cwd()
    with work_folder(checkout, settings, output) as folder:
        arguments = ["--cfgs", str(folder / "run.yaml"), "--phase", phase]
        arguments += ["--iter", str(number)] if number else []
        arguments += ["--log_to_file"] if log_to_file else []
        kept = sys.argv, sys.dont_write_bytecode
        sys.argv, sys.dont_write_bytecode = [str(source / "main.py"), *arguments], True
        sys.path.insert(0, str(source))
        os.chdir(folder)
        try:
            register(checkout)
            runpy.run_path(str(source / "main.py"), run_name="__main__")
        finally:
            _close_summary()
            os.chdir(home)
            sys.path.remove(str(source))
            sys.argv, sys.dont_write_bytecode = kept
            if dist.is_initialized():
                dist.destroy_process_group()


def _close_summary() -> None:
    """OpenGait leaves TensorBoard's file open, which is written by its relative name: now, or elsewhere later."""
    manager = getattr(sys.modules.get("utils.msg_manager"), "msg_mgr", None)
    writer = getattr(manager, "writer", None)
    if writer is not None:
        writer.close()


def register(checkout: Path) -> Any:
    """Put the plugin's models beside those of OpenGait, whose folder is on the path; returns its package of models.

    Raises:
        ValueError: a package that OpenGait imports is not installed.
    """
    try:
        models = importlib.import_module("modeling.models")
    except ModuleNotFoundError as error:
        raise ValueError(f"{checkout}: OpenGait needs the package {error.name}, which is not installed") from error
    host = importlib.import_module("plugin.opengait.host")
    for name in host.__all__:
        setattr(models, name, getattr(host, name))
    return models
