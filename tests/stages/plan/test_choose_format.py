import numpy as np
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.stages.plan import choose_format
from onnxq.targets import targets
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

CONV = text(
    "c = Conv (x, w) f = Flatten (c) y = MatMul (f, v)",
    "float[1,3,16,16] x",
    "float[1,5] y",
    "float[8,3,3,3] w, float[1568,5] v",
)
PRODUCT = text("y = MatMul (x, w)", "float[N,64] x", "float[N,64] y", "float[64,64] w")
ROW = text("y = MatMul (x, w)", "float[1,3000] x", "float[1,3000] y", "float[3000,3000] w")
NONE = text("y = Tanh (x)", "float[4] x", "float[4] y")


@pytest.mark.parametrize(
    ("model", "expected", "reason"),
    [
        (CONV, Format.QDQ, "convolutions are 84% of the multiplications"),
        (PRODUCT, Format.DYNAMIC, "matrix products are 100%"),
        (ROW, Format.WEIGHT_ONLY, "36 MB of weights"),
        (NONE, Format.QDQ, "no weights"),
    ],
)
def test_the_format_follows_from_where_the_multiplications_are(model, expected, reason):
    chosen, why = choose_format(model_from_text(model), targets.get("cpu"))
    assert chosen is expected
    assert reason in why


def test_auto_is_resolved_in_plan_and_report():
    data = [{"x": np.ones((1, 3, 16, 16), np.float32)}]
    report = onnxq.quantize(model_from_text(CONV), calibration=data, format="auto", guard=False)
    assert report.plan.format is Format.QDQ
    assert report.recipe["format"] == "qdq"
    assert any("format auto" in warning for warning in report.warnings)


def test_a_rule_cannot_be_auto():
    with pytest.raises(RecipeError, match="whole model"):
        Recipe.parse({"rules": [{"match": {"op": "Conv"}, "format": "auto"}]})
