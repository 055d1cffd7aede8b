import sys
import textwrap

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import Signature, open_source, signature
from onnxq.data import reader as reader_module
from onnxq.errors import CalibrationError, RecipeError

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[batch,3] x, int64[batch] count, float[3] w) => (float[batch,3] y)
<float[3] w = {1, 2, 3}>
{ y = Mul (x, w) }
"""


def one(dims="batch,3", dtype="float"):
    return signature(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({dtype}[{dims}] x) => () {{}}'))


def rows(start, stop):
    return np.arange(3 * start, 3 * stop, dtype=np.float32).reshape(-1, 3)


def shapes(source):
    return [next(iter(feeds.values())).shape for feeds in source]


def test_signature_leaves_out_initializers_and_knows_free_extents():
    found = signature(ir.from_onnx_text(TWO))
    assert [(spec.name, spec.dtype, spec.dims) for spec in found.inputs] == [
        ("x", np.float32, ("batch", 3)),
        ("count", np.int64, ("batch",)),
    ]
    assert found.has_batch_axis
    assert found.fixed_batch is None


@pytest.mark.parametrize(
    ("dims", "batched", "fixed"),
    [
        ("batch,3", True, None),
        ("N,3", True, None),
        ("?,3", True, None),
        ("1,3", True, 1),
        ("4,3", True, 4),
        ("height,width,3", False, None),
        ("seq_len,3", False, None),
        ("batch_seq,3", True, None),
    ],
)
def test_what_counts_as_a_batch_axis(dims, batched, fixed):
    found = one(dims)
    assert (found.has_batch_axis, found.fixed_batch) == (batched, fixed)


def test_a_table_bounds_the_integers_that_index_it():
    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (int32[N,L] ids, int64[N,L] mask) => (float[N,L,2] y)
        <float[5,2] table = {0,0,0,0,0,0,0,0,0,0}>
        { wide = Cast <to = 7> (ids) y = Gather (table, wide) }
    """)
    assert [spec.below for spec in signature(model).inputs] == [5, None]


def test_an_iterable_is_streamed_as_it_is_and_begins_afresh():
    source = open_source([{"x": rows(0, 3)}, {"x": rows(3, 8)}], one())
    assert shapes(source) == shapes(source) == [(3, 3), (5, 3)]
    assert source.samples == 8
    assert source.sha256 is None


def test_batches_are_split_and_joined_to_the_size_asked_for():
    source = open_source([{"x": rows(0, 3)}, {"x": rows(3, 8)}, {"x": rows(8, 9)}], one(), batch_size=4)
    found = [feeds["x"] for feeds in source]
    assert [len(each) for each in found] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate(found), rows(0, 9))
    assert len(source) == 3


def test_only_equal_shapes_are_joined():
    batches = [
        {"x": np.ones((1, 5), np.float32)},
        {"x": np.ones((1, 6), np.float32)},
        {"x": np.ones((1, 6), np.float32)},
    ]
    assert shapes(open_source(batches, one("batch,L"), batch_size=8)) == [(1, 5), (2, 6)]


def test_samples_cuts_within_a_batch():
    source = open_source([{"x": rows(0, 3)}, {"x": rows(3, 8)}], one(), samples=5)
    assert shapes(source) == [(3, 3), (2, 3)]
    assert source.samples == 5
    assert shapes(source.head(2)) == [(2, 3)]


def test_a_fixed_batch_of_one_takes_batched_data_apart():
    assert shapes(open_source([{"x": rows(0, 3)}], one("1,3"))) == [(1, 3)] * 3


def test_a_fixed_batch_leaves_out_what_does_not_fill_it_and_says_so():
    source = open_source([{"x": rows(0, 5)}], one("2,3"))
    assert shapes(source) == [(2, 3), (2, 3)]
    assert source.warnings == ["the model's batch is fixed at 2: the last 1 samples were left out"]


