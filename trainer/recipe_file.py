"""Recipes as TOML files and as plain dicts, such as a checkpoint holds.

What a recipe's field is called and what it may be is said once, by its dataclass (`trainer/recipe.py`); here it is only
read off them.
"""

import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from common.errors import UsageError
from trainer.recipe import Recipe

_HEAD = """\
# Every number of a training, to be edited and read by alexnet-trainer --recipe; trainer/recipe.py says what each means.
# The number of classes is that of the data set, whatever is said here.
"""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, as `read` takes it."""
    import tomli_w  # not for `--help`

    text: str = tomli_w.dumps(_without_none(asdict(recipe)))
    return _HEAD + text


def read(path: Path) -> Recipe:
    """Raises UsageError, naming the file and what is wrong in it."""
    try:
        with path.open("rb") as file:
            return from_dict(tomllib.load(file))
    except OSError as error:
        raise UsageError(f"--recipe {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--recipe {path} is no TOML: {error}") from None
    except UsageError as error:
        raise UsageError(f"--recipe {path}: {error}") from None


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `dataclasses.asdict`, also after JSON or TOML.

    Raises UsageError for an unknown, missing or impossible field.
    """
    recipe: Recipe = _object(Recipe, values, "")
    return recipe


def _object(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} is {values!r}; it is a table")
    known = {field.name: field for field in fields(kind)}
    for name in values:
        if name not in known:
            alike = get_close_matches(name, known, n=1)
            meant = f"; {alike[0]} is meant?" if alike else f"; there are {', '.join(known)}"
            raise UsageError(f"{_path(where, name)}: there is no such field{meant}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"{_path(where, name)} is missing")
    types_of = get_type_hints(kind)
    return kind(**{name: _value(types_of[name], value, _path(where, name)) for name, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as of type `kind`, one of those that a recipe's fields have."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise UsageError(f"{where} is {value!r}; it is {' or '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} is {value!r}; it is a list")
        return tuple(_value(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r}; it is a table")
        return {name: _value(arguments[1], each, _path(where, name)) for name, each in value.items()}
    if is_dataclass(kind):
        return _object(kind, value, where)
    return _plain(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first kind that the value is of."""
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
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} is {value!r}; it is {_KINDS[kind]}")
    return value


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list | tuple) else value
