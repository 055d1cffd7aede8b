"""What emitters have in common: a plan to carry out, the statistics it refers to, and the runtime's own operators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.editor import Editor, editors
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from onnxq.types.statistics import Statistics


class Emitter(ir.passes.InPlacePass):
    """Carries out the decisions of one format.

    Attributes:
        fmt: the format.
    """

    fmt: ClassVar[Format]

    def __init__(
        self, plan: Plan, statistics: Statistics | None = None, chosen: Mapping[str, Chosen] | None = None
    ) -> None:
        """Take a plan, the statistics that it was made from (weight methods may use them), and codes known so far."""
        super().__init__()
        self.plan = plan
        self.statistics = statistics
        self.chosen = chosen

    @abstractmethod
    def write(self, editor: Editor) -> None:
        """Rewrite the graph that `editor` edits."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model; raises PlanError if the plan does not fit it."""
        modified = False
        for editor in editors(model, self.plan, self.fmt, self.statistics, self.chosen):
            self.write(editor)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
