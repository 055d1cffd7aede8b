"""Time of each node, measured by the runtime's profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.runtime.readback import WEIGHTS_BESIDE
from onnxq.runtime.session import CPU, open_session

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

_SUFFIX = "_kernel_time"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTime:
    """Time of one node of the optimized graph.

    Attributes:
        node: its name there; `op_type_index` for those without one.
        op: operator, without its domain.
        provider: where it runs.
        microseconds: median over the runs of the time in its kernel; calls of a loop body within a run are added up.
        inputs: element type and shape of each tensor in the last run, as ("uint8", (1, 8, 16, 16)).
        outputs: the same of the outputs.
    """

    node: str
    op: str
    provider: str
    microseconds: float
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


def profile_nodes(
    model: ir.Model | onnx.ModelProto | bytes | Path,
    feeds: Mapping[str, np.ndarray],
    *,
    runs: int = 10,
    optimize: bool = True,
    threads: int = 1,
    providers: Sequence[str] = CPU,
    optimized_path: Path | None = None,
    fastest: bool = False,
) -> tuple[NodeTime, ...]:
    """Run a model under the profiler and return the time of each node, in the order they run.

    Args:
        model: see `open_session`.
        feeds: an array for each input.
        runs: runs that count; one more before them warms up.
        optimize: see `open_session`.
        threads: see `open_session`.
        providers: see `open_session`.
        optimized_path: where to write the optimized model, whose nodes are timed; its weights go beside it.
        fastest: return the time of each node's fastest run instead of the median.

    Raises:
        ModelError: the runtime cannot load or run the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        session = open_session(
            model,
            optimize=optimize,
            threads=threads,
            providers=providers,
            profile=Path(folder) / "profile",
            optimized_path=optimized_path,
            config=None if optimized_path is None else WEIGHTS_BESIDE,
        )
        for _ in range(runs + 1):
            session.run(feeds)
        events = json.loads(session.end_profiling().read_text(encoding="utf-8"))

    run = -1
    times: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    last = {}
    for event in sorted(events, key=lambda event: event.get("ts", 0)):
        if event.get("cat") == "Session" and event.get("name") == "model_run":
            run += 1
        elif event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            key = (event["name"].removesuffix(_SUFFIX), event["args"]["node_index"])
            times[key][run] += event["dur"]
            last[key] = event["args"]
    return tuple(
        NodeTime(
            node=name,
            op=last[name, index]["op_name"],
            provider=last[name, index]["provider"],
            microseconds=(min if fastest else statistics.median)(_counted(by_run)),
            inputs=_tensors(last[name, index]["input_type_shape"]),
            outputs=_tensors(last[name, index]["output_type_shape"]),
        )
        for (name, index), by_run in times.items()
    )


def _counted(by_run: Mapping[int, float]) -> list[float]:
    """Return the times except the first run's; a node of a branch that only the first run took has no other."""
    return [value for run, value in by_run.items() if run > 0] or list(by_run.values())


def _tensors(entries: list[dict[str, list[int]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((dtype, tuple(shape)) for entry in entries for dtype, shape in entry.items())
