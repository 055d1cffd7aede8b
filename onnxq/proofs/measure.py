"""measure: time this machine's kernels once, so that plans use its own times instead of another machine's.

Small models of one operator are quantized and run under the runtime's profiler, which times each node by itself. What
plans use are a few slopes, fitted to these times by non-negative least squares of relative errors (Lawson and Hanson,
1974): a product takes so long for each multiply-accumulate and each element that it writes.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.runtime.profile import NodeTime, profile_nodes
from onnxq.runtime.session import CPU, versions
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Target, targets
from onnxq.targets.processor import this_processor
from onnxq.types.costs import Costs, CostTable, KernelTime
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

_RUNS = 30
# By themselves these run on another kernel than between convolutions, whose layout they then have.
_BY_LAYOUT = frozenset({"AveragePool", "DepthToSpace", "MaxPool", "Resize"})
_REDUCES = 8  # operators that read so many times what they write take their time by what they read: none of ours
_SMALL, _LARGE = "[1,8,8,8]", "[1,64,56,56]"
_FORMS: dict[str, dict[str, object]] = {
    "u8s8": {"format": "qdq"},
    "u8u8": {"format": "qdq", "weights": {"dtype": "uint8", "symmetric": True}},
    "dynamic": {"format": "dynamic"},
    "weight-only": {"format": "weight-only"},
}
_PRODUCTS = frozenset(
    {"MatMul", "FusedMatMul", "Gemm", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"}
)
_CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "FusedConv"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A product or convolution: its text, multiply-accumulates, and elements read and written."""

    op: str
    shape: str
    text: str
    macs: int
    read: int
    written: int


def measure(name: str = "cpu") -> CostTable:
    """Time the kernels of a target on this machine, on one thread; it takes about half a minute.

    Raises:
        RecipeError: an unknown target, or one of another machine.
    """
    target = targets.get(name)
    real = target.stands_for or target.name
    if real != this_processor().target or target.provider not in CPU:
        raise RecipeError(
            f"target '{name}' is not this machine ({this_processor()}); measure '{this_processor().target}'"
        )
    runtime = versions()["onnxruntime"]
    timed = [(case, form, times) for case in _cases() for form, times in _times(case, target)]
    source = f"{this_processor()}, onnxruntime {runtime}, measured {datetime.datetime.now(tz=datetime.UTC).date()}"
    return CostTable(
        target=real,
        processor=str(this_processor()),
        onnxruntime=runtime,
        costs=_fitted(timed, source, dict(_operators(target))),
        kernels=tuple(
            KernelTime(op=case.op, shape=case.shape, form=form, microseconds=round(times["kernel"], 2))
            for case, form, times in timed
        ),
    )


def _cases() -> Iterator[_Case]:
    for rows, summed, columns in ((1, 768, 768), (16, 384, 1536), (128, 384, 384), (128, 768, 3072)):
        text = _text("m = MatMul (x, w) y = Flatten (m)", f"[{rows},{summed}]", f"[{summed},{columns}]")
        yield _Case(
            op="MatMul",
            shape=f"{rows}x{summed}x{columns}",
            text=text,
            macs=rows * summed * columns,
            read=rows * summed,
            written=rows * columns,
        )
    for channels, size, kernel, group in ((64, 56, 3, 1), (256, 28, 1, 1), (128, 14, 3, 1), (96, 28, 3, 96)):
        attributes = f"<group = {group}, pads = [{', '.join([str(kernel // 2)] * 4)}]>"
        weight = f"[{channels},{channels // group},{kernel},{kernel}]"
        text = _text(f"m = Conv {attributes} (x, w) y = Flatten (m)", f"[1,{channels},{size},{size}]", weight)
        pixels = channels * size * size
        yield _Case(
            op="Conv" if group == 1 else "depthwise Conv",
            shape=f"{channels}x{size}x{size}, {kernel}x{kernel}",
            text=text,
            macs=pixels * channels // group * kernel * kernel,
            read=pixels,
            written=pixels,
        )


def _text(body: str, shape: str, weight: str) -> str:
    return (
        f'<ir_version: 9, opset_import: ["" : 21]>\ng (float{shape} x) => (float[] y)\n<float{weight} w>\n{{ {body} }}'
    )


