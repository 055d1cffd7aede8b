import onnx_ir as ir
import pytest
from onnxq.graph.walk import nodes, scopes, subgraphs, top_level

NESTED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y) {
  [first] a = Relu (x)
  [choose] y = If (c) <then_branch = t () => (float[2] o) {
      [inner] q = If (c) <then_branch = u () => (float[2] p) { [deep] p = Abs (a) },
                          else_branch = v () => (float[2] r) { r = Neg (a) }>
      o = Relu (q) },
    else_branch = e () => (float[2] s) { [inner] s = Neg (x) }> }
"""


@pytest.fixture
def model():
    return ir.from_onnx_text(NESTED)


def test_names_nodes_by_their_scopes_depth_first(model):
    assert [path for path, _ in nodes(model)] == [
        "first",
        "choose",
        "choose/then_branch/inner",
        "choose/then_branch/inner/then_branch/deep",
        "choose/then_branch/inner/else_branch/Neg_0",
        "choose/then_branch/Relu_1",
        "choose/else_branch/inner",
    ]


def test_top_level_yields_the_main_graphs_nodes_alone(model):
    assert [(path, node.op_type) for path, node in top_level(model)] == [("first", "Relu"), ("choose", "If")]


def test_names_are_unique_whatever_the_nodes_are_called(model):
    model.graph[0].name = "choose/then_branch/inner"
    paths = [path for path, _ in nodes(model)]
    assert paths[0] == "choose/then_branch/inner"
    assert paths[2] == "choose/then_branch/inner_2"
    assert paths[3] == "choose/then_branch/inner_2/then_branch/deep"
    assert len(set(paths)) == len(paths) == 7


def test_scopes_are_the_main_graph_its_subgraphs_and_functions():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x, bool c) => (float[2] y) {
          a = local.twice (x)
          y = If (c) <then_branch = t () => (float[2] o) { o = Relu (a) },
                      else_branch = e () => (float[2] p) { p = Neg (a) }> }
        <domain: "local", opset_import: ["" : 17]> twice (x) => (y) { y = Add (x, x) }"""
    )
    assert [graph.name for graph in scopes(model)][:3] == ["g", "t", "e"]
    assert [node.op_type for graph in scopes(model) for node in graph] == ["twice", "If", "Relu", "Neg", "Add"]


def test_subgraphs_of_a_list_are_counted():
    graphs = [ir.Graph([], [], nodes=[], name=name) for name in "ab"]
    node = ir.node("Switch", [], domain="custom", attributes={"cases": ir.AttrGraphs("cases", graphs), "n": 1})
    assert [(name, graph.name) for name, graph in subgraphs(node)] == [("cases_0", "a"), ("cases_1", "b")]
