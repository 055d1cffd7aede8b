import numpy as np
import onnx
import onnx_ir as ir
import pytest


@pytest.fixture
def listed():
    """A model whose weight is an initializer and an input."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 9]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"""
    )
    model.graph.inputs.append(model.graph.initializers["w"])
    return model


def test_an_old_model_lists_all_initializers_and_they_are_constants(apply, same, listed):
    listed.ir_version = 3
    before = listed.clone()
    assert apply(listed, "unlist-initializers")
    assert [value.name for value in listed.graph.inputs] == ["x"]
    assert listed.ir_version == 4
    onnx.checker.check_model(ir.to_proto(listed))
    same(before, listed, {"x": np.zeros(2, np.float32)})


def test_a_newer_model_keeps_what_its_caller_may_override(apply, listed):
    assert not apply(listed, "unlist-initializers")
    assert [value.name for value in listed.graph.inputs] == ["x", "w"]


def test_unless_asked_to_take_them_all(apply, same, listed):
    before = listed.clone()
    assert apply(listed, "unlist-initializers", all=True)
    assert [value.name for value in listed.graph.inputs] == ["x"]
    same(before, listed, {"x": np.zeros(2, np.float32)})
