"""What a model returns, turned into one output per row. Runs in the worker, so that the
server only splices bytes.

An output is JSON text, or a string that is itself JSON text (the application decides
whether it stands for that JSON or for a string), or the error of its row. The common
results, a flat numpy array or a list of numbers or strings, are converted as a whole;
everything else row by row, so that one bad output does not cost its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from clipper.outline import is_deeper
from clipper.values import Output, RowError

_from_json = msgspec.json.Decoder().decode

NOT_FINITE = "the model returned NaN or infinity, which JSON cannot express"
NOT_JSON = "the model returned a value that JSON cannot express"
NOT_UNICODE = "the model returned text that is not valid Unicode"
TOO_DEEP = "the model returned a value that is nested too deeply"

_SCALARS = (str, bytes, bytearray, memoryview, dict, bool, int, float, complex)
_UNORDERED = (set, frozenset)
_MAX_DEPTH = 200


class WrongCount(Exception):
    """The result is not one output per row; the sentence is safe to show."""


class _BadOutput(Exception):
    """This output cannot be JSON; the sentence is safe to show."""


def convert(result: Any, rows: int) -> list[Output]:
    """The outputs of `rows` inputs. Raises WrongCount, and whatever the code behind an
    iterator of the model raises."""
    if hasattr(result, "to_numpy") and not isinstance(result, np.ndarray):
        result = result.to_numpy()  # a column or a table of a data-frame library
    if isinstance(result, np.ndarray):
        return _from_array(result, rows)
    values = _as_list(result, rows)
    _check_count(len(values), rows)
    return _from_list(values)


def _as_list(result: Any, rows: int) -> list[Any]:
    if type(result) is list:
        return result
    if result is None or isinstance(result, (*_SCALARS, *_UNORDERED, np.generic)):
        raise WrongCount(
            "the model must return a list with one output per input, "
            f"and returned {_kind(result)}"
        )
    if hasattr(result, "tolist"):  # tensors and other arrays
        values = result.tolist()
        if type(values) is list:
            return values
    if not isinstance(result, Iterable):
        raise WrongCount(
            "the model must return a list with one output per input, "
            "and returned a single value"
        )
    values = list(islice(result, rows + 1))
    if len(values) > rows and not hasattr(result, "__len__"):
        raise WrongCount(f"the model returned more than {_count(rows)}")
    return values if len(values) <= rows else list(result)


def _check_count(count: int, rows: int) -> None:
    if count != rows:
        inputs = "1 input" if rows == 1 else f"{rows} inputs"
        raise WrongCount(f"the model returned {_count(count)} for {inputs}")


def _count(outputs: int) -> str:
    return "1 output" if outputs == 1 else f"{outputs} outputs"


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (str, np.str_)):
        return "a string"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, _UNORDERED):
        return "a set, which has no order"
    return "bytes" if isinstance(value, (bytes, bytearray)) else "a single value"


# -- whole results ---------------------------------------------------------------------


def _from_array(array: np.ndarray[Any, Any], rows: int) -> list[Output]:
    if array.ndim == 0:
        return _from_list(_as_list(array[()], rows))  # raises: a single value
    _check_count(len(array), rows)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [_one(row) for row in array.tolist()]
    if array.dtype.kind not in "fiubUSO" or array.dtype == np.longdouble:
        return [_one(row) for row in array]
    values = array.tolist()
    if array.dtype.kind not in "fiub":
        return _from_list(values)
    return _split(values) if array.ndim == 1 else list(map(_to_json, values))


def _from_list(values: list[Any]) -> list[Output]:
    kinds = set(map(type, values))
    if kinds == {str}:
        return [_string(text) for text in values]
    if kinds <= _NUMBERS:
        try:
            if all(map(math.isfinite, values)):
                return _split(values)
        except (OverflowError, ValueError):
            pass  # integers too large even for this; which ones is found row by row
    elif len(kinds) == 1 and issubclass(next(iter(kinds)), np.generic):
        return _from_array(np.array(values), len(values))
    return [_one(value) for value in values]


_NUMBERS = {float, int, bool}


def _split(values: list[Any]) -> list[Output]:
    """Numbers encoded as one array, which is then cut at its commas."""
    outputs: list[Any] = _to_json(values)[1:-1].split(b",") if values else []
    return outputs


# -- one output ------------------------------------------------------------------------


def _one(value: Any) -> Output:
    try:
        if isinstance(value, str):
            return _string(str(value))
        return _json(value)
    except _BadOutput as bad:
        return RowError("invalid_output", str(bad))
    except UnicodeError:
        return RowError("invalid_output", NOT_UNICODE)
    except RecursionError:
        return RowError("invalid_output", TOO_DEEP)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return RowError("invalid_output", NOT_JSON)


def _json(value: Any) -> bytes:
    """JSON text of any value.

    The encoder is fast but writes NaN as null, and refuses some keys. So a text without
    the word null is right, and all else is gone through piece by piece.
    """
    try:
        text = _to_json(value)
    except TypeError:
        text = _to_json(_plain(value, 0))
    else:
        if b"null" in text and value is not None:
            text = _to_json(_plain(value, 0))
    if is_deeper(text, _MAX_DEPTH):
        # who reads it calls itself for each level
        raise _BadOutput(TOO_DEEP)
    return text


def _plain(value: Any, depth: int) -> Any:
    """The value in Python's own types, after a check that every number is finite."""
    if depth > _MAX_DEPTH:
        raise _BadOutput(TOO_DEEP)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _BadOutput(NOT_FINITE)
        return float(value)
    if value is None or isinstance(value, (bool, int, bytes, bytearray)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {_key(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    return _plain(_foreign(value), depth + 1)


def _key(key: Any) -> Any:
    key = key.item() if isinstance(key, np.generic) else key
    if isinstance(key, float) and not math.isfinite(key):
        raise _BadOutput(NOT_FINITE)
    return key


def _foreign(value: Any) -> Any:
    """A value of a type that is not Python's own, one step closer to it."""
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "fiubUSO":
            raise _BadOutput(NOT_JSON)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise _BadOutput(NOT_FINITE)
        if value.dtype == np.longdouble:
            value = value.astype(np.float64)
        return value.tolist()
    for convert_to in ("to_numpy", "tolist"):
        method = getattr(value, convert_to, None)
        if callable(method):
            return method()
    return msgspec.to_builtins(value)  # dataclasses, dates, enums and the like


def _hook(value: Any) -> Any:
    """What the encoder writes in place of a value it does not know."""
    if isinstance(value, tuple):  # it asks about one only where it is a key
        raise _BadOutput(NOT_JSON)
    value = _foreign(value)
    return value if isinstance(value, _PLAIN) else _plain(value, 0)


_PLAIN = (str, bytes, bool, int, float, list)
_to_json = msgspec.json.Encoder(enc_hook=_hook).encode


# Only these, besides true, false and null, begin a JSON text. It spares labels such as
# "cat" the attempt to parse them.
_BEGINNINGS = frozenset('{["-0123456789 \t\r\n')
_WORDS = frozenset(("true", "false", "null"))


def _string(text: str) -> Output:
    """The string itself if it is JSON text, else the JSON string it makes."""
    if text in _WORDS:
        return text
    try:
        if text and text[0] in _BEGINNINGS:
            _from_json(text)
            if not is_deeper(text.encode(), _MAX_DEPTH):
                return text
    except (ValueError, RecursionError):
        pass
    try:
        return _to_json(text)
    except UnicodeError:
        return RowError("invalid_output", NOT_UNICODE)
