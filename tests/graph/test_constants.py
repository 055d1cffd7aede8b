import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.constants import constant_array, constant_tensor, moved_tensor

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, float[2] d) => (float[2] y) <float[2] w = {1, 2}, float[2] d = {3, 4}>
{ c = Constant <value = float[2] {5, 6}> ()  k = Constant <value_ints = [7, 8]> ()  f = Constant <value_float = 0.5> ()
  s = Constant <value_strings = ["a", "b"]> ()  y = Add (x, w) }
"""


@pytest.fixture
def values():
    model = ir.from_onnx_text(TEXT)
    found = {value.name: value for node in model.graph for value in node.outputs}
    return found | {value.name: value for value in model.graph.inputs} | dict(model.graph.initializers)


@pytest.mark.parametrize(
    ("name", "expected"), [("w", [1.0, 2.0]), ("c", [5.0, 6.0]), ("k", [7, 8]), ("f", 0.5), ("s", [b"a", b"b"])]
)
def test_initializers_and_constant_nodes_are_constants(values, name, expected):
    array = constant_array(values[name])
    assert array is not None
    assert array.tolist() == expected


def test_types_are_those_of_the_operator(values):
    assert constant_tensor(values["k"]).dtype == ir.DataType.INT64
    assert constant_tensor(values["f"]).dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("name", ["x", "y"])
def test_inputs_and_results_are_none(values, name):
    assert constant_tensor(values[name]) is None


def test_a_default_value_that_the_caller_may_override_is_none(values):
    assert values["d"].const_value is not None
    assert constant_tensor(values["d"]) is None


def test_a_value_that_only_remembers_a_constant_is_none(values):
    values["y"].const_value = ir.tensor(np.zeros(2))
    assert constant_tensor(values["y"]) is None


def test_nothing_is_none():
    assert constant_tensor(None) is None
    assert constant_array(None) is None


def test_asking_for_the_tensor_reads_no_data():
    missing = ir.ExternalTensor("gone", 0, 8, ir.DataType.FLOAT, shape=ir.Shape([2]), name="w")
    value = ir.Value(name="w", const_value=missing)
    graph = ir.Graph([], [], nodes=[], initializers=[value])
    assert constant_tensor(graph.initializers["w"]) is missing


def test_what_is_moved_from_a_constant_outlives_the_node_that_moves_it():
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[3,2] y)
    <float[2,3] w = {1, 2, 3, 4, 5, 6}, int64[2] s = {3, 2}> { t = Transpose <perm = [1, 0]> (w) y = Reshape (t, s) }
    """)
    transpose, reshape = model.graph
    value = reshape.outputs[0]
    value.shape, value.dtype = ir.Shape([3, 2]), ir.DataType.FLOAT
    transpose.outputs[0].shape, transpose.outputs[0].dtype = ir.Shape([3, 2]), ir.DataType.FLOAT
    tensor = moved_tensor(value)
    model.graph.outputs.clear()
    for node in (reshape, transpose):
        model.graph.remove(node, safe=True)
    assert tensor.numpy().tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
