"""Taps: values inside a model, read while it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from onnxq.errors import CalibrationError, nearest
from onnxq.runtime.session import Session, open_session

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


class Taps:
    """One session whose outputs are the tapped tensors.

    Attributes:
        tensors: the tapped tensors, in the order given.
    """

    def __init__(self, model: ir.Model, tensors: Collection[str], *, optimize: bool = True, threads: int = 1) -> None:
        """Open the session.

        Args:
            model: left as it is.
            tensors: names of values of the main graph: node outputs, graph inputs.
            optimize: whether onnxruntime optimizes around the taps.
            threads: intra-op threads, 0 for all cores.

        Raises:
            CalibrationError: no such tensor.
            ModelError: onnxruntime cannot load the model.
        """
        self.tensors = tuple(dict.fromkeys(tensors))
        inputs = {value.name for value in model.graph.inputs}
        known = inputs | {value.name for node in model.graph for value in node.outputs}
        for name in self.tensors:
            if name not in known:
                raise CalibrationError(f"the model computes no tensor '{name}'{nearest(name, map(str, known))}")
        self._inputs = tuple(name for name in self.tensors if name in inputs)
        self._outputs = tuple(name for name in self.tensors if name not in inputs)
        self._session: Session | None = None
        if self._outputs:
            self._session = open_session(model, optimize=optimize, threads=threads, outputs=self._outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once and return the tapped tensors; a tapped graph input is a copy of what was fed."""
        taken = {name: feeds[name].copy() for name in self._inputs}
        if self._session is not None:
            taken |= self._session.run(feeds)
        return taken
