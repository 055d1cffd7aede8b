"""compare: where two forms of a model differ, tensor by tensor; no plan is needed, whoever made the quantized one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxq.data import Source
from onnxq.evaluate.outputs import output_errors
from onnxq.graph.walk import top_level
from onnxq.numerics.metrics import ErrorSums, as_array
from onnxq.progress import Progress, Silent, step
from onnxq.runtime.session import open_session
from onnxq.runtime.taps import Taps
from onnxq.types.benchmark import Comparison, Spread, TensorDifference

if TYPE_CHECKING:
    import onnx_ir as ir

# All tapped tensors of a run are held at once, in both models.
_GROUP = 16
_BINS = 64
# What onnxq and onnxruntime's quantizer add to the name of a tensor once it is dequantized.
_ADDED = re.compile(r"(/dequantized|_DequantizeLinear_Output)(/\d+|_\d+)?$")
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(kw_only=True, slots=True)
class _Pair:
    """A tensor of the float model, what stands for it in the quantized one, and the sums with optimizer off and on.

    `numeric` turns out false where a tensor of undeclared type holds no floats.
    """

    node: str
    tensor: str
    counterpart: str
    plain: ErrorSums = field(default_factory=ErrorSums)
    served: ErrorSums = field(default_factory=ErrorSums)
    numeric: bool = True


def compare(
    float_model: ir.Model,
    quantized: ir.Model,
    source: Source,
    *,
    threads: int = 1,
    worst: int = 4,
    max_samples: int = 32,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two forms of a model on the same inputs.

    A float tensor matches the one of the same name in the quantized model; where that is quantized and dequantized
    again, the dequantized value counts: it is what the nodes behind it read.

    Args:
        float_model: the model. quantized: what was made of it, by whatever tool, with the same inputs and outputs.
        source: what to feed. threads: intra-op threads, 0 for all cores.
        worst: of how many tensors to count the values. max_samples: how many samples to compare.
        progress: told of each group of tensors.

    Raises:
        ModelError: the runtime cannot load or run one of the models. CalibrationError: the data does not fit.
    """
    progress = progress or Silent()
    some = source.head(max_samples)
    expected, plain = (open_session(model, optimize=False, threads=threads) for model in (float_model, quantized))
    served = open_session(quantized, threads=threads)
    with step(progress, some.samples, "compare outputs"):
        outputs, samples, warnings = output_errors(expected, plain, served, some, progress)
    del expected, plain, served
    pairs, unmatched = _match(float_model, quantized)
    runner = _Runner(float_model=float_model, quantized=quantized, source=some, threads=threads)
    with step(progress, len(pairs), "compare tensors"):
        for start in range(0, len(pairs), _GROUP):
            runner.add(pairs[start : start + _GROUP])
            progress.advance(len(pairs[start : start + _GROUP]))
    found = sorted((_difference(pair) for pair in pairs if pair.numeric), key=lambda entry: entry.sqnr_plain)
    counted = [
        replace(entry, spread=_spread(pair, runner))
        for entry in found[:worst]
        for pair in pairs
        if pair.tensor == entry.tensor
    ]
    return Comparison(
        outputs=outputs,
        tensors=(*counted, *found[worst:]),
        unmatched=unmatched,
        samples=samples,
        data=source.description,
        warnings=tuple(warnings),
    )


def _match(float_model: ir.Model, quantized: ir.Model) -> tuple[list[_Pair], tuple[str, ...]]:
    """Return the tensors that both models make, in graph order, and those that only the float model makes."""
    known: dict[str, ir.Value] = {}
    for node in quantized.graph:
        for value in node.outputs:
            name = value.name or ""
            known[name] = value
            if node.op_type == _DQ:  # of a tensor whose own node is gone, absorbed by the one before
                known.setdefault(_ADDED.sub("", name), value)
    pairs, unmatched = [], []
    for path, node in top_level(float_model):
        if all(value is not None and value.is_initializer() for value in node.inputs):
            continue
        for value in node.outputs:
            if not value.name or not _is_float(value):
                continue
            stand_in = known.get(value.name)
            if stand_in is None or not _is_float(stand_in):
                unmatched.append(value.name)
                continue
            read = _dequantized(stand_in)
            pairs.append(_Pair(node=path, tensor=value.name, counterpart=(read or stand_in).name or ""))
    return pairs, tuple(unmatched)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Runner:
    """Runs both models on the same samples."""

    float_model: ir.Model
    quantized: ir.Model
    source: Source
    threads: int

    def values(self, pairs: Sequence[_Pair], optimize: Iterable[bool]) -> Iterator[tuple[Any, ...]]:
        """Yield for each batch the float model's tensors, and the quantized one's at each level of optimization."""
        reference = Taps(self.float_model, [pair.tensor for pair in pairs], optimize=False, threads=self.threads)
        names = list(dict.fromkeys(pair.counterpart for pair in pairs))
        others = [Taps(self.quantized, names, optimize=on, threads=self.threads) for on in optimize]
        for batch in self.source.batches():
            yield (reference.run(batch.feeds), *(taps.run(batch.feeds) for taps in others))

    def add(self, pairs: Sequence[_Pair]) -> None:
        """Add up the differences of tensors."""
        for expected, off, on in self.values(pairs, (False, True)):
            for pair in pairs:
                pair.numeric = as_array(expected[pair.tensor]).dtype.kind in "fV"
                if not pair.numeric:
                    continue
                pair.plain.add(expected[pair.tensor], off[pair.counterpart])
                pair.served.add(expected[pair.tensor], on[pair.counterpart])


def _difference(pair: _Pair) -> TensorDifference:
    return TensorDifference(
        tensor=pair.tensor,
        node=pair.node,
        sqnr_plain=pair.plain.sqnr_db,
        sqnr_served=pair.served.sqnr_db,
        max_abs=pair.plain.max_error,
    )


def _spread(pair: _Pair, runner: _Runner) -> Spread | None:
    """Count the values of both forms of a tensor in equal bins over what both hold; None without finite values."""
    held: tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]] = ([], [])
    for expected, off in runner.values([pair], (False,)):
        for values, array in zip(held, (expected[pair.tensor], off[pair.counterpart]), strict=True):
            flat = as_array(array).astype(np.float64).reshape(-1)
            values.append(flat[np.isfinite(flat)])
    both = [np.concatenate(values) for values in held]
    if not all(values.size for values in both):
        return None
    low, high = min(values.min() for values in both), max(values.max() for values in both)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = [tuple(np.histogram(values, edges)[0].tolist()) for values in both]
    return Spread(edges=tuple(edges.tolist()), float_counts=counts[0], quantized_counts=counts[1])


def _dequantized(value: ir.Value) -> ir.Value | None:
    """Follow value -> QuantizeLinear -> DequantizeLinear."""
    for use in value.uses():
        if use.node.op_type == _Q and use.idx == 0:
            for second in use.node.outputs[0].uses():
                if second.node.op_type == _DQ:
                    return second.node.outputs[0]
    return None


def _is_float(value: ir.Value) -> bool:
    """Tell whether a value holds floats, or might: types of inner values are often left out."""
    return value.dtype is None or value.dtype.is_floating_point()
