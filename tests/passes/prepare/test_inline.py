import numpy as np
import onnx_ir as ir
import pytest

TEXT = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[2] x) => (float[2] y) { a = local.twice (x)  y = local.twice (a) }
<domain: "local", opset_import: ["" : 17, "local" : 1]> twice (x) => (y) { y = Add (x, x) }
<domain: "local", opset_import: ["" : 9]> unused (x) => (y) { y = Neg (x) }
"""


def test_calls_become_bodies_and_functions_nobody_calls_go_too(apply, same, model_of):
    model = model_of(TEXT)
    before = model.clone()
    assert apply(model, "inline")
    assert [(node.op_type, node.name) for node in model.graph] == [("Add", "twice/Add_0"), ("Add", "twice/Add_0_2")]
    assert not model.functions
    same(before, model, {"x": np.array([1, -2], np.float32)})


def test_a_model_without_functions_is_not_modified(apply, model_of):
    assert not apply(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "inline")


def test_functions_that_call_each_other_in_a_circle_are_refused(apply, model_of):
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.a (x) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> a (x) => (y) { y = local.b (x) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> b (x) => (y) { y = local.a (x) }"""
    )
    with pytest.raises(ir.passes.PreconditionError, match="local::a"):
        apply(model, "inline")
