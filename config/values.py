"""Single values of a config: convert them to the type of their key, check its limits, describe what it expects."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def section_by_name(hint: Any) -> type | None:
    """The dataclass of the values if `hint` is a mapping from free names to sections."""
    arguments = typing.get_args(hint)
    by_name = typing.get_origin(hint) is not None and len(arguments) == 2 and dataclasses.is_dataclass(arguments[1])
    return arguments[1] if by_name else None


def convert(value: Any, hint: Any) -> Any:
    """`value` converted to the type `hint`, or None if that is impossible."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return None
        items = [convert(item, typing.get_args(hint)[0]) for item in value]
        return None if any(item is None for item in items) else tuple(items)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return None
        item_hint = typing.get_args(hint)[1]
        items = {name: item if item_hint is Any else convert(item, item_hint) for name, item in value.items()}
        valid = all(isinstance(name, str) for name in items) and (item_hint is Any or None not in items.values())
        return items if valid else None
    if hint is bool:
        return value if isinstance(value, bool) else None
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if hint is float:
        return _to_float(value)
    if hint is str:
        return value if isinstance(value, str) and value.strip() else None
    return None


def is_within(value: Any, limits: Mapping[str, Any]) -> bool:
    """Whether a converted value, or each of its items, satisfies the choices and bounds of its key."""
    items = value if isinstance(value, tuple) else value.values() if isinstance(value, Mapping) else (value,)
    return all(_is_item_within(item, limits) for item in items)


def _is_item_within(value: Any, limits: Mapping[str, Any]) -> bool:
    choices = limits.get("choices")
    if choices is not None and str(value) not in choices and not isinstance(value, bool):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, above, high, below = (limits.get(name) for name in ("at_least", "above", "at_most", "below"))
        return not ((low is not None and value < low) or (above is not None and value <= above)
                    or (high is not None and value > high) or (below is not None and value >= below))
    return True


def describe(hint: Any, limits: Mapping[str, Any]) -> str:
    """The expected value in words: "an integer, at least 1"."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    words = []
    for option in options:
        origin = typing.get_origin(option)
        if origin is tuple:
            words.append(f"a list, each {names.get(typing.get_args(option)[0], 'a value')}")
        elif origin is not None:
            words.append("a mapping")
        else:
            words.append(names.get(option, "a section"))
    text = " or ".join(words)
    if limits.get("choices"):
        text = "a list of " if "a list" in text else ""
        switch = ["true", "false"] if bool in options else []
        return f"{text}{' | '.join([*switch, *limits['choices']])}"
    bounds = [f"{word} {limits[name]:g}" for name, word in
              (("at_least", "at least"), ("above", "above"), ("at_most", "at most"), ("below", "below"))
              if limits.get(name) is not None]
    return ", ".join([text, *bounds])


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
