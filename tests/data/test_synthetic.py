import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import signature, synthetic
from onnxq.errors import CalibrationError


def sign(text, body=""):
    return signature(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({text}) => () {body or "{}"}'))


def test_the_same_inputs_every_time_and_a_warning():
    source = synthetic(sign("float[batch,3,height,width] x"))
    first, second = list(source), list(source)
    assert len(first) == source.samples == 8
    assert first[0]["x"].shape == (1, 3, 224, 224)
    assert all((a["x"] == b["x"]).all() for a, b in zip(first, second, strict=True))
    assert not (first[0]["x"] == first[1]["x"]).all()
    assert source.synthetic
    assert "no calibration data" in source.warnings[0]


def test_language_models_get_ids_within_the_table_masks_of_ones_and_equal_lengths():
    table = ", ".join(["0"] * 2000)
    text = (
        "int64[batch,seq] input_ids, int64[batch,seq] attention_mask, int32[batch,seq] position_ids, bool[batch] flag"
    )
    body = f"<float[1000,2] t = {{{table}}}> {{ e = Gather (t, input_ids) }}"
    feeds = next(iter(synthetic(sign(text, body))))
    assert {array.shape for name, array in feeds.items() if name != "flag"} == {(1, 32)}
    assert feeds["input_ids"].min() >= 0
    assert 100 < feeds["input_ids"].max() < 1000
    assert (feeds["attention_mask"] == 1).all()
    assert feeds["position_ids"].tolist() == [list(range(32))]
    assert feeds["flag"].dtype == bool


def test_a_question_mark_is_no_name_of_an_extent():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,H,W] x, float[K] y) => () {}')
    for value in model.graph.inputs:
        value.shape = ir.Shape([extent if isinstance(extent, int) else ir.SymbolicDim("?") for extent in value.shape])
    feeds = next(iter(synthetic(signature(model), shapes={"x": (1, 3, 48, 320)}, samples=1)))
    assert feeds["y"].shape == (1,)


def test_shapes_can_be_given_and_named_extents_follow():
    signed = sign("float[N,3,H,W] x, float[N,H] y, float16 z")
    feeds = next(iter(synthetic(signed, shapes={"x": (2, 3, 48, 320)}, samples=1)))
    assert (feeds["x"].shape, feeds["y"].shape, feeds["z"].shape) == ((2, 3, 48, 320), (2, 48), ())
    assert feeds["z"].dtype == np.float16


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 3)}, "shape for 'y': the model has no such input; did you mean"),
        ({"xy": (1, 4)}, r"shape \[1, 4\] does not fit input 'xy', the model takes float32\[N, 3\]"),
        ({"xy": (1,)}, r"shape \[1\] does not fit"),
        ({"xy": (0, 3)}, r"shape \[0, 3\] does not fit"),
    ],
)
def test_shapes_are_checked(shapes, message):
    with pytest.raises(CalibrationError, match=message.replace("did you mean", "")):
        synthetic(sign("float[N,3] xy"), shapes=shapes)
