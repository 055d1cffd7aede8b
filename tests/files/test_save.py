import contextlib
import errno
import hashlib
import os
import random
import resource
import signal
import stat
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import ModelError
from onnxq.files.load import load
from onnxq.files.save import check_writable, save, to_proto
from onnxq.graph import storage
from onnxq.graph.fingerprint import fingerprint
from onnxq.runtime.session import run_model

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,300] x) => (float[1,2] y) { [mul] m = MatMul (x, w)  y = Add (m, b) }
"""
X = {"x": np.ones((1, 300), np.float32)}


def make(fill=1.0, rows=300, columns=2):
    model = ir.from_onnx_text(TEXT.replace("300", str(rows)).replace("1,2]", f"1,{columns}]"))
    arrays = {"w": np.full((rows, columns), fill, np.float32), "b": np.full(columns, fill, np.float32)}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name in arrays:
                value.const_value = ir.tensor(arrays[value.name], name=value.name)
                model.graph.register_initializer(value)
    return model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def external(monkeypatch):
    """Make any weight from 1 KiB on go to a data file."""
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 0)


class TestOneFile:
    def test_what_is_saved_is_what_is_loaded(self, tmp_path):
        save(make(), tmp_path / "m.onnx", force=False)
        assert fingerprint(load(tmp_path / "m.onnx")) == fingerprint(make())
        assert names(tmp_path) == ["m.onnx"]
        onnx.checker.check_model(str(tmp_path / "m.onnx"))

    def test_the_same_model_gives_the_same_bytes(self, tmp_path):
        for name in ("a.onnx", "b.onnx"):
            save(make(), tmp_path / name, force=False)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    def test_a_message_holds_all_weights_and_leaves_the_model_lazy(self, tmp_path):
        ir.save(make(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
        model = load(tmp_path / "m.onnx")
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(to_proto(model).graph.initializer[0]), np.ones((300, 2))
        )
        assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)

    def test_permissions_are_the_usual_ones_or_those_of_the_file_replaced(self, tmp_path):
        old = os.umask(0o027)
        try:
            save(make(), tmp_path / "m.onnx", force=False)
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640
        (tmp_path / "m.onnx").chmod(0o604)
        save(make(), tmp_path / "m.onnx", force=True)
        assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o604

    def test_a_link_is_replaced_and_its_target_kept(self, tmp_path):
        save(make(1), tmp_path / "v1.onnx", force=False)
        (tmp_path / "latest.onnx").symlink_to("v1.onnx")
        save(make(2), tmp_path / "latest.onnx", force=True)
        assert fingerprint(load(tmp_path / "v1.onnx")) == fingerprint(make(1))
        assert fingerprint(load(tmp_path / "latest.onnx")) == fingerprint(make(2))

    def test_companions_come_along(self, tmp_path):
        report = tmp_path / "m.report.json"
        size = {}

        def content(written):
            size["bytes"], size["sha256"] = written.size, written.sha256
            return b"{}"

        save(make(), tmp_path / "m.onnx", force=False, companions={report: content, tmp_path / "note": b"hello"})
        assert report.read_bytes() == b"{}"
        assert (tmp_path / "note").read_bytes() == b"hello"
        data = (tmp_path / "m.onnx").read_bytes()
        assert size == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def test_a_file_name_of_full_length(self, tmp_path):
        path = tmp_path / ("ü" * 120 + ".onnx")
        save(make(), path, force=False)
        assert path.is_file()


class TestRefusals:
    def refused(self, path, force=False, companions=()):
        with pytest.raises(ModelError) as caught:
            check_writable(path, force, companions)
        with pytest.raises(ModelError):
            save(make(), path, force=force, companions=dict.fromkeys(companions, b""))
        return str(caught.value)

    def test_what_is_there_stays_unless_forced(self, tmp_path):
        (tmp_path / "m.onnx").write_bytes(b"old")
        assert "--force" in self.refused(tmp_path / "m.onnx")
        assert (tmp_path / "m.onnx").read_bytes() == b"old"
        check_writable(tmp_path / "m.onnx", True)

    def test_a_companion_that_is_there_stays_too(self, tmp_path):
        (tmp_path / "m.report.json").write_bytes(b"old")
        assert "m.report.json" in self.refused(tmp_path / "m.onnx", companions=[tmp_path / "m.report.json"])
        assert names(tmp_path) == ["m.report.json"]

    def test_missing_folder(self, tmp_path):
        assert "does not exist; create it first" in self.refused(tmp_path / "no" / "m.onnx")

    @pytest.mark.parametrize("force", [True, False])
    def test_folders_and_devices(self, tmp_path, force):
        assert "is not a file" in self.refused(tmp_path, force=force)
        assert "is not a file" in self.refused(Path("/dev/null"), force=force)

    def test_read_only_folder(self, tmp_path, monkeypatch):
        def refuse(**_):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # a folder's mode would not keep root out
        assert "cannot be written: Permission denied" in self.refused(tmp_path / "m.onnx")


@contextlib.contextmanager
def file_size_limit(size):
    """Let no file grow beyond `size`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestInterruptions:
    @pytest.fixture(params=[False, True], ids=["one file", "external data"])
    def path(self, request, tmp_path, monkeypatch):
        """A model saved earlier."""
        if request.param:
            monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 0)
        save(make(1), tmp_path / "m.onnx", force=False, companions={tmp_path / "m.json": b"one"})
        return tmp_path / "m.onnx"

    def unchanged(self, path, before):
        assert names(path.parent) == before
        assert fingerprint(load(path)) == fingerprint(make(1))
        assert (path.parent / "m.json").read_bytes() == b"one"

    def test_full_disk(self, path):
        before = names(path.parent)
        with pytest.raises(ModelError, match="nothing was changed") as caught, file_size_limit(1000):
            save(make(2), path, force=True, companions={path.parent / "m.json": b"two"})
        assert "free space" in str(caught.value)
        self.unchanged(path, before)

    def test_control_c_while_writing(self, path):
        def interrupt(_):
            raise KeyboardInterrupt

        before = names(path.parent)
        with pytest.raises(KeyboardInterrupt):
            save(make(2), path, force=True, companions={path.parent / "m.json": interrupt})
        self.unchanged(path, before)

    @pytest.mark.parametrize("fresh", [False, True])
    @pytest.mark.parametrize("moment", [1, 2, 3])
    def test_control_c_between_renames_leaves_whole_models(self, path, monkeypatch, moment, fresh):
        if fresh:
            for file in path.parent.iterdir():
                file.unlink()
        before, count, replace = names(path.parent), 0, Path.replace

        def interrupted(self, target):
            nonlocal count
            count += 1
            if count == moment:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            save(make(2), path, force=True, companions={path.parent / "m.json": b"two"})
        assert not [name for name in names(path.parent) if name.endswith(".tmp")]
        if count < moment:  # it was done before
            assert fingerprint(load(path)) == fingerprint(make(2))
        elif fresh:
            assert names(path.parent) == before == []
        else:
            assert fingerprint(load(path)) in (fingerprint(make(1)), fingerprint(make(2)))

    def test_a_model_that_cannot_be_written_leaves_nothing(self, tmp_path):
        model = make()
        model.producer_name = 3
        with pytest.raises(ModelError, match="cannot be written as ONNX"):
            save(model, tmp_path / "m.onnx", force=False)
        assert names(tmp_path) == []


