import os
import time

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.runtime.kernels import installed_kernels
from onnxq.runtime.profile import profile_nodes
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import RaceTimes, pinned, time_interleaved

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[4,4] x) => (float[4,4] y) { "a" = MatMul (x, x)  y = Softmax (a) }
""".replace('"a"', "a")
FEEDS = {"x": np.ones((4, 4), np.float32)}


class FakeSession:
    """Takes as long as it is told, on a clock of its own, and writes down when it was called."""

    def __init__(self, name, cost, log, clock):
        self.name, self.cost, self.log, self.clock = name, cost, log, clock

    def run(self, feeds):
        self.log.append(self.name)
        self.clock[0] += self.cost(len(self.log)) if callable(self.cost) else self.cost
        return {}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_sessions_take_turns_and_change_order(clock):
    log = []
    a, b = FakeSession("a", 0.1, log, clock), FakeSession("b", 0.05, log, clock)
    timing = time_interleaved([a, b], {}, budget=0, min_rounds=3)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"  # warm-up, then three rounds
    assert timing.rounds == 3
    assert timing.best_ms(0) == pytest.approx(100)
    assert timing.ratio(0, 1) == pytest.approx(2)


def test_rounds_fill_the_budget(clock):
    session = FakeSession("a", 0.1, [], clock)
    assert time_interleaved([session], {}, budget=1.95).rounds == 19  # and one run of warm-up
    assert time_interleaved([session], {}, budget=1.95, max_rounds=7).rounds == 7
    assert time_interleaved([session], {}, budget=0.01, min_rounds=4).rounds == 4


def test_a_busy_machine_gets_more_time_but_not_for_ever(clock):
    # Undisturbed 0.1 s, which happens in every tenth run only.
    rare = FakeSession("a", lambda run: 0.1 if run % 10 == 0 else 0.4, [], clock)
    timing = time_interleaved([rare], {}, budget=6)
    assert timing.settled
    assert timing.best_ms(0) == pytest.approx(100)
    assert 6 < timing.seconds.sum() < 18
    never = FakeSession("a", lambda run: 10.0 / run, [], clock)
    timing = time_interleaved([never], {}, budget=6, min_rounds=2)
    assert not timing.settled
    assert timing.seconds.sum() < 18 + 10


def test_disturbed_runs_do_not_count():
    # The longer run is disturbed more often; its time on an idle machine is what counts.
    timing = RaceTimes(seconds=np.array([[2.0, 1.0], [9.0, 1.0], [9.0, 5.0]]))
    assert timing.ratio(0, 1) == 2
    assert timing.median_ms(0) == 9000


def test_noise_is_how_far_the_fastest_runs_lie_apart():
    """Of the session where it is larger; slow runs do not count."""
    timing = RaceTimes(seconds=np.array([[1.0, 1.0], [1.1, 1.0], [1.02, 1.01], [9.0, 9.0], [1.2, 9.0]]))
    assert timing.noise == pytest.approx(0.1)


def test_a_measurement_keeps_to_its_cores_and_gives_them_back():
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    with pinned(0):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


def test_real_sessions_are_timed():
    timing = time_interleaved([open_session(ir.from_onnx_text(TEXT))] * 2, FEEDS, budget=0.05)
    assert timing.rounds >= 5
    assert (timing.seconds > 0).all()


def test_the_profile_names_each_node_in_order():
    nodes = profile_nodes(ir.from_onnx_text(TEXT), FEEDS, runs=3, optimize=False)
    assert [node.op for node in nodes] == ["MatMul", "Softmax"]
    assert all(node.provider == "CPUExecutionProvider" and node.microseconds >= 0 for node in nodes)
    assert nodes[0].inputs == (("float", (4, 4)), ("float", (4, 4)))
    assert nodes[1].outputs == (("float", (4, 4)),)


def test_installed_kernels_are_the_runtimes_own():
    kernels = installed_kernels("CPUExecutionProvider")
    assert {kernel.provider for kernel in kernels} == {"CPUExecutionProvider"}
    conv = [kernel for kernel in kernels if kernel.op == "QLinearConv"]
    assert any(kernel.types["T1"] == ("uint8",) and kernel.types["T2"] == ("int8", "uint8") for kernel in conv)
    assert any(kernel.op == "com.microsoft::QLinearAdd" for kernel in kernels)
    assert any(kernel.op == "Relu" and kernel.until is not None for kernel in kernels)
    assert installed_kernels("NoSuchProvider") == ()
