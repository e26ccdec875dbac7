"""YAML files -> frozen dataclasses, strictly: one error lists every problem of a file before a run begins.

A settings class is a `@dataclass(frozen=True, kw_only=True)`. Its annotations are the schema:

- `bool`, `int`, `float`, `str`, `Path`, `Any`, `Literal[...]`; an int is taken where a float is expected, but
  never a bool for a number nor a float for an int.
- nested dataclasses, `list[X]`, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `X | Y`, `X | None`.
- a union of dataclasses is told apart by a key that every member has as a `Literal` of its own values:
  OpenGait's `type` (transforms, losses), or another such as `solver` or `scheduler`.
- `field(metadata={"yaml": "T_0"})` gives a field whose YAML key is not its Python name.

A `ValueError` raised by `__post_init__` becomes a problem at the dotted key of that mapping.

Deliberate differences from OpenGait's config loader (whose YAML files these are): an unknown key is an error
instead of a log line, so is a key written twice, and no default file is read from the working folder.
"""

import copy
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

import yaml

__all__ = [
    "ConfigError",
    "Whole",
    "build_settings",
    "load_settings",
    "merge",
    "parse_overrides",
    "read_yaml",
    "to_mapping",
]

T = TypeVar("T")


class ConfigError(ValueError):
    """A settings file is wrong. The message lists every problem found, not only the first."""


