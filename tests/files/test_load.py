import os

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import helper
from onnxq import quantize
from onnxq.errors import ModelError
from onnxq.files import load as loading
from onnxq.files.load import load
from onnxq.files.save import to_proto
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.names import take_name
from onnxq.runtime.session import run_model

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
TEXT = f"""{HEADER}
g (float[1,300] x) => (float[1,2] y) {{ [mul] m = MatMul (x, w)  y = Add (m, b) }}
"""
W = np.arange(600, dtype=np.float32).reshape(300, 2)
B = np.array([1, 2], np.float32)
X = {"x": np.ones((1, 300), np.float32)}


@pytest.fixture
def proto():
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.extend([onnx.numpy_helper.from_array(W, "w"), onnx.numpy_helper.from_array(B, "b")])
    return model


@pytest.fixture
def path(proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def external(proto, tmp_path):
    """The path of a model whose weights lie in m.data beside it."""
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return tmp_path / "m.onnx"


def relocate(path, **entries):
    """Change what a model on disk says of its first external tensor."""
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = entries.pop(entry.key, entry.value)
    onnx.save(proto, path)


def refusal(source):
    with pytest.raises(ModelError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 3
    return message


class TestSources:
    def test_a_path_as_text_or_path(self, path):
        assert fingerprint(load(path)) == fingerprint(load(str(path)))
        np.testing.assert_allclose(run_model(load(path), X)["y"], X["x"] @ W + B)

    def test_a_message_stays_as_it_is_even_if_weights_are_renamed(self, proto):
        before = proto.SerializeToString()
        model = load(proto)
        model.graph.initializers["w"].name = "renamed"
        model.graph[0].op_type = "Other"
        to_proto(model)
        assert proto.SerializeToString() == before

    def test_a_model_stays_as_it_is(self, proto):
        source = ir.from_proto(proto)
        before = fingerprint(source)
        model = load(source)
        model.graph.initializers["w"].name = "renamed"
        to_proto(model)
        model.graph.remove(list(model.graph)[::-1])
        assert fingerprint(source) == before
        assert source.graph.initializers["w"].const_value.name == "w"

    def test_weights_in_memory_are_shared(self, proto):
        source = ir.from_proto(proto)
        source.graph.initializers["w"].const_value = ir.tensor(W, name="w")
        assert np.shares_memory(load(source).graph.initializers["w"].const_value.numpy(), W)

    def test_anything_else_is_refused(self):
        assert "not as int" in refusal(3)


class TestExternalData:
    def test_stays_on_disk_until_it_is_read(self, external):
        model = load(external)
        tensor = model.graph.initializers["w"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.raw is None
        np.testing.assert_array_equal(tensor.numpy(), W)

    def test_is_found_whatever_the_working_directory(self, external, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        model = load("m.onnx")
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)

    def test_of_a_model_in_memory_lies_in_its_folder(self, external, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        sources = ir.load("m.onnx"), onnx.load("m.onnx", load_external_data=False)
        loaded = [load(source) for source in sources]
        monkeypatch.chdir("/")
        for model in loaded:
            np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)
        assert sources[1].graph.initializer[0].external_data[0].value == "m.data"

    def test_missing(self, external):
        (external.parent / "m.data").unlink()
        message = refusal(external)
        assert "tensor 'w'" in message
        assert "'m.data', which does not exist" in message

    def test_truncated(self, external):
        data = external.parent / "m.data"
        data.write_bytes(data.read_bytes()[:1000])
        assert "truncated: 2400 bytes needed, 1000 there" in refusal(external)

    def test_shorter_than_its_shape(self, external):
        relocate(external, length="100")
        assert "100 bytes declared, but its shape and type need 2400" in refusal(external)

    @pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "{absolute}"])
    def test_outside_the_models_folder(self, external, location, tmp_path):
        (tmp_path.parent / "secret").write_bytes(bytes(5000))
        relocate(external, location=location.format(absolute=tmp_path.parent / "secret"))
        assert "leads out of the model's folder" in refusal(external)

    def test_outside_the_models_folder_in_the_working_directory_too(self, external, monkeypatch, tmp_path):
        (tmp_path.parent / "secret").write_bytes(bytes(5000))
        relocate(external, location="../secret")
        monkeypatch.chdir(tmp_path)
        assert "leads out of the model's folder" in refusal("m.onnx")

    def test_behind_a_symbolic_link(self, external, tmp_path):
        elsewhere = tmp_path.parent / "elsewhere.data"
        (tmp_path / "m.data").rename(elsewhere)
        (tmp_path / "m.data").symlink_to(elsewhere)
        assert "leads out of the model's folder" in refusal(external)

    def test_with_several_hard_links(self, external, tmp_path):
        os.link(tmp_path / "m.data", tmp_path / "other")
        assert "hard links" in refusal(external)

    def test_that_is_a_folder(self, external, tmp_path):
        (tmp_path / "m.data").unlink()
        (tmp_path / "m.data").mkdir()
        assert "cannot be read" in refusal(external)

    def test_in_a_constant_of_a_subgraph(self, tmp_path):
        text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, bool c) => (float[2] y) { y = If (c) <
          then_branch = t () => (float[2] o) { k = Constant <value = float[2] {1, 2}> ()  o = Add (x, k) },
          else_branch = e () => (float[2] p) { p = Neg (x) }> }"""
        proto = onnx.parser.parse_model(text)
        tensor = proto.graph.node[0].attribute[0].g.node[0].attribute[0].t
        tensor.raw_data = np.array([3, 4], np.float32).tobytes()
        del tensor.float_data[:]
        onnx.external_data_helper.set_external_data(tensor, "../k.data", offset=0, length=8)
        tensor.ClearField("raw_data")
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        assert "leads out" in refusal(tmp_path / "m.onnx")


class TestBadFiles:
    def test_missing_file_with_a_near_name(self, path):
        assert "did you mean 'm.onnx'" in refusal(path.with_name("n.onnx"))

    def test_missing_folder(self, tmp_path):
        assert "there is no folder" in refusal(tmp_path / "no" / "m.onnx")

    def test_folder(self, path):
        assert f"is a folder; did you mean '{path}'" in refusal(path.parent)

    def test_empty_file(self, tmp_path):
        (tmp_path / "m.onnx").touch()
        assert "is empty" in refusal(tmp_path / "m.onnx")

    def test_unreadable_file(self, path, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(path), "open", refuse)  # its mode would not keep root out
        assert "cannot be read: Permission denied; check its permissions" in refusal(path)

    def test_an_odd_path(self):
        assert "cannot be read" in refusal("a\0b")

    @pytest.mark.parametrize("content", [b"no model at all", bytes(1000), b"\xff" * 100, os.urandom(0) + b"\x08\x08"])
    def test_other_content(self, tmp_path, content):
        (tmp_path / "m.onnx").write_bytes(content)
        assert "is not an ONNX model" in refusal(tmp_path / "m.onnx")

    @pytest.mark.parametrize(
        ("content", "advice"),
        [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"PK\x03\x04" + bytes(100), "torch.onnx.export"),
            (b"\x10\0\0\0ORTM", "ORT format"),
            (b"<!DOCTYPE html>", "download the model again"),
        ],
    )
    def test_files_that_people_take_for_models(self, tmp_path, content, advice):
        (tmp_path / "m.onnx").write_bytes(content)
        assert advice in refusal(tmp_path / "m.onnx")

    def test_truncated_anywhere(self, path):
        whole = path.read_bytes()
        for length in range(1, len(whole), 97):
            path.write_bytes(whole[:length])
            refusal(path)

    def test_flipped_bits_are_refused_or_load(self, path):
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(200):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                load(path)
            except ModelError:
                continue

    def test_weight_shorter_than_its_shape(self, proto):
        proto.graph.initializer[0].dims[0] = 10**12
        assert "tensor 'w' holds 2400 bytes, its shape and type need 8000000000000" in refusal(proto)

    @pytest.mark.parametrize("kind", ["FLOAT", "INT8", "FLOAT16", "COMPLEX64", "INT4", "DOUBLE", "UINT64", "BOOL"])
    def test_weights_in_typed_fields(self, proto, kind):
        tensor = helper.make_tensor("extra", getattr(onnx.TensorProto, kind), [3], [1, 0, 1])
        proto.graph.initializer.append(tensor)
        assert load(proto).graph.initializers["extra"].const_value.numpy().shape == (3,)
        proto.graph.initializer[-1].dims[0] = 5
        assert "tensor 'extra' holds" in refusal(proto)

    def test_negative_dimension(self, proto):
        proto.graph.initializer[0].dims[0] = -1
        assert "negative dimension" in refusal(proto)

    def test_node_that_reads_nothing(self, proto):
        proto.graph.node[1].input[1] = "nowhere"
        proto.graph.node[1].name = "adder"
        assert "node 'adder' reads 'nowhere'" in refusal(proto)

    def test_output_that_nothing_makes(self, proto):
        proto.graph.output[0].name = "z"
        assert "its output 'z'" in refusal(proto)

    def test_value_made_twice(self, proto):
        proto.graph.node[0].output[0] = "y"
        assert "redeclared" in refusal(proto)

    def test_attribute_tensor_without_type(self):
        text = (
            f"{HEADER} g (float[2] x) => (float[2] y) {{ c = Constant <value = float[2] {{1, 2}}> ()  y = Add (x, c) }}"
        )
        proto = onnx.parser.parse_model(text)
        proto.graph.node[0].attribute[0].t.data_type = 0
        assert "tensor 'Constant.value' has no element type" in refusal(proto)

    def test_attribute_without_type(self, proto):
        proto.graph.node[0].attribute.append(onnx.AttributeProto(name="axis", i=1))
        assert "attribute 'axis' of node 'mul' has no type" in refusal(proto)

    def test_names_cannot_break_out_of_a_message(self, proto):
        proto.graph.node[1].input[1] = "no\nwhere\x1b[31m"
        assert r"'no\nwhere\x1b[31m'" in refusal(proto)

    def test_name_that_is_no_text(self, path):
        path.write_bytes(path.read_bytes().replace(b"mul", b"m\xfel"))
        assert "is not UTF-8 text" in refusal(path)

    def test_circle(self, proto):
        proto.graph.node[0].input[0] = "y"
        assert "in a circle" in refusal(proto)

    def test_function_that_calls_itself(self):
        text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> f (x) => (y) { y = local.f (x) }"""
        assert "must not call itself" in refusal(onnx.parser.parse_model(text))

    def test_a_chain_of_functions_longer_than_the_stack_is_taken(self):
        functions = "".join(
            f'<domain: "local", opset_import: ["" : 17, "local" : 1]> f{i} (x) => (y) {{ y = local.f{i + 1} (x) }}\n'
            for i in range(2000)
        )
        text = f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) {{ y = local.f0 (x) }}
        {functions}<domain: "local", opset_import: ["" : 17]> f2000 (x) => (y) {{ y = Relu (x) }}"""
        assert len(load(onnx.parser.parse_model(text)).functions) == 2001

    def test_functions_that_double_forty_times(self):
        """The runtime would inline them, and never be done."""
        functions = "".join(
            f'<domain: "local", opset_import: ["" : 17, "local" : 1]> f{i} (x) => (y) '
            f"{{ a = local.f{i + 1} (x)  y = local.f{i + 1} (a) }}\n"
            for i in range(40)
        )
        text = f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) {{ y = local.f0 (x) }}
        {functions}<domain: "local", opset_import: ["" : 17]> f40 (x) => (y) {{ y = Relu (x) }}"""
        assert "would become 1,099,511,627,776 nodes; inline them" in refusal(onnx.parser.parse_model(text))


