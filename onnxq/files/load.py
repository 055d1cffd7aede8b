"""Load: from a path or an in-memory model to an `ir.Model`; weights in external data stay on disk, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import ModelError, nearest
from onnxq.files.audit import audit, audit_external
from onnxq.files.sparse import densify
from onnxq.graph.names import take_name
from onnxq.graph.ownership import own
from onnxq.graph.tensors import tensors
from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# First bytes of files that people hand over by mistake, and what to do about them.
_FOREIGN = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the model itself; fetch the model with `git lfs pull`"),
    (4, b"ORTM", "is in ONNX Runtime's own ORT format; give the ONNX model it was made from"),
    (4, b"TFL3", "is a TensorFlow Lite model; convert it with tf2onnx first"),
    (0, b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint?); export the model with torch.onnx.export first"),
    (0, b"\x89HDF", "is an HDF5 file (a Keras model?); convert it with tf2onnx first"),
    (0, b"\x1f\x8b", "is gzip-compressed; unpack it first"),
    (0, b"<!DOCTYPE", "is a web page, not a model; download the model again"),
    (0, b"<html", "is a web page, not a model; download the model again"),
)
_HEAD = 32

RENAMED = "onnxq.renamed"
"""Key of a loaded model's `meta`: (old, new) names of nodes that had the name of another in their scope."""


def load(source: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    """Return the model as a graph of its own; an in-memory source is never changed, its weights are shared.

    Args:
        source: path of an ONNX file (protobuf; text forms by their suffix), or a model in memory.

    Raises:
        ModelError: the file is missing, unreadable, truncated or not ONNX; external data is missing, too short or
            outside the model's folder; the graph is broken (a node reads what nothing makes).
    """
    import onnx
    import onnx_ir as ir

    if isinstance(source, str | Path):
        path = Path(source)
        what, folder = f"'{path}'", path.absolute().parent
        model = _deserialize(_read(path), what)
    else:
        what, folder = "the model", None
        if isinstance(source, onnx.ModelProto):
            model = _deserialize(source, what)
        elif isinstance(source, ir.Model):
            model = _clone(source)
        else:
            kinds = "a path, an onnx.ModelProto or an onnx_ir.Model"
            raise ModelError(f"a model is given as {kinds}, not as {type(source).__name__}")
    audit(model, what)
    if folder is None:
        own(model)
    _set_folder(model, folder)
    audit_external(model, what)
    _normalize(model, what)
    return model


def file_bytes(path: Path) -> int:
    """Return the bytes of a model file and its external data."""
    import onnx_ir as ir

    data = {str(tensor.path) for _, tensor in tensors(load(path)) if isinstance(tensor, ir.ExternalTensor)}
    return sum(Path(file).stat().st_size for file in {str(path), *data})


def _read(path: Path) -> onnx.ModelProto:
    """Read and parse a model file, external data left where it is."""
    import onnx

    try:
        if path.is_dir():
            inside = sorted(entry.name for entry in path.glob("*.onnx"))
            hint = f"; did you mean '{path / inside[0]}'?" if inside else "; name the .onnx file in it"
            raise ModelError(f"model '{path}' is a folder{hint}")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise ModelError(f"model '{path}' does not exist{_neighbour(path)}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"model '{path}' cannot be read: {_cause(error)}; check its permissions") from None
    if not head:
        raise ModelError(f"model '{path}' is empty; export or download it again")
    for offset, magic, what in _FOREIGN:
        if head[offset:].startswith(magic):
            raise ModelError(f"'{path}' {what}")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except MemoryError:
        raise ModelError(f"model '{path}' does not fit in memory; store its weights as external data") from None
    except OSError as error:
        raise ModelError(f"model '{path}' cannot be read: {_cause(error)}; check its permissions") from None
    except Exception:  # each format's parser has its own errors
        raise ModelError(f"'{path}' is not an ONNX model, or it is damaged; export or download it again") from None
    if not proto.ir_version or not proto.opset_import or not proto.HasField("graph"):
        missing = "a graph" if not proto.HasField("graph") else "an opset" if proto.ir_version else "an IR version"
        raise ModelError(f"'{path}' is not an ONNX model, or it is truncated: it has not {missing}; get it again")
    return proto


def _deserialize(proto: onnx.ModelProto, what: str) -> ir.Model:
    import onnx_ir as ir

    try:
        return ir.from_proto(densify(proto, what))
    except ModelError:
        raise
    except RecursionError:
        raise ModelError(f"{what} nests its subgraphs too deeply; flatten them") from None
    except Exception as error:  # onnx_ir wraps and raises many kinds
        raise ModelError(f"{what} is not a valid ONNX model: {_root(error)}; export it again") from None


def _clone(model: ir.Model) -> ir.Model:
    try:
        return model.clone()
    except Exception as error:  # a node before its inputs' makers, or a value from nowhere
        raise ModelError(f"the model cannot be copied: {_root(error)}; sort its nodes and check it") from None


def _set_folder(model: ir.Model, folder: Path | None) -> None:
    """Give external tensors an absolute folder: with an empty one onnx_ir skips its containment checks.

    None leaves a folder that is known already; where none is, the working directory is meant.
    """
    import onnx_ir as ir

    for _, tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = str((folder or Path(tensor.base_dir)).absolute())


def _normalize(model: ir.Model, what: str) -> None:
    """Bring into one form what models say in several, and what onnx_ir cannot clone.

    Nodes that come before what they read are sorted, the ONNX domain has one name, and an extent below zero, which some
    exporters write for one that varies, becomes an unknown one. Of nodes with one name, which the runtime refuses, the
    first keeps it; `meta` says which got another.
    """
    renamed: list[tuple[str, str]] = []
    for scope in scopes(model):
        results = (value for node in scope for value in node.outputs)
        for value in (*scope.inputs, *scope.outputs, *results):
            _open_extents(value)
        renamed += _tell_nodes_apart(scope)
    model.meta[RENAMED] = tuple(renamed)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        if "ai.onnx" in graph.opset_imports:
            graph.opset_imports.setdefault("", graph.opset_imports.pop("ai.onnx"))
        try:
            graph.sort()
        except ValueError:
            raise ModelError(f"{what} is broken: its nodes wait for each other in a circle; export it again") from None


def _tell_nodes_apart(scope: ir.Graph | ir.Function) -> list[tuple[str, str]]:
    """Give nodes of one name names of their own; return the old and the new name of each that changed."""
    given = {node.name for node in scope if node.name}
    met: set[str] = set()
    following: dict[str, int] = {}
    renamed: list[tuple[str, str]] = []
    for node in scope:
        if node.name and node.name in met:
            old, node.name = node.name, take_name(node.name, given, following=following)
            renamed.append((old, node.name))
        if node.name:
            met.add(node.name)
    return renamed


def _open_extents(value: ir.Value) -> None:
    import onnx_ir as ir

    if value.shape is not None and any(isinstance(extent, int) and extent < 0 for extent in value.shape):
        value.shape = ir.Shape([None if isinstance(extent, int) and extent < 0 else extent for extent in value.shape])


def _neighbour(path: Path) -> str:
    """Return a hint at a file of nearly the same name in the same folder."""
    if not path.parent.is_dir():
        return f"; there is no folder '{path.parent}'"
    hint = nearest(path.name, [entry.name for entry in path.parent.glob("*.onnx")])
    return hint if "did you mean" in hint else "; check the path"


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _root(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
