import numpy as np
import onnxq
import pytest
from onnxq.errors import ModelError
from onnxq.runtime.session import open_session

X = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)}
MOVERS = [
    ("MaxPool <kernel_shape = [2,2]> (d)", "A,B,C,D"),
    ("Reshape (d, all)", "A"),
    ("Slice (d, zero, one)", "A,B,C,D"),
    ("Squeeze (d, zero)", "A,B,C"),
    ("Transpose <perm = [1,0,2,3]> (d)", "A,B,C,D"),
    ("Unsqueeze (d, zero)", "A,B,C,D,E"),
]
PAIR = "e = Elu (x)  q = QuantizeLinear (e, s, z)  d = DequantizeLinear (q, s, z)"


@pytest.fixture
def paired(model_of):
    """Make a model of a pair and what is behind it."""

    def make(behind, *, kind="int8", opset=21, outputs="float[A] y"):
        return model_of(
            f"""g (float[1,2,4,4] x) => ({outputs})
                <float s = {{0.05}}, {kind} z = {{3}},
                 int64[1] all = {{-1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}>
                {{ {PAIR} {behind} }}""",
            opset=opset,
            ir_version=10,
        )

    return make


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(("mover", "shape"), MOVERS)
def test_a_pair_is_put_behind_what_moves_its_values(apply, same, paired, mover, shape):
    model = paired(f"r = {mover}  y = Elu (r)", outputs=f"float[{shape}] y")
    with pytest.raises(ModelError, match="output_dtype INT8"):  # else the pass is not needed any more
        open_session(model)
    before = model.clone()
    assert apply(model, "close-pairs")
    assert ops(model) == [
        "Elu",
        "QuantizeLinear",
        "DequantizeLinear",
        mover.split()[0],
        "QuantizeLinear",
        "DequantizeLinear",
        "Elu",
    ]
    same(before, model, X)
    assert not apply(model, "close-pairs")


def test_pairs_follow_from_one_mover_to_the_next_and_out_of_the_graph(apply, same, paired):
    model = paired("r = Transpose (d)  y = Reshape (r, all)")
    before = model.clone()
    assert apply(model, "close-pairs")
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert ops(model) == ["Elu", *pair, "Transpose", *pair, "Reshape", *pair]
    same(before, model, X)


@pytest.mark.parametrize(
    ("behind", "outputs", "options"),
    [
        ("r = Reshape (d, all)  y = Elu (r)", "float[A] y", {"kind": "uint8"}),
        ("r = Reshape (d, all)  y = Elu (r)", "float[A] y", {"opset": 20}),
        ("r = Reshape (d, all)  y = Elu (r)  y2 = Relu (r)", "float[A] y, float[B] y2", {}),
        ("r = Reshape (d, all)  p = QuantizeLinear (r, s, z)  y = DequantizeLinear (p, s, z)", "float[A] y", {}),
        ("r = Relu (d)  y = Elu (r)", "float[A] y", {}),
    ],
)
def test_what_the_runtime_takes_stays(apply, paired, behind, outputs, options):
    model = paired(behind, outputs=outputs, **options)
    open_session(model)
    assert not apply(model, "close-pairs")


@pytest.mark.parametrize(
    ("pair", "init", "opset"),
    [
        (
            "q = QuantizeLinear <axis = 1, block_size = 4> (e, s, z)"
            "d = DequantizeLinear <axis = 1, block_size = 4> (q, s, z)",
            "float[1,1] s = {0.05}, int8[1,1] z = {3}",
            21,
        ),
        (
            "q = QuantizeLinear (e, s, z)  h = DequantizeLinear <output_dtype = 10> (q, s, z)",
            "float s = {0.05}, int8 z = {3}",
            23,
        ),
    ],
    ids=["blocked", "float16"],
)
def test_a_pair_that_needs_attributes_of_its_own_is_not_repeated_without(apply, model_of, pair, init, opset):
    half = "r = Transpose (h)  y = Cast <to = 1> (r)" if opset == 23 else "r = Transpose (d)  y = Elu (r)"
    model = model_of(
        f"g (float[1,4] x) => (float[4,1] y) <{init}> {{ e = Elu (x) {pair} {half} }}", opset=opset, ir_version=10
    )
    open_session(model, optimize=False)
    assert not apply(model, "close-pairs")


def test_each_reader_of_a_pair_is_looked_at_and_names_stay_unique(apply, same, paired):
    both = "r = Reshape (d, all)  y = Elu (r)  t = Transpose (d)  [r_quantized] y2 = Elu (t)"
    model = paired(both, outputs="float[A] y, float[B,C,D,E] y2")
    before = model.clone()
    assert apply(model, "close-pairs")
    assert ops(model).count("QuantizeLinear") == 3
    same(before, model, X)


@pytest.mark.parametrize("opset", [13, 21, 23])
def test_int8_activations_in_front_of_a_reshape_are_served(model_of, opset):
    """Conv in int8, then Reshape: whatever is quantized, the model must open as served."""
    weight = ",".join(str(value) for value in np.random.default_rng(1).integers(-9, 9, 3 * 2 * 2 * 2))
    model = model_of(
        f"""g (float[1,2,4,4] x) => (float[27] y) <float[3,2,2,2] w = {{{weight}}}, int64[1] all = {{-1}}>
            {{ c = Conv (x, w)  r = Reshape (c, all)  y = Elu (r) }}""",
        opset=opset,
        ir_version=10,
    )
    report = onnxq.quantize(model, calibration=[X], activations="int8", format="qdq", guard=False, check=False)
    (wanted,) = open_session(model, optimize=False).run(X).values()
    for optimize in (False, True):
        (found,) = open_session(report.model, optimize=optimize).run(X).values()
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)
    assert any(node.op_type == "QuantizeLinear" for node in report.model.graph)