def test_batch_size_for_a_model_without_batch_axis_is_refused_aloud():
    source = open_source([{"x": np.ones((7, 9, 3), np.float32)}], one("height,width,3"), batch_size=2)
    assert shapes(source) == [(7, 9, 3)]
    assert "no batch axis" in source.warnings[0]


def test_a_generator_is_kept_while_it_is_small():
    source = open_source(({"x": rows(i, i + 1)} for i in range(4)), one())
    assert next(iter(source))["x"].tolist() == rows(0, 1).tolist()
    assert shapes(source) == shapes(source) == [(1, 3)] * 4


def test_a_generator_that_reuses_its_buffer_is_kept_right():
    def generate():
        buffer = np.zeros((1, 3), np.float32)
        for value in range(3):
            buffer[:] = value
            yield {"x": buffer}

    source = open_source(generate(), one())
    assert [feeds["x"][0, 0] for feeds in source] == [0, 1, 2]
    assert [feeds["x"][0, 0] for feeds in source] == [0, 1, 2]


def test_a_large_generator_is_read_once_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(reader_module, "RETAINED_BYTES", 2 * 12)
    source = open_source(({"x": rows(i, i + 1)} for i in range(5)), one())
    assert shapes(source) == [(1, 3)] * 5
    assert shapes(source.head(2)) == [(1, 3)] * 2
    with pytest.raises(CalibrationError, match=r"read only once.*give a list, or a function"):
        list(source)


def test_functions_are_called_for_every_pass():
    calls = []

    def batches():
        calls.append(1)
        return iter([{"x": rows(0, 2)}])

    source = open_source(batches, one())
    assert shapes(source) == shapes(source) == [(2, 3)]
    assert len(calls) == 2
    assert source.description == "batches"


