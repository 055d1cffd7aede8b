"""The numerics against the ONNX operators: the standard's own node tests, its reference, and onnxruntime."""

import importlib
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.backend.test.case import node as node_tests
from onnx.reference import ReferenceEvaluator
from onnxq.numerics.affine import dequantize, params_from_range, quantize, storage_array
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantParams, QuantType, Scheme

_MODULES = (
    "quantizelinear",
    "dequantizelinear",
    "dynamicquantizelinear",
)


@cache
def _all_cases():
    # The public `collect_testcases` imports the tests of every operator, which takes many seconds.
    for module in _MODULES:
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    return list(node_tests._NodeTestCases)


def _cases(op):
    found = [
        case for case in _all_cases() if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type == op
    ]
    assert found, f"the standard has no test for {op}"
    return [pytest.param(case, id=case.name) for case in found]


def _arrays(values):
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else np.asarray(v) for v in values]


def _attributes(model):
    return {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[0].attribute}


def _quant_type(dtype):
    name = str(np.dtype(dtype)).replace("float8_e", "float8e").replace("float4_e2m1fn", "float4e2m1")
    return QuantType(name)


def _params(scale, zero_point, dtype, *, axis=1, block_size=0):
    kind = _quant_type(dtype)
    granularity = PerTensor()
    if block_size:
        granularity = PerBlock(axis=axis, size=block_size)
    elif scale.ndim:
        granularity = PerChannel(axis=axis)
    symmetric = kind.is_float or kind is QuantType.INT32
    scheme = Scheme(dtype=kind, symmetric=symmetric, narrow=False, granularity=granularity)
    zero = np.zeros(scale.shape) if zero_point is None or symmetric else zero_point.reshape(scale.shape)
    return QuantParams(scheme=scheme, scale=scale.astype(np.float32), zero_point=zero.astype(np.int32))


def _same(ours, expected):
    """Bit for bit, types and shapes included."""
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    assert ours.tobytes() == expected.tobytes()


def _equal(ours, expected):
    """Value for value: the float4 test of the standard, written by hand, says 0 where rounding gives -0."""
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("case", _cases("QuantizeLinear"))
def test_quantize_passes_the_standards_tests(case):
    inputs, (expected,) = (_arrays(part) for part in case.data_sets[0])
    attributes = _attributes(case.model)
    x, scale, zero_point = [*inputs, None][:3]
    params = _params(
        scale,
        zero_point,
        expected.dtype,
        axis=attributes.get("axis", 1),
        block_size=attributes.get("block_size", 0),
    )
    _equal(storage_array(quantize(x, params), params.scheme.dtype), expected)


@pytest.mark.parametrize("case", _cases("DequantizeLinear"))
def test_dequantize_passes_the_standards_tests(case):
    inputs, (expected,) = (_arrays(part) for part in case.data_sets[0])
    attributes = _attributes(case.model)
    codes, scale, zero_point = [*inputs, None][:3]
    params = _params(
        scale,
        zero_point,
        codes.dtype,
        axis=attributes.get("axis", 1),
        block_size=attributes.get("block_size", 0),
    )
    _same(dequantize(codes, params).astype(expected.dtype), expected)


@pytest.mark.parametrize("case", _cases("DynamicQuantizeLinear"))
def test_parameters_from_a_range_pass_the_tests_of_dynamic_quantization(case):
    (x,), (codes, scale, zero_point) = (_arrays(part) for part in case.data_sets[0])
    params = params_from_range(x.min(), x.max(), Scheme(dtype=QuantType.UINT8, symmetric=False))
    _same(params.scale, scale.astype(np.float32))
    _same(params.zero_point.astype(np.uint8), zero_point)
    _same(storage_array(quantize(x, params), QuantType.UINT8), codes)


# Random tensors: ties, values far beyond the range, scales of every size.

_TYPES = [t for t in QuantType if t not in (QuantType.INT3, QuantType.FLOAT16, QuantType.BFLOAT16, QuantType.INT32)]
_GRANULARITIES = [
    PerTensor(),
    PerChannel(axis=0),
    PerChannel(axis=2),
    PerBlock(axis=1, size=3),
    PerBlock(axis=2, size=4),
    PerBlock(axis=-3, size=1),
]


def _random(rng, granularity, dtype):
    shape = (4, 6, 8)
    scheme = Scheme(dtype=dtype, symmetric=dtype.is_float, narrow=False, granularity=granularity)
    scale_shape = {
        "per-tensor": lambda: (),
        "per-channel": lambda: (shape[granularity.axis],),
        "per-block": lambda: [n // granularity.size if a == granularity.axis % 3 else n for a, n in enumerate(shape)],
    }[granularity.kind]()
    scale = (2.0 ** rng.integers(-12, 12, scale_shape) * rng.choice([1.0, 1.5, 1.1], scale_shape)).astype(np.float32)
    zero = np.zeros(scale_shape, np.int32)
    if not dtype.is_float:
        zero = rng.integers(dtype.minimum, dtype.maximum + 1, scale_shape).astype(np.int32)
    # Multiples of half a small power of two: with the plain scales many quotients are ties.
    x = (rng.integers(-600, 600, shape) * 2.0 ** rng.integers(-10, 10, shape)).astype(np.float32)
    return x, QuantParams(scheme=scheme, scale=np.asarray(scale), zero_point=np.asarray(zero))


def _model(params, *, quantizing):
    dtype = getattr(onnx.TensorProto, params.scheme.dtype.name)
    granularity = params.scheme.granularity
    attributes = {}
    if isinstance(granularity, PerChannel | PerBlock):
        attributes["axis"] = granularity.axis
    if isinstance(granularity, PerBlock):
        attributes["block_size"] = granularity.size
    op, types = ("QuantizeLinear", (1, dtype)) if quantizing else ("DequantizeLinear", (dtype, 1))
    zero = storage_array(params.zero_point, params.scheme.dtype)
    node = onnx.helper.make_node(op, ["x", "scale", "zero"], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", types[0], [4, 6, 8])],
        [onnx.helper.make_tensor_value_info("y", types[1], [4, 6, 8])],
        [onnx.numpy_helper.from_array(params.scale, "scale"), onnx.numpy_helper.from_array(zero, "zero")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)], ir_version=13)


@pytest.mark.parametrize("granularity", _GRANULARITIES, ids=str)
@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_quantize_and_dequantize_equal_the_reference(dtype, granularity):
    for seed in range(5):
        x, params = _random(np.random.default_rng(seed), granularity, dtype)
        codes = storage_array(quantize(x, params), dtype)
        (expected,) = ReferenceEvaluator(_model(params, quantizing=True)).run(None, {"x": x})
        _same(codes, expected)
        (expected,) = ReferenceEvaluator(_model(params, quantizing=False)).run(None, {"x": codes})
        _same(dequantize(codes, params), expected)


@pytest.mark.parametrize("granularity", _GRANULARITIES, ids=str)
@pytest.mark.parametrize("dtype", [QuantType.INT8, QuantType.UINT8, QuantType.INT16, QuantType.UINT16], ids=str)
def test_quantize_and_dequantize_equal_onnxruntime(dtype, granularity):
    x, params = _random(np.random.default_rng(7), granularity, dtype)
    codes = storage_array(quantize(x, params), dtype)
    for model, given, expected in (
        (_model(params, quantizing=True), x, codes),
        (_model(params, quantizing=False), codes, dequantize(codes, params)),
    ):
        model.opset_import[0].version = 21
        model.ir_version = 10
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": given})
        _same(found, expected)
