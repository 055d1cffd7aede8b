"""Reported about models that other tools quantized: what they leave out, and what runs of them."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.runtime.readback import op_counts, optimized_graph
from onnxq.runtime.session import run_model
from tests.support.converting import ops
from tests.support.end_to_end import normal, quantize, with_weights

ROWS = {"x": normal(4, 16)}
PAIR_OF_X = "xq = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (xq, xs, xz)"


def codes(*shape, seed=0, dtype=np.int8):
    """Codes of which no sum of pairs saturates on any processor."""
    low, high = (-50, 50) if dtype is np.int8 else (0, 60)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def by_name(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def served(model):
    return op_counts(optimized_graph(model))


def assert_settled(model):
    """Assert that codes of 8 bits have a zero point for each scale, those of int32 none."""
    stored, counted = by_name(model), 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            held = stored.get(node.input[0])
            if held is not None and held.dtype == np.int32:
                assert len(node.input) == 2, node.name
            else:
                scale, zero_point = (stored[name] for name in node.input[1:])
                assert zero_point.shape == scale.shape, node.name
                assert held is None or zero_point.dtype == held.dtype
            counted += 1
    assert counted


def assert_same(one, two, feeds):
    """Assert the same outputs with the optimizer off; a kernel may round to the next code."""
    (expected,), (off,) = (list(run_model(model, feeds).values()) for model in (one, two))
    np.testing.assert_array_equal(off, expected)
    (on,) = run_model(two, feeds, optimize=True).values()
    assert np.square(on - expected).sum() < 1e-3 * np.square(expected).sum()


def gemm(scale_shape, *, opset=17):
    """A Gemm as exporters leave it: no zero point of the weight, one of the bias."""
    scale = (np.abs(normal(*scale_shape, seed=3)) * 0.01 + 0.005).astype(np.float32)
    axis = "<axis = 0>" if scale_shape else ""
    return with_weights(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[4,16] x) => (float[4,8] y)
        <float xs = {{0.03}}, uint8 xz = {{120}}, float ys = {{0.1}}, uint8 yz = {{128}}> {{
            {PAIR_OF_X} wd = DequantizeLinear {axis} (w, ws) bd = DequantizeLinear {axis} (b, bs, bz)
            g = Gemm <transB = 1> (xd, wd, bd) gq = QuantizeLinear (g, ys, yz) y = DequantizeLinear (gq, ys, yz) }}""",
        w=codes(8, 16),
        ws=scale,
        b=np.random.default_rng(1).integers(-900, 900, 8).astype(np.int32),
        bs=np.asarray(np.float32(0.03) * scale, np.float32),
        bz=np.zeros(scale_shape, np.int32),
    )


@pytest.mark.parametrize("opset", [13, 17, 21, 25])
@pytest.mark.parametrize("shape", [(8,), ()], ids=["per-channel", "per-tensor"])
def test_a_gemm_without_zero_points_gets_them_and_its_kernel(shape, opset):
    model = gemm(shape, opset=opset)
    report = onnxq.quantize(model, format="qdq", check=False)
    assert_settled(report.model)
    assert "QGemm" in " ".join(served(report.model))
    assert_same(model, report.model, ROWS)
    assert any("zero points" in text for text in report.warnings)
    again = onnxq.quantize(report.model, format="qdq", check=False)
    assert again.model.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


