"""Keeping stock passes away from what they must not touch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import onnx_ir as ir

_PARKED = "onnxq.parked"


@contextmanager
def parked(nodes: Iterable[ir.Node]) -> Iterator[None]:
    """Move `nodes` to a domain that no pass knows, so that it leaves them alone; they are moved back at the end."""
    domains = {node: node.domain for node in nodes}
    for node in domains:
        node.domain = _PARKED
    try:
        yield
    finally:
        for node, domain in domains.items():
            node.domain = domain


@contextmanager
def without_defaults(model: ir.Model) -> Iterator[None]:
    """Make graph inputs that have a default value (an initializer of the same name) plain inputs, until the end.

    The caller may override such values, so a pass must not take them for constants.
    """
    defaults = {
        value: value.const_value
        for value in model.graph.inputs
        if value.is_initializer() and value.const_value is not None
    }
    for value in defaults:
        del model.graph.initializers[value.name or ""]
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in defaults.items():
            value.const_value = tensor
            model.graph.register_initializer(value)
