"""One case of `benchmarks.calibration`, run in a process of its own: prints what it measured as JSON.

    python -m benchmarks.calibration_cases numba float plain.onnx 8

The first word tells what counts values: numba or numpy. Imports stay inside the functions: what a case does not need
must not count in its memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxq.numerics import grid

Feeds = dict[str, Any]
CALIBRATORS = ("minmax", "moving-average", "percentile", "entropy", "mse")


def noise(count: int) -> Iterator[Feeds]:
    """Photographs of noise, made one at a time."""
    generator = np.random.default_rng(1)
    for _ in range(count):
        yield {"x": generator.standard_normal((1, 3, 224, 224), dtype=np.float32)}


def run_float(path: str, count: int) -> dict[str, float]:
    """Memory of float inference."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for feeds in noise(count):
        session.run(None, feeds)
    return {}


def run_onnxq(path: str, count: int, calibrator: str) -> dict[str, float]:
    """Memory of calibration, from the file to the ranges."""
    statistics = _calibration(Path(path), lambda: noise(count), calibrator)()
    _ranges(statistics, calibrator)
    return {"tensors": _count(statistics)}


def run_onnxruntime(path: str, count: int, calibrator: str) -> dict[str, float]:
    """Memory of onnxruntime's calibration of the same kind, from the file to the ranges."""
    return {"seconds": _onnxruntime(path, noise(count), calibrator)}


def time_network(path: str, count: int, repeats: int) -> dict[str, float]:
    """Time on a network that takes noise."""
    data = list(noise(count))
    return _times(Path(path), data, repeats)


def time_zoo(name: str, times: int, repeats: int) -> dict[str, float]:
    """Time on a model of the zoo, its data taken so many times."""
    path, data = _zoo(name)
    return _times(path, data * times, repeats)


def time_onnxruntime(path: str, count: int, calibrator: str) -> dict[str, float]:
    """Time of onnxruntime's calibration, and of float inference in the same process."""
    data = list(noise(count)) if path.endswith(".onnx") else _zoo(path)[1]
    file = path if path.endswith(".onnx") else str(_zoo(path)[0])
    began = time.perf_counter()
    _float(Path(file), data, 1)
    single = time.perf_counter() - began
    return {"ratio": _onnxruntime(file, iter(data), calibrator) / single}


def _zoo(name: str) -> tuple[Path, list[Feeds]]:
    import models

    zoo = models.load(name)
    return zoo.path, list(zoo.calibration())


def _times(path: Path, data: list[Feeds], repeats: int) -> dict[str, float]:
    """Medians of float inference and of calibration, on 1 thread and on all cores, taken in turns."""
    calibrate, extremes = _calibration(path, data), _calibration(path, data, "minmax")
    taken: dict[str, list[float]] = {}
    for _ in range(repeats):
        for threads, name in ((1, "1"), (0, "all")):
            for tool in ("float", "extremes", "onnxq"):
                wall = time.perf_counter()
                if tool == "float":
                    _float(path, data, threads)
                elif tool == "extremes":
                    extremes(threads=threads)
                else:
                    statistics = calibrate(threads=threads)
                taken.setdefault(f"{tool} {name}", []).append(time.perf_counter() - wall)
    ratios = {
        f"ratio {ours}/{theirs}": float(np.median(np.array(taken[ours]) / np.array(taken[theirs])))
        for ours, theirs in (
            (f"{tool} {threads}", f"float {beside}")
            for tool in ("extremes", "onnxq")
            for threads, beside in (("1", "1"), ("all", "1"), ("all", "all"))
        )
    }
    searches = {}
    for calibrator in CALIBRATORS:
        began = time.perf_counter()
        _ranges(statistics, calibrator)
        searches[f"search {calibrator}"] = time.perf_counter() - began
    medians = {name: float(np.median(values)) for name, values in taken.items()}
    return medians | ratios | searches | {"tensors": _count(statistics), "samples": statistics.samples}


def _float(path: Path, data: list[Feeds], threads: int) -> None:
    """Open a session and run everything once, as calibration does."""
    from onnxq.runtime.session import open_session

    session = open_session(path, threads=threads)
    for feeds in data:
        session.run(feeds)


def _calibration(path: Path, data: Any, calibrator: str = "mse") -> Any:
    """Prepare a model; return what calibrates it, a function of `calibrate`'s keyword arguments."""
    from onnxq.pipeline.log import Log
    from onnxq.pipeline.observing import observe
    from onnxq.pipeline.preparing import prepare_model
    from onnxq.pipeline.request import make_request
    from onnxq.types.recipe import Recipe

    log = Log()
    request = make_request(path, Recipe.model_validate({"calibrator": calibrator}), log, calibration=data)
    prepared = prepare_model(request, log)
    return lambda **options: observe(prepared, log, **options).statistics


def _count(statistics: Any) -> int:
    """Return how many tensors were observed."""
    return sum(seen.samples > 0 for seen in statistics.tensors.values())


def _ranges(statistics: Any, calibrator: str) -> None:
    from onnxq.calibrators import make_calibrator
    from onnxq.types.scheme import QuantType, Scheme

    search = make_calibrator(calibrator, {})
    scheme = Scheme(dtype=QuantType.UINT8, symmetric=False)
    for seen in statistics.tensors.values():
        if seen.count:
            search(seen, scheme)


def _onnxruntime(path: str, data: Iterator[Feeds], calibrator: str) -> float:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader:
        def get_next(self) -> Feeds | None:
            return next(data, None)

        def __iter__(self) -> Iterator[Feeds]:
            return data

        def __len__(self) -> int:
            return 1

    method = {name.lower(): getattr(CalibrationMethod, name) for name in ("MinMax", "Entropy", "Percentile")}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tool = create_calibrator(
            Path(path),
            None,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method[calibrator],
        )
        tool.collect_data(Reader())
        tool.compute_data()
        return time.perf_counter() - began


CASES: dict[str, Callable[..., dict[str, float]]] = {
    "float": run_float,
    "onnxq": run_onnxq,
    "onnxruntime": run_onnxruntime,
    "time-network": time_network,
    "time-zoo": time_zoo,
    "time-onnxruntime": time_onnxruntime,
}


def main() -> None:
    """Run the case that the command line names."""
    counter, case, *arguments = sys.argv[1:]
    if counter == "numpy":
        grid.PAYS = sys.maxsize
    result = CASES[case](*(int(each) if each.isdecimal() else each for each in arguments))
    print(json.dumps(result | {"peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak of resident memory of this process alone; `ru_maxrss` would count the one it was started from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main()
