"""From the parts of a generated answer to messages of VllmEngine.

Why it exists: the protocol repeats all tokens in its last message and counts them in every part, so
that an answer has to be kept while it is sent. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_engine.client import GenerationChunk, TokenLogprob
from deepseek_protos import vllm_engine_pb2 as pb

__all__ = ["Answer"]

_ABORT = "abort"


class Answer:
    """One answer on its way."""

    def __init__(self, prompt_tokens: int) -> None:
        """Begin.

        Args:
            prompt_tokens: of the prompt; 0 while they are not known.
        """
        self._prompt_tokens = prompt_tokens
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._last: GenerationChunk | None = None

    @property
    def ended(self) -> bool:
        """Whether the last part was added."""
        return self._last is not None

    def add(self, chunk: GenerationChunk) -> pb.GenerateStreamChunk:
        """Take a part and give it as a message."""
        self._tokens += chunk.token_ids
        self._logprobs += chunk.logprobs
        part = pb.GenerateStreamChunk(
            token_ids=chunk.token_ids,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self._tokens),
        )
        if chunk.logprobs:
            part.output_logprobs.CopyFrom(_logprobs(chunk.logprobs))
        if chunk.finish_reason is not None:
            self._last = chunk
        if chunk.usage is not None:
            part.prompt_tokens = chunk.usage.prompt_tokens
            part.cached_tokens = chunk.usage.cached_tokens
        return part

    def complete(self) -> pb.GenerateComplete:
        """The last message; an answer without a last part was aborted."""
        message = pb.GenerateComplete(
            output_ids=self._tokens,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self._tokens),
            finish_reason=_ABORT,
        )
        if self._logprobs:
            message.output_logprobs.CopyFrom(_logprobs(self._logprobs))
        last = self._last
        if last is None:
            return message
        message.finish_reason = str(last.finish_reason)
        if last.usage is not None:
            message.prompt_tokens = last.usage.prompt_tokens
            message.cached_tokens = last.usage.cached_tokens
        if isinstance(last.matched_stop, str):
            message.matched_stop_str = last.matched_stop
        elif last.matched_stop is not None:
            message.matched_token_id = last.matched_stop
        return message


def _logprobs(entries: Sequence[TokenLogprob]) -> pb.OutputLogProbs:
    return pb.OutputLogProbs(
        token_logprobs=[entry.logprob for entry in entries],
        token_ids=[entry.token_id for entry in entries],
        top_logprobs=[
            pb.TopLogProbs(
                values=[logprob for _, logprob in entry.top],
                token_ids=[token for token, _ in entry.top],
            )
            for entry in entries
        ],
    )
