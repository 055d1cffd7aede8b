"""Biases absorbed through a Relu, between two layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxq.equalizers import LowestEqualizer
from onnxq.graph.constants import constant_array
from onnxq.graph.names import name_of
from onnxq.graph.walk import top_level
from onnxq.passes.equalize.rescale import Rescaling
from onnxq.stages.equalize.fold import own_constant
from onnxq.types.equalization import Equalization
from onnxq.types.statistics import ChannelStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float64]

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AbsorbingRelu:
    """A Relu between two layers with biases.

    Attributes:
        name: of the second layer.
        tensor: the input of the Relu.
        axis: of its channels.
        first: name of the first layer's bias.
        second: name of the second layer's bias.
        weight: of the second layer, as matrix [channels, outputs].
        why: what forbids absorbing the bias; empty if nothing.
    """

    name: str
    tensor: str
    axis: int = 1
    first: str = ""
    second: str = ""
    weight: Floats | None = None
    why: str = ""


def absorbing(model: ir.Model) -> tuple[AbsorbingRelu, ...]:
    """Return every layer of the main graph behind a Relu, and whether its bias can absorb what the Relu never cuts."""
    relus = []
    for name, node in top_level(model):
        source = node.inputs[0] if node.inputs else None
        relu = None if source is None else source.producer()
        if node.op_type in _LAYERS and not node.domain and relu is not None and relu.op_type == "Relu":
            relus.append(_absorbing(name, node, relu))
    return tuple(relus)


def _absorbing(name: str, node: ir.Node, relu: ir.Node) -> AbsorbingRelu:
    def refused(why: str) -> AbsorbingRelu:
        return AbsorbingRelu(name=name, tensor=tensor, why=why)

    value, source = relu.outputs[0], relu.inputs[0]
    tensor = name_of(source)
    other = next((each for each in value.consumers() if each is not node), None)
    if other is not None or value.is_graph_output():
        return refused(f"'{value.name}' is read by '{'the caller' if other is None else other.name}' too")
    if value.shape is None or source is None or not tensor:
        return refused(f"the shape of '{value.name}' is not known")
    if node.op_type == "Conv":
        pads = node.attributes.get_ints("pads", ())
        if any(pads) or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return refused(f"'{name}' pads its input with zeros, which would have to be below zero then")
        if node.attributes.get_int("group", 1) != 1:
            return refused(f"the weight of '{name}' is split into groups")
    weight = constant_array(node.inputs[1])
    if weight is None or weight.ndim < 2 or (node.op_type != "Conv" and weight.ndim != 2):
        return refused(f"the weight of '{name}' is not a constant matrix")
    first, second = _bias_of(source.producer(), relu), _bias_of(node, None)
    if first is None or second is None:
        return refused(f"{'the layer before' if first is None else repr(name)} has no bias of its own")
    transposed = node.op_type == "Conv" or bool(node.attributes.get_int("transB", 0))
    matrix = weight.astype(np.float64)
    matrix = matrix.reshape(*matrix.shape[:2], -1).sum(axis=2) if node.op_type == "Conv" else matrix
    return AbsorbingRelu(
        name=name,
        tensor=tensor,
        axis=1 if node.op_type == "Conv" else -1,
        first=first,
        second=second,
        weight=matrix.T if transposed else matrix,
    )


def _bias_of(node: ir.Node | None, reader: ir.Node | None) -> str | None:
    """Return the name of the bias that a layer, or the Add behind its product, adds; None if it has none of its own.

    Args:
        node: the layer, or that Add.
        reader: the only node that may read the sum; None for any.
    """
    if node is None or node.domain:
        return None
    if node.op_type == "MatMul" and reader is None:
        uses = node.outputs[0].uses()
        node = next(iter(uses)).node if len(uses) == 1 and not node.outputs[0].is_graph_output() else None
        if node is None or node.op_type != "Add":
            return None
    result = node.outputs[0]
    if reader is not None and (result.is_graph_output() or any(each is not reader for each in result.consumers())):
        return None
    if node.op_type == "Gemm" and any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None  # preparation removes these, a custom pipeline may not
    if node.op_type in ("Conv", "Gemm"):
        slots = [2] if len(node.inputs) > 2 and node.inputs[2] is not None else []
    elif node.op_type == "Add":
        slots = [slot for slot in (0, 1) if own_constant(node.inputs[slot], [node]) is None]
    else:
        slots = []
    if len(slots) != 1 or own_constant(node.inputs[slots[0]], [node]) is not None:
        return None
    bias = node.inputs[slots[0]]
    if bias is None or bias.shape is None or result.shape is None or len(bias.shape) != 1:
        return None
    axis = 1 if node.op_type == "Conv" else -1
    return bias.name if bias.shape[0] == result.shape[axis] else None


def absorb(
    relus: tuple[AbsorbingRelu, ...],
    channels: Mapping[str, ChannelStatistics | None],
    equalizer: LowestEqualizer,
    *,
    method: str,
) -> tuple[Rescaling, list[Equalization]]:
    """Let an equalizer choose what to subtract in front of each Relu, and add it to the bias behind."""
    addends: dict[str, Floats] = {}
    entries = []
    for each in relus:
        observed = channels.get(each.tensor)
        shift = None
        if not each.why and observed is not None and each.weight is not None and observed.count.all():
            shift = equalizer(observed.minimum)
        taken = shift is not None and bool(shift.any())
        text = each.why or "no channel stays above 0"
        if taken and shift is not None and each.weight is not None:
            addends[each.first] = addends.get(each.first, 0.0) - shift
            addends[each.second] = addends.get(each.second, 0.0) + shift @ each.weight
            text = f"{np.count_nonzero(shift)} of {shift.size} channels lowered by up to {shift.max():.3g}"
        entries.append(Equalization(method=method, tensor=each.tensor, nodes=(each.name,), taken=taken, text=text))
    return Rescaling(addends=addends), entries
