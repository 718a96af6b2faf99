"""Recipes as TOML files and as plain dicts."""

import inspect
import json
import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import UsageError
from trainer.recipes.bounds import shown, shown_name
from trainer.recipes.recipe import Recipe

_HEAD = """\
# A recipe of AlexNet: edit it, and train it with alexnet-trainer --recipe.
# Epochs are counted from 0: first_epoch = 24 takes effect after 24 whole epochs.
"""
Read = TypeVar("Read")

_MOST_BYTES = 1 << 20

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def to_toml(recipe: Recipe) -> str:
    plain: list[str] = []
    tables: list[str] = []
    for name, value, meaning in _fields(recipe):
        if isinstance(value, tuple):
            for number, each in enumerate(value):
                head = f"[[{name}]]  # {meaning}" if number == 0 else f"[[{name}]]"
                tables += ["", head, *_lines(each, with_meaning=number == 0)]
        elif is_dataclass(value):
            tables += ["", f"[{name}]  # {meaning}", *_lines(value, with_meaning=True)]
        else:
            plain.append(f"{name} = {_inline(value)}  # {meaning}")
    return _HEAD + "\n".join(plain + tables) + "\n"


def _lines(table: Any, with_meaning: bool) -> list[str]:
    return [
        f"{name} = {_inline(value)}" + (f"  # {meaning}" if with_meaning else "")
        for name, value, meaning in _fields(table)
    ]


def _fields(table: Any) -> list[tuple[str, Any, str]]:
    """Name, value and meaning, from the class docstring's table, of each field that is not None."""
    meanings = dict(re.findall(r"^(\w+) {2,}(.+)$", inspect.getdoc(table) or "", re.MULTILINE))
    values = ((field.name, getattr(table, field.name)) for field in fields(table))
    return [(name, value, meanings.get(name, "")) for name, value in values if value is not None]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_inline(each)}" for name, each in value.items()) + " }" if value else "{}"
    return json.dumps(value)


def read(path: Path) -> Recipe:
    """The recipe in a UTF-8 file. Raises UsageError, naming file and fault."""
    try:
        return from_dict(tomllib.loads(_contents(path).decode("utf-8-sig")))
    except OSError as error:
        raise UsageError(f"--recipe {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and a number of thousands of digits
        raise UsageError(f"--recipe {path} is no TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"--recipe {path} is no TOML: brackets in brackets, without end") from None
    except UsageError as error:
        raise UsageError(f"--recipe {path}: {error}") from None


def _contents(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO that nobody writes to would not open otherwise
    os.set_blocking(descriptor, True)
    with open(descriptor, "rb") as file:
        contents = file.read(_MOST_BYTES + 1)
    if len(contents) > _MOST_BYTES:
        raise UsageError(f"it is of more than {_MOST_BYTES >> 20} MiB; a recipe is of a few KiB")
    if contents.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError("it is in UTF-16; TOML is in UTF-8")
    return contents


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `dataclasses.asdict`. Raises UsageError for an unknown, missing or impossible field."""
    return object_of(Recipe, values)


def object_of(kind: type[Read], values: Any) -> Read:
    """`from_dict` for any dataclass whose fields are like a recipe's."""
    read_: Read = _object(kind, values, "")
    return read_


def _object(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where or 'all of it'} is {shown(values)}; it is a table")
    known = {field.name: field for field in fields(kind)}
    for name in values:
        if name not in known:
            raise UsageError(f"{_path(where, name)}: there is no such field; {_instead(name, where, list(known))}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"{_path(where, name)} is missing")
    types_of = get_type_hints(kind)
    return kind(**{name: _value(types_of[name], value, _path(where, name)) for name, value in values.items()})


def _instead(name: str, where: str, known: list[str]) -> str:
    if where and name in {field.name for field in fields(Recipe)}:
        return f"{name} is the recipe's own: it stands above the first [table]"
    alike = get_close_matches(name, known, n=1)
    return f"{alike[0]} is meant?" if alike else f"there are {', '.join(known)}"


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in arguments):
            raise UsageError(f"{where} is {shown(value)}; it is {' or '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} is {shown(value)}; it is a list")
        return tuple(_value(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {shown(value)}; it is a table")
        return {name: _value(arguments[1], each, _path(where, name)) for name, each in value.items()}
    if is_dataclass(kind):
        return value if type(value) is kind else _object(kind, value, where)
    return _plain(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    refusals = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _value(kind, value, where)
            except UsageError as error:
                refusals.append(str(error))
    first, *others = refusals
    raise UsageError(first + "".join(" or" + other.partition("; it is")[2] for other in others))


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UsageError(f"{where} is a whole number beyond all floats") from None
    if type(value) is not kind:
        raise UsageError(f"{where} is {shown(value)}; it is {_KINDS[kind]}")
    return value


def _path(where: str, name: str) -> str:
    return f"{where}.{shown_name(name)}" if where else shown_name(name)
