"""What is suggested for a name in `keep` that nothing has: a node for what looks like one, else an operator type."""

import pytest
from onnxq.errors import RecipeError
from onnxq.files.recipe import make_recipe
from onnxq.graph.text import model_from_text
from tests.support.quantizing import plan_for, text

MODEL = text("[conv0] c = Conv (x, w) [act] y = Relu (c)", "float[1,8,6,6] x", "float[1,8,4,4] y", "float[8,8,3,3] w")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("conv9", "conv0"), ("convX", "conv0"), ("Conv0", "conv0"), ("atc", "act"), ("Convs", "Conv"), ("conv", "Conv")],
)
def test_the_nearest_of_the_kind_that_was_meant(asked, meant):
    model = model_from_text(MODEL)
    recipe = make_recipe(keep=[asked])
    with pytest.raises(RecipeError, match=f"no node is called '{asked}'; did you mean '{meant}'"):
        plan_for(model, {}, rules=recipe.plain()["rules"])
