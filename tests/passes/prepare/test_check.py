import pytest
from onnxq.errors import ModelError


def test_a_valid_model_passes_unmodified(apply, model_of):
    assert not apply(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "check")


def test_says_what_the_checker_says(apply, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph[0].op_type = "Relux"
    with pytest.raises(ModelError, match="Relux"):
        apply(model, "check")
