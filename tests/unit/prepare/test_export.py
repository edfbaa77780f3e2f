"""Loading, exporting and verifying an encoder: what is wrong is found before it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deepseek_api.errors import SourceError

if TYPE_CHECKING:
    import onnx
    from deepseek_engine.prepare.architectures import LoadedModel

    from tests.unit.prepare.conftest import LoadTiny

pytestmark = [pytest.mark.timeout(240)]


def verify(model: LoadedModel, graph: onnx.ModelProto) -> None:
    from deepseek_engine.prepare.judge import make_judge, verify_export
    from deepseek_engine.prepare.measure import open_session

    verify_export(model, open_session(graph.SerializeToString(), threads=1), make_judge(model))


def changed(graph: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """A copy in which a constant, named by its end, is computed anew."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for end, change in values.items():
        tensors = [t for t in copy.graph.initializer if t.name.endswith(end.replace("__", "."))]
        assert tensors
        for tensor in tensors:
            array = np.array(change(numpy_helper.to_array(tensor)), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def test_a_faithful_graph_passes(tiny_bert: LoadedModel, tiny_graph: onnx.ModelProto) -> None:
    verify(tiny_bert, tiny_graph)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda array: array[::-1], id="shuffled"),
        pytest.param(lambda array: array * np.nan, id="not a number"),
    ],
)
def test_a_graph_that_answers_otherwise_is_refused(
    change: Any, tiny_bert: LoadedModel, tiny_graph: onnx.ModelProto
) -> None:
    wrong = changed(tiny_graph, word_embeddings__weight=change)
    with pytest.raises(SourceError, match="does not agree with the model: cosine") as caught:
        verify(tiny_bert, wrong)
    assert caught.value.reason == "ExportDisagrees"


def test_a_graph_that_forgets_the_mask_is_refused(
    tiny_bert: LoadedModel, tiny_graph: onnx.ModelProto
) -> None:
    """One by one it is right; only a padded batch shows it."""
    from deepseek_engine.prepare.export import MASKED
    from onnx import numpy_helper

    wrong = type(tiny_graph)()
    wrong.CopyFrom(tiny_graph)
    masks = [t for t in wrong.graph.initializer if np.all(numpy_helper.to_array(t) == MASKED)]
    assert masks
    for tensor in masks:
        zero = np.zeros_like(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(zero, tensor.name))
    with pytest.raises(SourceError, match="does not agree"):
        verify(tiny_bert, wrong)


def test_the_sentences_of_prepare_are_not_those_of_the_tests() -> None:
    from deepseek_engine.prepare.samples import sentences

    from tests.support import real_models

    assert len(sentences()) >= 50
    assert not set(sentences()) & set(real_models.sentences())


def state_of(model: LoadedModel) -> dict[str, Any]:
    return dict(model.module.state_dict())


def test_weights_with_the_names_of_a_pretraining_checkpoint_load(
    tiny_bert: LoadedModel, load_tiny: LoadTiny
) -> None:
    """The oldest published checkpoints have a prefix, a head, and gamma and beta."""
    import torch

    state = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in state_of(tiny_bert).items()
    }
    state["cls.predictions.bias"] = torch.zeros(300)
    loaded = state_of(load_tiny(state=state))
    assert all(torch.equal(loaded[name], value) for name, value in state_of(tiny_bert).items())


def test_a_missing_tensor_is_named(tiny_bert: LoadedModel, load_tiny: LoadTiny) -> None:
    state = state_of(tiny_bert)
    del state["encoder.layer.1.output.dense.bias"]
    with pytest.raises(SourceError, match=r"encoder\.layer\.1\.output\.dense\.bias") as caught:
        load_tiny(state=state)
    assert caught.value.reason == "WeightsDoNotFit"


def test_a_tensor_of_another_shape_is_named(tiny_bert: LoadedModel, load_tiny: LoadTiny) -> None:
    with pytest.raises(SourceError, match="intermediate") as caught:
        load_tiny(state=state_of(tiny_bert), intermediate_size=96)
    assert caught.value.reason == "WeightsDoNotFit"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"hidden_size": "wide"}, id="text for a number"),
        pytest.param({"num_attention_heads": 5}, id="heads that do not divide"),
        pytest.param({"hidden_act": "none such"}, id="unknown activation"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(
    fields: dict[str, Any], tiny_bert: LoadedModel, load_tiny: LoadTiny
) -> None:
    with pytest.raises(SourceError) as caught:
        load_tiny(state=state_of(tiny_bert), **fields)
    assert caught.value.reason == "InvalidConfig"


def test_another_kind_of_encoder_is_refused_by_name(load_tiny: LoadTiny) -> None:
    with pytest.raises(SourceError, match="of the type 'xlnet' cannot be prepared yet"):
        load_tiny(model_type="xlnet")


def test_texts_are_cut_where_the_positions_end(tiny_bert: LoadedModel) -> None:
    from tokenizers import Tokenizer

    assert getattr(tiny_bert.preprocessing, "max_length", None) == 64
    tokenizer = Tokenizer.from_str(tiny_bert.shared_files["tokenizer.json"].decode())
    assert len(tokenizer.encode("word " * 100).ids) == 64


def test_the_torch_description_names_no_pooler(tiny_bert: LoadedModel) -> None:
    description = tiny_bert.torch_description()
    assert description["arguments"] == {"add_pooling_layer": False}
    assert not [name for name in tiny_bert.module.state_dict() if name.startswith("pooler")]


def test_a_small_vocabulary_and_few_positions_can_be_exported(load_tiny: LoadTiny) -> None:
    from deepseek_engine.prepare.export import export_graph

    model = replace(load_tiny(vocab_size=8, max_position_embeddings=9, num_hidden_layers=1))
    assert [output.name for output in export_graph(model).graph.output] == ["sentence_embedding"]
