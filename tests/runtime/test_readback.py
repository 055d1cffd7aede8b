import numpy as np
import onnx_ir as ir
import pytest
from onnxq.runtime.mapping import RunsAs, runs_as
from onnxq.runtime.readback import op_counts, optimized_graph, remaining

QDQ = """
<ir_version: 9, opset_import: ["" : 13]>
chain (float[1,8,8,8] x) => (float[1,2048] y)
<float s = {0.05}, uint8 z = {128}, uint8 low = {0}, float sw = {0.01}, int8 zw = {0}>
{
  x_codes = QuantizeLinear (x, s, z)
  x_back = DequantizeLinear (x_codes, s, z)
  w_back = DequantizeLinear (w_codes, sw, zw)
  c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x_back, w_back)
  r = Relu (c)
  r_codes = QuantizeLinear (r, s, low)
  r_back = DequantizeLinear (r_codes, s, low)
  f = Flatten (r_back)
  f_codes = QuantizeLinear (f, s, low)
  f_back = DequantizeLinear (f_codes, s, low)
  t = Tanh (f_back)
  t_codes = QuantizeLinear (t, s, z)
  t_back = DequantizeLinear (t_codes, s, z)
  y = Concat <axis = 1> (t_back, t_back, t_back, t_back)
}
"""


def build(text, **weights):
    """A model from text, its nodes named after their outputs, its weights added."""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    for name, (dtype, shape) in weights.items():
        data = rng.integers(-100, 100, shape).astype(dtype)
        value = next(value for node in model.graph for value in node.inputs if value is not None and value.name == name)
        value.const_value = ir.tensor(data, name=name)
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


@pytest.fixture
def chain():
    return build(QDQ, w_codes=("int8", (8, 8, 3, 3)))


def test_counts_name_operators_with_their_domain(chain):
    counts = op_counts(optimized_graph(chain, layout=False))
    assert counts["QLinearConv"] == 1
    assert counts["Tanh"] == counts["Flatten"] == 1
    assert "Conv" not in counts
    assert "Relu" not in counts


def test_layout_does_not_change_what_is_fused(chain):
    plain, laid_out = (op_counts(optimized_graph(chain, layout=layout)) for layout in (False, True))
    assert plain["QLinearConv"] == laid_out.get("QLinearConv", 0) + laid_out.get("com.microsoft::QLinearConv", 0)
    assert plain["QuantizeLinear"] == laid_out["QuantizeLinear"]


def test_what_is_left_of_quantize_and_dequantize(chain):
    left = remaining(optimized_graph(chain, layout=False))
    assert "x_codes" in left["QuantizeLinear"]
    assert "t_codes" in left["QuantizeLinear"]
    assert "r_codes" not in left["QuantizeLinear"]


def test_each_node_is_found_in_what_runs(chain):
    found = runs_as(chain, optimized_graph(chain, layout=False))
    conv = RunsAs(op="QLinearConv", integer=True)
    assert (found["c"], found["r"]) == (conv, conv)
    assert found["f"] == RunsAs(op="Flatten", integer=True)
    assert found["t"] == RunsAs(op="Tanh", integer=False)
    assert "x_codes" not in found


def test_a_convolution_left_in_float_is_found_behind_its_fused_relu():
    text = """
    <ir_version: 9, opset_import: ["" : 13]>
    g (float[1,8,8,8] x) => (float[1,8,8,8] y) <float s = {0.05}, uint8 z = {128}>
    { c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)  r = Relu (c)
      q = QuantizeLinear (r, s, z)  y = DequantizeLinear (q, s, z) }
    """
    model = build(text, w=("float32", (8, 8, 3, 3)))
    found = runs_as(model, optimized_graph(model, layout=False))
    assert found["c"] == found["r"] == RunsAs(op="com.microsoft::FusedConv", integer=False)


def test_a_matmul_that_returns_float_is_still_an_integer_kernel():
    text = """
    <ir_version: 9, opset_import: ["" : 13]>
    g (float[2,8] x) => (float[2,4] y) <float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}>
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
      w_back = DequantizeLinear (w, sw, zw)  y = MatMul (d, w_back) }
    """
    model = build(text, w=("int8", (8, 4)))
    found = runs_as(model, optimized_graph(model, layout=False))
    assert found["y"] == RunsAs(op="com.microsoft::MatMulIntegerToFloat", integer=True)


def test_a_removed_node_is_not_mistaken_for_its_neighbour():
    text = """
    <ir_version: 9, opset_import: ["" : 13]>
    g (float[2,8] x) => (float[2,8] y) { i = Identity (x)  t = Tanh (i)  y = Neg (t) }
    """
    model = build(text)
    found = runs_as(model, optimized_graph(model, layout=False))
    assert "i" not in found
    assert found["t"].op == "Tanh"


def test_nodes_of_subgraphs_are_counted_and_mapped():
    text = """
    <ir_version: 9, opset_import: ["" : 13]>
    g (bool c, float[2,8] x) => (float[2,4] y) <float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}>
    {
      y = If (c) <
        then_branch = a () => (float[2,4] u) {
          q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
          wd = DequantizeLinear (w, sw, zw)  u = MatMul (d, wd)
        },
        else_branch = b () => (float[2,4] v) { k = Constant <value_ints = [2, 4]> ()  v = ConstantOfShape (k) }
      >
    }
    """
    model = ir.from_onnx_text(text.replace("int8 zw = {0}", "int8 zw = {0}, int8[8,4] w = {" + "1," * 31 + "1}"))
    next(iter(model.graph)).name = "if"
    branch = next(graph for graph in model.graphs() if graph.name == "a")
    branch[-1].name = "matmul"
    optimized = optimized_graph(model, layout=False)
    assert op_counts(optimized)["com.microsoft::MatMulIntegerToFloat"] == 1
    assert runs_as(model, optimized)["if/then_branch/matmul"].integer


def test_large_weights_do_not_travel_through_a_message(chain, monkeypatch):
    monkeypatch.setattr("onnxq.runtime.model_source.MAX_MESSAGE_BYTES", 16)
    assert op_counts(optimized_graph(chain, layout=False))["QLinearConv"] == 1


def test_a_node_merged_into_a_float_node_of_another_kind_is_found_there():
    # The runtime merges MatMul and Add into Gemm first; with a float bias that one never becomes an integer kernel.
    text = """
    <ir_version: 9, opset_import: ["" : 13]>
    g (float[2,8] x) => (float[2,4] y) <float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}>
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
      w_back = DequantizeLinear (w, sw, zw)  m = MatMul (d, w_back)  y = Add (m, b) }
    """
    model = build(text, w=("int8", (8, 4)), b=("float32", (4,)))
    found = runs_as(model, optimized_graph(model, layout=False))
    assert found["m"] == RunsAs(op="Gemm", integer=False)
