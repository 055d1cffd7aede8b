import io

import numpy as np
import onnx_ir as ir
from onnxq.graph.tensors import write


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
