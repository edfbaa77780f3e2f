"""Text that must match: a JSON schema, any JSON object, or a regular expression.

Why it exists: a model that is asked for JSON mostly gives it; with this it always does. Which
tokens may come next is computed by llguidance (derivatives of regular expressions and an Earley
parser over the tokenizer's bytes); this module bounds what a request may cost and turns failures
into errors that name the cause. Definitions come from clients: their size, the work of preparing
them, the work of every token and the states that are kept are limited. Preparing is to be done on a
thread of its own; the library releases the interpreter's lock meanwhile. Imports no torch.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from deepseek_api.errors import ErrorCode, InferenceError

from deepseek_engine.generation.admitting import invalid
from deepseek_engine.generation.requests import Constraint

__all__ = ["ConstraintCompiler", "Grammar"]

MAX_DEFINITION = 64 * 1024
"""Characters of a definition."""
PREPARE_LIMIT_S = 1.0
"""Longest that preparing may compute; what takes longer is refused, and not tried again."""
_LIMITS = {
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}
"""In the library's units. Its defaults let ``(a{1000}){1000}`` compute for 8 s before the first
token; with these it takes 0.4 s."""
_KEPT = 64
"""Prepared definitions that are kept, and as many that were refused."""


class Grammar:
    """Follows one text; a `Matcher` of the sampler."""

    def __init__(self, matcher: Any) -> None:
        """Follow with a matcher of llguidance that nobody else uses."""
        self._matcher = matcher
        self._end = False

    def mask_into(self, words: npt.NDArray[np.int32]) -> None:
        """Write which tokens may come next, a bit for each; none when it became too complex."""
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            words[:] = 0

    def accept(self, token: int) -> None:
        """Take the next token."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the text matches and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def error(self) -> InferenceError | None:
        """Why no further token can be chosen, if so."""
        if not self._matcher.is_error():
            return None
        return InferenceError(
            "What the text must match became too complex to follow.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            hint="Use a simpler schema or expression.",
            reason="ConstraintTooComplex",
        )


class ConstraintCompiler:
    """Prepares the constraints of one tokenizer; may be called from several threads."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocabulary: int,
        end_tokens: frozenset[int],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Describe the tokenizer; nothing is prepared yet.

        Args:
            tokenizer: a `tokenizers.Tokenizer`.
            vocabulary: tokens of the model; it may have more than the tokenizer.
            end_tokens: tokens that may follow a text that matches.
            clock: seconds of the processor that the calling thread took: a busy machine must not
                refuse what an idle one takes.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = sorted(end_tokens)
        self._clock = clock
        self._lock = threading.Lock()
        self._library: Any = None
        self._prepared: OrderedDict[tuple[str, str], Any] = OrderedDict()
        """Matchers at the beginning of a text, or why there is none."""

    def grammar(self, constraint: Constraint) -> Grammar:
        """What follows one text; fast for a constraint that was prepared before.

        Raises:
            InferenceError: INVALID_ARGUMENT: the definition is wrong, or too large or complex;
                UNIMPLEMENTED: the library is not installed.
        """
        if len(constraint.definition) > MAX_DEFINITION:
            raise _refused(
                f"The definition of the constraint has {len(constraint.definition)} characters; "
                f"at most {MAX_DEFINITION} are allowed."
            )
        key = (constraint.kind, constraint.definition)
        # One at a time: clients must not be able to occupy every processor with this.
        with self._lock:
            if key not in self._prepared:
                self._prepared[key] = self._prepare(constraint)
                while len(self._prepared) > _KEPT:
                    self._prepared.popitem(last=False)
            self._prepared.move_to_end(key)
            found = self._prepared[key]
        if isinstance(found, str):
            raise _refused(found)
        return Grammar(found.deep_copy())

    def _prepare(self, constraint: Constraint) -> Any:
        """A matcher, or the sentence that says why there is none."""
        library, tokenizer = self._load()
        started = self._clock()
        try:
            grammar = _grammar(library, constraint)
        except ValueError as error:
            return f"The constraint is no valid JSON: {_line(str(error))}"
        limits = library.LLParserLimits(**_LIMITS)
        matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            # The library is lazy: much of the work is done with the first mask.
            words = np.zeros(-(-self._vocabulary // 32), np.int32)
            first = matcher.deep_copy()
            first.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if not first.is_error() and not words.any():
                return "The constraint allows no text at all."
            matcher = first if first.is_error() else matcher
        if matcher.is_error():
            return f"The constraint cannot be used: {_line(matcher.get_error())}"
        if self._clock() - started > PREPARE_LIMIT_S:
            return f"The constraint takes more than {PREPARE_LIMIT_S:g} s to prepare."
        return matcher

    def _load(self) -> tuple[Any, Any]:
        if self._library is None:
            try:
                import llguidance
            except ImportError as error:
                raise InferenceError(
                    "Text that must match something needs the package llguidance.",
                    code=ErrorCode.UNIMPLEMENTED,
                    hint="Install deepseek[generate].",
                    reason="NotInstalled",
                ) from error
            # Walks the whole vocabulary: a second for a large one.
            tokenizer = llguidance.LLTokenizer(
                self._tokenizer.to_str(), n_vocab=self._vocabulary, eos_token=self._ends or None
            )
            self._library = (llguidance, tokenizer)
        return self._library  # type: ignore[no-any-return]


def _grammar(library: Any, constraint: Constraint) -> str:
    if constraint.kind == "regex":
        return str(library.LLMatcher.grammar_from_regex(constraint.definition))
    definition = '{"type": "object"}'
    if constraint.kind == "json_schema":
        definition = constraint.definition
        json.loads(definition)
    # Keywords that the library cannot follow become errors: an answer that breaks its schema would
    # look right.
    return str(library.LLMatcher.grammar_from_json_schema(definition))


def _line(text: str) -> str:
    """The first line of a library's explanation, as the end of a sentence."""
    lines = text.strip().splitlines()
    return (lines[0] if lines else "unknown cause")[:300].rstrip(".") + "."


def _refused(message: str) -> Exception:
    return invalid(
        message,
        hint="Send a JSON schema or a regular expression without look-around, small enough to be "
        "prepared in a second.",
        reason="InvalidConstraint",
    )
