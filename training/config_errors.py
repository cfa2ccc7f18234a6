"""Says in one line what is wrong with a configuration: the key, the value, and what is allowed there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recsys.types import Params


def explain(error: ValidationError, given: Mapping[str, Any], defaults: Params) -> str:
    """Every complaint about a configuration in one line, by key.

    Args:
        error: what pydantic found.
        given: the tree that was checked.
        defaults: an instance of what was asked for, to tell which keys there are.
    """
    by_key: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_key(detail["loc"], given), []).append(detail)
    # Of a union, the branch that looked furthest into the value is the one that was meant.
    meant = [key for key in by_key if not any(key != other and other[: len(key)] == key for other in by_key)]
    return "; ".join(_complaint(key, by_key[key], given, defaults) for key in meant)


def _complaint(
    key: tuple[str, ...], details: list[ErrorDetails], given: Mapping[str, Any], defaults: Params
) -> str:
    name = ".".join(key)
    if any(detail["type"] == "extra_forbidden" for detail in details):
        return _unknown_key(key, defaults)
    if details[0]["type"] == "missing":
        return f"{name}: {details[0]['loc'][-1]} is missing"
    if details[0]["loc"][-1:] == ("[key]",):
        return f"{name}: no such key; allowed are {_expected(details[0])}"
    allowed = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    if any(detail["type"] == "value_error" for detail in details):
        return f"{name}: {allowed}" if name else allowed
    return f"{name} = {_shown(_at(key, given))}: must be {allowed}"


def _key(loc: tuple[int | str, ...], given: Any) -> tuple[str, ...]:
    """The location as the keys of the file: pydantic also names the branch of a union that it tried."""
    key = []
    node = given
    for part in loc:
        is_index = isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
        if is_index or (isinstance(node, Mapping) and part in node):
            node = node[part]
            key.append(str(part))
    return tuple(key)


def _at(key: tuple[str, ...], given: Any) -> Any:
    for name in key:
        given = given[name] if isinstance(given, Mapping) else given[int(name)]
    return given


def _unknown_key(key: tuple[str, ...], defaults: Params) -> str:
    node: Any = defaults
    for name in key[:-1]:
        node = node[int(name)] if isinstance(node, tuple) else getattr(node, name)
    names = list(type(node).model_fields)
    close = get_close_matches(key[-1], names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{'.'.join(key)}: no such key; {meant}allowed are {', '.join(names)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _expected(detail: ErrorDetails) -> str:
    """What pydantic asks for, as it would follow "must be"."""
    limits = {"greater_than_equal": "at least {ge}", "greater_than": "above {gt}"}
    limits |= {"less_than_equal": "at most {le}", "less_than": "below {lt}"}
    kinds = {"bool": "true or false", "int": "a whole number", "float": "a number", "string": "text"}
    kinds |= {"tuple": "a list", "model": "a section of keys", "dict": "a section of keys"}
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in limits:
        return limits[kind].format(**context)
    if kind in ("literal_error", "enum"):
        return str(context["expected"]).replace("'", "")
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    family, _, problem = kind.partition("_")
    if family in kinds and problem in ("type", "parsing", "from_float"):
        return kinds[family]
    return f"valid: {detail['msg']}"
