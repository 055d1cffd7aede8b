import numpy as np
import onnx_ir as ir
import pytest
from onnxq.errors import PassError, RecipeError
from onnxq.files.load import load
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.walk import nodes, scopes
from onnxq.passes import passes
from onnxq.passes.manager import Verifier
from onnxq.runtime.session import run_model
from onnxq.stages.prepare import prepare, standard_pipeline

import models

TEXT = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N,2,4,4] x, bool c) => (float[A,B,C,D] y, float[A,B,C,D] z)
<float[3,2,1,1] w = {1,2,3,4,5,6}, float[3] s = {1,2,3}, float[3] v = {4,5,6}> {
  a = Conv (x, w)  b = BatchNormalization (a, s, s, s, v)
  k = Constant <value_float = 2.0> ()  m = Mul (b, k)  i = Identity (m)  r = local.act (i)
  sh = Shape (r)  q = Reshape (r, sh)  dead = Neg (q)
  y = If (c) <then_branch = t () => (float[A,B,C,D] o) { h = Constant <value_float = 3.0> ()  o = Mul (q, h) },
              else_branch = e () => (float[A,B,C,D] p) { p = Identity (q) }>
  z = Identity (y) }
<domain: "local", opset_import: ["" : 17]> act (x) => (y) { y = Relu (x) }
"""
ADD = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype(np.float32)}


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def interface(model):
    return [
        (value.name, str(value.type), str(value.shape), value.doc_string, dict(value.metadata_props))
        for value in (*model.graph.inputs, *model.graph.outputs)
    ]


def assert_normal(model):
    """Nothing is left that a later stage need not know."""
    assert not model.functions
    found = [node for _, node in nodes(model)]
    assert "Constant" not in [node.op_type for node in found]
    assert all(node.name for node in found)
    paths = [path for path, _ in nodes(model)]
    assert len(set(paths)) == len(paths)
    for scope in scopes(model):
        for node in scope:
            assert any(value.uses() or value.is_graph_output() for value in node.outputs), node.name
            if node.op_type == "Identity":
                assert node.outputs[0].is_graph_output()


@pytest.mark.parametrize("branch", [True, False])
def test_the_normal_form_computes_the_same(model, branch):
    prepared = prepare(model)
    assert_normal(prepared.model)
    assert prepared.warnings == ()
    assert [node.op_type for node in prepared.model.graph if node.op_type != "Identity"] == ["Conv", "Relu", "If"]
    feeds = FEEDS | {"c": np.array(branch)}
    expected = run_model(model, feeds)
    for optimize in (False, True):
        result = run_model(prepared.model, feeds, optimize=optimize)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-4)


def test_the_model_given_is_not_changed(model):
    before = fingerprint(model)
    prepare(model)
    assert fingerprint(model) == before


def test_inputs_and_outputs_stay_as_they_were_to_the_letter(model):
    model.graph.inputs[0].metadata_props["unit"] = "metre"
    model.graph.outputs[0].doc_string = "said"
    model.graph.outputs[1].shape = ir.Shape([None, 3, None, None])
    before = interface(model)
    assert interface(prepare(model).model) == before


def test_preparing_twice_changes_nothing(model):
    once = prepare(model).model
    again = prepare(once)
    assert fingerprint(again.model) == fingerprint(once)
    changed = [record.name for record in again.records if record.modified]
    assert set(changed) <= {"infer-shapes"}  # which refines the outputs, whose declared shapes are put back in the end


def test_what_was_declared_wrong_does_no_harm(model):
    model.graph[1].outputs[0].shape = ir.Shape([7])
    model.graph.outputs[0].shape = ir.Shape([9, 9])
    before = interface(model)
    prepared = prepare(model).model
    assert interface(prepared) == before
    (relu,) = [node for node in prepared.graph if node.op_type == "Relu"]
    assert relu.outputs[0].shape == ir.Shape(["N", 3, 4, 4])


def test_exported_names_are_kept(model):
    for index, node in enumerate(model.graph):
        node.name = f"exported/{index}"
    names = [node.name for node in prepare(model).model.graph if node.op_type != "Identity"]
    assert names == ["exported/0", "act/Relu_0", "exported/9"]


def test_the_opset_is_raised_where_it_is_too_low():
    text = '<ir_version: 6, opset_import: ["" : 11]> g (float[1,3] x) => (float[3] y) { y = Squeeze <axes = [0]> (x) }'
    assert prepare(ir.from_onnx_text(text)).model.opset_imports == {"": 13}
    assert prepare(ir.from_onnx_text(text), opset=21).model.opset_imports == {"": 21}
    assert "convert-version{opset=21}" in standard_pipeline(21)


def test_a_model_that_cannot_be_converted_is_prepared_all_the_same_and_says_so():
    text = """<ir_version: 6, opset_import: ["" : 8]> g (float[1,3,2] x) => (float[1,3,2] y) {
      k = Constant <value = float {2}> ()  m = Mul (x, k)
      y = Scan <body = b (float[2] a) => (float[2] o) { o = Relu (a) }, num_scan_inputs = 1> (, m) }"""
    prepared = prepare(ir.from_onnx_text(text))
    assert prepared.model.opset_imports == {"": 8}
    assert "opset 8 could not be raised to 13 and is kept" in prepared.warnings[0]
    assert_normal(prepared.model)


def test_old_models_list_their_weights_as_inputs():
    model = ir.from_onnx_text(f'<ir_version: 3, opset_import: ["" : 9]> {ADD}')
    model.graph.inputs.append(model.graph.initializers["w"])
    prepared = prepare(model)
    assert prepared.warnings == ()
    assert [value.name for value in prepared.model.graph.inputs] == ["x"]


def test_weights_that_the_caller_may_override_are_named_in_a_warning():
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> {ADD}')
    model.graph.inputs.append(model.graph.initializers["w"])
    prepared = prepare(model)
    assert "'w'" in prepared.warnings[0]
    assert "unlist-initializers{all=true}" in prepared.warnings[0]
    assert interface(prepared.model) == interface(model)


def test_a_pipeline_of_ones_own(model):
    prepared = prepare(model, pipeline="inline,fix-names")
    assert [record.name for record in prepared.records] == ["inline", "fix-names"]
    assert "BatchNormalization" in [node.op_type for node in prepared.model.graph]
    assert prepare(model, pipeline="").records == ()
    with pytest.raises(RecipeError, match="did you mean 'fix-names'"):
        prepare(model, pipeline="fix-nmaes")


class TestFailures:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch):
        """Folding constants fails."""

        class Fails(ir.passes.InPlacePass):
            def call(self, model):
                raise ValueError("too hard")

        entry = passes.get("fold-constants")
        broken = type(entry)(name="fold-constants", summary="", preserves_semantics=True, factory=Fails)
        monkeypatch.setitem(passes._entries, "fold-constants", broken)

    def test_a_pass_that_is_not_needed_is_left_out_with_a_warning(self, model, tmp_path):
        prepared = prepare(model, reproducer_dir=tmp_path)
        assert "pass 'fold-constants' failed: too hard; a reproducer is in" in prepared.warnings[0]
        assert (tmp_path / "fold-constants-1").is_dir()
        assert_normal(prepared.model)

    def test_one_that_was_asked_for_is_an_error(self, model):
        with pytest.raises(PassError, match="too hard"):
            prepare(model, pipeline="fold-constants")


def test_a_model_that_the_checker_refuses_from_the_start_goes_on(model):
    model.graph[-1].attributes["unknown"] = ir.AttrInt64("unknown", 1)
    prepared = prepare(model)
    assert any("the ONNX checker refuses the model" in warning for warning in prepared.warnings)


def test_a_pass_that_changes_the_interface_is_an_error(model, monkeypatch):
    class Renames(ir.passes.InPlacePass):
        def call(self, model):
            model.graph.inputs[0].name = "other"
            return ir.passes.PassResult(model, True)

    entry = passes.get("check")
    renames = type(entry)(name="check", summary="", preserves_semantics=True, factory=Renames)
    monkeypatch.setitem(passes._entries, "check", renames)
    with pytest.raises(PassError, match="inputs or outputs to \\['other', 'c'\\]"):
        prepare(model, pipeline="check")


def test_every_pass_of_the_standard_pipeline_holds_its_claim(model):
    feeds = FEEDS | {"c": np.array(True)}
    prepare(model, verify_each=Verifier(run=run_model, feeds=feeds))


# smollm2 is the same graph as novel, and a hundred times its size.
@pytest.mark.parametrize("name", [name for name in models.names() if name != "smollm2"])
def test_real_models(name):
    zoo = models.load(name)
    model = load(zoo.path)
    feeds = next(zoo.evaluation())
    prepared = prepare(model)
    assert prepared.warnings == ()
    assert_normal(prepared.model)
    assert interface(prepared.model) == interface(model)
    assert prepared.model.opset_imports[""] >= 13
    expected = run_model(model, feeds)
    for optimize in (False, True):
        result = run_model(prepared.model, feeds, optimize=optimize)
        for output, value in expected.items():
            scale = float(np.max(np.abs(value)))
            np.testing.assert_allclose(result[output], value, rtol=1e-3, atol=1e-4 * scale, err_msg=output)
