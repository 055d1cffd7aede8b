import io

import numpy as np
import onnx_ir as ir
from onnxq.graph.tensors import stored_bytes, total_bytes, write
from onnxq.graph.text import model_from_text


def test_bytes_are_those_of_raw_data():
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3).T, np.array(3, np.int64), np.zeros((0, 4), np.float16)):
        tensor = ir.tensor(array)
        sink = io.BytesIO()
        write(tensor, sink)
        assert sink.getvalue() == ir.to_proto(tensor).raw_data


def test_a_view_of_a_mapped_file_can_be_read_again(tmp_path):
    array = np.arange(100_000, dtype=np.float32).reshape(1000, 100)
    (tmp_path / "data").write_bytes(array.tobytes())
    external = ir.ExternalTensor(
        "data", 0, array.nbytes, ir.DataType.FLOAT, shape=ir.Shape(array.shape), name="w", base_dir=str(tmp_path)
    )
    view = ir.tensor(external.numpy().T)
    for _ in range(2):
        sink = io.BytesIO()
        write(view, sink)
        assert sink.getvalue() == array.T.tobytes()
    np.testing.assert_array_equal(view.numpy(), array.T)


def test_bytes_of_a_model_count_the_graph_around_its_weights():
    """Against the file itself, and without reading weights."""
    body = " ".join(f"a{index + 1} = MatMul (a{index}, w)" for index in range(30))
    text = f'<ir_version: 9, opset_import: ["" : 17]> g (float[4,8] a0) => (float[4,8] a30) <float[8,8] w> {{ {body} }}'
    model = model_from_text(text)
    model.graph.initializers["w"].const_value = ir.tensor(np.ones((8, 8), np.float32), name="w")
    assert total_bytes(model) == 256
    size = len(ir.to_proto(model).SerializeToString())
    assert abs(stored_bytes(model) - size) < 0.02 * size

    def read() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    lazy = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([8, 8]), name="w")
    model.graph.initializers["w"].const_value = lazy
    assert abs(stored_bytes(model) - size) < 0.02 * size
    assert model.graph.initializers["w"].const_value is lazy
