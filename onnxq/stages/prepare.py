"""Prepare: bring a model into the one normal form that all later stages expect, without changing what it computes.

The normal form: no local functions, constants as initializers, opset 13 or later where the model can be converted,
every node and value with a unique name, shapes inferred as far as possible, constants folded, BatchNormalization and
constant scales and offsets folded into the operator before them, no identities and nothing unused. Graph inputs and
outputs stay as they were, to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import PassError, first_few
from onnxq.graph.names import name_of
from onnxq.passes.manager import PassRecord, Verifier, run_pipeline
from onnxq.passes.verifier import checker_complaint

if TYPE_CHECKING:
    import onnx_ir as ir

# Small external tensors come first, because inference reads them; names before anything that makes new nodes, so that
# exported names stay; inference before the passes that need types; and putting outputs and names right comes last.
STANDARD = (
    "load-small",
    "inline",
    "unlist-initializers",
    "convert-version{{opset={opset}}}",
    "lift-constants",
    "fix-names",
    "infer-shapes",
    "fold-constants",
    "fuse-gemm",
    "fuse-hard-swish",
    "fuse-affine",
    "fuse-bn",
    "fuse-affine",
    "push-affine",
    "normalize-gemm",
    "remove-identities",
    "remove-unused",
    "close-pairs",
    "infer-shapes",
    "fix-outputs",
    "fix-names",
    "check",
)
# Passes whose work is welcome and not needed: a model that one of them cannot digest goes on without, with a warning.
_MAY_SKIP = frozenset(
    {
        "inline",
        "infer-shapes",
        "fold-constants",
        "fuse-affine",
        "fuse-bn",
        "fuse-hard-swish",
        "push-affine",
        "remove-identities",
        "remove-unused",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A model in normal form.

    Attributes:
        model: the model; the one it was made from is unchanged.
        records: what each pass did. warnings: what the user should know.
    """

    model: ir.Model
    records: tuple[PassRecord, ...]
    warnings: tuple[str, ...]


def standard_pipeline(opset: int = 13) -> str:
    """Return the standard pipeline as text."""
    return ",".join(STANDARD).format(opset=opset)


def prepare(
    model: ir.Model,
    *,
    pipeline: str | None = None,
    opset: int = 13,
    dump_after: tuple[str, Path] | None = None,
    verify_each: Verifier | None = None,
    reproducer_dir: Path | None = None,
) -> Prepared:
    """Return the model in normal form.

    Args:
        model: what `load` returned; it is not changed.
        pipeline: passes to run instead of the standard ones, as text.
        opset: lowest opset that is needed: 13 for per-channel QDQ, 21 for blocks.
        dump_after, verify_each, reproducer_dir: as for `run_pipeline`.

    Raises:
        RecipeError: the pipeline names a pass or an option that does not exist. PassError: a pass failed.
    """
    may_skip = set() if pipeline is not None else set(_MAY_SKIP)
    if pipeline is None and checker_complaint(model) is not None:
        may_skip.add("check")  # what was refused from the start, and may run all the same
    prepared, records = run_pipeline(
        model,
        [standard_pipeline(opset) if pipeline is None else pipeline],
        dump_after=dump_after,
        verify_each=verify_each,
        reproducer_dir=reproducer_dir,
        may_skip=may_skip,
    )
    _keep_interface(model, prepared)
    warnings = [*_defaults(prepared)]
    for record in records:
        warnings += record.warnings
        if record.skipped is not None:
            warnings.append(f"{record.skipped}; the model goes on without it")
    return Prepared(model=prepared, records=records, warnings=tuple(dict.fromkeys(warnings)))


def _keep_interface(before: ir.Model, after: ir.Model) -> None:
    """Give inputs and outputs the types, shapes and texts they were declared with: passes refine them.

    Raises:
        PassError: a name or the order changed.
    """
    old_inputs, new_inputs = _inputs(before), _inputs(after)
    for old, new in ((old_inputs, new_inputs), (list(before.graph.outputs), list(after.graph.outputs))):
        if [value.name for value in old] != [value.name for value in new]:
            found = [value.name for value in new]
            raise PassError(f"a pass changed the graph's inputs or outputs to {found}; find it with --verify-each")
        for kept, value in zip(old, new, strict=True):
            value.type, value.doc_string = kept.type, kept.doc_string
            value.shape = None if kept.shape is None else kept.shape.copy()
            value.metadata_props.clear()
            value.metadata_props.update(kept.metadata_props)


def _inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that a caller must give; initializers may be listed as inputs too, and may leave the list."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _defaults(model: ir.Model) -> list[str]:
    """Warn of initializers that are also inputs: they are no constants, so what they feed stays in float."""
    names = [name_of(value) for value in model.graph.inputs if value.is_initializer()]
    if not names:
        return []
    return [
        f"{len(names)} initializers are also graph inputs, which callers may override, so they are no constants "
        f"({first_few(names)}); take them off the inputs with the pass unlist-initializers{{all=true}}"
    ]
