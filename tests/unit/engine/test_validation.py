"""A request that does not fit its model is refused with a sentence that names the tensor."""

from __future__ import annotations

import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.messages import InferenceRequest, ModelInfo, ModelState, Tensor, TensorSpec
from deepseek_engine.validation import check_request

INFO = ModelInfo(
    name="m",
    state=ModelState.READY,
    max_batch_size=4,
    inputs=(TensorSpec("IN", "FP32", (-1, 2)),),
    alternative_inputs=(
        (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1))),
        (TensorSpec("text", "BYTES", (-1,)),),
        (TensorSpec("text", "BYTES", (-1, 1)),),
    ),
    outputs=(TensorSpec("OUT", "FP32", (-1, 2)),),
)


def tensor(
    name: str = "IN",
    datatype: str = "FP32",
    shape: tuple[int, ...] = (1, 2),
    size: int | None = None,
) -> Tensor:
    width = 8 if datatype == "INT64" else 4
    count = 1
    for n in shape:
        count *= n
    return Tensor(name, datatype, shape, bytes(count * width if size is None else size))


def ask(*tensors: Tensor, outputs: tuple[str, ...] = ()) -> InferenceRequest:
    return InferenceRequest("m", tensors, outputs=outputs)


@pytest.mark.parametrize(
    ("request_", "rows"),
    [
        pytest.param(ask(tensor()), 1, id="one row"),
        pytest.param(ask(tensor(shape=(4, 2))), 4, id="as many rows as allowed"),
        pytest.param(ask(tensor(), outputs=("OUT",)), 1, id="output by name"),
        pytest.param(
            ask(tensor("mask", "INT64", (2, 3)), tensor("ids", "INT64", (2, 3))),
            2,
            id="another set of inputs, in any order",
        ),
        pytest.param(ask(tensor("text", "BYTES", (3,))), 3, id="text of one dimension"),
        pytest.param(ask(tensor("text", "BYTES", (3, 1))), 3, id="text of two dimensions"),
    ],
)
def test_a_request_that_fits_has_its_rows_counted(request_: InferenceRequest, rows: int) -> None:
    assert check_request(request_, INFO) == rows


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        pytest.param(ask(), "'IN' is missing", id="no input"),
        pytest.param(ask(tensor("other")), "no input 'other'", id="unknown input"),
        pytest.param(ask(tensor(), tensor("ids", "INT64")), "no input", id="mixed sets"),
        pytest.param(ask(tensor(), tensor()), "'IN' is given more than once", id="duplicate"),
        pytest.param(ask(tensor("ids", "INT64")), "'mask' is missing", id="half a set"),
        pytest.param(ask(tensor(datatype="FP64")), "FP64; the model takes FP32", id="datatype"),
        pytest.param(ask(tensor(shape=(2,))), r"shape \[2\]; the model takes \[-1, 2\]", id="rank"),
        pytest.param(ask(tensor(shape=(1, 3))), r"shape \[1, 3\]", id="dimension"),
        pytest.param(ask(tensor(shape=(0, 2))), r"shape \[0, 2\]", id="no rows"),
        pytest.param(ask(tensor(shape=(-1, 2), size=8)), r"shape \[-1, 2\]", id="negative"),
        pytest.param(
            ask(tensor("ids", "INT64", (1, 2**62), 8), tensor("mask", "INT64", (1, 1))),
            "too large",
            id="overflow",
        ),
        pytest.param(ask(tensor(shape=(5, 2))), "5 rows; the model 'm' takes at most 4", id="rows"),
        pytest.param(ask(tensor(size=4)), "4 bytes; shape .* needs 8", id="short data"),
        pytest.param(ask(tensor(size=12)), "12 bytes; shape .* needs 8", id="long data"),
        pytest.param(ask(tensor(size=0)), "0 bytes", id="no data"),
        pytest.param(ask(tensor(), outputs=("NO",)), "no output 'NO'", id="unknown output"),
        pytest.param(
            ask(tensor("ids", "INT64", (1, 2)), tensor("mask", "INT64", (2, 2))),
            "different batch sizes, 1 and 2",
            id="different rows",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused(request_: InferenceRequest, text: str) -> None:
    with pytest.raises(InferenceError, match=text) as caught:
        check_request(request_, INFO)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
