"""Formats: how quantized nodes are written into a model."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """How a quantized node is written. Nodes of one model may differ: a rule can give some of them another format.

    QDQ: the float operator between DequantizeLinear and QuantizeLinear; parameters from calibration.
    QOPERATOR: the integer operator itself (QLinearConv ...); parameters from calibration.
    DYNAMIC: integer operator; weights quantized now, activations at run time.
    WEIGHT_ONLY: weights quantized, the arithmetic in float.
    AUTO: one of the above, chosen from the model; stands in recipes, never in plans.
    """

    QDQ = "qdq"
    QOPERATOR = "qoperator"
    DYNAMIC = "dynamic"
    WEIGHT_ONLY = "weight-only"
    AUTO = "auto"

    @property
    def static(self) -> bool:
        """Whether activations have parameters from calibration."""
        return self in (Format.QDQ, Format.QOPERATOR)
