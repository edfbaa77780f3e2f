"""Reads YAML into plain values and remembers where each of them stands.

Why it exists: every message about a file has to point at a line and a column, and a file from a
stranger must not be able to use up memory or time. Everything is built from parser events, so
no YAML tag can ever create a Python object. Use ``deepseek_api.loading`` instead of this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from deepseek_api._yaml_scalars import NotANumberError, key_text, resolve_plain, resolve_tagged
from deepseek_api.errors import Problem

__all__ = ["Document", "Path", "Position", "TreeError", "field_path", "read_documents"]

MAX_DEPTH: Final = 64
"""Levels of nesting; a pipeline needs about ten."""
SHOWN_DEPTH: Final = 8
"""Levels of a path that a message about nesting shows."""
MAX_VALUES: Final = 100_000
"""Values of one document, aliases counted as often as they are used."""

# The C parser is ten times faster; the pure one is there where the library was built without it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG_PREFIX: Final = "tag:yaml.org,2002:"

Path = tuple[str | int, ...]
"""Keys and indexes from the document's root."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the text, counted from 1."""

    line: int
    column: int


class TreeError(Exception):
    """The text cannot be read; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Document:
    """One YAML document."""

    value: Any = None
    """Mappings, lists, text, numbers, booleans and None, as JSON has them."""
    start: Position = Position(1, 1)
    """Where the document starts."""
    keys: dict[Path, Position] = field(default_factory=dict)
    """Where the key of each mapping entry stands."""
    values: dict[Path, Position] = field(default_factory=dict)
    """Where each value stands."""
    duplicates: list[Path] = field(default_factory=list)
    """Keys that were given more than once; the last one counts."""

    def position(self, path: Path, *, of_key: bool = False) -> Position:
        """The place of a path, or of its nearest parent that the text has."""
        if of_key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return self.start

    def is_empty(self, path: Path) -> bool:
        """Whether the text has this key and no value for it."""
        if path not in self.keys:
            return False
        value: Any = self.value
        for part in path:
            # A repeated key leaves places behind that the value no longer has.
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return False
        return value is None


def field_path(path: Path) -> str:
    """A path as Kubernetes writes it, for example ``spec.models[0].replicas``."""
    text = ""
    for part in path:
        if isinstance(part, int) or "." in part or "/" in part or "[" in part:
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def read_documents(text: str) -> Iterator[Document]:
    """The documents of a text; empty ones are left out.

    Raises:
        TreeError: the text is not YAML, or uses what is not allowed here.
    """
    try:
        events = yaml.parse(text, Loader=_LOADER)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                builder = _Builder(events)
                document = builder.build()
                if document.value is not None:
                    yield document
    except yaml.MarkedYAMLError as error:
        raise TreeError(_syntax_problem(error)) from error
    except (yaml.YAMLError, UnicodeError) as error:
        index = getattr(error, "position", None) or getattr(error, "start", None)
        before = text[:index].splitlines() if isinstance(index, int) else []
        problem = Problem(
            "The text contains a character that YAML does not allow.",
            "Save the file as plain UTF-8 text.",
            line=max(1, len(before)) if isinstance(index, int) else None,
            reason="InvalidYaml",
        )
        raise TreeError(problem) from error


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    detail = (error.problem or error.context or "the structure is broken").rstrip(".")
    hint = "Check the indentation, the quotes and the colons on this line and the one above."
    if "\\t" in detail or "tab" in detail:
        hint = "Indent with spaces; YAML allows no tabs there."
    return Problem(
        f"The text is not valid YAML: {detail}.",
        hint,
        line=mark.line + 1 if mark else None,
        column=mark.column + 1 if mark else None,
        reason="InvalidYaml",
    )


class _Builder:
    """Builds one document from events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._document = Document()
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0

    def build(self) -> Document:
        event = next(self._events)
        self._document.start = _position(event)
        self._document.value = self._value(event, ())
        return self._document

    def _value(self, event: Any, path: Path) -> Any:
        self._document.values[path] = _position(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._add(1, event, path)
        if len(path) > MAX_DEPTH:
            raise _error(
                event,
                path[:SHOWN_DEPTH],
                f"The text is nested more than {MAX_DEPTH} levels deep.",
                "Write the structure with fewer levels.",
                "TooDeep",
            )
        before = self._count
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        else:
            self._check_tag(event, path)
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            value = self._mapping(path) if is_mapping else self._sequence(path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._count - before + 1)
        return value

    def _add(self, count: int, event: Any, path: Path) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise _error(
                event,
                path,
                f"The document has more than {MAX_VALUES} values.",
                "Remove what a pipeline does not need; aliases count each time.",
                "TooLarge",
            )

    def _alias(self, event: Any, path: Path) -> Any:
        # The parser knows undefined aliases only when it composes; events do not tell.
        if event.anchor not in self._anchors:
            raise _error(
                event,
                path,
                f"The alias '*{event.anchor}' names no anchor before it.",
                f"Write '&{event.anchor}' at the value that it stands for.",
                "UnknownAlias",
            )
        value, size = self._anchors[event.anchor]
        self._add(size, event, path)
        return value

    def _check_tag(self, event: Any, path: Path) -> None:
        if event.tag in (None, "!", f"{_TAG_PREFIX}map", f"{_TAG_PREFIX}seq"):
            return
        raise _error(
            event,
            path,
            f"The tag '{_short(event.tag)}' is not allowed.",
            "Remove the tag.",
            "TagNotAllowed",
        )

    def _scalar(self, event: Any, path: Path) -> Any:
        try:
            if event.tag in (None, "!"):
                plain = event.implicit[0] and event.tag is None
                return resolve_plain(event.value) if plain else event.value
            return resolve_tagged(event.tag.removeprefix(_TAG_PREFIX), event.value)
        except NotANumberError:
            raise _error(
                event,
                path,
                f"'{event.value}' is not a number that JSON can hold.",
                "Write a finite number.",
                "NotFinite",
            ) from None
        except ValueError:
            raise _error(
                event,
                path,
                f"The tag '{_short(event.tag)}' is not allowed for this value.",
                "Remove the tag.",
                "TagNotAllowed",
            ) from None

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            is_merge = (
                isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            )
            key = self._key(event, path)
            here = (*path, key)
            if key in entries and not is_merge:
                self._document.duplicates.append(here)
            self._document.keys[here] = _position(event)
            value_event = next(self._events)
            value = self._value(value_event, here)
            if is_merge:
                self._merge(merged, value, value_event, here)
            else:
                entries[key] = value
        return {**merged, **entries} if merged else entries

    def _key(self, event: Any, path: Path) -> str:
        key = None
        if isinstance(event, yaml.ScalarEvent):
            key = key_text(self._scalar(event, path))
        if key is None:
            raise _error(
                event,
                path,
                "A key of a mapping must be a word.",
                "Write 'name: value'.",
                "InvalidKey",
            )
        return key

    def _merge(self, target: dict[str, Any], value: Any, event: Any, path: Path) -> None:
        sources = value if isinstance(value, list) else [value]
        for source in sources:
            if not isinstance(source, dict):
                raise _error(
                    event,
                    path,
                    "'<<' can only merge mappings.",
                    "Write an alias of a mapping after it.",
                    "InvalidMerge",
                )
            for key, item in source.items():
                target.setdefault(key, item)


def _position(event: Any) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)


def _short(tag: str) -> str:
    return tag.replace(_TAG_PREFIX, "!!", 1)


def _error(event: Any, path: Path, message: str, hint: str, reason: str) -> TreeError:
    where = _position(event)
    return TreeError(
        Problem(
            message,
            hint,
            path=field_path(path),
            line=where.line,
            column=where.column,
            reason=reason,
        )
    )
