"""Turns what pydantic reports into sentences that name the field and what to write instead.

Why it exists: pydantic speaks to programmers; the author of a YAML file wants to know what is
wrong, where, and what to write. Use ``deepseek_api.loading`` instead of this module.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from deepseek_api._yaml_tree import Path, field_path
from deepseek_api.base import WireModel
from deepseek_api.suggest import did_you_mean, one_of

__all__ = ["Finding", "findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem without its place in a text."""

    path: Path
    """Where it is, as keys and indexes."""
    message: str
    """What is wrong."""
    hint: str | None
    """What to write instead."""
    at_key: bool = False
    """Whether the key is wrong rather than the value."""
    reason: str = "Invalid"
    """A stable word for programs."""


PATTERN_HINTS: Final[dict[str, str]] = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "Write lower-case letters, digits and '-', first and last "
    "a letter or digit.",
    r"^[A-Za-z][A-Za-z0-9-]{0,30}$": "Write a letter, then letters, digits and '-', at most 31 "
    "characters, for example NLP.",
    r"^[a-z][a-z0-9-]{0,62}$": "Write a lower-case letter, then lower-case letters, digits and "
    "'-', at most 63 characters.",
    r"^(oci|pvc|file|hf|s3|pip|random)://[^\s]+$": "Start with oci://, pvc://, file://, hf://, "
    "s3://, pip:// or random://, without spaces.",
    r"^sha256:[0-9a-f]{64}$": "Write 'sha256:' and 64 hexadecimal digits in lower case.",
}
"""What to write for each pattern of the schema."""

_DEFAULT_PATTERN_HINT: Final = "Write lower-case letters, digits, '-' and dots."

_KINDS: Final[dict[str, tuple[str, str]]] = {
    "string_type": ("text", "Put the value in quotes."),
    "int_type": ("a whole number", "Write a whole number without quotes."),
    "int_from_float": ("a whole number", "Write a whole number without quotes."),
    "float_type": ("a number", "Write a number without quotes."),
    "bool_type": ("true or false", "Write true or false without quotes."),
    "tuple_type": ("a list", "Start each item on its own line with '- '."),
    "dict_type": ("a mapping", "Write its fields below it, indented."),
    "model_type": ("a mapping", "Write its fields below it, indented."),
}
"""For each type error: what is due, and what to write."""

_SYNONYMS: Final = {"gpu": "cuda", "nvidia": "cuda", "amd": "rocm", "ascend": "npu"}
"""Words that mean a known one and do not look like it."""

Detail = Mapping[str, Any]
Sentences = tuple[str, str | None]


EACH: Final = "*"
"""In a path: every item of a list."""
_KEYED_LISTS: Final[tuple[tuple[Path, str], ...]] = (
    (("spec", "models"), "name"),
    (("spec", "models", EACH, "adapters"), "name"),
    (("spec", "scheduler", "priorityRules"), "modelType"),
)
"""Lists whose items must differ in one field, and that field."""


def findings(error: ValidationError, root: type[WireModel], value: object) -> list[Finding]:
    """All problems that a validation reported, and what they kept it from looking at.

    Args:
        error: what pydantic raised.
        root: the type that was validated.
        value: what was validated.
    """
    found: list[Finding] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "rules":
            found.extend(_rule_findings(detail))
        elif detail["type"] != "duplicate_key" and not _is_echo(detail):
            found.append(_finding(detail, root))
    # A list with a wrong item is never checked as a whole; these are looked for in any case.
    found.extend(_duplicates(value))
    return found


def _duplicates(value: object) -> Iterator[Finding]:
    for pattern, key in _KEYED_LISTS:
        for path, items in _lists_at(value, pattern):
            yield from _duplicates_in(items, path, key)


def _duplicates_in(items: list[object], path: Path, key: str) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        word = item.get(key) if isinstance(item, dict) else None
        if isinstance(word, str) and first.setdefault(word, index) != index:
            yield Finding(
                (*path, index),
                f"{path[-1]}[{index}] has the {key} '{_shorten(word)}' of item {first[word]}.",
                f"Give each item its own {key}.",
                reason="InvalidValue",
            )


def _lists_at(value: object, pattern: Path, path: Path = ()) -> Iterator[tuple[Path, list[object]]]:
    """Every list at a path, and where it is."""
    if not pattern:
        if isinstance(value, list):
            yield path, value
        return
    part, rest = pattern[0], pattern[1:]
    if part == EACH:
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _lists_at(item, rest, (*path, index))
    elif isinstance(value, dict):
        yield from _lists_at(value.get(part), rest, (*path, part))


def _is_echo(detail: Mapping[str, Any]) -> bool:
    """Whether a list counts as too short only because its items are wrong."""
    if detail["type"] != "too_short":
        return False
    least: int = detail["ctx"]["min_length"]
    return len(detail["input"]) >= least


def _rule_findings(detail: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding(_path_of(item.path), item.message, item.hint, reason="RuleViolated")
        for item in detail["ctx"]["violations"]
    ]


def _path_of(text: str) -> Path:
    path: list[str | int] = []
    for part in text.replace("[", ".[").split("."):
        path.append(int(part[1:-1]) if part.startswith("[") else part)
    return tuple(path)


