"""Known causes of outputs that are served otherwise than the graph says, each recognized by what really ran.

An entry is looked up with the nodes of the optimized graph that compute a tensor which departs: none is guessed from
what was planned. A new one is one more `Cause` in CAUSES, the more special first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.evaluate.served.departures import Departure, departures, largest
from onnxq.graph.linear import CONTRIB
from onnxq.graph.walk import bodies
from onnxq.ops.quantized import MATMUL_NBITS
from onnxq.passes.read.saturation import may_saturate
from onnxq.runtime.readback import op_name
from onnxq.runtime.saturation import adds_pairs
from onnxq.targets import targets
from onnxq.targets.faults import faults
from onnxq.types.accuracy import EXACT, ROUNDS

if TYPE_CHECKING:
    import onnx_ir as ir

UNKNOWN = "the runtime's kernels compute something else than the graph says; cause unknown"
_AVX2 = "cpu-avx2"
_PRODUCT = f"{CONTRIB}::{MATMUL_NBITS}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What ran where a tensor departs.

    Attributes:
        nodes: of the optimized graph.
        written: operators that the model holds itself, as `domain::op_type`.
        weights: the model's constants by name; those of the optimized graph have no data.
        pairs: whether the processor adds pairs of products of u8 x s8 in 16 bits.
        target: what the model was planned for, None where that is not known (another tool's model).
    """

    nodes: tuple[ir.Node, ...]
    written: frozenset[str] = frozenset()
    weights: dict[str, ir.Value] = field(default_factory=dict)
    pairs: bool = False
    target: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A cause.

    Attributes:
        name: for machines.
        recognizes: whether it is at work in what ran.
        sentence: what happens, in words.
        advice: what to do about it, in words.
    """

    name: str
    recognizes: Callable[[Ran], bool]
    sentence: Callable[[Ran], str]
    advice: Callable[[Ran], str]

    def text(self, ran: Ran) -> str:
        """Return sentence and advice."""
        return f"{self.sentence(ran)}; {self.advice(ran)}"


def ran_at(model: ir.Model, where: Iterable[Departure], *, target: str | None) -> list[Ran]:
    """Return what ran at each place where a model departs; arguments as for `Ran`."""
    graphs = list(bodies(model))
    everywhere = Ran(
        nodes=(),
        written=frozenset(op_name(node) for graph in graphs for node in graph),
        weights={name: value for graph in graphs for name, value in graph.initializers.items()},
        pairs=adds_pairs(),
        target=target,
    )
    return [replace(everywhere, nodes=departure.ran) for departure in where]


def why_served_differs(model: ir.Model, source: Source, *, target: str | None, threads: int) -> str:
    """Return in words why a model is served otherwise than its graph says, and what to do; else that nobody knows.

    Args:
        model: quantized, by whatever tool.
        source: the few samples to run.
        target: what it was planned for, None where that is not known.
        threads: intra-op threads it is served with.

    Raises:
        ModelError: the runtime cannot load or run the model.
    """
    where = departures(model, source, threads=threads, exact_inputs=False)
    ran = ran_at(model, where, target=target)
    some = ran[: len(largest(where))]
    if not any(cause_of(each) for each in some):  # what is small at first may grow on the way
        some = [each for each in ran if cause_of(each)][:1] or some
    return why(some)


def cause_of(ran: Ran) -> Cause | None:
    """Return the first known cause that is at work in what ran, None if absent."""
    return next((cause for cause in CAUSES if cause.recognizes(ran)), None)


def why(ran: Sequence[Ran], *, advice: bool = True) -> str:
    """Return the causes of what ran at several places in words, each once; else that none is known.

    Args:
        ran: at each place, the worst first.
        advice: whether to say what to do about it.
    """
    known = [(cause, each) for each in ran if (cause := cause_of(each)) is not None]
    texts = [cause.text(each) if advice else cause.sentence(each) for cause, each in known]
    if texts:
        return "; ".join(dict.fromkeys(texts))
    kernels = dict.fromkeys(op_name(node) for each in ran[:1] for node in each.nodes)
    return UNKNOWN + (f" ({', '.join(kernels)})" if kernels else "")


def _saturates(ran: Ran) -> bool:
    without_vnni = targets.get(_AVX2)
    return ran.pairs and any(may_saturate(node, without_vnni, ran.weights) for node in ran.nodes)


def _for_pairs(ran: Ran) -> str:
    if ran.target == _AVX2:
        return "imported weights keep their codes: `onnxq quantize` in format qdq chooses them again"
    return f"--target {_AVX2} chooses weights that do not"


def _has(*ops: str) -> Callable[[Ran], bool]:
    return lambda ran: any(op_name(node) in ops for node in ran.nodes)


def _rounded(nodes: Iterable[ir.Node]) -> bool:
    return any(op_name(node) == _PRODUCT and node.attributes.get_int("accuracy_level", 0) == ROUNDS for node in nodes)


def _fused(ran: Ran) -> bool:
    return _PRODUCT not in ran.written


def _by_fault(name: str, fault: str, recognizes: Callable[[Ran], bool]) -> Cause:
    """Return a cause that is a known fault of the runtime, whose words it has."""
    return Cause(
        name=name,
        recognizes=recognizes,
        sentence=lambda ran: faults.get(fault).summary,
        advice=lambda ran: faults.get(fault).advice,
    )


CAUSES: tuple[Cause, ...] = (
    Cause(
        name="saturation",
        recognizes=_saturates,
        sentence=lambda ran: (
            "this processor has no VNNI, so uint8 x int8 products are added in pairs in 16 bits and saturate"
        ),
        advice=_for_pairs,
    ),
    Cause(
        name="accuracy-level",
        recognizes=lambda ran: _rounded(ran.nodes),
        sentence=lambda ran: (
            f"{'DequantizeLinear and MatMul were fused to' if _fused(ran) else 'the product runs as'} MatMulNBits at "
            f"accuracy level {ROUNDS}, which rounds what it multiplies to 8 bits"
        ),
        advice=lambda ran: (
            f"the session option session.qdq_matmulnbits_accuracy_level={EXACT} leaves it as it is, and so does "
            f"--accuracy-level {EXACT} without --portable"
            if _fused(ran)
            else f"--accuracy-level {EXACT} leaves it as it is"
        ),
    ),
    _by_fault("softmax", "softmax-rounding", _has(f"{CONTRIB}::QLinearSoftmax")),
)
