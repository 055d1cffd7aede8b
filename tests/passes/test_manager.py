import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.errors import PassError, RecipeError
from onnxq.passes import PassEntry, passes, replay
from onnxq.passes.listing import list_passes
from onnxq.passes.manager import Verifier, run_pipeline
from onnxq.passes.outcome import Outcome
from onnxq.passes.reproducer import MODEL, PIPELINE, REPORT
from onnxq.runtime.session import run_model

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) { a = Relu (x)  b = Identity (a)  y = Neg (b) }"""
VERIFIER = Verifier(run=run_model, feeds={"x": np.array([1, -2], np.float32)})


class Swap(ir.passes.InPlacePass):
    """Put Abs in Neg's place."""

    def call(self, model):
        model.graph[-1].op_type = "Abs"
        return Outcome(model, modified=True, warnings=("Neg is gone",))


class Break(ir.passes.InPlacePass):
    """Give a node an operator that does not exist."""

    def call(self, model):
        model.graph[-1].op_type = "Negg"
        return ir.passes.PassResult(model, modified=True)


class Fail(ir.passes.InPlacePass):
    """Fail."""

    def __init__(self, how: str = "so") -> None:
        super().__init__()
        self.how = how

    def call(self, model):
        model.graph.remove(model.graph[-1])
        try:
            raise ValueError(f"it is {self.how}\nand more")
        except ValueError as error:
            raise RuntimeError("wrapped") from error


@pytest.fixture(autouse=True)
def extra(monkeypatch):
    """Four passes more."""
    passes.names()
    for name, factory, honest in (
        ("swap", Swap, False),
        ("liar", Swap, True),
        ("break", Break, False),
        ("fail", Fail, True),
    ):
        entry = PassEntry(name=name, summary="", preserves_semantics=honest, factory=factory)
        monkeypatch.setitem(passes._entries, name, entry)


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def ops(model):
    return [node.op_type for node in model.graph]


def test_runs_passes_in_order_on_a_copy_and_counts(model):
    result, records = run_pipeline(model, ["remove-identities", "fix-names", "remove-identities"])
    assert ops(result) == ["Relu", "Neg"]
    assert ops(model) == ["Relu", "Identity", "Neg"]
    assert [(r.name, r.modified, r.nodes_before, r.nodes_after) for r in records] == [
        ("remove-identities", True, 3, 2),
        ("fix-names", True, 2, 2),
        ("remove-identities", False, 2, 2),
    ]
    assert all(record.seconds >= 0 for record in records)


def test_collects_what_passes_have_to_tell(model):
    _, records = run_pipeline(model, ["swap"])
    assert records[0].warnings == ("Neg is gone",)


def test_an_unknown_pass_is_an_error_before_anything_runs(model):
    with pytest.raises(RecipeError, match="did you mean 'fix-names'"):
        run_pipeline(model, ["fail", "fix-nmaes"])


def test_options_may_be_objects(model):
    with pytest.raises(PassError, match="it is thus"):
        run_pipeline(model, ["fail"], options={"fail": {"how": "thus"}})
    with pytest.raises(RecipeError, match="pass 'fial' is not in the pipeline; did you mean 'fail'"):
        run_pipeline(model, ["fail"], options={"fial": {}})


def test_dumps_after_a_pass(model, tmp_path):
    run_pipeline(
        model, ["fix-names", "remove-identities", "swap"], dump_after=("remove-identities", tmp_path / "new" / "d.onnx")
    )
    assert ops(ir.load(tmp_path / "new" / "d.onnx")) == ["Relu", "Neg"]
    with pytest.raises(RecipeError, match="pass 'fuse-bn' is not in the pipeline"):
        run_pipeline(model, ["fix-names"], dump_after=("fuse-bn", tmp_path / "d.onnx"))


def test_a_failing_pass_is_named_with_its_innermost_cause(model):
    with pytest.raises(PassError, match=r"pass 'fail' failed: it is so; leave the pass out"):
        run_pipeline(model, ["fix-names", "fail"])


def test_verify_each_accepts_honest_passes(model):
    result, _ = run_pipeline(model, ["remove-identities", "swap", "fix-names"], verify_each=VERIFIER)
    assert ops(result) == ["Relu", "Abs"]


def test_verify_each_catches_a_false_claim(model):
    with pytest.raises(PassError, match=r"pass 'liar' failed: it claims to preserve .* output 'y' changed by up to 2"):
        run_pipeline(model, ["liar"], verify_each=VERIFIER)


