"""TOML recipes as nested frozen dataclasses that refuse what they do not know.

An unknown key, a missing one or a value of the wrong kind is a `ConfigError` that names the place
and the nearest known name. TOML knows its own kinds, so nothing is guessed; only `--set a.b=c`
arrives as text, and is read by the kind of the field it names.
"""

from __future__ import annotations

import json
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from v3audio.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Override(str):
    """Text of a `--set` value, which waits for the field it names to say how it is read."""

    __slots__ = ()


def load_toml(path: Path | str, overrides: Iterable[str] = ()) -> dict[str, object]:
    """Read a TOML file and lay overrides over it.

    Args:
        path: The file.
        overrides: ``"a.b=c"`` each; the value is read by `from_table` according to the field's
            type.

    Returns:
        The table, ready for `from_table`.

    Raises:
        ConfigError: No such file, not TOML, or an override without ``=``.
    """
    path = Path(path)
    try:
        table: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; give the path of a .toml file") from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not a TOML file ({e})") from None
    for override in overrides:
        apply_override(table, override)
    return table


def apply_override(table: dict[str, object], override: str) -> None:
    """Put the ``a.b=c`` of `override` into `table` in place, as text that its field will read."""
    dotted, equals, value = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected NAME=VALUE, for example --set optim.lr=3e-4")
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: '{key}' is a value, not a table")
        table = inner
    table[keys[-1]] = Override(value.strip())


def from_table(cls: type[T], table: Mapping[str, object], where: str = "") -> T:
    """Build a dataclass from a table, nested dataclasses from nested tables.

    Args:
        cls: A dataclass. Fields may be bool, int, float, str, Path, Literal, tuples, lists, dicts,
            another dataclass, or a union with None.
        table: Values by field name, as `tomllib` gives them.
        where: Dotted place of the table, for messages.

    Returns:
        The dataclass; a field that the table does not name keeps its default.

    Raises:
        ConfigError: An unknown key (with the nearest known one), a missing key, a value of another
            kind, or a value that the dataclass itself refuses with ValueError.
    """
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    label = f"[{where}] " if where else ""
    hints = get_type_hints(cls)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.init}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{label}unknown name '{key}'{did_you_mean(key, known)} (known: {', '.join(known)})"
            )
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{label}'{name}' is missing; expected {_spell(hints[name])}")
    values = {
        key: _convert(hints[key], value, f"{where}.{key}" if where else key)
        for key, value in table.items()
    }
    try:
        return cls(**values)
    except ValueError as e:
        raise ConfigError(f"{label}{e}") from None


def load_config(cls: type[T], path: Path | str, overrides: Iterable[str] = ()) -> T:
    """Read a recipe file, with overrides, into the dataclass `cls`."""
    return from_table(cls, load_toml(path, overrides))


def to_table(config: object) -> dict[str, object]:
    """Turn a dataclass into a table that `from_table` reads back; None fields are left out."""
    return {
        f.name: _plain(value)
        for f in fields(config)  # type: ignore[arg-type]
        if f.init and (value := getattr(config, f.name)) is not None
    }


def to_toml(config: object) -> str:
    """Write a dataclass as TOML text that `load_toml` and `from_table` read back."""
    return "\n".join(_toml_lines(to_table(config), "")).strip() + "\n"


def _plain(value: object) -> object:
    if is_dataclass(value):
        return to_table(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _toml_lines(table: Mapping[str, object], prefix: str) -> list[str]:
    lines = [
        f"{_toml_key(k)} = {_toml_value(v)}" for k, v in table.items() if not isinstance(v, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{_toml_key(key)}"
            lines += ["", f"[{name}]", *_toml_lines(value, f"{name}.")]
    return lines


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else json.dumps(key)


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(v) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _convert(hint: Any, value: object, where: str) -> Any:
    """Give `value` as `hint` wants it, or raise ConfigError; the only widening is int to float."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return str(value) if isinstance(value, Override) else value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where)
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        matches = [a for a in args if str(a) == value or (type(a) is type(value) and a == value)]
        if not matches:
            raise _wrong(hint, value, where)
        return matches[0]
    if origin in (tuple, list):
        return _convert_sequence(hint, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where)
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, Override):
        return _parse(hint, value, where)
    if hint is Path and type(value) is str:
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # exact, so that true is no integer
        raise _wrong(hint, value, where)
    return value


def _convert_union(hint: Any, value: object, where: str) -> Any:
    members = get_args(hint)
    if isinstance(value, Override) and types.NoneType in members and value.lower() in ("none", ""):
        return None
    for member in members:
        if member is types.NoneType:
            continue
        try:
            return _convert(member, value, where)
        except ConfigError:
            if len(members) == 2 and types.NoneType in members:
                raise  # Optional[X]: X's own words are the clearer ones
    raise _wrong(hint, value, where)


def _convert_sequence(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, Override):
        inner = value.strip("[]() ")
        value = [Override(v.strip().strip("\"'")) for v in inner.split(",")] if inner else []
    if not isinstance(value, list | tuple):
        raise _wrong(hint, value, where)
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _wrong(hint, value, where)
        item_hints = args
    else:
        item_hints = (args[0],) * len(value)
    items = [
        _convert(h, v, f"{where}[{i}]")
        for i, (h, v) in enumerate(zip(item_hints, value, strict=True))
    ]
    return tuple(items) if origin is tuple else items


def _parse(hint: Any, text: Override, where: str) -> Any:
    if hint is bool:
        known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if text.lower() not in known:
            raise _wrong(hint, str(text), where)
        return known[text.lower()]
    if hint in (str, Path):
        return hint(str(text))
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise _wrong(hint, str(text), where) from None
    raise _wrong(hint, str(text), where)


def _wrong(hint: Any, value: object, where: str) -> ConfigError:
    shown = str(value) if isinstance(value, Override) else repr(value)
    return ConfigError(f"{where} = {shown}: expected {_spell(hint)}")


def _spell(hint: Any) -> str:
    """A type in a musician's words."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        types.NoneType: "none",
    }
    if hint in words:
        return words[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(a) for a in args)
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return f"a list, each item {_spell(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(_spell(a) for a in args)}"
    return "a table"
