"""The tensors of a plan: which are quantized, under which key, with which scheme and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.calibrators import Calibrator
from onnxq.errors import ModelError
from onnxq.graph.constants import moved_tensor
from onnxq.ops import clamp_bounds, facts, op_key, upper_bound
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.granularity import no_channels
from onnxq.stages.plan.imported import REASON as IMPORTED_REASON
from onnxq.stages.plan.imported import ImportedTensors
from onnxq.stages.plan.observed import only_surveyed
from onnxq.stages.plan.outliers import Outliers, outliers
from onnxq.stages.plan.parameters import activation_params
from onnxq.stages.plan.placement import Placement
from onnxq.stages.plan.saturation import Pairs, Reader, fewer_codes
from onnxq.stages.plan.storage import with_axis
from onnxq.stages.plan.tied_tables import Products, of_table
from onnxq.stages.plan.weight_inputs import Shortage, WeightInputs, instead, shortage
from onnxq.targets import Output, Target
from onnxq.types.format import Format
from onnxq.types.plan import FloatFeatures, PairLimit, Role, TensorPlan
from onnxq.types.scheme import PerChannel, PerTensor, QuantParams, QuantType, Range, Scheme
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

_PER_CHANNEL_OPSET = 13


class Tensors:
    """Collects the plan's tensors while decisions are made, in graph order."""

    def __init__(
        self,
        model: ir.Model,
        statistics: Statistics,
        calibrator: Calibrator,
        placement: Placement,
        examined: Sequence[Candidate | FloatNode],
        *,
        target: Target,
        inputs: WeightInputs,
        imported: ImportedTensors | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.shortages: dict[str, Shortage] = {}
        self.one_scale: dict[str, Candidate] = {}
        self._per_channel = model.opset_imports.get("", _PER_CHANNEL_OPSET) >= _PER_CHANNEL_OPSET
        self._statistics = statistics
        self._calibrator = calibrator
        self._inputs = inputs
        self._imported = imported
        self._pairs = Pairs(target)
        self._products = Products(examined)
        self._largest: dict[str, int] = {}
        self._on_codes = {
            entry.node: entry for entry in examined if isinstance(entry, Candidate) and entry.name in placement.codes
        }
        producers = {entry.name: entry for entry in self._on_codes.values()}
        self._clamps = {
            entry.node: producers[placement.absorbed[entry.name]]
            for entry in examined
            if isinstance(entry, FloatNode) and entry.name in placement.absorbed
        }
        self._clamped = {entry.node for entry in self._clamps.values()}
        self._order = {entry.node: index for index, entry in enumerate(examined)}
        self._planned: dict[str, TensorPlan] = {}

    def planned(self) -> Mapping[str, TensorPlan]:
        """Return the tensors collected so far, by plan key."""
        return dict(self._planned)

    def inputs(self, entry: Candidate) -> dict[int, str]:
        """Return slot -> plan key of what a quantized node reads quantized."""
        keys = {}
        if not entry.request.format.static:
            return self._weighted(entry)
        for slot in entry.activations:
            value = entry.node.inputs[slot]
            assert value is not None
            keys[slot] = self._activation(value, None if entry.fact.rearranges else entry.request.activations)
        for slot in entry.constants:
            keys[slot] = self._constant(entry, slot, entry.request.activations)
        for slot in entry.weights:
            largest = self._largest.get(keys[entry.activations[0]])
            keys[slot] = self._constant(entry, slot, self._weight_scheme(entry, slot), largest)
            if entry.bias is not None:
                keys[entry.bias] = self._bias(entry, keys[entry.activations[0]], keys[slot])
        return dict(sorted(keys.items()))

    def _weighted(self, entry: Candidate) -> dict[int, str]:
        """Plan weights, and activations that are quantized at run time."""
        apart = outliers(entry, self._statistics)
        keys = {
            slot: self._constant(entry, slot, self._weight_scheme(entry, slot), apart=apart) for slot in entry.weights
        }
        if entry.request.format is Format.DYNAMIC:
            for slot in entry.activations:
                value = entry.node.inputs[slot]
                assert value is not None
                plan = TensorPlan(
                    name=f"{value.name}@dynamic",
                    tensor=value.name or "",
                    role=Role.ACTIVATION,
                    scheme=entry.request.activations,
                    in_float=None if apart is None else apart.features,
                    reason="quantized at run time" if apart is None else f"quantized at run time; {apart.text}",
                )
                keys[slot] = self._add(plan, entry.name)
        return dict(sorted(keys.items()))

    def in_float(self, keys: Iterable[str]) -> FloatFeatures | None:
        """Return the features that stay in float of what a node reads, planned under `keys`."""
        return next((self._planned[key].in_float for key in keys if self._planned[key].in_float is not None), None)

    def outputs(self, node: ir.Node) -> dict[int, str]:
        """Return slot -> plan key of what is quantized right behind a quantized node."""
        if not self._emits(node):
            return {}
        entry = self._on_codes.get(node)
        slots = (0,) if entry is None else entry.fact.output_slots(node)
        return {slot: self._activation(node.outputs[slot], None) for slot in slots}

    def clamp_format(self, node: ir.Node) -> Format:
        """Return the format of the node whose quantized output does an absorbed clamp's work."""
        return self._clamps[node].request.format

    def _emits(self, node: ir.Node | None) -> bool:
        """Return whether a node's output is quantized right behind it, so that all its readers get codes."""
        if node is None or node in self._clamped:
            return False
        if node in self._clamps:
            return True
        entry = self._on_codes.get(node)
        if entry is None:
            return False
        if entry.quantized_output is not None:
            return entry.quantized_output
        readers = (reader for reader in self._readers(node.outputs[0]) if reader.node.graph is node.graph)
        return entry.row.output is Output.REQUIRED or any(readers)

    def _readers(self, value: ir.Value) -> list[Candidate]:
        """Return the quantized nodes that read a value as an activation, in graph order."""
        readers = {}
        for use in value.uses():
            entry = self._on_codes.get(use.node)
            if entry is not None and use.idx in entry.activations:
                readers[use.node] = entry
        return sorted(readers.values(), key=lambda entry: self._order[entry.node])

    def _root(self, value: ir.Value) -> ir.Value:
        """Return the value whose parameters this one shares: itself, or what was rearranged into it."""
        producer = value.producer()
        while producer is not None and producer in self._on_codes and self._on_codes[producer].fact.rearranges:
            source = producer.inputs[0]
            assert source is not None
            value, producer = source, source.producer()
        return value

    def _scheme(self, root: ir.Value) -> Scheme:
        """Return the scheme that a root is quantized with first: its producer's, else its first reader's."""
        producer = root.producer()
        if producer is not None and self._emits(producer):
            return (self._clamps.get(producer) or self._on_codes[producer]).request.activations
        return self._first_reader(root).request.activations

    def _first_reader(self, value: ir.Value) -> Candidate:
        """Return the first quantized node that computes with a value, looking through those that only move it."""
        readers = self._readers(value)
        for entry in readers:
            if not entry.fact.rearranges:
                return entry
            if self._readers(entry.node.outputs[0]):
                return self._first_reader(entry.node.outputs[0])
        return readers[0]

    def _activation(self, value: ir.Value, wanted: Scheme | None) -> str:
        """Plan an activation in the scheme that its root has, or in `wanted` where that differs; return its key."""
        imported = None if self._imported is None else self._imported.activation(value.name or "")
        if imported is not None:
            return self._add(imported, "")
        root = self._root(value)
        scheme = self._scheme(root)
        name, root_name = value.name or "", root.name or ""
        if wanted is not None and wanted != scheme:
            key = f"{name}@{wanted.dtype}-{'symmetric' if wanted.symmetric else 'asymmetric'}"
            return self._own(key, value, wanted, f"a reader wants {wanted}")
        if root is value:
            return self._own(name, value, scheme, "")
        self._own(root_name, root, scheme, "")
        if root_name in self._largest:
            self._largest[name] = self._largest[root_name]
        self._planned.setdefault(
            name,
            replace(
                self._planned[root_name],
                name=name,
                tensor=name,
                shares=root_name,
                reason=f"rearranges '{root_name}', so it keeps its parameters",
            ),
        )
        return name

    def _own(self, key: str, value: ir.Value, scheme: Scheme, note: str) -> str:
        """Plan an activation with parameters from its own statistics."""
        if key not in self._planned:
            name = value.name or ""
            seen = self._statistics.tensors[name]
            bounds = self._bounds(value.producer())
            source = f"range [{seen.minimum:.6g}, {seen.maximum:.6g}] of {seen.count} values"
            if bounds is not None:
                source += ", clamped"
            params = activation_params(seen, scheme, self._calibrator, bounds, self._fixed(value.producer(), seen))
            highest = None if note else self._highest(value.producer())
            if highest is not None:
                fewer = self._fewer_codes(params, seen, value, highest)
                if fewer is not None:
                    params, self._largest[key] = fewer
                    source += f"; {self._largest[key] + 1} codes, which leave room for larger weights in sums of pairs"
            self._planned[key] = TensorPlan(
                name=key,
                tensor=name,
                role=Role.ACTIVATION,
                scheme=scheme,
                params=params,
                reason=f"{source}; {note}" if note else source,
            )
        return key

    def _fewer_codes(
        self, params: QuantParams, seen: TensorStatistics, value: ir.Value, highest: float
    ) -> tuple[QuantParams, int] | None:
        """Return parameters with fewer codes and the largest of these, None where all are better.

        A weight with NaN decides nothing here: whoever turns it into codes refuses it by its name.
        """
        try:
            return fewer_codes(params, seen, self._all_readers(value), self._pairs, highest)
        except ModelError:
            return None

    def _all_readers(self, value: ir.Value) -> list[Reader]:
        """Return the nodes that compute with a value's codes, looking through those that only move them."""
        readers = []
        for entry in self._readers(value):
            if entry.fact.rearranges:
                readers += [each for output in entry.node.outputs for each in self._all_readers(output)]
                continue
            slot = entry.weights[0] if entry.weights else None
            readers.append(
                Reader(entry=entry, slot=slot, scheme=None if slot is None else self._weight_scheme(entry, slot))
            )
        return readers

    def _bounds(self, producer: ir.Node | None) -> Range | None:
        """Return the bounds of the absorbed clamp that produces a value, None if none does."""
        return clamp_bounds(producer) if producer is not None and producer in self._clamps else None

    def _fixed(self, producer: ir.Node | None, seen: TensorStatistics) -> Range | None:
        """Return the range of a value that its kernel or its operator settles, None where the calibrator chooses."""
        entry = None if producer is None else self._on_codes.get(producer)
        if entry is not None and entry.row.output_range is not None:
            return entry.row.output_range
        whole = producer is not None and op_key(producer) in facts and facts.get(op_key(producer)).whole_range
        return Range(low=seen.minimum, high=seen.maximum) if whole and seen.count else None

    def _highest(self, producer: ir.Node | None) -> float | None:
        """Return what no value of an operator's output exceeds, by its definition alone, None if there is no such.

        A clamp that is absorbed does not count: its work is done by codes that end there.
        """
        if producer is None or producer in self._clamps:
            return None
        return upper_bound(producer)

    def _weight_scheme(self, entry: Candidate, slot: int) -> Scheme:
        """Return the weight scheme with its axis filled in; per tensor where per channel cannot be had."""
        tensor = moved_tensor(entry.node.inputs[slot])
        rank = 0 if tensor is None else len(tensor.shape)
        wanted, scheme = entry.request.weights, with_axis(entry.request.weights, entry.node, entry.fact, rank)
        if not isinstance(scheme.granularity, PerChannel) or wanted == scheme:
            return scheme
        largest = entry.row.largest_rank_per_channel
        if largest is not None and rank > largest:
            self.one_scale[entry.name] = entry
            return replace(scheme, granularity=PerTensor())
        # Integer operators take their scales apart from the codes: only DequantizeLinear needs an axis.
        if not self._per_channel and entry.request.format is not Format.DYNAMIC:
            self.warnings.append(
                f"'{entry.name}': weights per tensor, since the model's opset lacks per-channel scales"
            )
            return replace(scheme, granularity=PerTensor())
        return scheme

    def _constant(
        self, entry: Candidate, slot: int, scheme: Scheme, largest: int | None = None, apart: Outliers | None = None
    ) -> str:
        """Plan a constant; one that several nodes share in one form is planned once."""
        value = entry.node.inputs[slot]
        assert value is not None
        name = value.name or ""
        imported = None if self._imported is None else self._imported.constant(entry, slot)
        if imported is not None:
            self._planned[name] = imported
            return name
        plan = TensorPlan(
            name=name, tensor=name, role=Role.WEIGHT, scheme=scheme, method=entry.request.method, reason="constant"
        )
        if entry.name in self.one_scale and slot in entry.weights:
            plan = replace(plan, reason=f"constant; one scale for all, since {no_channels(entry)}")
        multiplied = self._inputs.of(entry, slot)
        if multiplied is not None:
            names = tuple(each for each in multiplied[0] if self._knows(each))
            plan = replace(
                plan,
                features_from=names,
                feature_axis=multiplied[1] if names else None,
                reason=f"{plan.reason}; {f'errors weighed by {_listed(names)}' if names else 'no input was observed'}",
            )
            codebook = scheme.codebook is not None
            short = None if codebook else shortage(name, entry.request.method, names, self._statistics.tensors)
            if short is not None:
                self.shortages[name] = short
                rows = f"{short.rows} rows of {short.features} features are too few for {short.method}"
                plan = replace(plan, method=instead(short.method), reason=f"{plan.reason}; {rows}")
        if apart is not None and apart.features is not None:
            assert entry.fact.reduction_axis is not None
            assert value.shape is not None
            text = f"{plan.reason}; weights of {len(apart.features.indices)} features stay in float"
            axis = entry.fact.reduction_axis(entry.node, len(value.shape))
            plan = replace(plan, feature_axis=axis, in_float=apart.features, reason=text)
        pairs = self._pairs.of(entry, slot, scheme, largest) or self._pairs_of_table(entry, slot)
        if pairs is not None:
            text = f"{plan.reason}; neighbours of one sign add up to {pairs.limit} at most, so that no sum saturates"
            plan = replace(plan, pairs=pairs, reason=text)
        return self._add(plan, entry.name)

    def _pairs_of_table(self, entry: Candidate, slot: int) -> PairLimit | None:
        """Return the limit of a table that a product multiplies in a copy, None if absent."""
        tied = self._products.with_table(entry, slot)
        if tied is None:
            return None
        product, axes = tied
        limit = self._pairs.of(product, product.weights[0], self._weight_scheme(product, product.weights[0]))
        return None if limit is None else of_table(limit, axes)

    def _knows(self, name: str) -> bool:
        """Return whether a tensor's features were observed, or may still be, where it was only surveyed so far."""
        seen = self._statistics.tensors.get(name)
        return seen is not None and (only_surveyed(seen) or self._inputs.features[name].seen_in(seen))

    def _bias(self, entry: Candidate, activation: str, weight: str) -> str:
        """Plan a bias: int32 with the product of its node's two scales, so that the kernel adds it to its sums."""
        assert entry.bias is not None
        value = entry.node.inputs[entry.bias]
        assert value is not None
        name = value.name or ""
        per_channel = isinstance(self._planned[weight].scheme.granularity, PerChannel)
        imported = self._imported is not None and self._imported.holds(name)
        plan = TensorPlan(
            name=name,
            tensor=name,
            role=Role.BIAS,
            scheme=Scheme(
                dtype=QuantType.INT32,
                symmetric=True,
                granularity=PerChannel(axis=0) if per_channel else PerTensor(),
            ),
            scale_from=(activation, weight),
            reason=IMPORTED_REASON if imported else "scale of the activation times scale of the weight",
        )
        return self._add(plan, entry.name)

    def _add(self, plan: TensorPlan, node: str) -> str:
        """Add a tensor under its name, or under name@node where that name is taken by another form."""
        for key in (plan.name, f"{plan.name}@{node}"):
            named = replace(plan, name=key)
            if self._planned.setdefault(key, named) == named:
                return key
        raise AssertionError(f"two tensors of '{node}' want the same plan key '{plan.name}@{node}'")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:2])
    return shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more"
