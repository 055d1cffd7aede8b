"""Reported about Gemm, MatMul and convolutions: biases, transposes, groups, stale shapes, names that collide."""

import numpy as np
import onnx
import pytest
from tests.support.end_to_end import FORMATS, normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bias", [(6,), (1, 6), (1,), (), (5, 1), (5, 6)], ids=str)
def test_gemm_with_alpha_beta_and_any_bias(form, bias):
    model = with_weights(
        f"{HEAD} g (float[5,16] x) => (float[5,6] y) {{ y = Gemm <alpha = 0.25, beta = 3.0> (x, w, b) }}",
        w=normal(16, 6, seed=1),
        b=normal(*bias, seed=2),
    )
    done = quantize(model, {"x": normal(5, 16)}, form)
    assert done.at_least(30)
    assert "Gemm_0" in done.quantized()


@pytest.mark.parametrize("form", FORMATS)
def test_gemm_transposed_with_a_stale_shape_of_its_weight(form):
    model = with_weights(
        f"{HEAD} g (float[5,16] x) => (float[5,6] y) {{ y = Gemm <transB = 1> (x, w, b) }}",
        w=normal(6, 16, seed=1),
        b=normal(6, seed=2),
    )
    stale = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [16, 6])
    model.graph.value_info.append(stale)  # as torch's exporter leaves it after it has transposed the weight
    assert quantize(model, {"x": normal(5, 16)}, form).at_least(30)


@pytest.mark.parametrize("form", FORMATS)
def test_a_shared_bias_where_the_names_of_copies_are_taken(form):
    names = ["b", "b_1", "b@Conv_1", "b/quantized", "b/scale", "b@Conv_1/quantized", "x/quantized", "w1/quantized"]
    taken = "".join(f" t{index} = Relu (v{index})" for index, _ in enumerate(names[1:]))
    model = with_weights(
        f"{HEAD} g (float[1,4,8,8] x, float[1,4,8,8] z) => (float[1,8,6,6] y, float[1,8,6,6] u, float[2] s) {{"
        f" y = Conv (x, w1, b)  u = Conv (z, w2, b) {taken} s = Sum ({', '.join(f't{i}' for i in range(7))}) }}",
        w1=normal(8, 4, 3, 3, seed=1),
        w2=normal(8, 4, 3, 3, seed=2, scale=20),
        b=normal(8, seed=3),
        **{f"v{index}": normal(2, seed=index) for index in range(7)},
    )
    for index, name in enumerate(names[1:]):
        for node in model.graph.node:
            node.input[:] = [name if value == f"v{index}" else value for value in node.input]
        next(each for each in model.graph.initializer if each.name == f"v{index}").name = name
    done = quantize(model, {"x": normal(1, 4, 8, 8), "z": normal(1, 4, 8, 8, seed=5)}, form)
    assert done.at_least(30)
    made = [each.name for each in done.model.graph.initializer]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("form", FORMATS)
def test_stacks_of_matrices_per_channel(form):
    model = with_weights(
        f"{HEAD} g (float[3,5,16] x) => (float[3,5,6] y) {{ y = MatMul (x, w) }}", w=normal(3, 16, 6, seed=1)
    )
    assert quantize(model, {"x": normal(3, 5, 16)}, form, weights="int8,symmetric,per-channel").at_least(30)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_transposed_convolution_in_groups(form, group):
    model = with_weights(
        f"{HEAD} g (float[1,8,6,6] x) => (float[1,{2 * group},13,13] y)"
        f" {{ y = ConvTranspose <group = {group}, strides = [2, 2]> (x, w, b) }}",
        w=normal(8, 2, 3, 3, seed=1),
        b=normal(2 * group, seed=2),
    )
    assert quantize(model, {"x": normal(1, 8, 6, 6)}, form).at_least(30)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_of_one_and_three_axes(form, axes):
    image, kernel, result = ([extent] * axes for extent in (8, 3, 6))
    model = with_weights(
        f"{HEAD} g (float{[1, 16, *image]} x) => (float{[1, 6, *result]} y) {{ y = Conv (x, w, b) }}",
        w=normal(6, 16, *kernel, seed=1),
        b=normal(6, seed=2),
    )
    done = quantize(model, {"x": normal(1, 16, *image)}, form)
    assert done.at_least(30)
    assert done.quantized() == ["Conv_0"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_table_and_a_product_on_one_weight_keep_it_once(form):
    table = normal(200, 64, seed=1)
    model = with_weights(
        f"""{HEAD} g (int64[7] ids) => (float[7,200] y) {{
            e = Gather (w, ids)  t = Transpose <perm = [1, 0]> (w)  y = MatMul (e, t) }}""",
        w=table,
    )
    done = quantize(model, {"ids": np.arange(7)}, form)
    assert done.at_least(28)
    size = sum(len(each.raw_data) for each in done.model.graph.initializer)
    if form in ("dynamic", "weight-only"):
        assert size < 1.3 * table.size
    else:  # the table stays in float; what the product reads is a quantized copy
        assert size < 1.3 * (table.nbytes + table.size)