def test_activations_without_zero_points_get_them_too():
    model = with_weights(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x) => (float[1,2,3,3] y) <float s = {0.02}> {
            q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) m = MaxPool <kernel_shape = [2,2]> (d)
            u = QuantizeLinear (m, s) y = DequantizeLinear (u, s) }"""
    )
    written = onnxq.quantize(model, format="qdq", check=False).model
    assert_settled(written)
    assert served(model)["QuantizeLinear"] == 2
    assert served(written) == {"QuantizeLinear": 1, "MaxPool": 1, "DequantizeLinear": 1}
    assert_same(model, written, {"x": normal(1, 2, 4, 4)})


def test_a_branch_gets_them_too_and_a_table_alone_needs_none():
    """The If's product reads quantized values; of the table nothing else is quantized, so that no kernel wants them."""
    model = with_weights(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (bool c, int64[3] i, float[4,16] x) => (float[4,8] y,
        float[3,8] z) <float xs = {{0.03}}, uint8 xz = {{120}}> {{
            {PAIR_OF_X} td = DequantizeLinear <axis = 0> (t, ts) z = Gather (td, i)
            y = If (c) <then_branch = a () => (float[4,8] p) {{ wd = DequantizeLinear <axis = 1> (w, ws)
            p = MatMul (xd, wd) }}, else_branch = e () => (float[4,8] q) {{ vd = DequantizeLinear <axis = 1> (w, ws)
            r = MatMul (xd, vd) q = Neg (r) }}> }}""",
        w=codes(16, 8),
        ws=np.abs(normal(8)) + np.float32(0.1),
        t=codes(6, 8),
        ts=np.abs(normal(6)) + np.float32(0.1),
    )
    written = ir.from_proto(onnxq.quantize(model, format="qdq", check=False).model)
    count = {
        node.outputs[0].name: len(node.inputs)
        for graph in (written.graph, *written.graph.subgraphs())
        for node in graph
        if node.op_type == "DequantizeLinear"
    }
    assert count == {"xd": 3, "td": 2, "wd": 3, "vd": 3}
    for choice in (True, False):
        feeds = {"c": np.asarray(choice), "i": np.arange(3), **ROWS}
        expected, found = (run_model(each, feeds) for each in (model, written))
        assert all(np.array_equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("opset", [13, 17, 21, 23, 25, 27])
@pytest.mark.parametrize(
    ("body", "weight", "kernel"),
    [
        ("y = Gemm <transB = 1> (x, w, b)", (8, 16), "QGemm"),
        ("r = Reshape (x, to) c = Conv (r, w, b) y = Flatten (c)", (8, 16, 1, 1), "QLinearConv"),
        ("r = Reshape (x, to) c = Conv (r, w, b) s = Relu (c) y = Flatten (s)", (8, 16, 1, 1), "QLinearConv"),
    ],
    ids=["gemm", "conv", "conv-relu"],
)
def test_biases_that_are_written_have_no_zero_point(body, weight, kernel, opset):
    model = with_weights(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[4,16] x) => (float[4,8] y) <int64[4] to =
            {{4,16,1,1}}> {{ {body} }}""",
        w=normal(*weight, seed=1),
        b=normal(8, seed=2),
    )
    done = quantize(model, ROWS, "qdq")
    assert_settled(done.model)
    assert ops(done.model)["DequantizeLinear"] >= 3
    assert kernel in " ".join(served(done.model))
    assert done.at_least(30)


