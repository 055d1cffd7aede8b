"""Resize before opset 11 sampled differently; ONNX's version converter lets the new defaults apply."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array
from onnxq.graph.walk import input_at, scopes

FIRST_WITH_MODES = 11


def keep_sampling(model: ir.Model, *, only_enlarges: bool) -> str | None:
    """Give the Resize nodes of a model converted from below opset 11 the modes they had, in place.

    Coordinates were asymmetric (x_out / scale). Nearest neighbours were rounded down when enlarging and up when
    shrinking (onnxruntime, upsample.cc, NearestMode::SIMPLE), which one attribute can say only where all axes agree.

    Args:
        model: the converted model.
        only_enlarges: all its Resize nodes were Upsample nodes, whose scales are 1 or more.

    Returns:
        Why that cannot be expressed; None if all is well.
    """
    for scope in scopes(model):
        for node in scope:
            if node.op_type != "Resize" or node.domain:
                continue
            mode = node.attributes.get("mode")
            node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                "coordinate_transformation_mode", "asymmetric"
            )
            if mode is not None and mode.as_string() != "nearest":
                continue
            shrinks = False
            if not only_enlarges:
                scales = constant_array(input_at(node, 2))
                if scales is None or (np.any(scales > 1) and np.any(scales < 1)):
                    return f"Resize '{node.name}' enlarges one axis and shrinks another, or its scales are not constant"
                shrinks = bool(np.any(scales < 1))
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "ceil" if shrinks else "floor")
    return None
