import threading

import pytest
from onnxq.stages.calibrate.observe import MemoryBudget


@pytest.mark.parametrize(("size", "wanted", "most"), [(7, 3, 6), (3, 3, 3), (2, 3, 3), (0, 1, 1)])
def test_no_more_is_taken_than_the_budget_or_by_one_thread_alone(size, wanted, most):
    budget, lock, inside, peak = MemoryBudget(size), threading.Lock(), [0], [0]

    def visit():
        for _ in range(50):
            budget.take(wanted)
            with lock:
                inside[0] += wanted
                peak[0] = max(peak[0], inside[0])
            for _ in range(wanted):
                with lock:
                    inside[0] -= 1
                budget.give_back(1)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert inside == [0]
    assert 0 < peak[0] <= most
