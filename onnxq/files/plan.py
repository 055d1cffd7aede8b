"""Plan as JSON and back, exact to the bit: a plan may be saved, edited, compared and replayed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onnxq.errors import PlanError
from onnxq.types.plain_data import from_plain, plain
from onnxq.types.plan import Plan

if TYPE_CHECKING:
    from onnxq.types.scheme import QuantParams

VERSION = 1
_HINT = "save one with 'onnxq plan --json'"


def plan_to_json(plan: Plan) -> str:
    """Return the plan as JSON text, keys in a fixed order."""
    return json.dumps({"version": VERSION, **plain(plan)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plan_from_json(text: str) -> Plan:
    """Read a plan from JSON text.

    Raises:
        PlanError: no JSON; unknown or missing keys, wrong types or values. Says where (`decisions[3].action`).
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(f"this is not a plan: {error}; {_HINT}") from error
    if not isinstance(data, dict):
        raise PlanError(f"this is not a plan: it should be a JSON object; {_HINT}")
    version = data.pop("version", None)
    if version != VERSION:
        raise PlanError(f"a plan of version {version!r} cannot be read, only of version {VERSION}; plan again")
    plan = from_plain(Plan, data, what="plan", error=PlanError)
    for key, tensor in plan.tensors.items():
        if tensor.params is not None:
            _check(tensor.params, f"plan: tensors['{key}'].params")
    return plan


def _check(params: QuantParams, where: str) -> None:
    import numpy as np

    if params.scale.shape != params.zero_point.shape:
        raise PlanError(f"{where}: scale and zero_point differ in shape; give one zero point for each scale")
    if not (np.isfinite(params.scale) & (params.scale > 0)).all():
        raise PlanError(f"{where}.scale: every scale must be finite and above 0")
    dtype = params.scheme.dtype
    if not ((params.zero_point >= dtype.minimum) & (params.zero_point <= dtype.maximum)).all():
        raise PlanError(f"{where}.zero_point: a zero point of {dtype} lies in {dtype.minimum}..{dtype.maximum}")
