"""A model as bytes: one message with all weights inside, or a message and a data file beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from onnxq.errors import ModelError
from onnxq.graph.atomic import FileBatch
from onnxq.graph.tensors import tensors, total_bytes, write
from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# A protobuf message holds at most 2 GiB; what is not weights (nodes, names, shapes) needs room too.
EXTERNAL_ABOVE = 2**31 - 2**27
# A model whose weights still lie on disk is not pulled into memory as one message unless it is small.
STREAM_ABOVE = 2**27
# Smaller tensors stay in the model: shape inference reads shapes and axes, and cannot follow them to another file.
_EMBED_BELOW = 1024
# Big tensors start on a page, so that they can be memory-mapped where they lie.
_ALIGN_FROM, _ALIGNMENT = 2**20, 4096
_DIGITS = 12


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as one protobuf message with all weights inside; `model` keeps its own lazily loaded ones.

    Raises:
        ModelError: the model cannot be expressed as a message.
    """
    copy = model.clone()
    _embed(copy)
    return _serialize(copy)


def write_model(model: ir.Model, path: Path, batch: FileBatch, *, streamed: bool = False) -> None:
    """Add the model's file, and a data file if it needs one, to the files of `batch`; `model` stays as it is.

    Weights go to a data file when together they are over 2 GB, or over 128 MB and on disk still (or `streamed`: they
    were); they are written one tensor at a time. The data file is named after its content (`model-1a2b3c4d5e6f.data`)
    and comes before the model in the batch, so that there is never a model without its data, nor one with another
    model's data.

    Raises:
        ModelError: the model cannot be expressed as a message. OSError: writing failed.
    """
    proto = _externalize(model, path, batch) if _needs_external(model, streamed) else to_proto(model)
    batch.write(path, lambda file: _write_proto(file, proto))


def _needs_external(model: ir.Model, streamed: bool) -> bool:
    size = total_bytes(model)
    return size > EXTERNAL_ABOVE or ((streamed or has_data_files(model)) and size > STREAM_ABOVE)


def has_data_files(model: ir.Model) -> bool:
    """Return whether some of the model's tensors lie in data files."""
    import onnx_ir as ir

    return any(isinstance(tensor, ir.ExternalTensor) for _, tensor in tensors(model))


def _externalize(model: ir.Model, path: Path, batch: FileBatch) -> onnx.ModelProto:
    """Write the big tensors to a data file, and return the message that refers to it."""
    import onnx_ir as ir

    copy = model.clone()
    big = {
        value: value.const_value
        for graph in scopes(copy)
        for value in graph.initializers.values()
        if value.const_value is not None and _is_big(value.const_value)
    }
    offsets: dict[int, int] = {}
    location = ""

    def fill(file: IO[bytes]) -> Path:
        nonlocal location
        stream = _HashedFile(file)
        for tensor in big.values():
            if id(tensor) not in offsets:
                if tensor.nbytes >= _ALIGN_FROM:
                    stream.pad_to(_ALIGNMENT)
                offsets[id(tensor)] = stream.position
                write(tensor, stream)
        location = f"{path.stem}-{stream.digest()[:_DIGITS]}.data"
        return path.parent / location

    batch.write(path, fill)
    _embed(copy, besides=big)
    for value, tensor in big.items():
        value.const_value = ir.ExternalTensor(
            location,
            offsets[id(tensor)],
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )
    return _serialize(copy)


def _embed(model: ir.Model, besides: Container[ir.Value] = ()) -> None:
    """Replace external tensors by ones that serialize into the message; the data is still read lazily."""
    import onnx_ir as ir

    for graph in scopes(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value not in besides:
                value.const_value = _inner(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _inner(attribute.value))


def _inner(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    import onnx_ir as ir

    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy(), dtype=tensor.dtype), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name
    )


def _is_big(tensor: ir.TensorProtocol) -> bool:
    import onnx_ir as ir

    return tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _EMBED_BELOW


class _HashedFile:
    """A file to write to that hashes what passes; without a descriptor of its own, so that all bytes pass."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.position = 0

    def write(self, data: Any) -> int:
        """Write bytes at the end."""
        self._hash.update(data)
        size = memoryview(data).nbytes
        self._file.write(data)
        self.position += size
        return size

    def pad_to(self, alignment: int) -> None:
        """Write zeros up to the next multiple of `alignment`."""
        self.write(bytes(-self.position % alignment))

    def digest(self) -> str:
        """Return the sha256 of all bytes so far, in hex."""
        return self._hash.hexdigest()


def _serialize(model: ir.Model) -> onnx.ModelProto:
    import onnx_ir as ir

    try:
        proto = ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise ModelError(f"the model cannot be written as ONNX: {error.__cause__ or error}") from error
    _state_once(proto.graph)
    for opset in proto.opset_import:
        if not opset.domain:
            opset.ClearField("domain")
    return proto


def _state_once(graph: onnx.GraphProto) -> None:
    """Leave out the types of initializers, which say the same themselves, in this graph and those in its nodes."""
    own = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in own]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _state_once(body)


def _write_proto(file: IO[bytes], proto: onnx.ModelProto) -> None:
    try:
        data = proto.SerializeToString(deterministic=True)
    except Exception as error:  # ValueError over 2 GB outside of initializers; protobuf's own out of memory
        raise ModelError(f"the model is too big for one ONNX file: {error}; make its constants initializers") from None
    file.write(data)


def data_files(path: Path) -> set[Path]:
    """Return the data files that the model at `path` refers to and that `write_model` made for it."""
    import onnx

    pattern = re.compile(rf"{re.escape(path.stem)}-[0-9a-f]{{{_DIGITS}}}\.data")
    if not path.is_file() or not any(pattern.fullmatch(entry.name) for entry in path.parent.iterdir()):
        return set()
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception:  # whatever lies there refers to nothing that we know
        return set()
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location")
    return {path.absolute().parent / entry.value for entry in entries if pattern.fullmatch(entry.value)}


def files_read_by(model: ir.Model) -> set[Path]:
    """Return the files that the model's external tensors lie in."""
    import onnx_ir as ir

    return {Path(tensor.path).absolute() for _, tensor in tensors(model) if isinstance(tensor, ir.ExternalTensor)}
