"""Executors to calibrate on: processes of this machine, or a dask cluster. Any other `Executor` does as well."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from onnxq.errors import CalibrationError, MissingDependencyError

TIMEOUT_SECONDS = 10.0


@contextlib.contextmanager
def local_processes(count: int) -> Iterator[Executor]:
    """Yield an executor of `count` processes of this machine."""
    # Spawned: forking a process in which onnxruntime runs is not safe.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@contextlib.contextmanager
def dask_cluster(address: str) -> Iterator[Executor]:
    """Yield an executor on the workers of the dask scheduler at `address` ("tcp://host:8786").

    Raises:
        MissingDependencyError: dask is not installed.
        CalibrationError: nobody answers there.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise MissingDependencyError("clusters are reached with dask: pip install 'onnxq[dask]'") from error
    try:
        client = distributed.Client(address, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CalibrationError(f"no dask scheduler answers at '{address}': {error}; check the address") from error
    with client:
        yield client.get_executor()