def load_settings(
    path: str | Path,
    cls: type[T],
    *,
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> T:
    """Read one YAML file into a settings class.

    Args:
        path: YAML file, UTF-8, its top level a mapping.
        cls: the dataclass to build.
        defaults: plain mapping that the file is merged over (see `merge`) before it is checked.
        overrides: plain mapping that is merged over the file, such as settings of a command line.

    Raises:
        ConfigError: missing or unreadable file, YAML syntax, a key written twice, or any problem that
            `build_settings` finds; it names the file, and the line where the YAML itself is wrong.
    """
    content = read_yaml(Path(path))
    return build_settings(merge(merge(defaults or {}, content), overrides or {}), cls, source=str(path))


def build_settings(mapping: Mapping[str, Any], cls: type[T], source: str = "settings") -> T:
    """Build the dataclass `cls` from plain YAML types.

    Args:
        mapping: nested dicts, lists and scalars with YAML key names; left as it is, nothing in it is shared.
        cls: the dataclass to build.
        source: what error messages call the mapping, such as its file name.

    Raises:
        ConfigError: any number of unknown, missing or ill-typed keys; all of them are listed.
        TypeError: `cls` is not a dataclass, or uses an annotation that has no meaning here.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"cls must be a dataclass, got {cls!r}")
    builder = _Builder(cls)
    settings = builder.convert(mapping, cls, "")
    if builder.problems:
        _fail(source, builder.problems)
    return settings


class Whole(dict[str, Any]):
    """A mapping that `merge` puts in the place of another one, instead of merging the two."""


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over a copy of another as OpenGait does: mappings merge, lists and scalars replace."""
    merged = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in override.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not isinstance(value, Whole):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def parse_overrides(entries: Sequence[str]) -> dict[str, Any]:
    """Settings of a command line: `a.b=1` to {"a": {"b": 1}}; values are YAML.

    A mapping as a value replaces the file's, it does not merge.

    Raises:
        ValueError: an entry that is not KEY=VALUE, or a key that is both a value and a mapping.
    """
    overrides: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise ValueError(f"expected KEY=VALUE, got {entry!r}")
        *above, last = key.split(".")
        place = overrides
        for name in above:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ValueError(f"{entry!r}: {name} is set to a value already")
        if isinstance(place.get(last), dict):
            raise ValueError(f"{entry!r}: keys below {last} are set already")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            problem = str(error).splitlines()[0]
            raise ValueError(f"{entry!r}: the value is not YAML: {problem}") from error
        place[last] = Whole(parsed) if isinstance(parsed, dict) else parsed
    return overrides


def to_mapping(settings: Any) -> dict[str, Any]:
    """Settings as plain YAML types under their YAML keys; `build_settings` of it gives equal settings."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings must be a dataclass instance, got {settings!r}")
    return {_yaml_name(f): _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _fail(source: str | Path, problems: Sequence[str], cause: Exception | None = None) -> NoReturn:
    lines = "".join(f"\n  {problem}" for problem in problems)
    raise ConfigError(f"{source}: {len(problems)} problem(s){lines}") from cause


# --- reading YAML ---


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that notes keys written twice in one mapping, which YAML forbids and PyYAML lets pass."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Looked at here, before `<<` merges are resolved: overriding a merged key is legitimate.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                self.duplicates.append(f"line {line}: duplicate key '{key.value}', first on line {lines[name]}")
            lines.setdefault(name, line)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, as it stands.

    Raises:
        ConfigError: missing or unreadable file, YAML syntax, a key written twice, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        _fail(path, ["no such file"], error)
    except (OSError, UnicodeDecodeError) as error:
        _fail(path, [f"cannot be read: {error}"], error)
    try:
        loader = _StrictLoader(text)
        content = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        _fail(path, [f"{where}not valid YAML: {error.problem or error.context}"], error)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        _fail(path, [f"not valid YAML: {error}"], error)
    if loader.duplicates:
        _fail(path, loader.duplicates)
    if not isinstance(content, dict):
        found = "an empty file" if content is None else _show(content)
        _fail(path, [f"line 1: the top level must be a mapping of keys to values, found {found}"])
    return content


# --- building ---


class _Builder:
    """Walks a mapping along a schema, collecting problems instead of stopping at the first."""

    def __init__(self, root: type) -> None:
        self.root = root
        self.problems: list[str] = []

    def problem(self, key: str, text: str) -> Any:
        self.problems.append(f"{key}: {text}" if key else text)

    def expected(self, key: str, what: str, value: Any, hint: str = "") -> Any:
        return self.problem(key, f"expected {what}, found {_show(value)}{hint}")

    def convert(self, value: Any, kind: Any, key: str) -> Any:
        """`value` as `kind`; where that cannot be, a problem is noted and the result is not to be used."""
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return copy.deepcopy(value)
        if dataclasses.is_dataclass(kind):
            return self.dataclass(value, kind, key)
        if origin in (Union, types.UnionType):
            return self.union(value, args, key)
        if origin is Literal:
            return self.literal(value, args, key)
        if list in (kind, origin) or tuple in (kind, origin):
            return self.sequence(value, kind, key)
        if kind is dict or origin in (dict, Mapping):
            return self.dictionary(value, args[1] if args else Any, key)
        return self.scalar(value, kind, key)

    def dataclass(self, value: Any, cls: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return self.expected(key, "a mapping", value)
        before = len(self.problems)
        hints = typing.get_type_hints(cls)
        fields = {_yaml_name(f): f for f in dataclasses.fields(cls) if f.init}
        for name in value:
            if name not in fields:
                self.problem(_join(key, name), self.unknown(name, list(fields), key))
        arguments = {}
        for name, field in fields.items():
            if name in value:
                arguments[field.name] = self.convert(value[name], hints[field.name], _join(key, name))
            elif field.default is MISSING and field.default_factory is MISSING:
                self.problem(_join(key, name), "required, has no default")
        if len(self.problems) > before:
            return None
        try:
            return cls(**arguments)
        except ValueError as error:
            return self.problem(key, str(error))

    def unknown(self, name: Any, known: list[str], key: str) -> str:
        here = re.sub(r"\[\d+\]", "[]", _join(key, name))
        places = [place for place in _places(self.root) if place.split(" ")[0].split(".")[-1] == str(name)]
        if places:
            kin = [place for place in places if place.split(" ")[0] == here]
            shown = list(dict.fromkeys(kin or places))
            more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
            return f"unknown key; known as {', '.join(shown[:3])}{more}"
        return "unknown key" + (_did_you_mean(name, known) or f"; known here: {', '.join(known)}")

    def union(self, value: Any, members: Sequence[Any], key: str) -> Any:
        if value is None and types.NoneType in members:
            return None
        members = [member for member in members if member is not types.NoneType]
        if type(value) in members:
            return copy.deepcopy(value)
        classes = [member for member in members if dataclasses.is_dataclass(member)]
        if isinstance(value, Mapping) and len(classes) > 1:
            return self.tagged(value, classes, key)
        before = len(self.problems)
        for member in members:
            converted = self.convert(value, member, key)
            if len(self.problems) == before:
                return converted
            del self.problems[before:]
        likely = [member for member in members if _same_shape(value, member)] if len(members) > 1 else members
        if len(likely) == 1:
            return self.convert(value, likely[0], key)  # its own complaints say more than "fits none of these"
        return self.expected(
            key, " or ".join(dict.fromkeys(map(_type_name, members))), value, _number_hint(value, members)
        )

    def tagged(self, value: Mapping[str, Any], classes: Sequence[Any], key: str) -> Any:
        tag, by_name = _tag_of(tuple(classes))
        if tag not in value:
            return self.problem(_join(key, tag), f"required, one of {', '.join(map(str, by_name))}")
        if not isinstance(value[tag], str) or value[tag] not in by_name:
            hint = _did_you_mean(value[tag], list(by_name))
            valid = ", ".join(map(str, by_name))
            return self.problem(_join(key, tag), f"{_show(value[tag], kind=False)} is not one of {valid}{hint}")
        return self.dataclass(value, by_name[value[tag]], key)

    def literal(self, value: Any, valid: Sequence[Any], key: str) -> Any:
        if any(value == item and type(value) is type(item) for item in valid):
            return value
        hint = _quote_hint(value) if all(isinstance(item, str) for item in valid) else ""
        shown = ", ".join(map(str, valid))
        return self.problem(key, f"{_show(value, kind=False)} is not one of {shown}{hint}")

    def sequence(self, value: Any, kind: Any, key: str) -> Any:
        make, args = typing.get_origin(kind) or kind, typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            return self.expected(key, "a list", value)
        if make is tuple and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                return self.problem(
                    key, f"expected {len(args)} value(s), found {len(value)}: {_show(value, kind=False)}"
                )
            kinds: Sequence[Any] = args
        else:
            kinds = [args[0] if args else Any] * len(value)
        pairs = enumerate(zip(value, kinds, strict=True))
        return make([self.convert(item, item_kind, f"{key}[{i}]") for i, (item, item_kind) in pairs])

    def dictionary(self, value: Any, kind: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return self.expected(key, "a mapping", value)
        for name in value:
            if not isinstance(name, str):
                self.problem(_join(key, name), f"keys must be text, found {_show(name)}{_quote_hint(name)}")
        return {name: self.convert(item, kind, _join(key, name)) for name, item in value.items()}

    def scalar(self, value: Any, kind: Any, key: str) -> Any:
        if kind not in (bool, int, float, str, Path, types.NoneType):
            raise TypeError(f"{self.root.__name__}: {key}: settings cannot hold the type {kind!r}")
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, (str, Path)):
            return Path(value)
        if type(value) is kind:
            return value
        hint = _quote_hint(value) if kind in (str, Path) else _number_hint(value, [kind])
        return self.expected(key, _type_name(kind), value, hint)


# --- schema ---


def _yaml_name(field: "Field[Any]") -> str:
    return field.metadata.get("yaml", field.name)


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _tag_of(classes: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """The key that tells a union's dataclasses apart (`type` if it can), and the class for each value."""
    tables: dict[str, dict[str, Any]] = {}
    clashing = set()
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if typing.get_origin(hints[field.name]) is Literal:
                table = tables.setdefault(_yaml_name(field), {})
                for value in typing.get_args(hints[field.name]):
                    if value in table:
                        clashing.add(_yaml_name(field))
                    table[value] = cls
    able = [tag for tag, table in tables.items() if tag not in clashing and set(table.values()) == set(classes)]
    if not able:
        names = ", ".join(cls.__name__ for cls in classes)
        raise TypeError(f"no Literal field tells the dataclasses of a union apart: {names}")
    tag = "type" if "type" in able else able[0]
    return tag, tables[tag]


def _places(kind: Any, key: str = "", note: str = "", above: tuple[Any, ...] = ()) -> Iterator[str]:
    """Every dotted key of a schema, `[]` for list positions, the tag of a union's member behind it."""
    args = [arg for arg in typing.get_args(kind) if arg is not Ellipsis]
    if not dataclasses.is_dataclass(kind):
        listed = typing.get_origin(kind) in (list, tuple)
        classes = tuple(arg for arg in args if dataclasses.is_dataclass(arg))
        tagged = typing.get_origin(kind) in (Union, types.UnionType) and len(classes) > 1
        tag, by_name = _tag_of(classes) if tagged else ("", {})
        for arg in args if typing.get_origin(kind) is not Literal else []:
            names = " or ".join(str(name) for name, cls in by_name.items() if cls is arg)
            suffix = f" ({tag}: {names})" if names else note
            yield from _places(arg, f"{key}[]" if listed else key, suffix, above)
    elif kind not in above:  # a transform may hold transforms
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            name = _join(key, _yaml_name(field))
            yield name + note
            yield from _places(hints[field.name], name, note, (*above, kind))


def _same_shape(value: Any, kind: Any) -> bool:
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(kind) or kind is dict or typing.get_origin(kind) in (dict, Mapping)
    if isinstance(value, (list, tuple)):
        return kind in (list, tuple) or typing.get_origin(kind) in (list, tuple)
    return False


def _type_name(kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    if typing.get_origin(kind) is Literal:
        return " or ".join(repr(item) for item in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


# --- wording ---


def _show(value: Any, kind: bool = True) -> str:
    if value is None:
        return "null"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({type(value).__name__})" if kind else text


def _did_you_mean(name: Any, known: Sequence[Any]) -> str:
    by_lower = {str(item).lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1) if isinstance(name, str) else []
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def _quote_hint(value: Any) -> str:
    """YAML 1.1 reads `on`, `no`, bare digits and dates as something else than text."""
    return "" if value is None or isinstance(value, (str, list, tuple, Mapping)) else "; put text in quotes"


def _number_hint(value: Any, kinds: Sequence[Any]) -> str:
    """YAML 1.1 takes `1e-4` for text: a number with an exponent needs a point and the exponent a sign."""
    if not isinstance(value, str) or not {int, float} & set(kinds):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if float not in kinds:
        return f"; write {int(number)}" if number.is_integer() else ""
    exponent = re.fullmatch(r"([-+]?\d+)(?:\.(\d*))?[eE]([-+]?)(\d+)", value.strip())
    if exponent is None:
        return f"; write {number}, without quotes"
    whole, fraction, sign, power = exponent.groups()
    return f"; YAML takes that for text, write {whole}.{fraction or '0'}e{sign or '+'}{power}"