def test_verify_each_catches_an_invalid_model(model):
    with pytest.raises(PassError, match=r"pass 'break' failed: it left an invalid model: .*Negg"):
        run_pipeline(model, ["break"], verify_each=VERIFIER)


def test_a_failure_is_reproduced_from_its_folder(model, tmp_path):
    with pytest.raises(PassError, match="a reproducer is in") as caught:
        run_pipeline(model, ["remove-identities", "swap", "fail{how=ugly}", "check"], reproducer_dir=tmp_path)
    folder = tmp_path / "fail-1"
    assert str(folder) in str(caught.value)
    assert ops(ir.load(folder / MODEL)) == ["Relu", "Abs"]
    assert (folder / PIPELINE).read_text() == "fail{how=ugly},check\n"
    assert "ValueError: it is ugly" in (folder / REPORT).read_text()


def test_replay_runs_a_reproducer(tmp_path, model, capsys):
    with pytest.raises(PassError):
        run_pipeline(model, ["break", "check"], reproducer_dir=tmp_path)
    folder, out = tmp_path / "check-1", tmp_path / "out.onnx"
    assert replay.main([str(folder), str(out)]) == 3
    assert "pass 'check' failed" in capsys.readouterr().err
    (folder / PIPELINE).write_text("remove-identities\n")
    assert replay.main([str(folder), str(out)]) == 0
    assert "remove-identities: 3 -> 2 nodes" in capsys.readouterr().out
    assert ops(ir.load(out)) == ["Relu", "Negg"]


def test_replay_without_a_folder_says_how_to_use_it(tmp_path, capsys):
    assert replay.main([str(tmp_path)]) == 2
    assert "usage:" in capsys.readouterr().err


def test_a_pass_that_may_be_skipped_leaves_no_trace_and_says_why(model, tmp_path):
    result, records = run_pipeline(
        model, ["swap", "fail", "remove-identities"], may_skip={"fail"}, reproducer_dir=tmp_path
    )
    assert ops(result) == ["Relu", "Abs"]
    assert [record.skipped is not None for record in records] == [False, True, False]
    assert "pass 'fail' failed: it is so; a reproducer is in" in (records[1].skipped or "")


def test_a_model_that_was_invalid_from_the_start_is_not_held_against_a_pass(model):
    model.graph[1].op_type = "Identityy"
    runner = Verifier(run=lambda model, feeds: {}, feeds={})
    run_pipeline(model, ["fix-names"], verify_each=runner)


def test_outputs_are_compared_by_value_shape_type_and_place_of_the_infinite():
    one = {"y": np.array([1.0, np.inf, np.nan], np.float32)}
    assert VERIFIER.difference(one, {"y": one["y"] * np.float32(1 + 1e-6)}) is None
    assert "values being up to 1" in (
        VERIFIER.difference(one, {"y": np.array([1.1, np.inf, np.nan], np.float32)}) or ""
    )
    assert "infinite" in (VERIFIER.difference(one, {"y": np.array([1.0, -np.inf, np.nan], np.float32)}) or "")
    assert "infinite" in (VERIFIER.difference(one, {"y": np.array([1.0, 2.0, np.nan], np.float32)}) or "")
    assert "float64" in (VERIFIER.difference(one, {"y": one["y"].astype(np.float64)}) or "")
    assert "[1]" in (VERIFIER.difference(one, {"y": one["y"][:1]}) or "")
    assert "became" in (VERIFIER.difference(one, {"z": one["y"]}) or "")
    assert "1 of 2" in (VERIFIER.difference({"y": np.array([1, 2])}, {"y": np.array([1, 3])}) or "")


def test_library_logs_do_not_reach_the_terminal(model):
    code = (
        "import onnx_ir as ir, logging\n"
        "from onnxq.passes.manager import run_pipeline\n"
        f"run_pipeline(ir.from_onnx_text({TEXT!r}), ['convert-version{{opset=99}}'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_list_names_every_pass_with_options_and_claim():
    infos = {info.name: info for info in list_passes()}
    assert infos["convert-version{opset=13}"].preserves_semantics
    assert infos["convert-version{opset=13}"].summary.startswith("Raise the ONNX opset")
    assert not infos["swap"].preserves_semantics
    assert list(infos) == sorted(infos)


@pytest.mark.parametrize("entry", [entry for _, entry in passes.items()], ids=lambda entry: entry.name)
def test_every_pass_keeps_the_contract(entry, model):
    """It has a summary of one line; one without needed options runs on a small model, on a copy of it too."""
    assert entry.summary
    assert "\n" not in entry.summary
    try:
        made = entry.make({})
    except RecipeError:
        return
    result = made(model)
    assert (result.model is model) is made.in_place
