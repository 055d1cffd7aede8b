import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.fingerprint import fingerprint

TEXT = """<ir_version: 8, opset_import: ["" : 17], producer_name: "one">
g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1,2}>
{ [first] a = MatMul (x, w)  [last] y = Add (a, b) }
"""


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def test_is_a_sha256(model):
    assert len(fingerprint(model)) == 64
    assert int(fingerprint(model), 16)


def harmless(model):
    yield "producer", lambda: setattr(model, "producer_name", "two")
    yield "doc string", lambda: setattr(model.graph, "doc_string", "said")
    yield "metadata", lambda: model.metadata_props.update(key="value")
    yield "inferred shape", lambda: setattr(model.graph[0].outputs[0], "shape", ir.Shape([1, 2]))

    def reorder():
        value = model.graph.initializers.pop("w")
        model.graph.register_initializer(value)

    yield "order of initializers", reorder

    def lazily():
        data = model.graph.initializers["w"].const_value.numpy()
        model.graph.initializers["w"].const_value = ir.LazyTensor(
            lambda: ir.tensor(data), dtype=ir.DataType.FLOAT, shape=ir.Shape([4, 2])
        )

    yield "storage", lazily
    yield "trailing empty input", lambda: model.graph[0].resize_inputs(3)


def test_what_does_not_change_the_computation_does_not_count(model):
    expected = fingerprint(model)
    for what, change in harmless(model):
        change()
        assert fingerprint(model) == expected, what


def test_the_copy_on_disk_and_its_external_data_count_the_same(model, tmp_path):
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "m.onnx")
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert fingerprint(loaded) == fingerprint(model)


def weight(model, array, dtype=None):
    model.graph.initializers["b"].const_value = ir.tensor(np.asarray(array), dtype=dtype)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: weight(m, np.array([1, 2.0000002], np.float32)),
        lambda m: weight(m, np.array([1, 2], np.float64)),
        lambda m: weight(m, np.array([[1, 2]], np.float32)),
        lambda m: setattr(m.graph[0], "name", "other"),
        lambda m: setattr(m.graph[0], "op_type", "Gemm"),
        lambda m: setattr(m.graph[0], "domain", "custom"),
        lambda m: m.graph[1].attributes.update(axis=ir.AttrInt64("axis", 1)),
        lambda m: m.graph[1].replace_input_with(0, m.graph[1].inputs[1]),
        lambda m: setattr(m.graph.inputs[0], "shape", ir.Shape(["M", 4])),
        lambda m: setattr(m.graph.inputs[0], "dtype", ir.DataType.DOUBLE),
        lambda m: m.opset_imports.update({"": 18}),
        lambda m: m.graph.outputs.append(m.graph[0].outputs[0]),
    ],
)
def test_everything_else_does(model, change):
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before


def test_attributes_count_by_type_and_value(model):
    seen = set()
    for value in (1, 1.0, "1", [1], [1.0], ["1"], ir.tensor([1]), ir.tensor([1.0]), ir.tensor(["1"])):
        model.graph[1].attributes["extra"] = ir.convenience.convert_attribute("extra", value)
        seen.add(fingerprint(model))
    assert len(seen) == 9


def test_subgraphs_and_functions_count():
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[2] x, bool c) => (float[2] y) {
      a = local.f (x)
      y = If (c) <then_branch = t () => (float[2] o) { o = Relu (a) },
                  else_branch = e () => (float[2] p) { p = Neg (a) }> }
    <domain: "local", opset_import: ["" : 17]> f (x) => (y) { y = Abs (x) }"""
    seen = {fingerprint(ir.from_onnx_text(text.replace(old, "Exp"))) for old in ("Relu", "Neg", "Abs", "nothing")}
    assert len(seen) == 4
