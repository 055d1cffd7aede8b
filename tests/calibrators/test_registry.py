"""What every calibrator keeps, whoever wrote it; and what a misspelt one is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.calibrators import calibrators, make_calibrator
from onnxq.errors import CalibrationError, RecipeError
from onnxq.numerics.histogram import merge, observe
from onnxq.types.scheme import QuantType, Scheme

SCHEMES = [
    Scheme(dtype=QuantType.UINT8, symmetric=False),
    Scheme(dtype=QuantType.INT8, symmetric=True),
    Scheme(dtype=QuantType.UINT8, symmetric=True),
    Scheme(dtype=QuantType.INT4, symmetric=False),
    Scheme(dtype=QuantType.INT2, symmetric=True),
    Scheme(dtype=QuantType.UINT16, symmetric=False),
    Scheme(dtype=QuantType.FLOAT8E4M3FN, symmetric=True),
    Scheme(dtype=QuantType.FLOAT4E2M1, symmetric=True),
    Scheme(dtype=QuantType.FLOAT16, symmetric=True),
]
every = pytest.mark.parametrize("name", ["entropy", "minmax", "moving-average", "mse", "percentile"])
samples = st.lists(
    st.lists(st.one_of(st.floats(-4, 4, width=32), st.floats(width=32)), min_size=4, max_size=4), min_size=1, max_size=6
)


def test_all_are_registered() -> None:
    assert set(calibrators.names()) >= {"entropy", "minmax", "moving-average", "mse", "percentile"}


@every
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@settings(max_examples=10, deadline=None)
@given(rows=samples, random=st.randoms(use_true_random=False))
def test_range_lies_within_what_was_seen_and_ignores_order(
    name: str, scheme: Scheme, rows: list[list[float]], random: Any
) -> None:
    array = np.array(rows, np.float64).astype(np.float32)
    calibrator = make_calibrator(name, {})
    whole = observe(array, batch_axis=0)
    if not whole.count:
        with pytest.raises(CalibrationError, match="no finite value"):
            calibrator(whole, scheme)
        return
    found = calibrator(whole, scheme)
    assert whole.minimum <= found.low <= found.high <= whole.maximum
    random.shuffle(rows)
    parts = [observe(np.array([row], np.float64).astype(np.float32), batch_axis=0) for row in rows]
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    again = calibrator(total, scheme)
    assert (again.low.hex(), again.high.hex()) == (found.low.hex(), found.high.hex())


@every
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_few_values_are_kept_whole_enough(name: str, scheme: Scheme) -> None:
    for values in ([0.0], [5.0], [-5.0, -5.0], [0.0, 1.0], [1e-45, -1e-45], [3.4e38, -3.4e38], [1.0, 1.5]):
        found = make_calibrator(name, {})(observe(np.array(values, np.float32)), scheme)
        assert math.isfinite(found.low), values
        assert math.isfinite(found.high), values
        assert found.low <= found.high, values


@every
def test_a_mask_stays_out(name: str) -> None:
    scores = np.random.default_rng(0).standard_normal((4, 4000)).astype(np.float32)
    scores[:, 2000:] += np.float32(np.finfo(np.float32).min)
    found = make_calibrator(name, {})(observe(scores, batch_axis=0), SCHEMES[0])
    assert -6 < found.low < -2
    assert 2 < found.high < 6


def test_misspelt_names_and_options() -> None:
    with pytest.raises(RecipeError, match="unknown calibrator 'entrpy'; did you mean 'entropy'"):
        make_calibrator("entrpy", {})
    with pytest.raises(RecipeError, match="no option 'percentle'; did you mean 'percentile'"):
        make_calibrator("percentile", {"percentle": 99})
    with pytest.raises(RecipeError, match="calibrator 'minmax' has no option 'bins'; it has no options"):
        make_calibrator("minmax", {"bins": 2048})


@pytest.mark.parametrize("value", [101, 50, -1, "99", True, math.nan])
def test_options_out_of_range(value: Any) -> None:
    with pytest.raises(RecipeError, match="percentile must be a number"):
        make_calibrator("percentile", {"percentile": value})
