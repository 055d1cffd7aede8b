"""Short forms mean the same as the long ones, and a misspelt part is an error that names the right one."""

import pytest
from onnxq.errors import RecipeError
from onnxq.types.recipe import Recipe


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"calibrator": "minmax"}, {"calibrator": {"name": "minmax"}}),
        (
            {"calibrator": "percentile:percentile=99.9,both=true, word=x"},
            {"calibrator": {"name": "percentile", "options": {"percentile": 99.9, "both": True, "word": "x"}}},
        ),
        ({"activations": "uint8, asymmetric"}, {"activations": {"dtype": "uint8", "symmetric": False}}),
        (
            {"weights": "per-block(32),int4,symmetric,narrow=false,floor,method=rtn"},
            {
                "weights": {
                    "dtype": "int4",
                    "symmetric": True,
                    "granularity": {"kind": "per-block", "size": 32},
                    "narrow": False,
                    "rounding": "floor",
                    "method": "rtn",
                }
            },
        ),
        (
            {"weights": "method=gptq:steps=12, sweeps=3,negative_scales=true,narrow=false,uint4"},
            {
                "weights": {
                    "method": "gptq:steps=12,sweeps=3,negative_scales=true",
                    "narrow": False,
                    "dtype": "uint4",
                }
            },
        ),
        (
            {"rules": [{"match": {"op": "Conv"}, "weights": "per-tensor"}]},
            {"rules": [{"match": {"op": "Conv"}, "weights": {"granularity": {"kind": "per-tensor"}}}]},
        ),
    ],
)
def test_a_short_form_means_the_long_one(short: dict[str, object], long: dict[str, object]) -> None:
    assert Recipe.parse(short) == Recipe.parse(long)


def test_option_values_keep_their_kind() -> None:
    options = Recipe.parse({"calibrator": "c:a=1,b=1.5,c=true,d=1e-3,e=yes"}).calibrator.options
    assert options == {"a": 1, "b": 1.5, "c": True, "d": 1e-3, "e": "yes"}
    assert [type(value) for value in options.values()] == [int, float, bool, float, str]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"activations": "unit8"}, "activations: unknown word 'unit8'; did you mean 'uint8'"),
        ({"activations": "per-chanel"}, "did you mean 'per-channel'"),
        ({"activations": "int8,uint8"}, "'uint8' gives the dtype a second time"),
        ({"weights": "method=rtn,sweeps=3"}, "unknown key 'weights.sweeps'"),
        ({"weights": "int8,metod=rtn"}, "unknown key 'weights.metod'; did you mean 'method'"),
        ({"calibrator": "percentile:99.9"}, "'99.9' is not an option; write `percentile:option=value,...`"),
        ({"activations": 3}, "activations: expected a mapping or its short form as text, found 3"),
        ({"placement": "fast"}, "placement: unknown value 'fast'; did you mean 'fastest'"),
        ({"samples": "ten"}, "samples: .* found 'ten'"),
    ],
)
def test_a_wrong_part_is_named(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        Recipe.parse(recipe)
