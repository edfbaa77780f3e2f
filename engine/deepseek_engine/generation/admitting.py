"""May this request run on this model? Asked once, before anything is computed.

Why it exists: a sequence that can never fit must be refused when it comes, with the arithmetic, and
not after minutes in a queue; and numbers that a model does not know must never reach an index on a
device. It needs the limits of a model and a cache, and no runtime.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence as Tokens

from deepseek_api.errors import ErrorCode, InferenceError

from deepseek_engine.generation.requests import SamplingParameters
from deepseek_engine.generation.scheduler import blocks_for
from deepseek_engine.generation.settings import GenerationSettings

__all__ = ["Bounds", "invalid"]


def invalid(message: str, *, hint: str | None = None, reason: str = "InvalidInput") -> Exception:
    """An INVALID_ARGUMENT error."""
    return InferenceError(message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason=reason)


class Bounds:
    """What fits into one model."""

    def __init__(
        self, settings: GenerationSettings, *, vocabulary: int, context: int, blocks: int
    ) -> None:
        """Describe the model.

        Args:
            settings: the model's.
            vocabulary: number of tokens.
            context: most positions of a sequence.
            blocks: of the cache.
        """
        self._settings = settings
        self._vocabulary = vocabulary
        self._context = context
        self._blocks = blocks

    def prompt(self, tokens: Tokens[int]) -> array[int]:
        """The prompt as an int64 array.

        Raises:
            InferenceError: INVALID_ARGUMENT: it is empty, too long, or holds unknown tokens.
        """
        if not tokens:
            raise invalid(
                "The prompt has no tokens.", hint="Send at least one token.", reason="EmptyPrompt"
            )
        if len(tokens) >= self._context:
            raise invalid(
                f"The prompt has {len(tokens)} tokens; prompt and answer together may have "
                f"{self._context}, which leaves nothing for an answer.",
                hint=f"Send at most {self._context - 1} tokens.",
                reason="PromptTooLong",
            )
        self._known("The prompt", tokens)
        return array("q", tokens)

    def max_tokens(self, prompt: int, sampling: SamplingParameters) -> int:
        """Most tokens of the answer.

        Raises:
            InferenceError: INVALID_ARGUMENT: it can never fit; the message has the sum.
        """
        left = self._context - prompt
        limit = self._settings.max_tokens
        # The last token of an answer is never computed, so that it needs no place in the cache.
        places = self._blocks * self._settings.block_size - prompt + 1
        wanted = sampling.max_tokens
        if wanted is None:
            wanted = max(1, min(left, places, limit or left))
        if limit and wanted > limit:
            raise invalid(
                f"max_tokens is {wanted}; this model gives at most {limit}.",
                hint=f"Ask for at most {limit}.",
                reason="InvalidParameter",
            )
        if wanted > left:
            raise invalid(
                f"The prompt has {prompt} tokens and max_tokens is {wanted}: together "
                f"{prompt + wanted}, and the context has {self._context}.",
                hint=f"Ask for at most {left}.",
                reason="ContextTooShort",
            )
        if wanted > places:
            raise self._too_large(prompt, wanted)
        if sampling.min_tokens > wanted:
            raise invalid(
                f"min_tokens is {sampling.min_tokens}; the answer can have {wanted}.",
                hint=f"Ask for at most {wanted}.",
                reason="InvalidParameter",
            )
        return wanted

    def stops(self, sampling: SamplingParameters) -> None:
        """Check tokens that end an answer.

        Raises:
            InferenceError: INVALID_ARGUMENT: one is unknown.
        """
        self._known("stop_token_ids", sampling.stop_token_ids)

    def _too_large(self, prompt: int, wanted: int) -> Exception:
        size = self._settings.block_size
        need = blocks_for(prompt + wanted - 1, size)
        most = self._blocks * size - prompt + 1
        return invalid(
            f"{prompt} tokens of the prompt and {wanted - 1} of the answer need {need} blocks of "
            f"{size}; the cache has {self._blocks}.",
            hint=f"Ask for at most {most} tokens." if most > 0 else "Send a shorter prompt.",
            reason="CacheTooSmall",
        )

    def _known(self, what: str, tokens: Tokens[int]) -> None:
        for place, token in enumerate(tokens):
            try:
                number = operator.index(token)
            except TypeError:
                number = -1
            if not 0 <= number < self._vocabulary:
                raise invalid(
                    f"{what} has the token {token!r} at place {place}.",
                    hint=f"Tokens of this model are 0 to {self._vocabulary - 1}.",
                    reason="UnknownToken",
                )
