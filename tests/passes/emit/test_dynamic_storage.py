"""What the dynamic emitter stores: codes once, however many read them, and no float that nothing reads."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.numerics.pair_safe import breaks
from tests.support.integers import exact_here
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_model, quantize_text, text


def dynamic(source, feeds=None, **options):
    return quantize_text(source, feeds, format="dynamic", placement="everywhere", **options)


def stored_codes(done):
    return {
        name: value.shape
        for name, value in done.model.graph.initializers.items()
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8) and value.const_value.size > 20
    }


def test_a_weight_that_several_read_is_stored_once():
    source = text("a = MatMul (x, w) y = MatMul (a, w)", "float[5,8] x", "float[5,8] y", "float[8,8] w")
    assert list(stored_codes(dynamic(source))) == ["w/quantized"]


def test_an_embedding_and_the_product_with_it_transposed_are_stored_once():
    source = text("e = Gather (t, i) y = Gemm <transB = 1> (e, t)", "int64[5] i", "float[5,512] y", "float[512,64] t")
    done = dynamic(source, {"i": np.arange(5)})
    assert list(stored_codes(done)) == ["t/quantized"]
    assert done.kernels()["DynamicQuantizeMatMul"] == 1
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
@pytest.mark.parametrize(
    "weights",
    [
        {"dtype": "int8", "symmetric": True},
        {"dtype": "int8", "symmetric": False},
        {"dtype": "uint8", "symmetric": False},
    ],
    ids=["symmetric", "asymmetric", "unsigned"],
)
@pytest.mark.parametrize("copied", [lambda table: np.ascontiguousarray(table.T), np.copy], ids=["transposed", "copied"])
def test_a_copy_of_an_embedding_is_stored_once_too(copied, weights, target):
    """Exporters and constant folding leave the product with a copy of its own."""
    source = text(
        "e = Gather (t, i) y = MatMul (x, u)",
        "int64[5] i, float[5,{k}] x",
        "float[5,64] e, float[5,{n}] y",
        "float[512,64] t, float[{k},{n}] u",
    )
    size = copied(np.zeros((512, 64)))
    model = model_from_text(source.replace("{k}", str(size.shape[0])).replace("{n}", str(size.shape[1])))
    table = model.graph.initializers["t"].const_value.numpy()
    model.graph.initializers["u"].const_value = ir.tensor(copied(table), name="u")
    feeds = {"i": np.arange(5), "x": np.random.default_rng(2).standard_normal((5, len(size))).astype(np.float32)}
    schemes = {"weights": {**weights, "granularity": "per-tensor"}, "target": target}
    done = quantize_model(model, feeds, format="dynamic", placement="everywhere", **schemes)
    assert len(stored_codes(done)) == 1
    if exact_here(target):
        assert done.sqnr(optimize=False) > 30
        assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
def test_a_transposed_copy_with_a_scale_for_each_row_is_stored_once_too(target):
    source = text(
        "e = Gather (t, i) y = MatMul (e, u)", "int64[5] i", "float[5,512] y", "float[512,64] t, float[64,512] u"
    )
    model = model_from_text(source)
    table = model.graph.initializers["t"].const_value.numpy()
    model.graph.initializers["u"].const_value = ir.tensor(np.ascontiguousarray(table.T), name="u")
    done = quantize_model(model, {"i": np.arange(5)}, format="dynamic", placement="everywhere", target=target)
    assert list(stored_codes(done)) == ["t/quantized"]
    codes = done.model.graph.initializers["t/quantized"].const_value.numpy()
    assert (breaks(codes, (1,), 128) == 0) is (target == "cpu-avx2")


def test_a_transposed_embedding_that_is_moved_in_the_graph_is_stored_once():
    """Constant folding leaves the Transpose: the model would grow by the copy."""
    source = text(
        "e = Gather (t, i) u = Transpose <perm = [1, 0]> (t) y = MatMul (e, u)",
        "int64[5] i",
        "float[5,512] y",
        "float[512,64] t",
    )
    done = dynamic(source, {"i": np.arange(5)})
    assert list(stored_codes(done)) == ["t/quantized"]
    assert "t" not in done.model.graph.initializers
    assert [node.op_type for node in done.model.graph].count("Transpose") == 1
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_weights_put_together_from_parts():
    """As exporters order the gates of an LSTM."""
    source = text(
        "p = Slice (v, zero, four) q = Slice (v, four, twelve) o = Concat <axis = 0> (q, p) w = Unsqueeze (o, zero) "
        "y = LSTM <hidden_size = 3> (x, w, r)",
        "float[5,2,16] x",
        "float[5,1,2,3] y",
        "float[12,16] v, float[1,12,3] r, int64[1] zero = {0}, int64[1] four = {4}, int64[1] twelve = {12}",
    )
    done = dynamic(source)
    assert [node.op_type for node in done.model.graph] == ["DynamicQuantizeLSTM"]
    assert not {"v", "r", "zero", "four"} & set(done.model.graph.initializers)
    assert done.sqnr(optimize=False) > 30


def test_a_transposed_weight_of_one_reader_is_stored_as_it_is_read():
    done = dynamic(WEIGHTS["gemm-transposed"].text())
    assert stored_codes(done) == {"w/quantized": ir.Shape([72, 96])}
    assert "Transpose" not in [node.op_type for node in done.model.graph]


def test_float_constants_that_nothing_reads_are_gone():
    done = dynamic(WEIGHTS["gemm trans11"].text())
    assert not {"w", "c"} & set(done.model.graph.initializers)


def test_a_weight_that_something_else_reads_as_float_stays():
    done = dynamic(text("y = MatMul (x, w) z = Neg (w)", "float[5,8] x", "float[5,6] y, float[8,6] z", "float[8,6] w"))
    assert "w" in done.model.graph.initializers
    assert done.sqnr(optimize=True) > 30
