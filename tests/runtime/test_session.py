import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxq.errors import MissingDependencyError, ModelError
from onnxq.runtime import model_source, session
from onnxq.runtime.session import open_session, run_model, versions

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
scale (float[N,4] x) => (float[N,4] y)
<float[4] w = {1, 2, 3, 4}, float[4] b = {0.5, 0.5, 0.5, 0.5}>
{ h = Mul (x, w)  s = Add (h, b)  y = Relu (s) }
"""
X = np.array([[1, -1, 1, -1]], np.float32)
Y = np.array([[1.5, 0, 3.5, 0]], np.float32)


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def external(folder, split=False):
    """A model on disk with its weights beside it, loaded lazily; `split`: each weight in a folder of its own."""
    loaded = ir.from_onnx_text(TEXT)
    ir.save(loaded, folder / "model.onnx", external_data="weights.bin", size_threshold_bytes=0)
    loaded = ir.load(folder / "model.onnx")
    if split:
        value = loaded.graph.initializers["b"]
        tensor = value.const_value
        (folder / "other").mkdir()
        (folder / "other" / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
        value.const_value = ir.ExternalTensor(
            "weights.bin",
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name="b",
            base_dir=folder / "other",
        )
    return loaded


@pytest.mark.parametrize("optimize", [False, True])
def test_every_form_of_a_model_runs_alike(model, tmp_path, optimize):
    proto = ir.to_proto(model)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    for form in (model, proto, proto.SerializeToString(), path):
        np.testing.assert_array_equal(run_model(form, {"x": X}, optimize=optimize)["y"], Y)


def test_inputs_and_outputs_are_named_in_graph_order(model):
    opened = open_session(model)
    assert (opened.inputs, opened.outputs) == (("x",), ("y",))
    assert opened.providers == ("CPUExecutionProvider",)


def test_only_the_wanted_outputs_are_returned():
    two = ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] a, float[2] b) { a = Neg (x)  b = Abs (x) }""")
    assert list(open_session(two).run({"x": X[0, :2]}, ["b"])) == ["b"]


@pytest.mark.parametrize("form", ["ir", "proto", "bytes", "path"])
def test_intermediate_values_can_be_outputs_and_the_model_is_left_alone(model, tmp_path, form):
    proto = ir.to_proto(model)
    onnx.save(proto, tmp_path / "model.onnx")
    source = {
        "ir": model,
        "proto": proto,
        "bytes": proto.SerializeToString(),
        "path": tmp_path / "model.onnx",
    }[form]
    opened = open_session(source, outputs=["y", "h"])
    assert opened.outputs == ("y", "h")
    np.testing.assert_array_equal(opened.run({"x": X})["h"], [[1, -2, 3, -4]])
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert [value.name for value in proto.graph.output] == ["y"]


@pytest.mark.parametrize("outputs", [None, ["h", "y"]])
@pytest.mark.parametrize("split", [False, True])
def test_weights_in_files_are_found(tmp_path, split, outputs):
    loaded = external(tmp_path, split)
    opened = open_session(loaded, outputs=outputs)
    np.testing.assert_array_equal(opened.run({"x": X})["y"], Y)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_weights_in_a_file_are_not_read_into_the_message(tmp_path, monkeypatch):
    loaded = external(tmp_path)
    monkeypatch.setattr(ir.ExternalTensor, "numpy", lambda self: pytest.fail("read"))
    monkeypatch.setattr(ir.ExternalTensor, "tobytes", lambda self: pytest.fail("read"))
    with model_source.as_source(loaded) as handed:
        assert isinstance(handed.model, bytes)
        assert list(handed.config.values()) == [str(tmp_path)]


@pytest.mark.parametrize("form", ["ir", "proto"])
@pytest.mark.parametrize("outputs", [None, ["h", "y"]])
def test_weights_too_large_for_a_message_go_through_a_file_that_is_removed(model, monkeypatch, form, outputs):
    monkeypatch.setattr(model_source, "MAX_MESSAGE_BYTES", 16)
    source = model if form == "ir" else ir.to_proto(model)
    with model_source.as_source(source, outputs) as handed:
        assert isinstance(handed.model, str)
        made = model_source.Path(handed.model)
        assert made.is_file()
    assert not made.parent.exists()
    np.testing.assert_array_equal(open_session(source, outputs=outputs).run({"x": X})["y"], Y)


