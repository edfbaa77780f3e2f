"""The task ``text-embedding``: text in, one vector a text out.

Why it exists: callers send text, and what happens between text and token numbers (lower case,
special tokens, cutting) must be exactly what the model was trained with. The tokenizer file
decides all of that; nothing is decided here. Token numbers are accepted too, for callers that
tokenize themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from deepseek_api.errors import BundleError
from deepseek_api.processing import EmbeddingPostprocessing, TextPreprocessing
from tokenizers import Encoding, Tokenizer

from deepseek_engine.codec import Array, join_bytes, to_array, to_tensor
from deepseek_engine.messages import InferenceRequest, Tensor, TensorSpec, WireTensor
from deepseek_engine.tasks.base import Interface, Part, Prepared, TaskContext
from deepseek_engine.tasks.lengths import group_rows
from deepseek_engine.validation import invalid

__all__ = ["TextEmbedding", "pool"]

_HEAVY_BYTES = 2048
_MAX_TEXT_BYTES = 1024 * 1024
"""Bytes of one text: a model sees a few hundred tokens, but its tokenizer walks the whole text."""
_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_REQUIRED = frozenset({"input_ids", "attention_mask"})
_OUTPUT = "embedding"


class TextEmbedding:
    """Sentence embedding with a tokenizer, an encoder graph and pooling."""

    def __init__(self, context: TaskContext) -> None:
        """Load the tokenizer.

        Raises:
            BundleError: the manifest or the graph does not fit this task.
        """
        manifest = context.bundle.manifest
        if not isinstance(manifest.preprocessing, TextPreprocessing) or not isinstance(
            manifest.postprocessing, EmbeddingPostprocessing
        ):
            raise _unfit("its pre- and post-processing are not 'text' and 'embedding'")
        self._names = tuple(spec.name for spec in context.graph_inputs)
        unknown = set(self._names) - set(_TOKEN_INPUTS)
        if unknown or not set(self._names) >= _REQUIRED:
            raise _unfit(f"the graph's inputs are {', '.join(self._names)}")
        self._graph_output = context.graph_outputs[0]
        self._row_batching = context.row_batching
        self._post = manifest.postprocessing
        self._max_length = manifest.preprocessing.max_length
        self._tokenizer = _load_tokenizer(context, manifest.preprocessing)
        self._vocabulary = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.interface = self._describe()

    def _describe(self) -> Interface:
        tokens = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in _TOKEN_INPUTS)
        return Interface(
            inputs=(TensorSpec("text", "BYTES", (-1,)),),
            alternative_inputs=(
                # Some clients cannot send a tensor of one dimension with a batch.
                (TensorSpec("text", "BYTES", (-1, 1)),),
                tokens[:2],
                tokens,
            ),
            outputs=(TensorSpec(_OUTPUT, "FP32", (-1, self._graph_output.shape[-1])),),
            default_outputs=(_OUTPUT,),
            probe=(WireTensor("text", "BYTES", (1,), join_bytes([b"ready?"])),),
        )

    def is_heavy(self, request: InferenceRequest) -> bool:
        """Long texts are tokenized in another thread; short ones take less than its hand-over."""
        return sum(len(tensor.data) for tensor in request.inputs) > _HEAVY_BYTES

    def prepare(self, request: InferenceRequest) -> Prepared:
        """Tokenize, then cut the rows into groups of similar length."""
        if request.inputs[0].name == "text":
            rows = self._tokenize(request.inputs[0])
        else:
            rows = self._check_tokens({t.name: to_array(t) for t in request.inputs})
        lengths = [len(row["input_ids"]) for row in rows]
        parts = [
            Part(bucket=bucket, rows=group, arrays=_pad([rows[row] for row in group], self._names))
            for bucket, group in group_rows(lengths, how=self._row_batching)
        ]
        return Prepared(
            rows=len(rows),
            parts=parts,
            outputs=request.outputs or self.interface.default_outputs,
            graph_outputs=(self._graph_output.name,),
        )

    def collate(self, parts: Sequence[Part]) -> Mapping[str, Array]:
        """One array for each input, padded to the longest part."""
        if len(parts) == 1:
            return parts[0].arrays
        width = max(part.arrays["input_ids"].shape[1] for part in parts)
        total = sum(len(part.rows) for part in parts)
        arrays = {name: np.zeros((total, width), dtype=np.int64) for name in self._names}
        start = 0
        for part in parts:
            end = start + len(part.rows)
            for name, array in arrays.items():
                source = part.arrays[name]
                array[start:end, : source.shape[1]] = source
            start = end
        return arrays

    def finish(self, prepared: Prepared, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """The vectors; `reduce` has pooled them already."""
        return (to_tensor(_OUTPUT, "FP32", arrays[self._graph_output.name]),)

    def reduce(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """Pool token vectors ``[rows, tokens, dim]`` of a batch; vectors stay as they are."""
        name = self._graph_output.name
        hidden = outputs[name]
        if hidden.ndim == 3:
            hidden = pool(hidden, inputs["attention_mask"], how=self._post.pooling)
        if self._post.normalize:
            norm = np.linalg.norm(hidden, axis=1, keepdims=True)
            hidden = hidden / np.maximum(norm, 1e-12)
        return {name: hidden.astype(np.float32, copy=False)}

    def _tokenize(self, tensor: Tensor) -> list[dict[str, Array]]:
        texts = []
        for row, element in enumerate(to_array(tensor).ravel()):
            if len(element) > _MAX_TEXT_BYTES:
                raise invalid(
                    f"Row {row} of the input 'text' has {len(element)} bytes; at most "
                    f"{_MAX_TEXT_BYTES} are read.",
                    hint=f"Cut it: the model sees its first {self._max_length} tokens.",
                )
            try:
                texts.append(element.decode())
            except UnicodeDecodeError as error:
                raise invalid(
                    f"Row {row} of the input 'text' is not UTF-8 text (byte {error.start})."
                ) from None
        rows = [_row(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]
        for number, tokens in enumerate(rows):
            if not len(tokens["input_ids"]):
                raise invalid(f"Row {number} of the input 'text' holds no token.")
        return rows

    def _check_tokens(self, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
        for name, array in arrays.items():
            if array.shape != ids.shape:
                raise invalid(f"The input '{name}' must have the shape of 'input_ids'.")
        if ids.shape[1] > self._max_length:
            raise invalid(
                f"The input 'input_ids' has {ids.shape[1]} tokens a row; the model takes at most "
                f"{self._max_length}."
            )
        _check_range(ids, "input_ids", high=self._vocabulary - 1)
        _check_range(mask, "attention_mask", high=1)
        if "token_type_ids" in arrays:
            _check_range(arrays["token_type_ids"], "token_type_ids", high=1)
        empty = np.flatnonzero(mask.sum(axis=1) == 0)
        if empty.size:
            raise invalid(f"Row {empty[0]} of the input 'attention_mask' has no token.")
        types = arrays.get("token_type_ids", np.zeros_like(ids))
        # Padding after the last real token is cut off: the batch brings its own.
        ends = ids.shape[1] - np.argmax(mask[:, ::-1], axis=1)
        return [
            dict(zip(_TOKEN_INPUTS, (a[:end], b[:end], c[:end]), strict=True))
            for a, b, c, end in zip(ids, mask, types, ends, strict=True)
        ]


def pool(hidden: Array, mask: Array, *, how: str) -> Array:
    """One vector a row from token vectors.

    Args:
        hidden: ``[rows, tokens, dim]``.
        mask: ``[rows, tokens]``, 1 for real tokens.
        how: ``mean`` over the real tokens, or ``cls``, the first token.
    """
    if how == "cls":
        first: Array = hidden[:, 0]
        return first
    weights = mask.astype(np.float32)
    total = np.einsum("rtd,rt->rd", hidden, weights)
    mean: Array = total / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return mean


def _row(encoding: Encoding) -> dict[str, Array]:
    values = (encoding.ids, encoding.attention_mask, encoding.type_ids)
    return {
        name: np.asarray(value, dtype=np.int64)
        for name, value in zip(_TOKEN_INPUTS, values, strict=True)
    }


def _pad(rows: Sequence[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    width = max(len(row["input_ids"]) for row in rows)
    # Padding is zero everywhere: the mask hides it, so that its token number does not matter.
    arrays = {name: np.zeros((len(rows), width), dtype=np.int64) for name in names}
    for name, array in arrays.items():
        for index, row in enumerate(rows):
            array[index, : len(row[name])] = row[name]
    return arrays


def _check_range(array: Array, name: str, *, high: int) -> None:
    wrong = np.argwhere((array < 0) | (array > high))
    if len(wrong):
        row, column = wrong[0]
        raise invalid(
            f"Row {row} of the input '{name}' holds {array[row, column]}; values go from 0 to "
            f"{high}."
        )


def _load_tokenizer(context: TaskContext, settings: TextPreprocessing) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(context.bundle.shared_bytes(settings.tokenizer))
    # The library raises plain Exception for a file that it cannot read.
    except Exception as error:
        raise BundleError(
            f"The tokenizer '{settings.tokenizer}' cannot be read.",
            hint="Prepare the bundle again.",
            reason="UnreadableTokenizer",
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_length)
    return tokenizer


def _unfit(why: str) -> BundleError:
    return BundleError(
        f"The bundle does not fit the task 'text-embedding': {why}.",
        hint="Prepare the bundle again.",
        reason="SignatureMismatch",
    )