class TestNormalization:
    def test_extents_below_zero_are_unknown_ones(self, proto):
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = -1
        model = load(proto)
        for value in (model.graph.inputs[0], model.graph.outputs[0]):
            assert value.shape[0] == ir.SymbolicDim(None)
            assert isinstance(value.shape[-1], int)
        report = quantize(proto, allow_empty=True, check=False)
        assert report.calibration["synthetic"]

    def test_nodes_out_of_order_are_sorted(self, proto):
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[::-1])
        model = load(proto)
        assert [node.op_type for node in model.graph] == ["MatMul", "Add"]
        assert model.clone()

    def test_nodes_in_order_stay_in_order(self):
        names = [f"n{index}" for index in range(20)]
        body = "  ".join(f"[{name}] v{name} = Relu (x)" for name in names)
        model = load(onnx.parser.parse_model(HEADER + f"g (float[1] x) => (float[1] vn0) {{ {body} }}"))
        assert [node.name for node in model.graph] == names

    def test_the_onnx_domain_has_one_name(self, proto):
        proto.opset_import[0].domain = "ai.onnx"
        assert load(proto).opset_imports == {"": 17}

    @pytest.mark.parametrize("two_axes", [False, True])
    def test_sparse_weights_become_dense(self, proto, two_axes):
        del proto.graph.initializer[0]
        at = np.array([[3, 1], [299, 0]]) if two_axes else np.array([7, 598])
        sparse = helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(np.array([5, 6], np.float32), "w"),
            onnx.numpy_helper.from_array(at.astype(np.int64)),
            [300, 2],
        )
        proto.graph.sparse_initializer.append(sparse)
        expected = np.zeros((300, 2), np.float32)
        expected[3, 1], expected[299, 0] = 5, 6
        before = proto.SerializeToString()
        model = load(proto)
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), expected)
        assert proto.SerializeToString() == before

    def test_sparse_constants_too(self):
        values = onnx.numpy_helper.from_array(np.array([5], np.float32))
        sparse = helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(np.array([2])), [4])
        info = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
        graph = helper.make_graph([helper.make_node("Constant", [], ["y"], sparse_value=sparse)], "g", [], [info])
        model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        np.testing.assert_array_equal(run_model(model, {})["y"], [0, 0, 5, 0])

    @pytest.mark.parametrize(
        ("dims", "at", "message"),
        [([10**6, 10**6], [2], "too big"), ([4], [9], "damaged"), ([4], [[9, 9]], "damaged")],
    )
    def test_damaged_sparse_weights_are_refused(self, proto, dims, at, message):
        values = onnx.numpy_helper.from_array(np.array([5], np.float32), "s")
        sparse = onnx.SparseTensorProto(values=values, indices=onnx.numpy_helper.from_array(np.array(at)), dims=dims)
        proto.graph.sparse_initializer.append(sparse)
        assert message in refusal(proto)


def test_many_nodes_of_one_name_are_told_apart_in_few_tries(monkeypatch):
    tried = []

    def take(wanted, taken, **options):
        tried.append(options["following"])
        return take_name(wanted, taken, **options)

    monkeypatch.setattr(loading, "take_name", take)
    nodes = [onnx.helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name="same") for i in range(50)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("v0", "v50")]
    model = load(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])))
    assert len({node.name for node in model.graph}) == 50
    assert tried[-1] == {"same": 51}
    assert all(each is tried[0] for each in tried)
