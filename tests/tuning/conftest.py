"""A model of three regions, and drafts of it."""

import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from tests.support.tuning import TEXT, Workshop


@pytest.fixture
def workshop() -> Workshop:
    model = model_from_text(TEXT)
    return Workshop(model, {"x": np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)})
