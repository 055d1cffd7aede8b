"""Running one pass on a small graph, and telling whether it changed what the graph computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_ir as ir
import pytest
from onnxq.graph.storage import to_proto
from onnxq.passes import passes
from onnxq.runtime.session import run_model

Feeds = Mapping[str, np.ndarray]


@pytest.fixture
def apply() -> Callable[..., bool]:
    """Run one registered pass in place of the model given; return what it says about `modified`."""

    def run(model: ir.Model, name: str, **options: Any) -> bool:
        result = passes.get(name).make(options)(model)
        if result.model is not model:
            model.graph = result.model.graph
            model.ir_version = result.model.ir_version
        return result.modified

    return run


@pytest.fixture
def same() -> Callable[..., None]:
    """Assert that two models give the same outputs: onnxruntime with its optimizer off and on, and onnx.reference."""

    def compare(before: ir.Model, after: ir.Model, feeds: Feeds, *, reference: bool = True, rtol: float = 1e-5) -> None:
        onnx.checker.check_model(to_proto(after))
        expected = run_model(before, dict(feeds))
        results = [run_model(after, dict(feeds)), run_model(after, dict(feeds), optimize=True)]
        if reference:
            evaluator = onnx.reference.ReferenceEvaluator(to_proto(after))
            results.append(dict(zip(expected, evaluator.run(list(expected), dict(feeds)), strict=True)))
        for result in results:
            assert list(result) == list(expected)
            for name, value in expected.items():
                scale = float(np.max(np.abs(value), initial=0)) if value.dtype.kind == "f" else 0.0
                np.testing.assert_allclose(result[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)

    return compare


@pytest.fixture
def model_of() -> Callable[[str], ir.Model]:
    """Make a model from ONNX text; `opset 17` and a header are put before a bare graph."""

    def parse(text: str, opset: int = 17, ir_version: int = 8, domains: str = "") -> ir.Model:
        header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{domains}]>\n'
        return ir.from_proto(
            onnx.parser.parse_model(text if text.lstrip().startswith("<ir_version") else header + text)
        )

    return parse
