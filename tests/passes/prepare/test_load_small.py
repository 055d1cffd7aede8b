import numpy as np
import onnx_ir as ir
import pytest
from onnxq.files.load import load

X = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


@pytest.fixture
def external(tmp_path, model_of):
    """A model whose weight and Reshape target both lie in a data file, loaded lazily."""
    model = model_of("g (float[3,4] x) => (float[A,B] y) { r = Reshape (x, s)  y = MatMul (r, w) }")
    for name, array in (("s", np.array([4, 3])), ("w", np.ones((3, 512), np.float32))):
        old = next(value for node in model.graph for value in node.inputs if value is not None and value.name == name)
        old.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(old)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    return load(tmp_path / "m.onnx")


def test_inference_sees_a_target_shape_that_was_stored_outside_the_model(apply, external):
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in external.graph.initializers.values())
    assert apply(external, "load-small")
    assert apply(external, "infer-shapes")
    assert external.graph[0].outputs[0].shape == ir.Shape([4, 3])


def test_inference_alone_does_not_fail_on_it(apply, external):
    assert apply(external, "infer-shapes")
    assert external.graph[0].outputs[0].dtype == ir.DataType.FLOAT


def test_big_weights_stay_on_disk(apply, external):
    apply(external, "load-small")
    assert isinstance(external.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert not apply(external, "load-small")
