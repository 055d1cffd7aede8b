"""Fold constants."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.node_marks import is_unpacking
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._shield import parked, without_defaults
from onnxq.passes.prepare.lift_constants import LiftConstants

# Elements. A result may be this big where it replaces less; one that replaces as much as it holds may be of any size.
_GROWTH_LIMIT = 4096
_INPUT_LIMIT = 8192
# Cheap on any size, and what exporters put between a weight and its operator.
_ON_WEIGHTS = frozenset(
    {"Add", "Concat", "Div", "Flatten", "Identity", "Mul", "Neg", "Reciprocal"}
    | {"Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"


@register_pass("fold-constants", preserves_semantics=True)
class FoldConstants(ir.passes.InPlacePass):
    """Replace what does not depend on any input by its value, unless the model would grow by it.

    Guards: the stock pass draws from Bernoulli and from a training Dropout once and for all; takes default values of
    graph inputs for constants, and drops them; puts operators that a low opset does not have in place of those on
    sequences; loses the attributes of CastLike; computes results that do not fit in memory; and notes at every
    value what it was made from.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in all scopes."""
        from onnxscript.optimizer import fold_constants_ir

        opset = model.opset_imports.get("", 1)
        kept = [node for scope in scopes(model) for node in scope if _must_stay(node, opset)]
        with parked(kept), without_defaults(model):
            folded = fold_constants_ir(
                model,
                onnx_shape_inference=True,
                input_size_limit=_INPUT_LIMIT,
                output_size_limit=_GROWTH_LIMIT,
                should_fold=_should_fold,
            )
        for scope in scopes(model):
            for value in (*scope.initializers.values(), *(value for node in scope for value in node.outputs)):
                value.metadata_props.pop(_FOLDED_FROM, None)
        lifted = LiftConstants()(model)
        return ir.passes.PassResult(model, modified=folded.modified or lifted.modified)


def _must_stay(node: ir.Node, opset: int) -> bool:
    if node.domain or is_unpacking(node):
        return not node.domain
    match node.op_type:
        case op if op in _RANDOM:
            return True
        case "Dropout":
            return opset >= 12 and len(node.inputs) > 2 and node.inputs[2] is not None and not _is_false(node.inputs[2])
        case "CastLike":  # becomes a Cast that has none of its attributes
            return bool(node.attributes)
        case "SplitToSequence":  # becomes a Split with num_outputs; the stock pass fails on a split that is computed
            return opset < 18 or (len(node.inputs) > 1 and constant_tensor(node.inputs[1]) is None)
        case "ConcatFromSequence":  # becomes an Unsqueeze whose axes are an input
            return opset < 13
    return False


def _is_false(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.size == 1 and not tensor.numpy().item()


def _should_fold(node: ir.Node) -> bool | None:
    """Fold what stands between a weight and its operator whatever its size; None leaves it to the stock limits.

    A result that is known to be too big is not even computed: it may be bigger than memory.
    """
    shape = node.outputs[0].shape
    if shape is not None and shape.is_static():
        size = sum(tensor.size for value in node.inputs if (tensor := constant_tensor(value)) is not None)
        if math.prod(shape.numpy()) > max(size, _GROWTH_LIMIT):
            return False
    return True if node.domain == "" and node.op_type in _ON_WEIGHTS else None
