import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from onnxq.tuning.units import find_regions, find_units
from onnxq.types.recipe import Recipe
from tests.support.quantizing import quantize_text, text
from tests.support.tuning import TEXT

CLAMPED = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float[4,4,3,3] w1, float[4,4,3,3] w2>
{
  [c1] a = Conv <pads = [1,1,1,1]> (x, w1)  [r1] b = Relu (a)
  [c2] c = Conv <pads = [1,1,1,1]> (b, w2)  [r2] d = Relu (c)
  [t] y = Tanh (d)
}
"""


def test_regions_are_connected_by_codes(workshop):
    draft = workshop(Recipe())
    found = find_regions(workshop.model, draft.plan)
    assert [tuple(group.nodes) for group in found] == [("m1",), ("m2",), ("m3", "m4")]
    assert found[0].kind == found[1].kind != found[2].kind


def test_products_that_read_the_same_codes_are_one_region():
    other = TEXT.replace("[m2] b = MatMul (ta, w2)", "[m2] b = MatMul (x, w2)").replace("Tanh (a)", "Add (a, a)")
    done = quantize_text(other)
    assert tuple(find_regions(done.float_model, done.plan)[0].nodes)[:2] == ("m1", "m2")


def test_a_clamp_goes_with_the_node_that_absorbs_it():
    done = quantize_text(CLAMPED)
    assert [tuple(group.nodes) for group in find_regions(done.float_model, done.plan)] == [("c1", "r1", "c2", "r2")]
    assert [tuple(group.nodes) for group in find_units(done.float_model, (done.plan,))] == [("c1", "r1"), ("c2", "r2")]


def test_a_unit_holds_what_either_model_runs_as_one_kernel():
    model = model_from_text(TEXT)
    done = quantize_text(TEXT)
    found = find_units(model, (done.plan,), [{"t1": 1.0, "m2": 1.0, "t2": 1.0, "m3": 1.0, "m4": 1.0}])
    assert tuple(found[0].nodes) == ("m1",)
    assert found[0].merged == {"m1", "t1"}  # m1 left no time of its own: it was merged into its only reader


@pytest.mark.parametrize(
    "product", ["y = Gemm <transB = 1> (b, e)", "f = Transpose <perm = [1, 0]> (e) y = MatMul (b, f)"]
)
@pytest.mark.parametrize("form", ["dynamic", "weight-only"])
def test_a_lookup_and_a_product_on_one_table_go_together(product, form):
    """With either of them in float the table is stored twice: as floats and as codes."""
    body = f"a = Gather (e, i) b = Tanh (a) {product}"
    done = quantize_text(
        text(body, "int64[8] i", "float[8,300] y", "float[300,64] e"),
        {"i": np.arange(8)},
        format=form,
        target="cpu-vnni",
    )
    readers = tuple(entry.node for entry in done.plan.decisions if entry.op in ("Gather", "Gemm", "MatMul"))
    for groups in (find_regions(done.float_model, done.plan), find_units(done.float_model, (done.plan,))):
        assert [tuple(group.nodes) for group in groups] == [readers]
