import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnxq.graph.ownership import own
from onnxq.graph.tensors import tensors, total_bytes

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) <float[2] w = {1, 2}>
{ c = Constant <value = float[2] {5, 6}> ()  a = Add (x, w)  y = Add (a, c) }
"""


def test_renaming_a_weight_of_a_clone_does_not_rename_it_in_the_message_it_came_from():
    proto = onnx.parser.parse_model(TEXT)
    model = ir.from_proto(proto)
    own(model)
    model.graph.initializers["w"].name = "renamed"
    assert ir.to_proto(model).graph.initializer[0].name == "renamed"
    assert proto.graph.initializer[0].name == "w"


def test_weights_are_shared_not_copied():
    data = np.arange(2, dtype=np.float32)
    model = ir.from_onnx_text(TEXT)
    model.graph.initializers["w"].const_value = ir.tensor(data, name="w")
    own(model)
    assert np.shares_memory(model.graph.initializers["w"].const_value.numpy(), data)


def test_text_and_external_data_stay_what_they_are(tmp_path):
    model = ir.from_onnx_text(TEXT)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "m.onnx")
    text = ir.StringTensor([b"a"], shape=ir.Shape([1]), name="t")
    loaded.graph.register_initializer(ir.Value(name="t", const_value=text))
    before = loaded.graph.initializers["w"].const_value
    own(loaded)
    after = loaded.graph.initializers["w"].const_value
    assert isinstance(after, ir.ExternalTensor)
    assert after is not before
    np.testing.assert_array_equal(after.numpy(), [1, 2])
    assert loaded.graph.initializers["t"].const_value.string_data() == [b"a"]
    assert ir.to_proto(loaded)


def test_tensors_are_listed_with_their_holders_and_counted_once():
    model = ir.from_onnx_text(TEXT)
    assert [name for name, _ in tensors(model)] == ["w", "Constant.value"]
    assert total_bytes(model) == 16
    shared = ir.Value(name="v", const_value=model.graph.initializers["w"].const_value)
    model.graph.register_initializer(shared)
    assert total_bytes(model) == 16