def test_batches_of_a_function_are_not_kept():
    import tracemalloc

    source = open_source(lambda: ({"x": np.ones((1, 3 << 16), np.float32)} for _ in range(30)), one("batch,L"))
    tracemalloc.start()
    assert sum(len(feeds["x"]) for feeds in source) == 30
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_function_is_found_by_its_name(tmp_path, monkeypatch):
    code = """
        import numpy as np
        def batches():
            yield {"x": np.ones((1, 3), np.float32)}
        number = 3
    """
    (tmp_path / "calibration_module.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "calibration_module", raising=False)
    assert shapes(open_source("calibration_module:batches", one())) == [(1, 3)]
    with pytest.raises(CalibrationError, match=r"has no 'batchs'; did you mean 'batches'"):
        open_source("calibration_module:batchs", one())
    with pytest.raises(CalibrationError, match=r"is a int, not a function"):
        open_source("calibration_module:number", one())
    with pytest.raises(CalibrationError, match=r"cannot import 'no_such_module'.*PYTHONPATH"):
        open_source("no_such_module:batches", one())


def test_bare_arrays_and_a_single_batch_do_for_one_input():
    assert shapes(open_source([rows(0, 2)], one())) == [(2, 3)]
    assert shapes(open_source({"x": rows(0, 2)}, one())) == [(2, 3)]


def test_lossless_conversions_are_made_and_told_once():
    two = signature(ir.from_onnx_text(TWO))
    batch = {"x": rows(0, 2).astype(np.float64), "count": np.arange(2, dtype=np.int32)}
    source = open_source([batch, batch], two)
    feeds = list(source)[1]
    assert (feeds["x"].dtype, feeds["count"].dtype) == (np.float32, np.int64)
    assert source.warnings == [
        "input 'x': float64 data was converted to float32",
        "input 'count': int32 data was converted to int64",
    ]


def test_labels_come_apart_from_the_inputs():
    source = open_source([{"x": rows(0, 3), "labels": np.array([1, 2, 3])}], one(), batch_size=2)
    assert [feeds.keys() for feeds in source] == [{"x"}, {"x"}]
    assert [labels.tolist() for labels in source.labels] == [[1, 2], [3]]
    assert open_source([{"x": rows(0, 3)}], one()).labels is None
    with pytest.raises(CalibrationError, match=r"2 labels for 3 samples"):
        list(open_source([{"x": rows(0, 3), "labels": np.array([1, 2])}], one()))


def broken():
    yield {"x": rows(0, 1)}
    raise RuntimeError("disk on fire")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"X": rows(0, 1)}], "the data, batch 1: the model has no input 'X'; did you mean 'x'?"),
        ([{}], "the data, batch 1: input 'x' is missing"),
        (
            [{"x": rows(0, 1)[0]}],
            r"input 'x' has 1 axes \[3\], the model takes float32\[batch, 3\]; add the batch axis",
        ),
        (
            [{"x": rows(0, 1)}, {"x": np.ones((1, 4))}],
            r"the data, batch 2: input 'x' has shape \[1, 4\].*axis 1 must be 3",
        ),
        ([{"x": np.ones((1, 3), np.int64)}], r"input 'x' is int64, the model takes float32.*astype\('float32'\)"),
        ([{"x": np.array([["a", "b", "c"]])}], "input 'x' is <U1, the model takes float32"),
        ([{"x": np.full((1, 3), 1e300)}], "float64 values that do not fit float32"),
        ([{"x": np.array([[1, np.nan, 2]], np.float32)}], "input 'x' holds 1 NaN out of 3 values"),
        ([{"x": np.ones((0, 3), np.float32)}], r"input 'x' is empty, shape \[0, 3\]"),
        ([], "the data holds no sample"),
        (["x"], "batch 1 is a str; each batch should be a dict"),
        (broken, "broken failed at batch 2: RuntimeError: disk on fire"),
        (lambda: 3, "returned int; it should return an iterable"),
        (lambda: 1 / 0, "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_bad_data_says_what_where_and_what_to_do(data, message):
    with pytest.raises(CalibrationError, match=message):
        list(open_source(data, one()))


def test_wide_integers_must_fit():
    narrow = one("batch", "int32")
    assert [feeds["x"].tolist() for feeds in open_source([{"x": np.array([1, 2])}], narrow)] == [[1, 2]]
    with pytest.raises(CalibrationError, match=r"int64 values that do not fit int32 .from 1 to 4294967296"):
        list(open_source([{"x": np.array([1, 2**32])}], narrow))


def test_inputs_must_agree_on_the_number_of_samples():
    two = signature(ir.from_onnx_text(TWO))
    with pytest.raises(CalibrationError, match=r"different numbers of samples.*'x' has 3, 'count' has 2"):
        list(open_source([{"x": rows(0, 3), "count": np.zeros(2, np.int64)}], two))


def test_inputs_of_different_free_extents_share_no_batch():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[boxes,4] x, float[batch,3] y) => () {}'
    two = signature(ir.from_onnx_text(text))
    assert not two.has_batch_axis
    (feeds,) = open_source([{"x": np.ones((2, 4), np.float32), "y": rows(0, 1)}], two)
    assert [array.shape for array in feeds.values()] == [(2, 4), (1, 3)]


def test_an_input_declared_empty_is_fed_empty():
    (feeds,) = open_source([{"x": np.zeros((2, 0, 4), np.float32)}], one("2,0,4"))
    assert feeds["x"].shape == (2, 0, 4)


def test_what_cannot_be_data_at_all():
    with pytest.raises(CalibrationError, match=r"cannot be a int"):
        open_source(3, one())
    with pytest.raises(RecipeError, match=r"samples must be at least 1, not 0"):
        open_source([], one(), samples=0)


def test_inputs_that_are_no_tensors():
    value = ir.Value(name="s", type=ir.SequenceType(ir.TensorType(ir.DataType.FLOAT)))
    model = ir.Model(ir.Graph([value], [], nodes=[], opset_imports={"": 17}), ir_version=8)
    with pytest.raises(CalibrationError, match=r"input 's' is declared as SequenceType"):
        signature(model)


def test_a_model_without_inputs_has_no_samples_to_ask_for():
    assert Signature(inputs=()).has_batch_axis is False
