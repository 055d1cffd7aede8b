import pytest
from onnxq.calibrators import calibrators
from onnxq.errors import RecipeError, nearest
from onnxq.registry import Registry


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(RecipeError, match="unknown calibrator 'minmaxx'; did you mean 'minmax'"):
        calibrators.get("minmaxx")


def test_a_name_is_taken_once():
    registry: Registry[object] = Registry("thing", "onnxq.calibrators")
    registry.add("a", 1)
    registry.add("a", 1)
    with pytest.raises(RecipeError, match="thing 'a' is registered twice"):
        registry.add("a", 2)


def test_nearest_lists_what_is_known_when_nothing_is_near():
    assert nearest("xyz", ["cpu", "cuda"]) == "; known: cpu, cuda"
    assert nearest("CUDA", ["cpu", "cuda"]) == "; did you mean 'cuda'?"
    assert nearest("x", []) == "; there are none"
