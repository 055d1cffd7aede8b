"""What emitters have in common: a plan to carry out, the statistics it refers to, and the runtime's own operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.editor import Editor, editors
from onnxq.types.format import Format
from onnxq.types.plan import Decision, Plan
from onnxq.types.statistics import Statistics


class DecisionWriter(ABC):
    """Carries out the decisions about the nodes of one graph."""

    def __init__(self, editor: Editor) -> None:
        """Take the editor of the graph."""
        self.editor = editor

    def in_order(self, decisions: Iterable[Decision]) -> Iterable[Decision]:
        """Return decisions in the order in which to carry them out; as planned, unless a format wants another."""
        return decisions

    @abstractmethod
    def carry_out(self, decision: Decision) -> None:
        """Rewrite one node."""

    @abstractmethod
    def finish(self) -> None:
        """Take out what nothing reads any more."""


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
    def writer(self, editor: Editor) -> DecisionWriter:
        """Return what carries out this format's decisions about the graph that `editor` edits."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model; raises PlanError if the plan does not fit it."""
        modified = False
        for editor in editors(model, self.plan, self.fmt, self.statistics, self.chosen):
            writer = self.writer(editor)
            for decision in writer.in_order(editor.decisions()):
                writer.carry_out(decision)
            writer.finish()
            modified = True
        return ir.passes.PassResult(model, modified=modified)
