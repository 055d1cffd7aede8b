"""A model that onnxruntime cannot load is told before the work starts, with the names that its nodes have."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import ModelError
from onnxq.files.load import load
from onnxq.runtime.loading import check_loads

HEAD = '<ir_version: 9, opset_import: ["" : 17, "my.ops" : 1]>'


def model(middle: str, name: str = "", **weights: np.ndarray) -> onnx.ModelProto:
    """Return MatMul, `middle` from h to k, MatMul; the node that makes k gets a name."""
    made = onnx.parser.parse_model(
        f"{HEAD} g (float[1,64] x) => (float[1,64] y) {{ h = MatMul (x, w) {middle} y = MatMul (k, w) }}"
    )
    weights = {"w": np.ones((64, 64), np.float32)} | weights
    made.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, [1, 64]))
    for node in made.graph.node:
        if "k" in node.output:
            node.name = name
    return made


UNKNOWN = "k = my.ops.Frobnicate (h)"
WRONG = "k = MatMul (h, v)"
CASES = {
    "an operator that does not exist": (model(UNKNOWN, "/encoder/odd"), "/encoder/odd"),
    "the same without a name": (model(UNKNOWN), "the Frobnicate that makes 'k'"),
    "mixed types": (model(WRONG, "/encoder/fc", v=np.ones((64, 64))), "/encoder/fc"),
    "mixed types, without a name": (model(WRONG, v=np.ones((64, 64))), "the MatMul that makes 'k'"),
}


class Stages:
    """Remembers which stages began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def start(self, total: int | None, what: str) -> None:
        self.begun.append(what)

    def advance(self, count: int) -> None: ...

    def finish(self) -> None: ...


@pytest.mark.parametrize("form", ["qdq", "weight-only", "dynamic"])
@pytest.mark.parametrize("case", CASES)
def test_a_model_that_cannot_be_loaded_is_refused_before_any_work(case, form):
    proto, node = CASES[case]
    stages = Stages()
    with pytest.raises(ModelError, match=r"cannot load") as caught:
        onnxq.quantize(proto, format=form, calibration=[{"x": np.ones((1, 64), np.float32)}], progress=stages)
    assert node in str(caught.value)
    assert stages.begun == []


@pytest.mark.parametrize("call", [onnxq.plan, onnxq.calibrate, onnxq.simulate])
def test_what_calibrates_names_the_node_too(call):
    proto, node = CASES["the same without a name"]
    with pytest.raises(ModelError, match="cannot load") as caught:
        call(proto, calibration=[{"x": np.ones((1, 64), np.float32)}])
    assert node in str(caught.value)


def test_where_nothing_is_run_nothing_is_refused():
    report = onnxq.quantize(CASES["an operator that does not exist"][0], format="weight-only", check=False)
    assert "com.microsoft" in report.model.opset_import[-1].domain or report.plan.tensors


def test_weights_are_not_read_to_find_out():
    made = load(model("k = Relu (h)"))

    def read() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    lazy = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([64, 64]), name="w")
    made.graph.initializers["w"].const_value = lazy
    check_loads(made)
    assert made.graph.initializers["w"].const_value is lazy
    assert [value.name for value in made.graph.inputs] == ["x"]


def test_kernels_that_want_their_weights_to_be_constant_are_no_reason_to_refuse():
    """ConvInteger and similar operators are tried once more, with the weights where they are."""
    weights = onnxq.quantize(
        model("k = Relu (h)"), format="weight-only", weights="uint4,per-block(32)", check=False
    ).model
    assert any(node.op_type == "MatMulNBits" for node in weights.graph.node)
    check_loads(load(weights))


def test_nodes_of_one_name_are_told_apart_and_the_result_compared():
    """The runtime refuses such a model: it is compared with the one in which they have names of their own."""
    proto = model("k = Relu (h)")
    for node in proto.graph.node:
        node.name = "same"
    feeds = [{"x": np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)}]
    with pytest.raises(Exception, match="same node name"):
        onnx_session(proto)
    report = onnxq.quantize(proto, calibration=feeds, guard=False)
    assert [entry.node for entry in report.plan.decisions] == ["same", "same_2", "same_3"]
    assert report.verification.outputs[0].sqnr_served > 25
    assert [node.name for node in proto.graph.node] == ["same"] * 3


def onnx_session(proto: onnx.ModelProto):
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString())
