"""Codes of constants that a model was imported with, where a plan keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnxq.passes.emit.constants import Chosen
from onnxq.passes.read.constants import Constant
from onnxq.stages.plan.imported import pair_safe
from onnxq.types.plan import Plan, Role, TensorPlan


class ImportedCodes(Mapping[str, Chosen]):
    """The codes that constants were imported with, by plan key; unpacked when they are asked for.

    Where the plan limits pairs of an imported weight's codes, they are chosen again, and the biases on its scale, too.
    Weights for which the plan names a method are chosen by that. int8 codes that it makes uint8 are 128 higher.
    """

    def __init__(
        self, plan: Plan, constants: Mapping[str, Constant], others: Mapping[str, Chosen] | None = None
    ) -> None:
        """Take the imported constants among those of a plan.

        Args:
            plan: the plan.
            constants: imported ones, by name of the float constant.
            others: codes of other constants that are known already, by plan key.
        """
        self._others = others or {}
        self._tensors = plan.tensors
        self._limits = {key: tensor.pairs for key, tensor in plan.tensors.items() if tensor.pairs is not None}
        self._constants: dict[str, Constant] = {
            key: constants[tensor.tensor]
            for key, tensor in plan.tensors.items()
            if tensor.tensor in constants and self._keeps_codes(tensor)
        }

    def _keeps_codes(self, tensor: TensorPlan) -> bool:
        """Return whether codes are not made from floats: of a bias, unless its weight's scale is another now."""
        if tensor.role is Role.BIAS:
            return tensor.scale_from is None or tensor.scale_from[1] not in self._limits
        return tensor.role is Role.WEIGHT and tensor.method is None

    def __getitem__(self, key: str) -> Chosen:
        if key not in self._constants:
            return self._others[key]
        constant, limit = self._constants[key], self._limits.get(key)
        if limit is not None:
            return pair_safe(constant, limit)
        codes, params, scheme = constant.codes(), constant.params, self._tensors[key].scheme
        if scheme.dtype is params.scheme.dtype:
            return codes, params
        return codes + 128, replace(params, scheme=scheme, zero_point=params.zero_point + 128)

    def __contains__(self, key: object) -> bool:
        """Return whether codes are known, without unpacking any."""
        return key in self._constants or key in self._others

    def __iter__(self) -> Iterator[str]:
        return iter({**self._constants, **self._others})

    def __len__(self) -> int:
        return len({**self._constants, **self._others})
