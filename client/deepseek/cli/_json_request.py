"""A request written as JSON in the form of the v2 protocol's REST part.

Why it exists: ``deepseek infer --json`` lets a person or a script send any tensor. The form is
``{"inputs": [{"name", "datatype", "shape", "data"}], "outputs": [{"name"}], "parameters": {}}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from deepseek_api.errors import ConfigurationError

from deepseek._files import read_file
from deepseek._tensors import DTYPES, Array
from deepseek._wire import Inputs, Parameter

_FORM = (
    'Write {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a cat"]}]}.'
)


def read_request(source: str) -> tuple[Inputs, dict[str, Parameter], list[str]]:
    """Inputs, parameters and wanted outputs of a request.

    Args:
        source: a file, ``-`` for standard input, or the JSON text itself, which begins with ``{``.

    Raises:
        ConfigurationError: the file cannot be read or is not a request.
    """
    name, data = _read(source)
    try:
        body: Any = json.loads(data)
    except ValueError as error:
        raise _wrong(name, f"is not valid JSON: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise _wrong(name, "has no list 'inputs'")
    inputs = dict(_input(name, tensor) for tensor in body["inputs"])
    parameters, outputs = body.get("parameters", {}), body.get("outputs", [])
    if not isinstance(parameters, dict) or not isinstance(outputs, list):
        raise _wrong(name, "needs an object 'parameters' and a list 'outputs', if at all")
    return inputs, parameters, [_output_name(name, output) for output in outputs]


def _read(source: str) -> tuple[str, str | bytes]:
    """What to call the request in messages, and its text."""
    if source == "-":
        return "standard input", sys.stdin.buffer.read()
    if source.lstrip().startswith("{"):
        return "the argument of --json", source
    return f"'{source}'", read_file(source, what="request")


def _input(where: str, tensor: Any) -> tuple[str, Array]:
    if not isinstance(tensor, dict) or not {"name", "datatype", "shape", "data"} <= tensor.keys():
        raise _wrong(where, "has an input without name, datatype, shape or data")
    name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
    if datatype != "BYTES" and datatype not in DTYPES:
        raise _wrong(where, f"gives the input '{name}' the datatype '{datatype}'")
    flat = list(_flatten(tensor["data"]))
    try:
        if datatype == "BYTES":
            array: Array = np.empty(len(flat), object)
            array[:] = [str(element) for element in flat]
        else:
            array = np.array(flat, DTYPES[datatype])
        return str(name), array.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(
            where, f"has data for the input '{name}' that does not fit: {error}"
        ) from error


def _flatten(data: Any) -> Any:
    if isinstance(data, list):
        for element in data:
            yield from _flatten(element)
    else:
        yield data


def _output_name(where: str, output: Any) -> str:
    name = output.get("name") if isinstance(output, dict) else output
    if not isinstance(name, str):
        raise _wrong(where, "has an output without a name")
    return name


def _wrong(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"The request in {where} {what}.", hint=_FORM)
