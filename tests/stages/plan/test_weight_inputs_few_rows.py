"""Too few rows for a Hessian: another method, a reason and one warning; never a crash, never silence."""

import numpy as np
import pytest
from tests.support.quantizing import quantize_text

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
layers (float[n, 32] x) => (float[n, 16] z)
<float[32, 48] first = {%s}, float[48, 16] second = {%s}>
{
    one = MatMul (x, first)
    bent = Relu (one)
    z = MatMul (bent, second)
}
"""


def quantized(rows: int, method: str):
    random = np.random.default_rng(0)
    numbers = (", ".join(f"{value:.4f}" for value in random.normal(size=size)) for size in (32 * 48, 48 * 16))
    feeds = {"x": random.normal(size=(rows, 32)).astype(np.float32)}
    return quantize_text(TEXT % tuple(numbers), feeds, format="weight-only", weights={"method": method})


@pytest.mark.parametrize("method", ["gptq", "adaround", "lkd", "gptq:sequential=true"])
def test_only_the_weight_that_lacks_rows_falls_back_and_it_is_said_once(method: str) -> None:
    result = quantized(40, method)
    assert result.plan.tensors["first"].method == method
    assert result.plan.tensors["second"].method == "mse:importance=true"
    assert "40 rows of 48 features are too few" in result.plan.tensors["second"].reason
    (warning,) = (text for text in result.plan.warnings if "rows" in text)
    assert "1 weight is quantized with mse:importance=true" in warning
    assert "40 rows of inputs for the 48 features of 'second'" in warning
    assert "calibrate with more samples" in warning


def test_options_that_both_have_are_kept() -> None:
    assert quantized(8, "gptq:negative_scales=true").plan.tensors["first"].method == (
        "mse:importance=true,negative_scales=true"
    )


def test_enough_rows_are_not_mentioned() -> None:
    result = quantized(48, "gptq")
    assert {tensor.method for tensor in result.plan.tensors.values()} == {"gptq"}
    assert not result.plan.warnings
