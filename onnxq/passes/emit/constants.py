"""Quantized constants: weights through their methods, biases on the product of two scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxq.errors import ModelError, PlanError
from onnxq.graph.tensors import drop_pages
from onnxq.numerics.affine import dequantize, quantize, weight_range
from onnxq.numerics.codebook import Codebook, codebook_quantize
from onnxq.numerics.pair_safe import fit_pairs
from onnxq.numerics.product_codes import ProductCodes, product_quantize
from onnxq.numerics.scales import allowed_scale
from onnxq.types.inputs import Inputs
from onnxq.types.plan import Plan, Role, TensorPlan
from onnxq.types.scheme import PerBlock, PerChannel, QuantParams, Scheme
from onnxq.types.statistics import ChannelStatistics, Statistics
from onnxq.weights import make_weight_method

_BIAS_LIMIT = float(2**30)  # the other half of int32 is for the products that are added
_BIAS_STEPS = float(2**22)  # of a bias without products: float32, in which kernels scale their sums, holds them exactly
_SMALLEST = float(np.finfo(np.float32).smallest_normal)

Chosen: TypeAlias = tuple[npt.NDArray[Any], QuantParams]
"""Codes of a weight, of its shape, and their parameters."""


class PlannedConstants:
    """Codes and parameters of a plan's constants, computed one tensor at a time."""

    def __init__(
        self,
        plan: Plan,
        read: Callable[[str], npt.NDArray[Any]],
        statistics: Statistics | None = None,
        chosen: Mapping[str, Chosen] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            plan: the plan.
            read: returns a float constant by tensor name.
            statistics: that the plan was made from, for weight methods that use them.
            chosen: codes of weights that are known already, by plan key.
        """
        self._plan = plan
        self._chosen = chosen or {}
        self._statistics = statistics
        self._read = read
        self._params: dict[str, QuantParams] = {}
        self._biases: dict[str, list[TensorPlan]] = {}
        for tensor in plan.tensors.values():
            if tensor.scale_from is not None:
                self._biases.setdefault(tensor.scale_from[1], []).append(tensor)

    def codes(self, key: str, *, transpose: bool = False) -> tuple[npt.NDArray[Any], QuantParams]:
        """Return int32 codes and parameters of the constant planned as `key`; weights before their biases.

        With `transpose`, of the transposed matrix, so that a weight and its transposed copy get the same codes.
        """
        tensor = self._tensor(key)
        if tensor.role is Role.BIAS:
            return self._bias(tensor)
        if key in self._chosen:
            codes, params = self._chosen[key]
            if transpose:
                codes, params = np.ascontiguousarray(codes.T), _transposed_params(params)
            self._remember(key, params)
            return codes, params
        stored = self._read(tensor.tensor)
        weight = stored.astype(np.float32, copy=False)
        method = make_weight_method(tensor.method or "rtn")
        scheme, inputs, pairs = tensor.scheme, self._inputs(tensor, weight.shape), tensor.pairs
        if tensor.in_float is not None:
            weight, inputs = _without(tensor, weight, inputs)
        if transpose:
            weight, scheme = np.ascontiguousarray(weight.T), _transposed(scheme)
            drop_pages(stored)
            inputs = None if inputs is None else replace(inputs, axis=1 - inputs.axis)
            pairs = None if pairs is None else replace(pairs, axes=tuple(1 - axis for axis in pairs.axes))
        try:
            codes, params = method(weight, scheme, min_scale=self._smallest_scale(key), inputs=inputs)
        except ModelError as error:
            raise _not_finite(tensor) from error
        if pairs is not None:
            codes, params = fit_pairs(weight, codes, params, pairs.axes, pairs.limit)
        params = self._scaled_for_biases(key, weight, params)
        self._remember(key, params)
        drop_pages(stored)  # one weight after the other is read: a model may be bigger than memory
        return codes, params

    def _remember(self, key: str, params: QuantParams) -> None:
        """Keep the parameters that biases depend on; all others are too many in models that are bigger than memory."""
        if key in self._biases:
            self._params[key] = params

    def float_part(self, key: str) -> npt.NDArray[np.float32]:
        """Return the weights of the features that stay in float, in order, along the axis of features."""
        tensor = self._tensor(key)
        assert tensor.in_float is not None
        assert tensor.feature_axis is not None
        weight = self._read(tensor.tensor).astype(np.float32, copy=False)
        return np.take(weight, tensor.in_float.indices, axis=tensor.feature_axis)

    def values(self, key: str, known: Chosen | None = None) -> npt.NDArray[np.float32]:
        """Return what the codes of the constant planned as `key` represent, weights that stay in float among them.

        Args:
            key: in the plan.
            known: its codes and parameters, if at hand.
        """
        tensor, values = self._tensor(key), dequantize(*(known or self.codes(key)))
        if tensor.in_float is not None and tensor.feature_axis is not None:
            part = np.moveaxis(self.float_part(key), tensor.feature_axis, 0)
            np.moveaxis(values, tensor.feature_axis, 0)[list(tensor.in_float.indices)] = part
        return values

    def product_codes(self, key: str, *, by_row: bool) -> ProductCodes:
        """Return the indices and vectors of the matrix planned as `key`, whose outputs are its columns, or `by_row`.

        Raises:
            ModelError: the weight holds NaN or infinite values.
        """
        tensor = self._tensor(key)
        weight = self._finite(tensor)
        inputs, scheme = self._inputs(tensor, weight.shape), tensor.scheme
        assert scheme.codebook is not None
        return product_quantize(
            np.ascontiguousarray(weight.T) if by_row else weight,
            length=scheme.vector,
            bits=scheme.codebook,
            importance=None if inputs is None else inputs.squares.astype(np.float32),
        )

    def _finite(self, tensor: TensorPlan) -> npt.NDArray[np.float32]:
        weight = self._read(tensor.tensor).astype(np.float32, copy=False)
        if not np.isfinite(weight).all():
            raise _not_finite(tensor)
        return weight

    def codebook(self, key: str) -> tuple[npt.NDArray[np.uint8], Codebook]:
        """Return the indices of the weight planned as `key`, of its shape, and the tables that they point into.

        Raises:
            ModelError: the weight holds NaN or infinite values. PlanError: the plan wants no codebook for it.
        """
        tensor = self._tensor(key)
        if tensor.scheme.codebook is None:
            raise PlanError(f"the plan looks '{key}' up in a codebook but gives it none; plan again")
        weight = self._finite(tensor)
        inputs = self._inputs(tensor, weight.shape)
        importance = None if inputs is None else inputs.importance(weight.shape)
        return codebook_quantize(weight, tensor.scheme.codebook, tensor.scheme.granularity, importance=importance)

    def _inputs(self, tensor: TensorPlan, shape: tuple[int, ...]) -> Inputs | None:
        """Return what the plan's statistics say of the values that a weight of this shape multiplies.

        Raises:
            PlanError: the plan uses statistics that are not given.
        """
        if not tensor.features_from or tensor.feature_axis is None:
            return None
        observed = [self._channels(name) for name in tensor.features_from]
        places = sum(int(each.count.max()) for each in observed)
        squares = np.asarray(sum(each.sum_squares for each in observed) / places)
        products = [each.products for each in observed if each.products is not None]
        others = [extent for axis, extent in enumerate(shape) if axis != tensor.feature_axis and extent > 1]
        whole = len(products) == len(observed) and len(others) < 2 and squares.size == shape[tensor.feature_axis]
        return Inputs(
            axis=tensor.feature_axis,
            squares=squares,
            products=np.asarray(sum(products) / places) if whole else None,
            rows=places,
        )

    def _channels(self, name: str) -> ChannelStatistics:
        observed = None if self._statistics is None else self._statistics.tensors.get(name)
        if observed is None or observed.channels is None:
            raise PlanError(f"the plan uses statistics of '{name}' that are not given; give those it was made from")
        return observed.channels

    def _smallest_scale(self, key: str) -> npt.NDArray[np.float32] | None:
        """Return the smallest weight scale for which every bias on it still fits int32, None without biases.

        bias / (scale_x * scale_w) and the products that the kernel adds to it must stay within 2^31 - 1; tiny scales
        overflow it otherwise. 2^30 are enough for sums of 32,000 products of 8-bit codes. Nor may scale_x * scale_w
        itself leave float32.
        """
        smallest = self._scale_for_biases(key, _BIAS_LIMIT / (1 + 1e-6), smallest=_SMALLEST)
        return None if smallest is None else smallest.astype(np.float32)

    def _scaled_for_biases(self, key: str, weight: npt.NDArray[np.float32], params: QuantParams) -> QuantParams:
        """Return a weight's parameters, with those of channels that are all zero chosen for the bias alone.

        Their codes are the zero point whatever the scale. scale_w = |bias| / (scale_x * 2^22) leaves the bias 22 bits,
        where the scale of other channels, or 1, may leave it none.
        """
        fitting = self._scale_for_biases(key, _BIAS_STEPS)
        if fitting is None or params.scheme.dtype.is_float:
            return params
        low, high = weight_range(weight, params.scheme)
        fitting = np.broadcast_to(fitting, params.scale.shape)
        alone = (low == 0) & (high == 0) & (fitting > 0)
        scale = allowed_scale(np.where(alone, fitting, 1.0), params.scheme.scale_type, up=True)
        return replace(params, scale=np.where(alone, scale, params.scale)) if alone.any() else params

    def _scale_for_biases(self, key: str, steps: float, smallest: float = 0.0) -> npt.NDArray[np.float64] | None:
        """Return the weight scales for which every bias on them has a magnitude of `steps` codes at most, or is 0.

        Args:
            key: of the weight.
            steps: see above.
            smallest: lower bound of scale_x * scale_w.

        Returns:
            float64, one for each channel, or for all where the biases have one scale; None without biases.
        """
        scales = []
        for bias in self._biases.get(key, []):
            assert bias.scale_from is not None
            activation = self._tensor(bias.scale_from[0]).params
            assert activation is not None
            values = np.abs(self._read(bias.tensor).astype(np.float64)) / steps
            values = values if bias.scheme.granularity.kind == "per-channel" else values.max(initial=0.0)
            scales.append(np.maximum(values, smallest) / float(activation.scale))
        return np.maximum.reduce(scales) if scales else None

    def _bias(self, tensor: TensorPlan) -> tuple[npt.NDArray[Any], QuantParams]:
        assert tensor.scale_from is not None
        activation, weight = tensor.scale_from
        source = self._tensor(activation).params
        if source is None or weight not in self._params:
            raise PlanError(
                f"bias '{tensor.name}': '{activation}' or '{weight}' is not in the plan before it; plan again"
            )
        scale = np.asarray(source.scale * self._params[weight].scale, np.float32)
        params = QuantParams(scheme=replace(tensor.scheme), scale=scale, zero_point=np.zeros(scale.shape, np.int32))
        return quantize(self._read(tensor.tensor).astype(np.float32, copy=False), params), params

    def _tensor(self, key: str) -> TensorPlan:
        tensor = self._plan.tensors.get(key)
        if tensor is None:
            raise PlanError(f"the plan refers to tensor '{key}' but does not say how to quantize it; plan again")
        return tensor


def _not_finite(tensor: TensorPlan) -> ModelError:
    text = "holds NaN or infinite values; repair the model, or keep its node in float"
    return ModelError(f"weight '{tensor.tensor}' {text}")


def _without(
    tensor: TensorPlan, weight: npt.NDArray[np.float32], inputs: Inputs | None
) -> tuple[npt.NDArray[np.float32], Inputs | None]:
    """Return a weight with zeros, and inputs that are 0, where features stay in float."""
    assert tensor.in_float is not None
    assert tensor.feature_axis is not None
    apart, rest = list(tensor.in_float.indices), weight.copy()
    np.moveaxis(rest, tensor.feature_axis, 0)[apart] = 0
    if inputs is None:
        return rest, None
    squares, products = inputs.squares.copy(), None if inputs.products is None else inputs.products.copy()
    squares[apart] = 0
    if products is not None:
        products[apart] = 0
        products[:, apart] = 0
    return rest, replace(inputs, squares=squares, products=products)


def _transposed(scheme: Scheme) -> Scheme:
    """Return the scheme of a transposed matrix."""
    granularity = scheme.granularity
    if not isinstance(granularity, PerBlock | PerChannel) or granularity.axis is None:
        return scheme
    return replace(scheme, granularity=replace(granularity, axis=1 - granularity.axis % 2))


def _transposed_params(params: QuantParams) -> QuantParams:
    """Return the parameters of a transposed matrix: those of blocks are matrices, too."""
    transposed = {name: np.ascontiguousarray(getattr(params, name).T) for name in ("scale", "zero_point")}
    return replace(params, scheme=_transposed(params.scheme), **transposed)
