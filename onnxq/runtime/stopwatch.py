"""Times of models on one input: raced against each other, and node by node."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.runtime.attribution import node_times
from onnxq.runtime.profile import profile_nodes
from onnxq.runtime.session import CPU, Session, open_session
from onnxq.runtime.timing import RaceTimes, time_interleaved

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_PROFILED = 5


class Stopwatch:
    """Times models on one input; sessions stay open as long as their model takes part in each race."""

    def __init__(
        self,
        feeds: Mapping[str, np.ndarray],
        *,
        names: ir.Model,
        providers: Sequence[str] = CPU,
        budget: float = 0.5,
    ) -> None:
        """Make one.

        Args:
            feeds: an array for each input.
            names: float model whose nodes the times are reported by.
            providers: see `open_session`.
            budget: seconds for a race, as for `time_interleaved`.
        """
        self._feeds, self._names, self._providers, self._budget = feeds, names, tuple(providers), budget
        self._open: dict[tuple[int, int], tuple[ir.Model, Session]] = {}

    def race(self, models: Sequence[ir.Model], threads: int, budget: float | None = None) -> RaceTimes:
        """Time models in turns, served with `threads` intra-op threads (0: all cores), for `budget` seconds."""
        racing = {id(model) for model in models}
        self._open = {key: entry for key, entry in self._open.items() if key[0] in racing}
        sessions = [self._session(model, threads) for model in models]
        return time_interleaved(sessions, self._feeds, budget=self._budget if budget is None else budget)

    def times(self, model: ir.Model, threads: int) -> dict[str, float]:
        """Return the time of each node, in microseconds; of a quantized model by the float nodes it was made from."""
        import onnx_ir as ir

        with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
            path = Path(folder) / "optimized.onnx"
            times = profile_nodes(
                model,
                self._feeds,
                runs=_PROFILED,
                threads=threads,
                providers=self._providers,
                optimized_path=path,
            )
            return node_times(self._names, ir.load(path), times)

    def _session(self, model: ir.Model, threads: int) -> Session:
        key = (id(model), threads)
        if key not in self._open:
            self._open[key] = (model, open_session(model, threads=threads, providers=self._providers))
        return self._open[key][1]