class TestExternalData:
    def test_lies_beside_the_model_under_a_name_of_its_content(self, tmp_path, external):
        save(make(), tmp_path / "m.onnx", force=False)
        data, model = names(tmp_path)
        assert model == "m.onnx"
        content = (tmp_path / data).read_bytes()
        assert data == f"m-{hashlib.sha256(content).hexdigest()[:12]}.data"
        loaded = load(tmp_path / "m.onnx")
        assert fingerprint(loaded) == fingerprint(make())
        assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
        assert not isinstance(loaded.graph.initializers["b"].const_value, ir.ExternalTensor)
        onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
        np.testing.assert_allclose(run_model(loaded, X)["y"], 301)

    def test_the_model_in_memory_stays_as_it_is(self, tmp_path, external):
        model = make()
        before = model.graph.initializers["w"].const_value
        save(model, tmp_path / "m.onnx", force=False)
        assert model.graph.initializers["w"].const_value is before

    def test_big_tensors_start_on_a_page_and_shared_ones_are_stored_once(self, tmp_path, external):
        model = make(rows=300, columns=1000)
        twin = ir.Value(name="twin", const_value=model.graph.initializers["w"].const_value)
        model.graph.register_initializer(twin)
        save(model, tmp_path / "m.onnx", force=False)
        loaded = load(tmp_path / "m.onnx")
        spans = {name: value.const_value.offset for name, value in loaded.graph.initializers.items()}
        assert spans["w"] == spans["twin"]
        assert spans["w"] % 4096 == 0
        assert next(tmp_path.glob("*.data")).stat().st_size < 1.1 * 1_200_000

    def test_weights_on_disk_are_streamed_and_small_models_come_in_one_file(self, tmp_path, monkeypatch):
        (tmp_path / "in").mkdir()
        ir.save(make(), tmp_path / "in" / "m.onnx", external_data="m.data", size_threshold_bytes=0)
        save(load(tmp_path / "in" / "m.onnx"), tmp_path / "one.onnx", force=False)
        assert names(tmp_path) == ["in", "one.onnx"]
        monkeypatch.setattr(storage, "STREAM_ABOVE", 0)
        save(load(tmp_path / "in" / "m.onnx"), tmp_path / "two.onnx", force=False)
        assert len(list(tmp_path.glob("two-*.data"))) == 1
        for name in ("one.onnx", "two.onnx"):
            assert fingerprint(load(tmp_path / name)) == fingerprint(make())

    def test_what_is_made_of_a_streamed_model_is_streamed_though_it_lies_on_disk_no_more(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "STREAM_ABOVE", 0)
        save(make(), tmp_path / "one.onnx", force=False)
        save(make(), tmp_path / "two.onnx", force=False, streamed=True)
        assert [path.name[:4] for path in tmp_path.glob("*.data")] == ["two-"]

    def test_a_model_with_a_data_file_is_quantized_into_one_with_a_data_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "STREAM_ABOVE", 0)
        model = make(rows=300, columns=1000)
        ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
        options = {"format": "weight-only", "weights": "method=rtn", "check": False}
        onnxq.quantize(tmp_path / "m.onnx", tmp_path / "int4.onnx", **options)
        quantized = load(tmp_path / "int4.onnx")
        big = [value.const_value for value in quantized.graph.initializers.values() if value.const_value.nbytes >= 1024]
        assert big
        assert all(isinstance(tensor, ir.ExternalTensor) for tensor in big)

    def test_data_that_nothing_refers_to_any_more_goes(self, tmp_path, external):
        save(make(1), tmp_path / "m.onnx", force=False)
        (tmp_path / "m-0123456789ab.data").write_bytes(b"somebody else's")
        old = next(path for path in tmp_path.glob("*.data") if path.name != "m-0123456789ab.data")
        save(make(2), tmp_path / "m.onnx", force=True)
        assert not old.exists()
        assert (tmp_path / "m-0123456789ab.data").exists()
        assert fingerprint(load(tmp_path / "m.onnx")) == fingerprint(make(2))

    def test_a_model_can_be_saved_over_itself_while_its_weights_lie_on_disk(self, tmp_path, external):
        save(make(1, columns=300), tmp_path / "m.onnx", force=False)
        model = load(tmp_path / "m.onnx")
        model.graph.initializers["b"].const_value = ir.tensor(np.full(300, 5, np.float32), name="b")
        save(model, tmp_path / "m.onnx", force=True)
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), 1)
        np.testing.assert_allclose(run_model(load(tmp_path / "m.onnx"), X)["y"], 305)

    def test_weights_of_subgraphs_go_there_too(self, tmp_path, external):
        model = ir.from_onnx_text(
            """<ir_version: 8, opset_import: ["" : 17]>
            g (float[300] x, bool c) => (float[300] y) {
              y = If (c) <then_branch = t () => (float[300] o) <float[300] k = {TWOS}> { o = Mul (x, k) },
                          else_branch = e () => (float[300] p) { p = Neg (x) }> }""".replace(
                "TWOS", ",".join("2" * 300)
            )
        )
        save(model, tmp_path / "m.onnx", force=False)
        assert len(list(tmp_path.glob("*.data"))) == 1
        feeds = {"x": np.ones(300, np.float32), "c": np.array(True)}
        np.testing.assert_allclose(run_model(load(tmp_path / "m.onnx"), feeds)["y"], 2)

    def test_killed_at_any_moment_there_is_the_old_pair_or_the_new(self, tmp_path, external):
        """A child saves two models over each other, again and again, until it is killed."""
        path = tmp_path / "m.onnx"
        models = [make(fill, rows=1000, columns=300) for fill in (1, 2)]
        expected = [fingerprint(model) for model in models]
        save(models[0], path, force=False)
        moments = random.Random(0)
        for _ in range(50):
            child = os.fork()
            if child == 0:
                turn = 1
                while True:
                    save(models[turn % 2], path, force=True)
                    turn += 1
            time.sleep(moments.uniform(0.002, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert fingerprint(load(path)) in expected
