"""Libraries' log lines stay out of the calling program's log, and only while passes run."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes.manager import run_pipeline
from onnxq.passes.quiet_libraries import quiet_libraries

OLD = '<ir_version: 9, opset_import: ["" : 8]> g (float[4,8] x) => (float[4,8] y) <float[8,8] w> { y = MatMul (x, w) }'
LIBRARIES = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]


@pytest.fixture(autouse=True)
def no_debugging(monkeypatch):
    monkeypatch.delenv("ONNXQ_DEBUG", raising=False)


def test_a_program_that_logs_hears_nothing_of_them(caplog):
    old = model_from_text(OLD)
    with caplog.at_level(logging.DEBUG):
        run_pipeline(old, ["convert-version{opset=13},remove-unused"])
    assert [entry.name for entry in caplog.records if entry.name.startswith(("onnx_ir", "onnxscript"))] == []


def test_afterwards_they_are_heard_again(caplog):
    with caplog.at_level(logging.INFO):
        run_pipeline(model_from_text(OLD), ["remove-unused"])
        LIBRARIES[0].info("something")
    assert [entry.message for entry in caplog.records] == ["something"]


def test_debugging_shows_them(caplog, monkeypatch):
    monkeypatch.setenv("ONNXQ_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        run_pipeline(model_from_text(OLD), ["convert-version{opset=13}"])
    assert any(entry.name.startswith("onnxscript") for entry in caplog.records)


def test_threads_do_not_undo_each_other(caplog):
    inside, outside = Barrier(2), Barrier(2)

    def first() -> None:
        with quiet_libraries():
            inside.wait()
        outside.wait()

    def second() -> None:
        with quiet_libraries():
            inside.wait()
            outside.wait()
            LIBRARIES[1].warning("still within")

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert caplog.records == []
    assert all(logger.propagate for logger in LIBRARIES)
