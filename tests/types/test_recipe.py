import json

import pytest
import yaml
from onnxq.errors import RecipeError
from onnxq.files.recipe import dump_recipe, read_recipe
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, Scheme

FULL = {
    "format": "qdq",
    "calibrator": {"name": "percentile", "options": {"percentile": 99.9}},
    "activations": {"dtype": "int8", "symmetric": True},
    "weights": {"granularity": "per-block(32)", "method": "rtn"},
    "rules": [
        {"match": {"op": ["Conv", "Gemm"]}, "keep": "float"},
        {
            "match": {"name": "/layer.0/*"},
            "weights": {"granularity": {"kind": "per-channel", "axis": 1}},
            "optional": True,
        },
    ],
    "samples": 64,
    "threads": 2,
}


def test_yaml_and_json_round_trip(tmp_path):
    recipe = Recipe.parse(FULL)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    (tmp_path / "r.json").write_text(json.dumps(recipe.plain()))
    assert Recipe.parse(read_recipe(tmp_path / "r.yaml")) == recipe
    assert Recipe.parse(read_recipe(tmp_path / "r.json")) == recipe
    assert dump_recipe(Recipe.parse(yaml.safe_load(dump_recipe(recipe)))) == dump_recipe(recipe)


def test_a_report_can_be_read_as_its_recipe(tmp_path):
    (tmp_path / "model.report.json").write_text(json.dumps({"source": "m.onnx", "recipe": {"format": "qdq"}}))
    assert read_recipe(tmp_path / "model.report.json") == {"format": "qdq"}


def test_granularity_has_a_short_form():
    assert Recipe.parse({"weights": {"granularity": "per-tensor"}}).weights.granularity == PerTensor()
    assert Recipe.parse({"weights": {"granularity": "per-channel"}}).weights.granularity == PerChannel()
    assert Recipe.parse(FULL).weights.granularity == PerBlock(size=32)


def test_a_choice_fills_the_holes_of_a_scheme():
    base = Scheme(dtype=QuantType.UINT8, symmetric=False)
    chosen = Recipe.parse({"activations": {"dtype": "int8"}}).activations.over(base)
    assert chosen == Scheme(dtype=QuantType.INT8, symmetric=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"formt": "qdq"}, "unknown key 'formt'; did you mean 'format'"),
        ({"weights": {"dtype": "int9"}}, "weights.dtype: unknown value 'int9'; did you mean 'int8'"),
        ({"weights": {"granularity": "per-chanel"}}, "did you mean 'per-channel'"),
        ({"weights": {"granularity": "per-block(0)"}}, "at least one element"),
        (
            {"rules": [{"match": {"opp": "Conv"}, "keep": "float"}]},
            "unknown key 'rules.0.match.opp'; did you mean 'op'",
        ),
        ({"rules": [{"match": {"op": "Conv"}}]}, "a rule says `keep: float`"),
        ({"rules": [{"match": {}, "keep": "float"}]}, "names an op, a name, or both"),
        ({"samples": 0}, "samples"),
        ({"threads": "many"}, "threads"),
        (["qdq"], "a recipe is a mapping"),
    ],
)
def test_mistakes_are_errors_with_place_and_remedy(data, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(data)


def test_a_broken_file_names_the_line(tmp_path):
    (tmp_path / "r.yaml").write_text("format: qdq\nrules: [\n")
    with pytest.raises(RecipeError, match="line 3"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("field", ["search", "equalize"])
def test_one_name_stands_where_several_may(field):
    name = {"search": "auto", "equalize": "smoothquant"}[field]
    assert Recipe.parse({field: name}) == Recipe.parse({field: [name]})
