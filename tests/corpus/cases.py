"""The graphs: ONNX's own backend tests, as they are and with their parameters frozen to constants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxq.data import signature, synthetic
from onnxq.errors import ModelError
from onnxq.files.load import load

Feeds = dict[str, Any]

_NEWEST_IR = 13  # that onnxruntime 1.31 loads


@dataclass(frozen=True, kw_only=True)
class Case:
    """A graph and what to feed it.

    Attributes:
        name: unique. group: where it comes from. make: the model and one batch of inputs.
    """

    name: str
    group: str
    make: Callable[[], tuple[Any, Feeds]]


@cache
def _node_tests() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = {case.name: case for case in collect_testcases(None)}
    for test in tests.values():  # the generator stamps its own IR version, which the runtime may not know yet
        test.model.ir_version = min(test.model.ir_version, _NEWEST_IR)
    return tests


def node_cases() -> Iterator[Case]:
    """Yield ONNX's node tests twice: as they are, and with all tensors but the first frozen.

    Their weights are inputs, so that as they are there is nothing to quantize by.
    """
    for name, test in _node_tests().items():
        yield Case(
            name=name, group="node", make=lambda test=test: (test.model, feeds_of(test.model, test.data_sets[0][0]))
        )
        if len(test.model.graph.input) > 1:
            yield Case(name=f"{name}:frozen", group="frozen", make=lambda test=test: _frozen(test))


def feeds_of(model: onnx.ModelProto, values: Any) -> Feeds:
    """Return the inputs of a backend test by name."""
    feeds = {}
    for given, declared in zip(values, model.graph.input, strict=False):
        value = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given
        feeds[declared.name] = value if value is None or isinstance(value, list) else np.asarray(value)
    return feeds


def _frozen(test: Any) -> tuple[onnx.ModelProto, Feeds]:
    """Return a backend test with its tensors but the first, or the first of floats, made initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    values = dict(zip((entry.name for entry in model.graph.input), test.data_sets[0][0], strict=False))
    fed = next((name for name, value in values.items() if _is_float(value)), model.graph.input[0].name)
    kept = []
    for declared in model.graph.input:
        value = values.get(declared.name)
        if declared.name == fed or not isinstance(value, np.ndarray | np.generic | onnx.TensorProto):
            kept.append(declared)
            continue
        tensor = value
        if not isinstance(value, onnx.TensorProto):
            tensor = onnx.numpy_helper.from_array(np.asarray(value), declared.name)
        stored = model.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = declared.name
    del model.graph.input[:]
    model.graph.input.extend(kept)
    feeds = feeds_of(test.model, test.data_sets[0][0])
    return model, {entry.name: feeds[entry.name] for entry in kept if entry.name in feeds}


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def zoo_cases() -> Iterator[Case]:
    """Yield every model of the zoo, as a path, with its first calibration batch."""
    import models

    for name in models.names():
        yield Case(name=name, group="zoo", make=lambda name=name: _zoo(name))


def _zoo(name: str) -> tuple[Any, Feeds]:
    import models

    entry = models.load(name)
    return entry.path, next(iter(entry.calibration()))


def repository_cases(folder: Path) -> Iterator[Case]:
    """Yield every graph that this repository's tests make, with made-up inputs."""
    for path in sorted(folder.glob("*.onnx")):
        yield Case(name=path.stem, group="tests", make=lambda path=path: _made_up(path))


def _made_up(path: Path) -> tuple[onnx.ModelProto, Feeds]:
    model = onnx.load(path)
    try:
        asked = signature(load(model))
    except ModelError:  # it is refused, whatever it is fed
        return model, {}
    return model, next(iter(synthetic(asked)))
