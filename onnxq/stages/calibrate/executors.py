"""Executors: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError
from onnxq.stages.calibrate.processes import Processes

_PATIENCE = "10s"  # for a scheduler to answer


@contextmanager
def engine(*, processes: int | None = None, dask: str | None = None) -> Iterator[Executor | None]:
    """Open what shares the work of a calibration, and close it at the end; None where neither is asked for.

    Args:
        processes: number of processes on this machine. dask: address of a Dask scheduler, `tcp://host:port`.

    Raises:
        RecipeError: both, or no processes. MissingDependencyError: Dask is not installed.
        CalibrationError: the scheduler does not answer.
    """
    if processes is not None and dask is not None:
        raise RecipeError("the work is shared among processes or among a cluster's workers, not both")
    if processes is not None:
        if processes < 1:
            raise RecipeError(f"processes must be at least 1, not {processes}")
        with Processes(processes) as pool:
            yield pool
    elif dask is not None:
        try:
            distributed = importlib.import_module("distributed")
        except ImportError:
            raise MissingDependencyError("Dask is not installed: pip install 'onnxq[dask]'") from None
        try:
            client = distributed.Client(dask, timeout=_PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise CalibrationError(f"no Dask scheduler answers at '{dask}': {error}; check the address") from error
        with client:
            yield client.get_executor()
    else:
        yield None
