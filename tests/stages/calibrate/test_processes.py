"""The executor of local processes: tasks run, errors come back, and the death of a process hurts no other task."""

import os
import signal
import time

import pytest
from onnxq.stages.calibrate.processes import Processes, WorkerLostError

LARGE = 4 << 20  # more than a pipe holds, so that a process is killed in the middle of its answer


def large(index):
    return bytes([index]) * LARGE


def pid(delay=0.0):
    time.sleep(delay)
    return os.getpid()


def fail():
    raise ValueError("no good")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_run_in_other_processes_and_errors_come_back():
    with Processes(2) as executor:
        assert executor.submit(divmod, 7, 2).result(30) == (3, 1)
        assert executor.submit(pid).result(30) != os.getpid()
        with pytest.raises(ValueError, match="no good"):
            executor.submit(fail).result(30)
        with pytest.raises(Exception, match="pickle"):
            executor.submit(lambda: 1).result(30)
        assert executor.submit(divmod, 7, 2).result(30) == (3, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pid)


def test_a_process_that_dies_loses_its_own_task_only():
    with Processes(2) as executor:
        futures = [executor.submit(large, 1), executor.submit(die), *(executor.submit(large, i) for i in range(8))]
        with pytest.raises(WorkerLostError, match=r"process \d+ ended with exit code -9"):
            futures.pop(1).result(60)
        assert [future.result(60)[0] for future in futures] == [1, *range(8)]


def test_killing_all_processes_blocks_nobody():
    with Processes(2) as executor:
        futures = [executor.submit(large, i) for i in range(30)]
        futures[0].result(60)
        killed = executor.pids
        for each in killed:
            os.kill(each, signal.SIGKILL)
        lost = [future for future in futures if isinstance(future.exception(60), WorkerLostError)]
        assert len(lost) <= 2
        assert executor.submit(pid).result(60) not in killed


def test_after_an_error_nothing_is_waited_for():
    futures = []

    def interrupted():
        with Processes(1) as executor:
            futures.extend(executor.submit(pid, 600) for _ in range(2))
            while not executor.pids:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(futures[0].exception(1), WorkerLostError)
    assert futures[1].cancelled()
