"""Which kernels take the types and granularities that are wanted, or what would do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.stages.plan.rules import NodeRequest
from onnxq.targets import Row
from onnxq.types.format import Format
from onnxq.types.plan import Reason
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, PerToken, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

NO_SCHEME = "scheme"
"""Code of the reason of nodes that stay in float because no kernel takes the types or granularities wanted."""

_CONDITION = "condition"
_KINDS = {PerTensor: "per-tensor", PerChannel: "per-channel", PerBlock: "per-block", PerToken: "per-token"}


def choose(
    rows: Sequence[Row], node: ir.Node, request: NodeRequest, *, weighted: bool, refuses: Callable[[Row], str | None]
) -> Row | tuple[str, str]:
    """Return the first row that holds, or code and text of the reason why none does.

    Args:
        rows: best first. node: what is to run. request: what is wanted; weighted: of weights, too.
        refuses: why a row does not hold, besides what the row itself says of the node.
    """
    left = tuple(row for row in rows if row.codebook is (request.weights.codebook is not None))
    if request.splits:
        left = tuple(row for row in left if row.splits)
        if not left:
            return NO_SCHEME, f"no kernel leaves features out; take `outliers` out of what {node.op_type} is to have"
    for what, wanted, taken in _parts(request, weighted) if left else ():
        fitting = tuple(row for row in left if wanted in taken(row))
        if not fitting:
            instead = f"; take {' or '.join(sorted({each for row in left for each in taken(row)}))}"
            if what == "activations":
                instead += f"; format {Format.WEIGHT_ONLY} leaves activations in float"
            return NO_SCHEME, f"no kernel for {wanted} {what}{instead}"
        left = fitting
    reasons: dict[str, None] = {}
    for row in left:
        why = (row.refuses(node, request.weights) if row.refuses is not None else None) or refuses(row)
        if why is None:
            return row
        reasons[why] = None
    return _CONDITION, "; ".join(reasons) or "takes no codebook; give it weights of a dtype"


def fit(
    rows: Sequence[Row],
    node: ir.Node,
    request: NodeRequest,
    usual: Scheme,
    *,
    weighted: bool,
    refuses: Callable[[Row, Scheme], str | None],
) -> tuple[Row, NodeRequest] | Reason:
    """Return the first row that holds and what it is to run, or the reason why none does.

    Where int8 weights with zero points would saturate, uint8 ones stand in: codes and zero points 128 higher represent
    the same values, and sums of their products are exact on every processor.

    Args:
        rows, node, request, weighted: as for `choose`.
        usual: weight scheme of the target: where a kernel takes that one, it is the scheme wanted that is at fault.
        refuses: why a row does not hold with a weight scheme, besides what the row itself says of the node.
    """

    def tried(request: NodeRequest) -> Row | tuple[str, str]:
        return choose(rows, node, request, weighted=weighted, refuses=lambda row: refuses(row, request.weights))

    kernel = tried(request)
    if isinstance(kernel, Row):
        return kernel, request
    code, text = kernel
    if not weighted or code != _CONDITION:
        return Reason(code=code, text=text)
    if any(row.pairs for row in rows) and is_shifted_by_128(request.weights):
        unsigned = replace(request, weights=replace(request.weights, dtype=QuantType.UINT8), unsigned=True)
        row = tried(unsigned)
        if isinstance(row, Row):
            return row, unsigned
    at_fault = isinstance(tried(replace(request, weights=usual)), Row)
    return Reason(code=NO_SCHEME if at_fault else _CONDITION, text=text)


def is_shifted_by_128(weights: Scheme) -> bool:
    """Return whether uint8 codes can represent the same values: int8 ones with zero points."""
    return weights.dtype is QuantType.INT8 and not weights.symmetric


def _parts(request: NodeRequest, weighted: bool) -> Iterator[tuple[str, str, Callable[[Row], set[str]]]]:
    """Yield what is wanted: of what, its name, and which names a row takes."""
    activations, weights = request.activations, request.weights
    if request.format is not Format.WEIGHT_ONLY:
        yield "activations", activations.dtype, lambda row: set(row.activations)
        kind = activations.granularity.kind
        yield "activations", kind, lambda row: {_KINDS[each] for each in row.activation_granularities}
        symmetry = {None: {"symmetric", "asymmetric"}, True: {"symmetric"}, False: {"asymmetric"}}
        named = "symmetric" if activations.symmetric else "asymmetric"
        yield "activations", named, lambda row: symmetry[row.symmetric]
    if weighted:
        yield "weights", weights.dtype, lambda row: set(row.weights)
        yield "weights", weights.granularity.kind, lambda row: {_KINDS[each] for each in row.granularities}
