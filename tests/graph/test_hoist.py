"""Bodies: which may run several times in one run of a model, and whose values cannot be observed."""

from onnxq.graph.hoist import is_repeated, why_hidden
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import bodies

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[4] x, bool c) => (float[4] y, float[3,4] z)
<int64 n = {3}>
{
  [choice] y = If (c) <
    then_branch = once () => (float[4] a) { a = Tanh (x) },
    else_branch = other () => (float[4] b) { b = Relu (x) }
  >
  [loop] z = Loop (n, c) <
    body = again (int64 i, bool go) => (bool on, float[4] r) {
      on = Identity (go)
      r = If (go) <
        then_branch = inner () => (float[4] p) { p = Exp (x) },
        else_branch = inner2 () => (float[4] q) { q = Abs (x) }
      >
    }
  >
}
"""


def test_bodies_of_loops_and_all_in_them_are_repeated() -> None:
    model = model_from_text(MODEL)
    names = {graph.name for graph in is_repeated(model)}
    assert names == {"again", "inner", "inner2"}
    assert {graph.name for graph in bodies(model)} - names == {"g", "once", "other"}


def test_values_of_every_body_of_if_and_loop_can_be_observed() -> None:
    assert why_hidden(model_from_text(MODEL)) == {}
