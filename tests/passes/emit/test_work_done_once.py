"""Weights are turned into codes once, and what is stored is not kept in memory beside that."""

import weakref

import pytest
from onnxq.graph.spill import Spill
from onnxq.passes.emit import constants, integer_weights
from onnxq.stages.plan import saturation as levels
from tests.support.quantizing import quantize_text, text

LAYERS = 5
STACK = text(
    " ".join(f"h{i} = MatMul ({f't{i - 1}' if i else 'x'}, w{i}) t{i} = LeakyRelu (h{i})" for i in range(LAYERS)),
    "float[4,300] x",
    f"float[4,300] t{LAYERS - 1}",
    ", ".join(f"float[300,300] w{i}" for i in range(LAYERS)),
)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_codes_are_fitted_to_sums_of_16_bits_once_a_weight(form, monkeypatch):
    fitted = []
    fit = constants.fit_pairs

    def counted(*given):
        fitted.append(given)
        return fit(*given)

    for module in (constants, levels):  # to choose codes, and to choose how many an activation has
        monkeypatch.setattr(module, "fit_pairs", counted)
    quantize_text(STACK, format=form, target="cpu-avx2", placement="everywhere")
    assert len(fitted) == LAYERS


def test_dynamic_keeps_no_codes_beside_those_that_it_stores(monkeypatch):
    made, alive = [], []
    begin, store = Spill.__init__, integer_weights.storage_array

    def recorded(codes, dtype):
        array = store(codes, dtype)
        if array.ndim == 2:
            alive.append(sum(reference() is not None for reference in made))
            made.append(weakref.ref(array))
        return array

    monkeypatch.setattr(Spill, "__init__", lambda self, budget=0: begin(self, 0))  # all of it goes to a file
    monkeypatch.setattr(integer_weights, "storage_array", recorded)
    quantize_text(STACK, format="dynamic", target="cpu-vnni", placement="everywhere")
    assert len(made) == LAYERS
    assert max(alive) <= 1
