"""A calibrator, an operator fact and a pass, each one new file outside onnxq, found through the entry points."""

import subprocess
import sys
import textwrap

import pytest

CALIBRATOR = '''
from dataclasses import dataclass
from onnxq.calibrators import calibrators
from onnxq.types.scheme import Range

@calibrators.register("half")
@dataclass(frozen=True, kw_only=True, slots=True)
class Half:
    """Half of what was seen."""
    factor: float = 0.5

    def __call__(self, statistics, scheme):
        return Range(low=statistics.minimum * self.factor, high=statistics.maximum * self.factor)
'''

EQUALIZER = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from onnxq.equalizers import Place, Scales, equalizers

@equalizers.register("twice")
@dataclass(frozen=True, kw_only=True, slots=True)
class Twice:
    """Twice as large features."""
    place: ClassVar[Place] = Place.INPUTS
    rank: ClassVar[int] = 45

    def __call__(self, inputs):
        return Scales(scale=np.full(inputs.squares.size, 0.5), text="twice", before=0.0, after=0.0)
'''

FACT = """
import dataclasses
from onnxq.ops import OpFact, facts
from onnxq.targets import targets

facts.add("com.example::Twice", OpFact(summary="two times x", activations=(0,)))
"""

PASS = '''
import onnx_ir as ir
from onnxq.passes import register_pass

@register_pass("drop-doc", preserves_semantics=True)
class DropDoc(ir.passes.InPlacePass):
    """Take out the graph's documentation."""

    def call(self, model):
        model.graph.doc_string = None
        return ir.passes.PassResult(model, modified=True)
'''


@pytest.fixture
def site(tmp_path):
    """A folder that looks like an installed distribution with four plugins."""
    for name, source in (
        ("half_calibrator", CALIBRATOR),
        ("twice_fact", FACT),
        ("drop_doc_pass", PASS),
        ("twice", EQUALIZER),
    ):
        (tmp_path / f"{name}.py").write_text(source)
    info = tmp_path / "onnxq_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxq-example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[onnxq.plugins]\ncalibrator = half_calibrator\nfact = twice_fact\npass = drop_doc_pass\nequalizer = twice\n"
    )
    return tmp_path


def _python(site, code):
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def test_plugins_are_found_and_used(site):
    done = _python(
        site,
        """
        import numpy as np, onnxq
        from onnxq.calibrators import calibrators
        from onnxq.graph.text import model_from_text
        from onnxq.ops import facts
        from onnxq.passes import passes
        assert "half" in calibrators.names() and "com.example::Twice" in facts.names() and "drop-doc" in passes.names()
        model = model_from_text('<ir_version: 9, opset_import: ["" : 17]> '
            'g (float[4,8] x) => (float[4,6] y) <float[8,6] w> { y = MatMul (x, w) }')
        data = [{"x": np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)}]
        options = {"calibration": data, "target": "cpu-vnni", "guard": False}
        report = onnxq.quantize(model, **options, calibrator="half",
                                passes="drop-doc,fix-names,infer-shapes")
        scale = float(report.plan.tensors["x"].params.scale)
        assert abs(scale - 1 / 255) < 1e-6, scale
        twice = onnxq.quantize(model, **options, calibrator="half", equalize="twice")
        assert abs(float(twice.plan.tensors["x/scaled"].params.scale) - 2 / 255) < 1e-6
        assert [record["name"] for record in report.passes][0] == "drop-doc"
        """,
    )
    assert done.returncode == 0, done.stderr


def test_a_broken_plugin_is_named(site):
    (site / "drop_doc_pass.py").write_text("import no_such_library")
    done = _python(site, "from onnxq.calibrators import calibrators; calibrators.names()")
    assert (
        "RecipeError: plugin 'pass' of onnxq-example cannot be loaded: No module named 'no_such_library'" in done.stderr
    )
