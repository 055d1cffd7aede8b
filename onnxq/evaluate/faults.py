"""faults: which faults the installed onnxruntime has, tried with tiny models, and which a model meets as it is."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnxq.targets.faults as faults_package
from onnxq.errors import ModelError, first_few
from onnxq.files.costs import installed_version
from onnxq.files.faults import load_findings, save_findings
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import nodes
from onnxq.runtime.session import CPU, run_model
from onnxq.targets import Target, targets
from onnxq.targets.faults import Case, Fault, faults, without_linear
from onnxq.targets.processor import is_here, this_processor

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Whether the runtime has one fault.

    Attributes:
        fault: its name.
        present: whether the runtime has it.
        how: how that is known, in words.
        summary: of the fault.
    """

    fault: str
    present: bool
    how: str
    summary: str


def shows(case: Case) -> str | None:
    """Return what goes wrong with a case on the installed runtime, as it is served; None if it is right."""
    import numpy as np

    try:
        computed = next(iter(run_model(model_from_text(case.text), case.feeds, optimize=True).values()))
    except ModelError as error:
        return str(error)
    if case.right is None:
        return None
    largest = float(np.abs(case.right).max())
    off = float(np.abs(computed.astype(np.float64) - case.right).max())
    return None if off <= case.error * largest else f"off by {off / largest:.2g} of the largest value"


def try_fault(fault: Fault) -> Finding:
    """Return whether the installed runtime has a fault that has cases, tried now.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    assert fault.cases is not None
    wrong = next((text for case in fault.cases() if (text := shows(case)) is not None), None)
    return Finding(
        fault=fault.name, present=wrong is not None, how="tried" if wrong is None else wrong, summary=fault.summary
    )


def findings(target: Target) -> Iterator[Finding]:
    """Yield every known fault of the CPU provider, tried on this machine where it can be."""
    for _, fault in faults.items():
        if fault.cases is not None and target.provider in CPU and is_here(target):
            yield try_fault(fault)
        else:
            has = fault.declared(target.name, installed_version())
            yield Finding(fault=fault.name, present=has, how="as declared, not tried", summary=fault.summary)


def present(names: Iterable[str], target: Target) -> frozenset[str]:
    """Return which of these faults the runtime of a target has.

    On this machine each is tried once and kept for this processor and version of onnxruntime. What cannot be tried,
    and other targets, use the versions and processors that faults declare.
    """
    wanted = [faults.get(name) for name in sorted(names)]
    version = installed_version()
    tried = [
        fault
        for fault in wanted
        if fault.cases is not None and version is not None and target.provider in CPU and is_here(target)
    ]
    declared = {fault.name for fault in wanted if fault not in tried and fault.declared(target.name, version)}
    return frozenset(declared | _tried(tried, version or ""))


def _tried(wanted: Collection[Fault], version: str) -> set[str]:
    if not wanted:
        return set()
    known = load_findings(version)
    keys = {fault.name: _digest(fault) for fault in wanted}
    new = {keys[fault.name]: try_fault(fault).present for fault in wanted if keys[fault.name] not in known}
    if new:
        save_findings(version, known | new)
    known |= new
    return {name for name, key in keys.items() if known[key]}


def _digest(fault: Fault) -> str:
    """Return what its finding is kept under: its name, and a digest of the code that tries it."""
    assert fault.cases is not None
    return f"{fault.name} {_digest_of(inspect.getfile(fault.cases))}"


@functools.cache
def _digest_of(file: str) -> str:
    """Return a digest of a file with cases, and of the folder of faults, whose helpers they use."""
    paths = [*sorted(Path(inspect.getfile(faults_package)).parent.glob("*.py")), Path(file)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def lacks_linear(opset: int) -> bool:
    """Return whether the installed runtime lacks QuantizeLinear and DequantizeLinear for models of an opset."""
    names = [name for name in faults.names() if without_linear([name], opset) is not None]
    return bool(names and present(names, targets.get(this_processor().target)))


def standing(model: ir.Model, target: Target) -> dict[str, tuple[str, ...]]:
    """Return the faults of a target's runtime that nodes of a model meet as it is, and the nodes' path names."""
    if target.provider not in CPU:
        return {}
    opset, named = model.opset_imports.get("", 1), list(nodes(model))
    version, here = installed_version(), target.provider in CPU and is_here(target)
    possible = {  # others are not looked for: that may read weights
        name: fault
        for name, fault in faults.items()
        if (fault.cases is not None and version is not None and here) or fault.declared(target.name, version)
    }
    met = {
        name: tuple(path for path, node in named if fault.meets_node(node, opset)) for name, fault in possible.items()
    }
    real = present((name for name, where in met.items() if where), target)
    return {name: where for name, where in met.items() if name in real}


def known_faults(model: ir.Model, target: str) -> dict[str, bool]:
    """Return in words what `standing` finds for a target's name, each with whether it costs little."""
    texts = {}
    for name, where in standing(model, targets.get(target)).items():
        fault = faults.get(name)
        texts[f"{fault}: {first_few(where)}; {fault.advice}"] = fault.slight
    return texts
