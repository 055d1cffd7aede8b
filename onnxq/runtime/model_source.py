"""How a model gets into the runtime: as one message, with its weights left where they are, or through a file.

A protobuf message holds less than 2 GiB, and a model in memory is copied at least twice on its way into onnxruntime.
Weights that lie in files are therefore never read here: the runtime maps them itself.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Weights above this go through a file.
MAX_MESSAGE_BYTES = 1 << 30
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """What `InferenceSession` takes: serialized bytes or a path, and the configuration entries that go with it."""

    model: bytes | str
    config: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def as_source(
    model: ir.Model | onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None = None
) -> Iterator[ModelSource]:
    """Yield the model as the runtime loads it; files written for it are removed afterwards.

    Args:
        model: in memory, serialized, or a path.
        outputs: names of values of the main graph that become its outputs; None for its own.

    Raises:
        ModelError: there is no such file, or it is not an ONNX model.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"no model at '{model}'; check the path")
    if outputs is None and isinstance(model, (Path, bytes)):
        yield ModelSource(model=str(model) if isinstance(model, Path) else model)
        return
    folder = model.resolve().parent if isinstance(model, Path) else None
    if isinstance(model, (Path, bytes)):
        model = _parsed(model)
    folders, size = _weights(model)
    if folder is not None:
        folders = {folder}
    if size < MAX_MESSAGE_BYTES and len(folders) <= 1:
        yield _message(model, outputs, folders)
        return
    with _through_file(model, outputs) as source:
        yield source


@contextlib.contextmanager
def _through_file(model: ir.Model | onnx.ModelProto, outputs: Sequence[str] | None) -> Iterator[ModelSource]:
    import onnx
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        path = Path(folder) / "model.onnx"
        source = model if isinstance(model, ir.Model) else ir.from_proto(model)
        try:
            ir.save(source, path, external_data="model.data", size_threshold_bytes=1024)
        except OSError as error:
            message = f"cannot write a temporary copy of the model to '{folder}': {error.strerror or error}"
            raise ModelError(f"{message}; free space there, or set TMPDIR to a folder with room") from error
        if outputs is not None:
            light = onnx.load(path, load_external_data=False)
            _set_outputs(light, outputs)
            onnx.save(light, path)
        yield ModelSource(model=str(path))


def _message(model: ir.Model | onnx.ModelProto, outputs: Sequence[str] | None, folders: set[Path]) -> ModelSource:
    import onnx_ir as ir

    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    config = {_FOLDER_KEY: str(next(iter(folders)))} if folders else {}
    if outputs is not None:
        if proto is model:  # the caller's
            proto = copy.deepcopy(proto)
        _set_outputs(proto, outputs)
    return ModelSource(model=proto.SerializeToString(), config=config)


def _parsed(model: Path | bytes) -> onnx.ModelProto:
    import onnx

    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model)
        return onnx.load(model, load_external_data=False)
    except Exception as error:
        what = f"'{model}'" if isinstance(model, Path) else "this"
        raise ModelError(f"{what} is not an ONNX model, or a truncated one; export or copy it again") from error


def _set_outputs(proto: onnx.ModelProto, outputs: Sequence[str]) -> None:
    import onnx

    own = {value.name: value for value in proto.graph.output}
    # The runtime infers the types of outputs that have none.
    wanted = [own.get(name, onnx.ValueInfoProto(name=name)) for name in outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(wanted)


def _weights(model: ir.Model | onnx.ModelProto) -> tuple[set[Path], int]:
    """Return the folders of the weights that lie in files, and the bytes of all others."""
    import onnx_ir as ir

    if not isinstance(model, ir.Model):
        return set(), model.ByteSize()
    folders, in_memory = set(), 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                folders.add(Path(tensor.base_dir).resolve())
            elif tensor is not None:
                in_memory += tensor.nbytes
    return folders, in_memory
