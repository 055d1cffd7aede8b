"""Calibration as a map-reduce: other processes and clusters give the same bits, and lost workers lose nothing."""

import os
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor

import distributed
import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import CalibrationError, MissingDependencyError
from onnxq.stages.calibrate import calibrate, processes, workers
from onnxq.stages.calibrate.processes import engine
from tests.support.calibrating import SAMPLES, TENSORS, TEXT, RecordingProgress, batched, plain


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


@pytest.fixture
def source(model):
    return open_source(batched(1, SAMPLES), signature(model))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(workers._LastSession, "key", "")
    monkeypatch.setattr(workers._LastSession, "taps", None)


class Counting(ThreadPoolExecutor):
    """Counts tasks, with and without the model; loses some of them on the way."""

    def __init__(self, lose=()):
        super().__init__(2)
        self.tasks, self.lose = [], lose

    def submit(self, fn, /, *args, **kwargs):
        self.tasks.append(args[0].model is not None)
        if len(self.tasks) in self.lose:
            lost = Future()
            lost.set_exception(ConnectionError("gone"))
            return lost
        return super().submit(fn, *args, **kwargs)


def test_any_executor_gives_the_same_bits(model, source):
    wanted = plain(calibrate(model, TENSORS, source))
    with Counting() as executor:
        assert plain(calibrate(model, TENSORS, source, executor=executor)) == wanted
    assert len(executor.tasks) >= 24


def test_the_model_is_sent_to_those_who_lack_it(model, source, monkeypatch):
    monkeypatch.setattr(workers, "WINDOW", 1)  # one after the other
    with Counting() as executor:
        calibrate(model, TENSORS, source, executor=executor)
    assert executor.tasks == [False, True] + [False] * 23


def test_a_lost_task_runs_here_and_counts_once(model, source):
    wanted = plain(calibrate(model, TENSORS, source))
    progress = RecordingProgress()
    with Counting(lose={3, 10, 11}) as executor:
        assert plain(calibrate(model, TENSORS, source, executor=executor, progress=progress)) == wanted
    assert progress.notes == ["a worker was lost (ConnectionError: gone); its samples run in this process"]


def test_a_closed_executor_is_a_lost_worker(model, source):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    progress = RecordingProgress()
    assert calibrate(model, TENSORS, source, executor=executor, progress=progress).samples == 24
    assert "cannot schedule new futures after shutdown" in progress.notes[0]


def test_bad_data_is_an_error_not_a_lost_worker(model):
    data = [*batched(1), {"x": np.array([[np.nan]], np.float32)}]
    with ThreadPoolExecutor(2) as executor, pytest.raises(CalibrationError, match=r"batch 25: input 'x' holds 1 NaN"):
        calibrate(model, TENSORS, open_source(data, signature(model)), executor=executor)


def test_errors_of_workers_name_the_batch():
    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        square (float[N,L] x) => (float[2,2] y)
        <int64[2] shape = {2, 2}>
        { y = Reshape (x, shape) }
    """)
    data = [{"x": np.ones((1, 4), np.float32)}, {"x": np.ones((1, 5), np.float32)}]
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(CalibrationError, match=r"the data, batch 2: onnxruntime cannot"),
    ):
        calibrate(model, ["y"], open_source(data, signature(model)), executor=executor)


def test_external_weights_travel_along(model, source, tmp_path):
    ir.save(model, tmp_path / "model.onnx", external_data="weights", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "model.onnx")
    whole = workers.parse(workers.serialize(loaded))
    assert whole.graph.initializers["third"].const_value.numpy() == np.float32(0.3333)
    assert isinstance(loaded.graph.initializers["third"].const_value, ir.ExternalTensor)


def test_a_model_too_large_to_send_says_so(model, source, monkeypatch):
    monkeypatch.setattr(workers, "MAX_MESSAGE_BYTES", 4)
    with ThreadPoolExecutor(1) as executor, pytest.raises(CalibrationError, match=r"calibrate it in one process"):
        calibrate(model, TENSORS, source, executor=executor)


def test_a_killed_process_loses_nothing(model, source):
    wanted = plain(calibrate(model, TENSORS, source))

    class Killer(RecordingProgress):
        def advance(self, n):
            super().advance(n)
            if self.done == 4:
                for pid in executor.pids:
                    os.kill(pid, signal.SIGKILL)

    progress = Killer()
    with engine(processes=2) as executor:
        assert plain(calibrate(model, TENSORS, source, executor=executor, progress=progress)) == wanted
    assert progress.done == 24


def test_a_dask_cluster_gives_the_same_bits_though_a_worker_is_killed(model, source):
    wanted = plain(calibrate(model, TENSORS, source))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:

        class Killer(RecordingProgress):
            def advance(self, n):
                super().advance(n)
                if self.done == 4:
                    os.kill(cluster.workers[0].pid, signal.SIGKILL)

        with engine(dask=cluster.scheduler_address) as executor:
            assert plain(calibrate(model, TENSORS, source, executor=executor)) == wanted
            progress = Killer()
            assert plain(calibrate(model, TENSORS, source, executor=executor, progress=progress)) == wanted
            assert progress.done == 24


def test_no_scheduler_answers(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", "0.2s")
    message = r"no Dask scheduler answers at 'tcp://127.0.0.1:9'.*check the address"
    with pytest.raises(CalibrationError, match=message), engine(dask="tcp://127.0.0.1:9"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxq\[dask\]'"), engine(dask="tcp://127.0.0.1:9"):
        pass