def test_a_full_disk_is_told_plainly(model, monkeypatch):
    monkeypatch.setattr(model_source, "MAX_MESSAGE_BYTES", 16)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(ModelError, match=r"No space left on device; free space there, or set TMPDIR"):
        open_session(model)


def test_the_optimizer_is_off_or_on(model, tmp_path):
    # Optimized, the sum of two constants is a constant.
    text = TEXT.replace("h = Mul (x, w)", "k = Add (w, b)  h = Mul (x, k)")
    counts = {}
    for optimize in (False, True):
        path = tmp_path / f"{optimize}.onnx"
        open_session(ir.from_onnx_text(text), optimize=optimize, optimized_path=path)
        counts[optimize] = [node.op_type for node in onnx.load(path).graph.node]
    assert counts == {False: ["Add", "Mul", "Add", "Relu"], True: ["Mul", "Add", "Relu"]}


def test_threads_reach_the_runtime(model):
    options = open_session(model, threads=2).raw.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones((1, 5), np.float32)}, r"x float32\[1, 5\].*invalid dimensions.*check the input data"),
        ({"x": X.astype(np.float64)}, r"x float64\[1, 4\].*expected: \(tensor\(float\)\)"),
        ({}, r"Required inputs .*x.* missing"),
    ],
)
def test_data_that_does_not_fit_is_a_model_error(model, feeds, message):
    with pytest.raises(ModelError, match=message):
        open_session(model).run(feeds)


def test_an_unknown_operator_is_named():
    bad = ir.from_onnx_text(TEXT.replace("Relu", "Rellu"))
    with pytest.raises(ModelError, match=r"cannot load the model: .*Rellu.*; check that it is valid ONNX"):
        open_session(bad)


def test_messages_carry_neither_status_codes_nor_places_in_the_runtime(model):
    with pytest.raises(ModelError) as caught:
        open_session(model, outputs=["nowhere"])
    assert "nowhere" in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert ".cc:" not in str(caught.value)


@pytest.mark.parametrize("outputs", [None, ["h"]])
def test_no_model_at_all(tmp_path, outputs):
    with pytest.raises(ModelError, match="no model at"):
        open_session(tmp_path / "absent.onnx", outputs=outputs)
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        open_session(tmp_path / "text.onnx", outputs=outputs)
    with pytest.raises(ModelError):
        open_session(b"not a model", outputs=outputs)


def test_a_provider_that_is_not_installed(model):
    with pytest.raises(MissingDependencyError, match=r"no NoSuchProvider, only .*CPUExecutionProvider"):
        open_session(model, providers=["NoSuchProvider"])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error(model, monkeypatch):
    # The runtime itself only logs this, and serves from the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises((MissingDependencyError, ModelError), match="CUDAExecutionProvider"):
        open_session(model, providers=["CUDAExecutionProvider"])


def test_without_onnxruntime_the_message_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxq\[cpu\]'"):
        open_session(model)


def test_the_folder_of_an_uninstalled_onnxruntime_counts_as_none(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxq\[cpu\]'"):
        open_session(model)


def test_versions_name_the_build():
    found = versions()
    assert found["onnxruntime"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in found["onnxruntime.providers"]


def test_importing_the_module_does_not_load_the_runtime():
    code = f"import sys, {session.__name__}; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_runtime_says_nothing_of_its_own(tmp_path):
    code = """
import onnx_ir as ir, pathlib, sys
from onnxq.runtime.session import open_session
from onnxq.errors import ModelError
model = ir.from_onnx_text(sys.argv[2])
open_session(model, optimized_path=pathlib.Path(sys.argv[1]) / "optimized.onnx")  # a warning at default severity
try:
    open_session(b"junk")
except ModelError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), TEXT], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