def between_pairs(body, *, behind=True, weight=(8, 2, 3, 3)):
    """A model of another tool: Conv and another operator between pairs; `behind`: the output of Conv is quantized."""
    conv = "c = Conv (xd, wd)"
    first = (
        f"{conv} cq = QuantizeLinear (c, ys, yz) e = DequantizeLinear (cq, ys, yz)" if behind else f"{conv} e = Elu (c)"
    )
    return with_weights(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,6,6] x) => (float[1,8,4,4] y)
        <float xs = {{0.03}}, uint8 xz = {{120}}, float ys = {{0.2}}, uint8 yz = {{128}}> {{
            {PAIR_OF_X} wd = DequantizeLinear (w, ws, wz) {first} {body} }}""",
        w=codes(*weight),
        ws=np.float32(0.02),
        wz=np.int8(0),
    )


QUANTIZED_T = "tq = QuantizeLinear (t, ys, yz) y = DequantizeLinear (tq, ys, yz)"
IMAGE = {"x": normal(1, 2, 6, 6)}


@pytest.mark.parametrize(
    ("body", "behind", "unfused"),
    [
        (f"t = Tanh (e) {QUANTIZED_T}", True, {"Tanh"}),
        (f"t = Exp (e) {QUANTIZED_T}", True, {"Exp"}),
        ("y = Neg (e)", False, {"Conv"}),
        (f"t = Sigmoid (e) {QUANTIZED_T}", True, set()),
        ("y = Neg (e)", True, set()),
    ],
    ids=["tanh", "exp", "conv-without-q", "sigmoid", "border"],
)
def test_what_a_foreign_model_runs_in_float_is_named(body, behind, unfused):
    model = between_pairs(body, behind=behind)
    kinds = {node.name or f"{node.op_type}_{index}": node.op_type for index, node in enumerate(model.graph.node)}
    assert unfused <= set(served(model))  # what the runtime says itself
    diagnosis = onnxq.doctor(model)
    named = {kinds[name] for hazard in diagnosis.hazards if hazard.code == "unfused" for name in hazard.where}
    assert named == unfused
    (conv,) = (entry for entry in diagnosis.operators if entry.op == "Conv")
    assert (conv.state.value, conv.reason and conv.reason.code) == (
        ("float", "unfused") if "Conv" in unfused else ("quantized", None)
    )
    report = onnxq.quantize(model, calibration=[IMAGE], format="qdq", guard=False)
    assert {kinds[name] for name in report.verification.kernels.unfused} == unfused


@pytest.mark.parametrize(
    ("weight", "axis", "move", "product"),
    [
        ((8, 16), 0, "Transpose <perm = [1,0]> (wd)", "MatMul (xd, v)"),
        ((8, 16), 0, "Transpose <perm = [1,0]> (wd)", "Gemm (xd, v)"),
        ((8, 4, 4), 0, "Reshape (wd, to)", "Gemm <transB = 1> (xd, v)"),
        ((16, 8), 1, "Identity (wd)", "MatMul (xd, v)"),
    ],
    ids=["transpose-matmul", "transpose-gemm", "reshape-gemm", "as-it-is"],
)
def test_a_weight_of_training_is_stored_as_codes_moved_as_its_product_reads_it(weight, axis, move, product):
    """Before: the float weight stayed in the file, and was rounded and transposed whenever the model ran."""
    values = normal(*weight, seed=1, scale=0.2)
    scale = (np.abs(values).max(axis=tuple(each for each in range(len(weight)) if each != axis)) / 50).astype(
        np.float32
    )
    model = with_weights(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[4,16] x) => (float[4,8] y)
        <float xs = {{0.03}}, uint8 xz = {{120}}, float ys = {{0.05}}, uint8 yz = {{128}}, int64[2] to = {{8, 16}}> {{
            {PAIR_OF_X} wq = QuantizeLinear <axis = {axis}> (w, ws, wz)
            wd = DequantizeLinear <axis = {axis}> (wq, ws, wz) v = {move} g = {product}
            gq = QuantizeLinear (g, ys, yz) y = DequantizeLinear (gq, ys, yz) }}""",
        w=values,
        ws=scale,
        wz=np.zeros(8, np.int8),
    )
    written = onnxq.quantize(model, format="qdq", check=False).model
    assert not [name for name, array in by_name(written).items() if array.dtype == np.float32 and array.size > 8]
    stored = next(array for array in by_name(written).values() if array.dtype == np.int8 and array.ndim == 2)
    by_hand = np.rint(values / scale.reshape([-1 if each == axis else 1 for each in range(len(weight))]))
    by_hand = by_hand.reshape(8, 16) if move.startswith("Reshape") else by_hand
    assert any(np.array_equal(stored, each) for each in (by_hand, by_hand.T))
    assert any(np.array_equal(array, scale) for array in by_name(written).values())
    assert {"Transpose", "Identity"}.isdisjoint(ops(written))
    assert {"Gemm", "MatMul", "QuantizeLinear"}.isdisjoint(served(written)) or served(written)["QuantizeLinear"] == 1
    assert_same(model, written, ROWS)


def test_integer_operators_that_saturate_are_told():
    """Neighbouring codes of 127: 255 * 127 + 255 * 127 does not fit 16 bits."""
    model = with_weights(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[4,16] x) => (float[4,8] y)
        <float xs = {0.03}, uint8 xz = {0}, float ws = {0.01}, int8 wz = {0}> {
            xq = QuantizeLinear (x, xs, xz) y = com.microsoft.MatMulIntegerToFloat (xq, w, xs, ws, xz, wz) }""",
        w=np.full((16, 8), 127, np.int8),
    )
    told = {
        target: [
            text
            for text in onnxq.quantize(model, format="qoperator", target=target, check=False).warnings
            if "saturate" in text
        ]
        for target in ("cpu-avx2", "cpu-vnni")
    }
    assert len(told["cpu-avx2"]) == 1
    assert told["cpu-vnni"] == []
