"""ONNX text of the small models that show faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TYPES = {"float32": "float", "uint8": "uint8", "int8": "int8", "int32": "int32"}


def constant(name: str, array: npt.NDArray[Any]) -> str:
    """Return the declaration of an initializer."""
    shape = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
    values = ", ".join(repr(float(x)) if array.dtype.kind == "f" else str(int(x)) for x in array.ravel())
    return f"{_TYPES[array.dtype.name]}{shape} {name} = {{{values}}}"


def model(body: str, inputs: str, output: str, *constants: str, opset: int = 17, ir_version: int = 10) -> str:
    """Return a model of one output called y."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    declared = f"<{', '.join(constants)}>" if constants else ""
    return f"{head}\nprobe ({inputs}) => ({output} y)\n{declared}\n{{ {body} }}"


def branch(body: str, output: str, *, zero: str) -> str:
    """Return an If on input c whose first branch runs `body`, which computes a; the other one computes `zero`."""
    then = f"then_branch = t () => ({output} a) {{ {body} }}"
    return f"y = If (c) <{then}, else_branch = e () => ({output} b) {{ b = {zero} }}>"


def numbers(seed: int = 0) -> np.random.Generator:
    """Return a generator for the values of a case."""
    import numpy as np

    return np.random.default_rng(seed)
