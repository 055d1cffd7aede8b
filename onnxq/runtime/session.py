"""Sessions: one way to run a model, with the optimizer off (what the graph says) or on (what is served).

onnxruntime is imported on first use only. Its log is silenced and its exceptions become `ModelError`, so that callers
need to know nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.errors import MissingDependencyError, ModelError
from onnxq.runtime import ort_values
from onnxq.runtime.model_source import as_source

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

CPU = ("CPUExecutionProvider",)

_FATAL = 4


def onnxruntime() -> Any:
    """Return the onnxruntime module, its log silenced.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime as ort

        ort.set_default_logger_severity(_FATAL)
    except (ImportError, AttributeError) as error:  # AttributeError: an uninstalled one left its folder behind
        message = "onnxruntime is not installed: pip install 'onnxq[cpu]' (or 'onnxq[gpu]' on an NVIDIA machine)"
        raise MissingDependencyError(message) from error
    return ort


def versions() -> dict[str, str]:
    """Return version, build and available providers of the installed onnxruntime."""
    ort = onnxruntime()
    return {
        "onnxruntime": ort.__version__,
        "onnxruntime.build": ort.get_build_info(),
        "onnxruntime.providers": ", ".join(ort.get_available_providers()),
    }


def available_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime."""
    return tuple(onnxruntime().get_available_providers())


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A model ready to run.

    Attributes:
        inputs: names, in graph order.
        outputs: names, in graph order.
        providers: execution providers in use, first choice first.
        raw: the runtime's own session.
        foreign: whether an input or output is of a type that numpy lacks; arrays are then of the types of ml_dtypes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    providers: tuple[str, ...]
    raw: Any
    foreign: bool = False

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: an array for every input.
            outputs: names of the outputs wanted; None for all.

        Raises:
            ModelError: the runtime cannot run the model on these arrays.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            values = ort_values.run(self.raw, names, feeds) if self.foreign else self.raw.run(names, dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            message = f"onnxruntime cannot run the model on {shapes}: {_first_line(error)}; check the input data"
            raise ModelError(message) from error
        return dict(zip(names, values, strict=True))

    def end_profiling(self) -> Path:
        """Stop profiling and return the file that holds the profile (see `open_session(profile=...)`)."""
        return Path(self.raw.end_profiling())


def open_session(
    model: ir.Model | onnx.ModelProto | bytes | Path,
    *,
    optimize: bool = True,
    threads: int = 1,
    outputs: Sequence[str] | None = None,
    profile: Path | None = None,
    optimized_path: Path | None = None,
    providers: Sequence[str] = CPU,
    config: Mapping[str, str] | None = None,
    disabled: Sequence[str] = (),
    memory_pattern: bool = True,
) -> Session:
    """Load a model into onnxruntime.

    Args:
        model: in memory, serialized, or a path (external data beside it is found).
        optimize: False: every graph optimization off; True: all of them, as served.
        threads: intra-op threads; 0 for all cores.
        outputs: names of values of the main graph, intermediate ones too, that become the model's outputs in place of
            its own; None for its own.
        profile: prefix of the file to write a profile to.
        optimized_path: where to write the optimized model.
        providers: execution providers, first choice first.
        config: session configuration entries ("session.qdq_matmulnbits_accuracy_level": "4").
        disabled: names of the runtime's optimizers to leave out ("NchwcTransformer").
        memory_pattern: whether the runtime plans one block for all intermediate values, after the first run.

    Raises:
        MissingDependencyError: onnxruntime, or a provider, is not installed.
        ModelError: onnxruntime cannot load the model.
    """
    ort = onnxruntime()
    _check_providers(ort, providers)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = memory_pattern
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    with as_source(model, outputs) as source:
        for key, value in source.config.items():
            options.add_session_config_entry(key, value)
        try:
            raw = ort.InferenceSession(
                source.model,
                options,
                providers=list(providers),
                disabled_optimizers=list(disabled),
                enable_fallback=0,  # the requested providers, or an error
            )
        except Exception as error:
            name = f"'{model}'" if isinstance(model, Path) else "the model"
            message = f"onnxruntime {ort.__version__} cannot load {name}: {_first_line(error)}"
            hint = "check that it is valid ONNX (onnx.checker) and that onnxruntime has its operators and types"
            raise ModelError(f"{message}; {hint}") from error
    if raw.get_providers()[0] != providers[0]:
        message = f"onnxruntime could not start {providers[0]} and fell back to {raw.get_providers()[0]}"
        raise MissingDependencyError(f"{message}; check that its libraries and driver are installed")
    return Session(
        inputs=tuple(value.name for value in raw.get_inputs()),
        outputs=tuple(value.name for value in raw.get_outputs()),
        providers=tuple(raw.get_providers()),
        raw=raw,
        foreign=ort_values.needs_ort_values(raw),
    )


def run_model(
    model: ir.Model | onnx.ModelProto | bytes | Path,
    feeds: Mapping[str, np.ndarray],
    *,
    optimize: bool = False,
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """Load, run once and return the outputs by name; see `open_session` for the arguments and errors."""
    return open_session(model, optimize=optimize, threads=threads).run(feeds)


def _check_providers(ort: Any, providers: Sequence[str]) -> None:
    available = ort.get_available_providers()
    for name in providers:
        if name not in available:
            message = f"the installed onnxruntime has no {name}, only {', '.join(available)}"
            raise MissingDependencyError(f"{message}; for CUDA and TensorRT: pip install 'onnxq[gpu]'")


def _first_line(error: Exception) -> str:
    """Return the runtime's own words, without status codes and places in its source."""
    text = str(error).strip().splitlines()
    first = text[0].strip() if text else type(error).__name__
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", first)
    first = re.sub(r"^\S+\.(cc|h|cpp|hpp):\d+ [^)]*\) ", "", first)
    return first.rstrip(".;")
