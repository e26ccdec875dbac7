"""The split of a gait data set: OpenGait's partition file."""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Partition", "read_partition"]


@dataclass(frozen=True)
class Partition:
    """Who is trained on, who is tested on, and which test sequences are probes (the others are gallery)."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    probes: tuple[str, ...]
    """ID-TYPE-VIEW. Empty for sets whose protocol tells probes by their types and views."""

    @property
    def subjects(self) -> frozenset[str]:
        """Everybody of either set."""
        return frozenset(self.train) | frozenset(self.test)


def read_partition(path: str | Path) -> Partition:
    """Read OpenGait's partition file: TRAIN_SET, TEST_SET and, of Gait3D, PROBE_SET.

    Raises:
        ValueError: missing or unreadable file, no JSON, TRAIN_SET or TEST_SET missing, or a value that is not a list
            of strings.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: partition cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: partition is not JSON: {error}") from error
    keys = ("TRAIN_SET", "TEST_SET", "PROBE_SET")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with {', '.join(keys)}, found a {type(content).__name__}")
    content.setdefault("PROBE_SET", [])
    problems = []
    for key in keys:
        value = content.get(key)
        if key not in content:
            problems.append(f"{key} is missing")
        elif not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            problems.append(f"{key} is not a list of strings")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    return Partition(*(tuple(content[key]) for key in keys))
