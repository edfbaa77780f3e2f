"""How the tokens of a gateway become a prompt."""

from __future__ import annotations

import pytest
from deepseek_protos import vllm_engine_pb2 as pb
from deepseek_worker.config import Limits
from deepseek_worker.vllm_requests import generation_request

START = (2,)


@pytest.mark.parametrize(
    ("tokens", "start", "expected"),
    [
        ((7, 8), START, (2, 7, 8)),
        ((2, 7, 8), START, (2, 7, 8)),
        ((7, 8), (), (7, 8)),
        ((), START, ()),
    ],
    ids=["not begun", "begun already", "a model without a start token", "empty, refused later"],
)
def test_a_prompt_begins_as_the_models_tokenizer_begins_a_text(
    tokens: tuple[int, ...], start: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    message = pb.GenerateRequest(
        request_id="r",
        tokenized=pb.TokenizedInput(input_ids=tokens),
        sampling_params=pb.SamplingParams(max_tokens=1),
    )
    request = generation_request(
        message, model="m", deadline=1.0, limits=Limits(), start_tokens=start
    )
    assert request.prompt == expected
