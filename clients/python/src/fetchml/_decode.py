"""JSON to the classes of `models`. Fields that this version does not know are dropped."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


def decode(kind: type[T], value: Any) -> T:
    """`value` as a `kind`.

    Raises `TypeError`, `KeyError` or `ValueError` where it is none.
    """
    return typing.cast(T, _decode(kind, value))


def _decode(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _decode(next(form for form in arguments if form is not types.NoneType), value)
    if origin is list:
        return [_decode(arguments[0], item) for item in _expect(list, value)]
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in _expect(dict, value).items()}
    if dataclasses.is_dataclass(kind):
        known = _fields(typing.cast(type, kind))
        given = _expect(dict, value).items()
        return typing.cast(type, kind)(**{key: _decode(known[key], item) for key, item in given if key in known})
    if kind is datetime:
        return datetime.fromisoformat(_expect(str, value))
    if kind is float:
        return float(value)
    if kind in (str, int, bool):
        return _expect(kind, value)
    return value


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value
