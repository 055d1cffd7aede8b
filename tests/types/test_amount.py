"""Amounts: numbers and shares, read one way and refused with a reason."""

import pytest
from onnxq.errors import RecipeError
from onnxq.types.amount import allowed
from onnxq.types.recipe import Recipe


@pytest.mark.parametrize(
    ("written", "kept", "of_eight"),
    [("0.5%", "0.5%", 0.04), (" 2 %", "2%", 0.16), ("0.01", 0.01, 0.01), (0, 0.0, 0.0), (1e-3, 1e-3, 1e-3)],
)
def test_what_an_amount_comes_to(written, kept, of_eight):
    recipe = Recipe.parse({"max_drop": written})
    assert recipe.max_drop == kept
    assert allowed(recipe.max_drop, 8.0) == pytest.approx(of_eight)
    assert allowed(recipe.max_drop, -8.0) == pytest.approx(of_eight)
    assert Recipe.parse(recipe.plain()) == recipe


@pytest.mark.parametrize("written", ["0.5 percent", "half", "-1%", -0.1, "nan", "inf%", "1%%", "%", True, [1]])
@pytest.mark.parametrize("field", ["max_drop", "max_ppl_increase"])
def test_what_is_no_amount(field, written):
    with pytest.raises(RecipeError, match=f"recipe: {field}"):
        Recipe.parse({field: written})
