"""reprove: hold every row of a target against the installed runtime, on this processor or an emulated one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from onnxq.errors import VerificationError
from onnxq.evaluate.faults import Finding, findings
from onnxq.proofs.probe import ProbeResult, probe, probe_sums
from onnxq.runtime.kernels import installed_kernels
from onnxq.runtime.saturation import adds_pairs, emulated_without_vnni
from onnxq.runtime.session import CPU
from onnxq.targets import Target, targets
from onnxq.targets.processor import this_processor
from onnxq.types.plain_data import from_plain

_IN_TABLE = "in the runtime's table of kernels"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Whether a target's rows hold.

    Attributes:
        target: its name.
        how: where the rows were proven, in words; what could not be proven, and why.
        results: one for each row, types and claim that was tried.
        faults: one for each known fault of the CPU provider.
    """

    target: str
    how: str
    results: tuple[ProbeResult, ...]
    faults: tuple[Finding, ...] = ()

    @property
    def changed(self) -> tuple[ProbeResult, ...]:
        """The claims that do not hold."""
        return tuple(result for result in self.results if not result.holds)


def reprove(name: str) -> Proof:
    """Prove the rows of the target `name` again.

    A target of another processor is proven on an emulated one where there is one (cpu-avx2 under valgrind); of one that
    cannot be run here, only that its provider has the kernels is read from the runtime's table, where that lists them.

    Raises:
        RecipeError: an unknown target. MissingDependencyError: onnxruntime is not installed.
        VerificationError: the emulated run failed.
    """
    target = targets.get(name)
    real = target.stands_for or target.name
    if target.provider not in CPU or (real == "cpu-arm64") != (this_processor().architecture == "arm64"):
        return _from_table(target)
    pairs = any(row.pairs for row in target.rows)
    if pairs == adds_pairs():
        return Proof(
            target=name,
            how="run on this processor",
            results=(*probe(target), *probe_sums(target)),
            faults=tuple(findings(target)),
        )
    command = emulated_without_vnni("onnxq", "targets", real, "--probe", "--json")
    if not pairs or command is None:
        missing = (
            "this processor has no VNNI" if not pairs else "this processor has VNNI, and valgrind is not installed"
        )
        return Proof(
            target=name,
            how=f"kernels run on this processor, their sums not proven: {missing}",
            results=(*probe(target),),
            faults=tuple(findings(target)),
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        printed = json.loads(done.stdout)
        results, tried = printed["results"], printed["faults"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VerificationError(
            f"the probes of '{real}' under valgrind ended with code {done.returncode}: {last}"
        ) from None
    proven = tuple(from_plain(ProbeResult, entry, what="probe", error=VerificationError) for entry in results)
    faults = tuple(from_plain(Finding, entry, what="probe", error=VerificationError) for entry in tried)
    how = "run on valgrind's processor, which has AVX2 and no VNNI"
    return Proof(target=name, how=how, results=proven, faults=faults)


def _from_table(target: Target) -> Proof:
    kernels = {kernel.op.rpartition("::")[2] for kernel in installed_kernels(target.provider)}
    if not kernels:
        how = f"not proven: the installed onnxruntime has no {target.provider}"
        return Proof(target=target.name, how=how, results=())
    how = f"looked up {_IN_TABLE}; not run on this machine"
    return Proof(target=target.name, how=how, results=tuple(dict.fromkeys(_listed(target, kernels))))


def _listed(target: Target, kernels: set[str]) -> Iterator[ProbeResult]:
    for row in target.rows:
        yield ProbeResult(
            op=row.op,
            form=min(row.formats),
            activations=None,
            weights=None,
            expected=row.kernel,
            found=row.kernel if row.kernel in kernels else f"no {row.kernel} {_IN_TABLE}",
        )
