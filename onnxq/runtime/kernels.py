"""The kernels of the installed onnxruntime, as it lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxq.runtime.session import onnxruntime


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledKernel:
    """One kernel of one execution provider.

    Attributes:
        op: `domain::op_type`, the domain left out for the ONNX operators.
        provider: "CPUExecutionProvider".
        since: first operator set version it serves.
        until: last operator set version it serves; None where it is open.
        types: type parameter of the operator -> element types it takes ("uint8", "float"). Types of sequences and
            maps are written out ("seq(tensor(float))").
    """

    op: str
    provider: str
    since: int
    until: int | None
    types: Mapping[str, tuple[str, ...]]


def installed_kernels(provider: str | None = None) -> tuple[InstalledKernel, ...]:
    """Return all kernels of the installed build, or of one provider, sorted.

    The build's providers count, whether or not this machine has the device: a CUDA build lists its CUDA kernels
    anywhere.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels = []
    for entry in state.get_all_opkernel_def():
        if provider is not None and entry.provider != provider:
            continue
        since, until = entry.version_range
        kernels.append(
            InstalledKernel(
                op=entry.op_name if entry.domain in ("", "ai.onnx") else f"{entry.domain}::{entry.op_name}",
                provider=entry.provider,
                since=since,
                until=None if until >= 2**31 - 1 else until,
                types={
                    name: tuple(sorted(_element_type(text) for text in types))
                    for name, types in sorted(entry.type_constraints.items())
                },
            )
        )
    return tuple(sorted(kernels, key=lambda kernel: (kernel.provider, kernel.op, kernel.since, str(kernel.types))))


def _element_type(text: str) -> str:
    return text.removeprefix("tensor(").removesuffix(")") if text.startswith("tensor(") else text