def _finding(detail: Mapping[str, Any], root: type[WireModel]) -> Finding:
    kind: str = detail["type"]
    path: Path = tuple(detail["loc"])
    name = field_path(path[-1:]) or "the document"
    if path and isinstance(path[-1], int):
        name = field_path(path[-2:])
    if kind == "extra_forbidden":
        message, hint = _unknown_field(path, root)
        return Finding(path, message, hint, at_key=True, reason="UnknownField")
    if kind == "missing":
        return Finding(path, f"{name} is missing.", f"Add '{name}:' here.", reason="MissingField")
    if kind in _KINDS:
        message, hint = _wrong_kind(name, detail)
    elif kind in _SENTENCES:
        message, hint = _SENTENCES[kind](name, detail)
    else:
        message, hint = f"{name} is wrong: {detail['msg']}.", None
    return Finding(path, message, hint, reason="InvalidValue")


def _wrong_kind(name: str, detail: Detail) -> Sentences:
    due, hint = _KINDS[detail["type"]]
    value = detail["input"]
    if isinstance(value, bool):
        hint = f"{hint} YAML reads y, yes, on, n, no and off as true and false."
    return f"{name} must be {due}, not {_describe(value)}.", hint


def _describe(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value:g}" if isinstance(value, float) else f"the number {value}"
    if isinstance(value, str):
        return f"the text '{_shorten(value)}'"
    return "a list" if isinstance(value, list) else "a mapping"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _enum(name: str, detail: Detail) -> Sentences:
    expected = [word.strip("' ") for word in _words(detail["ctx"]["expected"])]
    value = detail["input"]
    if not isinstance(value, str):
        return f"{name} must be text, not {_describe(value)}.", f"Write {one_of(expected)}."
    synonym = _SYNONYMS.get(value.lower())
    guess = f"Did you mean '{synonym}'?" if synonym in expected else did_you_mean(value, expected)
    allowed = f"Write {one_of(expected)}."
    return f"{name} cannot be '{_shorten(value)}'.", f"{guess} {allowed}" if guess else allowed


def _words(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _pattern(name: str, detail: Detail) -> Sentences:
    hint = PATTERN_HINTS.get(detail["ctx"]["pattern"], _DEFAULT_PATTERN_HINT)
    return f"{name} '{_shorten(detail['input'])}' has a form that is not allowed.", hint


def _quantity(name: str, detail: Detail) -> Sentences:
    if detail["ctx"]["number"]:
        return (
            f"{name} is the number {detail['input']:g}, which Kubernetes does not take as an "
            "amount.",
            f"Put it in quotes: '{detail['input']:g}'.",
        )
    return (
        f"{name} must be an amount, not {_describe(detail['input'])}.",
        "Write for example 250m, 2 or 1.5Gi.",
    )


def _bound(text: str, hint: str, key: str) -> Callable[[str, Detail], Sentences]:
    def sentences(name: str, detail: Detail) -> Sentences:
        bound = f"{detail['ctx'][key]:g}"
        value = detail["input"]
        return f"{name} is {value}, {text} {bound}.", f"{hint} {bound}."

    return sentences


def _too_many(what: str) -> Callable[[str, Detail], Sentences]:
    def sentences(name: str, detail: Detail) -> Sentences:
        bound = detail["ctx"]["max_length"]
        return f"{name} has more than {bound} {what}.", f"Write at most {bound}."

    return sentences


def _empty(name: str, detail: Detail) -> Sentences:
    return f"{name} is empty.", "Write something there, or leave the field out if it is optional."


_SENTENCES: Final[dict[str, Callable[[str, Detail], Sentences]]] = {
    "enum": _enum,
    "literal_error": _enum,
    "string_pattern_mismatch": _pattern,
    "quantity": _quantity,
    "greater_than_equal": _bound("less than the minimum", "Write at least", "ge"),
    "greater_than": _bound("not above", "Write a number above", "gt"),
    "less_than_equal": _bound("more than the maximum", "Write at most", "le"),
    "string_too_long": _too_many("characters"),
    "too_long": _too_many("items"),
    "string_too_short": _empty,
    "too_short": _empty,
}
"""For each kind of error: its two sentences."""


def _unknown_field(path: Path, root: type[WireModel]) -> Sentences:
    cls = _type_at(path[:-1], root)
    known = _aliases(cls)
    where = field_path(path[:-1]) or "the document"
    message = f"{where} has no field '{_shorten(str(path[-1]))}'."
    guess = _belongs(path, root) or did_you_mean(str(path[-1]), known)
    return message, guess or (f"Write one of: {', '.join(known)}." if known else "Remove it.")


def _belongs(path: Path, root: type[WireModel]) -> str | None:
    """Where a field belongs that stands at a wrong place: further up, or one step down."""
    *place, name = path
    for length in range(len(place) - 1, -1, -1):
        if isinstance(place[length], str) and name in _aliases(
            _type_at(tuple(place[:length]), root)
        ):
            where = field_path(tuple(place[:length]))
            return (
                f"'{name}' belongs {f'under {where}' if where else 'at the top of the document'}."
            )
    for field in _aliases(_type_at(tuple(place), root)):
        if name in _aliases(_type_at((*place, field), root)):
            return f"'{name}' belongs under {field}."
    return None


def _aliases(cls: type[WireModel] | None) -> list[str]:
    """Names of a type's fields as a file writes them."""
    return [field.alias or key for key, field in cls.model_fields.items()] if cls else []


def _type_at(path: Path, root: type[WireModel]) -> type[WireModel] | None:
    """The type that stands at a path."""
    current: type[WireModel] | None = root
    for part in path:
        if isinstance(part, int) or current is None:
            continue
        by_alias = {f.alias or key: f.annotation for key, f in current.model_fields.items()}
        current = _wire_type(by_alias.get(part))
    return current


def _wire_type(annotation: object) -> type[WireModel] | None:
    """The one of our types inside an annotation such as ``tuple[Model, ...] | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, WireModel) else None
    for argument in typing.get_args(annotation):
        found = _wire_type(argument)
        if found is not None:
            return found
    return None
