import numpy as np
import onnx
import onnx_ir as ir
import onnxq
from onnxq.graph.text import model_from_text
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.passes.manager import run_pipeline
from tests.support.quantizing import text

MODEL = text("a = Neg (x) b = Exp (a) y = Tanh (b)", "float[2] x", "float[2] y")


def test_what_was_declared_stays_and_the_rest_goes():
    model = model_from_text(MODEL)
    done, _ = run_pipeline(model, ["drop-inferred"], options={"drop-inferred": {"declared": frozenset({"a"})}})
    assert declared_values(done) == {"a", "y"}
    assert declared_values(model) == {"a", "b", "y"}


def test_a_quantized_model_declares_no_more_than_the_original():
    proto = ir.to_proto(
        model_from_text(
            text("h = MatMul (x, w) y = MatMul (h, v)", "float[4,8] x", "float[4,8] y", "float[8,8] w, float[8,8] v")
        )
    )
    del proto.graph.value_info[:]
    data = [{"x": np.ones((4, 8), np.float32)}]
    quantized = onnxq.quantize(proto, calibration=data, guard=False).model
    inner = {name for node in quantized.graph.node for name in node.output}
    declared = [info for info in quantized.graph.value_info if info.name in inner]
    assert {info.type.tensor_type.elem_type for info in declared} == {onnx.TensorProto.UINT8}
    assert not any(info.type.tensor_type.HasField("shape") for info in declared)