def _times(case: _Case, target: Target) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the times of a case for each way to write it: "kernel", and "quantize" and "dequantize" an element."""
    model = model_from_text(case.text)
    kinds = _PRODUCTS if case.op == "MatMul" else _CONVOLUTIONS
    yield "float", {"kernel": _spent(_profile(model), kinds)}
    for form, options in _FORMS.items():
        if case.op != "MatMul" and form not in ("u8s8", "u8u8"):
            continue
        nodes = _profile(_quantized(model, target, options))
        times = {"kernel": _spent(nodes, kinds)}
        for key, op in (("quantize", "QuantizeLinear"), ("dequantize", "DequantizeLinear")):
            each = [_by_element(node) for node in nodes if node.op == op]
            if each:
                times[key] = float(np.median(each))
        if times["kernel"] > 0:
            yield form, times


def _quantized(model: ir.Model, target: Target, options: dict[str, object]) -> ir.Model:
    recipe = Recipe.parse({"placement": "everywhere", "calibrator": "minmax", **options, "target": target.name})
    examined = examine(model, recipe, target)
    return rewrite(model, make_plan(examined, Statistics(tensors=dict.fromkeys(examined.observed, _RANGE))))[0]


_RANGE = TensorStatistics(histogram=None, minimum=-1.0, maximum=1.0, count=1)


def _profile(model: ir.Model) -> tuple[NodeTime, ...]:
    """Return the nodes of a model with their fastest times: a busy machine makes a run longer, never shorter."""
    return profile_nodes(model, _feeds(model), runs=_RUNS, fastest=True)


def _feeds(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        numbers = rng.uniform(-1, 1, tuple(value.shape.numpy()))
        feeds[value.name or ""] = np.asarray(numbers, value.dtype.numpy()) if value.dtype != 9 else numbers > 0
    return feeds


def _spent(nodes: Sequence[NodeTime], kinds: frozenset[str]) -> float:
    """Return the microseconds of the nodes of these kinds."""
    return sum(node.microseconds for node in nodes if node.op in kinds)


def _by_element(node: NodeTime) -> float:
    """Return the nanoseconds of a node for each element that it writes."""
    return 1e3 * node.microseconds / max(1, sum(math.prod(shape) for _, shape in node.outputs))


def _operators(target: Target) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield operators without weights and their times for each output element, in float and quantized."""
    done: set[str] = set()
    for row in target.rows:
        if row.op in done | _BY_LAYOUT or Format.QDQ not in row.formats or not (row.float_ns or row.quantized_ns):
            continue
        done.add(row.op)
        model = model_from_text(row.probe.replace(_SMALL, _LARGE))
        in_float = _of(row.op, _profile(model))
        on_codes = _of(row.kernel, _profile(_quantized(model, target, {})))
        if in_float is not None and on_codes is not None:
            yield row.op, (round(in_float, 4), round(on_codes, 4))


def _of(op: str, nodes: Sequence[NodeTime]) -> float | None:
    for node in nodes:
        read, written = (sum(math.prod(shape) for _, shape in side) for side in (node.inputs, node.outputs))
        if node.op == op:
            return None if read > _REDUCES * written else _by_element(node)
    return None


def _fitted(
    timed: Sequence[tuple[_Case, str, dict[str, float]]], source: str, operators: dict[str, tuple[float, float]]
) -> Costs:
    def times(form: str) -> list[tuple[_Case, float]]:
        # Depthwise convolutions have so few multiplications for each output that they would bend the slopes.
        return [(case, 1e3 * spent["kernel"]) for case, at, spent in timed if at == form and "depthwise" not in case.op]

    (float_mac,) = _slopes([([case.macs], taken) for case, taken in times("float")])
    mac, output = _slopes([([case.macs, case.written], taken) for case, taken in times("u8s8")])
    quantize, run_time_output, node = _slopes(
        [([case.read, case.written, 1], max(taken - mac * case.macs, 1.0)) for case, taken in times("dynamic")]
    )
    converted = {
        key: float(np.median([spent[key] for _, _, spent in timed if key in spent]))
        for key in ("quantize", "dequantize")
    }
    return Costs(
        source=source,
        quantize=round(converted["quantize"], 4),
        dequantize=round(converted["dequantize"], 4),
        float_mac=round(float_mac, 6),
        quantized_mac=round(mac, 6),
        quantized_output=round(output, 4),
        run_time_quantize=round(max(quantize, converted["quantize"]), 4),
        run_time_output=round(run_time_output, 4),
        run_time_node=round(node, 1),
        operators=operators,
    )


def _slopes(points: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    from scipy.optimize import nnls

    rows = np.array([[count / taken for count in counts] for counts, taken in points])
    scale = rows.max(axis=0)
    return [float(slope) for slope in nnls(rows / scale, np.ones(len(points)))[0] / scale]
