"""What a pass returns when it has warnings."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass
class Outcome(ir.passes.PassResult):
    """A pass result with warnings for the user, which the pass manager collects."""

    warnings: tuple[str, ...] = ()
