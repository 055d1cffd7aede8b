"""Weights of a LLaMA-like decoder -> ONNX graph, in operators of the ONNX standard, as exporters spell them out.

The architecture is LLaMA's (Touvron et al., 2023): RMSNorm before each part (Zhang and Sennrich, 2019), rotary
positions (Su et al., 2021), grouped keys and values (Ainslie et al., 2023), SwiGLU (Shazeer, 2020), and the embedding
used again, turned, to score the next token. Query heads that share a key head lie on an axis of their own, so that keys
and values are never copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from models.entry import Array

OPSET = 21
IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of a decoder."""

    layers: int
    heads: int
    key_heads: int
    width: int
    inner: int
    vocabulary: int
    rotary_base: float
    epsilon: float

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads


def build_decoder(weights: Mapping[str, Array], shape: Shape, *, cache: bool) -> ir.Model:
    """The decoder as a model.

    Inputs, int64: `input_ids` [batch, sequence] and `attention_mask` [batch, total], 0 for padding. Output: `logits`
    float32 [batch, sequence, vocabulary]. Without a cache, total is sequence.

    With ``cache``, total is past + sequence; for every layer k there are inputs `past_key_values.k.key` and `.value`,
    float32 [batch, key heads, past, head size] (past may be 0), and outputs `present.k.key` and `.value` with total in
    the place of past, to be fed back.

    ``weights`` are named as in Hugging Face's LlamaModel, and float32.
    """
    write = _Writer(weights, shape)
    ids = ir.val(IDS, ir.DataType.INT64, ["batch", "sequence"])
    mask = ir.val(MASK, ir.DataType.INT64, ["batch", "total" if cache else "sequence"])
    inputs, outputs = [ids, mask], []
    hidden = write.op("Gather", write.weight("embed_tokens.weight"), ids, name="/embed_tokens/Gather")
    places = write.places(ids, mask)
    for k in range(shape.layers):
        past: list[ir.Value] = []
        if cache:
            past = [write.cached(f"past_key_values.{k}.{part}", "past") for part in ("key", "value")]
        hidden, present = write.layer(hidden, places, past, f"layers.{k}")
        if cache:
            outputs += [write.rename(value, like=f"present.{k}.{part}") for value, part in present]
        inputs += past
    write.score(write.normalize(hidden, "norm"))
    logits = write.tape.nodes[-1].outputs[0]
    logits.name, logits.dtype = LOGITS, _FLOAT
    logits.shape = ir.Shape(["batch", "sequence", shape.vocabulary])
    graph = ir.Graph(
        inputs,
        [logits, *outputs],
        nodes=write.tape.nodes,
        initializers=write.tape.initializers,
        opset_imports={"": OPSET},
        name="decoder",
    )
    return ir.Model(graph, ir_version=10, producer_name="onnxq-models")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """What every layer needs to know of the tokens' places: cosine and sine of their angles, and the mask to add."""

    cosine: ir.Value
    sine: ir.Value
    bias: ir.Value


class _Writer:
    """Writes one decoder onto a tape; each method takes and returns values of the graph.

    A node is called after the module it computes, `/layers.0/self_attn/q_proj/MatMul`, and its output after the node;
    a weight keeps its name.
    """

    def __init__(self, weights: Mapping[str, Array], shape: Shape) -> None:
        self.weights = weights
        self.shape = shape
        self.tape = Tape()
        self.numbers: dict[str, ir.Value] = {}

    def places(self, ids: ir.Value, mask: ir.Value) -> _Places:
        """Angles by the number of tokens before that are no padding; 0 or finfo.min to add to the scores."""
        here = "/places"
        length = self.op("Shape", ids, name=f"{here}/length", start=1, end=2)
        total = self.op("Shape", mask, name=f"{here}/total", start=1, end=2)
        past = self.op("Sub", total, length, name=f"{here}/past")
        one, zero = self.constant([1], f"{here}/one"), self.constant([0], f"{here}/zero")
        counted = self.op("CumSum", mask, self.constant(1, f"{here}/axis"), name=f"{here}/CumSum")
        number = self.op("Max", self.op("Sub", counted, one, name=f"{here}/number"), zero, name=f"{here}/Max")
        mine = self.op("Slice", number, past, total, one, name=f"{here}/Slice")
        half = self.shape.head_size // 2
        rates = (self.shape.rotary_base ** (-np.arange(half) / half)).astype(np.float32)
        angle = self.op(
            "Mul",
            self.op(
                "Cast",
                self.op("Unsqueeze", mine, self.constant([1, 2, 4], f"{here}/axes"), name=f"{here}/wide"),
                name=f"{here}/Cast",
                to=int(_FLOAT),
            ),
            self.initializer("rotary.rates", rates),
            name=f"{here}/angle",
        )
        angles = self.op("Concat", angle, angle, name=f"{here}/angles", axis=-1)
        return _Places(
            cosine=self.op("Cos", angles, name=f"{here}/Cos"),
            sine=self.op("Sin", angles, name=f"{here}/Sin"),
            bias=self.bias(mask, past, total, here),
        )

    def bias(self, mask: ir.Value, past: ir.Value, total: ir.Value, here: str) -> ir.Value:
        """[batch, 1, 1, sequence, total]: 0 where a token sees another, finfo.min where that is later or padding."""
        scalar = self.constant([], f"{here}/scalar")
        first, last = (
            self.op("Reshape", one, scalar, name=f"{here}/{what}") for one, what in ((past, "first"), (total, "last"))
        )
        step = self.constant(1, f"{here}/step")
        start = self.constant(0, f"{here}/start")
        rows = self.op("Range", first, last, step, name=f"{here}/rows")
        columns = self.op("Range", start, last, step, name=f"{here}/columns")
        down = self.op("Unsqueeze", rows, self.constant([1], f"{here}/down"), name=f"{here}/Unsqueeze")
        earlier = self.op("LessOrEqual", columns, down, name=f"{here}/LessOrEqual")
        kept = self.op(
            "Cast",
            self.op("Unsqueeze", mask, self.constant([1, 2, 3], f"{here}/middle"), name=f"{here}/Unsqueeze_1"),
            name=f"{here}/kept",
            to=int(ir.DataType.BOOL),
        )
        seen = self.op("And", earlier, kept, name=f"{here}/And")
        lowest = float(np.finfo(np.float32).min)
        return self.op(
            "Where",
            seen,
            self.constant(0.0, f"{here}/seen"),
            self.constant(lowest, f"{here}/lowest"),
            name=f"{here}/Where",
        )

    def layer(
        self, hidden: ir.Value, places: _Places, past: Sequence[ir.Value], module: str
    ) -> tuple[ir.Value, list[tuple[ir.Value, str]]]:
        """Attention and feed-forward, each normalized before and added to its input; and the keys and values."""
        normal = self.normalize(hidden, f"{module}.input_layernorm")
        attended, present = self.attention(normal, places, past, f"{module}.self_attn")
        middle = self.op("Add", hidden, attended, name=f"/{module}/Add")
        normal = self.normalize(middle, f"{module}.post_attention_layernorm")
        return self.op("Add", middle, self.feed_forward(normal, f"{module}.mlp"), name=f"/{module}/Add_1"), present

    def attention(
        self, hidden: ir.Value, places: _Places, past: Sequence[ir.Value], module: str
    ) -> tuple[ir.Value, list[tuple[ir.Value, str]]]:
        """softmax(Q K^T / sqrt(d) + bias) V, as [batch, key heads, queries a key, sequence, total] in the middle."""
        here, size, shared = f"/{module}", self.shape.head_size, self.shape.key_heads
        group = self.shape.heads // shared
        query = self.split(self.linear(hidden, f"{module}.q_proj"), [0, 0, shared, group, size], f"{here}/query")
        key = self.split(self.linear(hidden, f"{module}.k_proj"), [0, 0, shared, 1, size], f"{here}/key")
        value = self.split(self.linear(hidden, f"{module}.v_proj"), [0, 0, shared, 1, size], f"{here}/value")
        query, key = self.turn(query, places, f"{here}/query"), self.turn(key, places, f"{here}/key")
        present = []
        if past:
            key, whole_key = self.extend(key, past[0], f"{here}/key")
            value, whole_value = self.extend(value, past[1], f"{here}/value")
            present = [(whole_key, "key"), (whole_value, "value")]
        across = self.op("Transpose", key, name=f"{here}/key/across", perm=(0, 1, 2, 4, 3))
        scores = self.op("MatMul", query, across, name=f"{here}/MatMul")
        scaled = self.op("Mul", scores, self.constant(size**-0.5, f"{here}/scale"), name=f"{here}/Mul")
        shares = self.op(
            "Softmax", self.op("Add", scaled, places.bias, name=f"{here}/Add"), name=f"{here}/Softmax", axis=-1
        )
        mixed = self.op("MatMul", shares, value, name=f"{here}/MatMul_1")
        back = self.op("Transpose", mixed, name=f"{here}/Transpose", perm=(0, 3, 1, 2, 4))
        joined = self.op("Reshape", back, self.constant([0, 0, -1], f"{here}/joined"), name=f"{here}/Reshape")
        return self.linear(joined, f"{module}.o_proj"), present

    def split(self, value: ir.Value, sizes: list[int], here: str) -> ir.Value:
        """[batch, sequence, heads * size] -> [batch, key heads, queries a key, sequence, size]."""
        heads = self.op("Reshape", value, self.constant(sizes, f"{here}/heads"), name=f"{here}/Reshape")
        return self.op("Transpose", heads, name=f"{here}/Transpose", perm=(0, 2, 3, 1, 4))

    def turn(self, value: ir.Value, places: _Places, here: str) -> ir.Value:
        """Turn pairs (i, i + size / 2) by the token's angles."""
        first, second = self.tape.op_multi_out(
            "Split",
            (value,),
            {"axis": -1, "num_outputs": 2},
            name=f"{here}/Split",
            outputs=[ir.val(f"{here}/Split_output_{k}") for k in range(2)],
        )
        swapped = self.op("Concat", self.op("Neg", second, name=f"{here}/Neg"), first, name=f"{here}/Concat", axis=-1)
        kept = self.op("Mul", value, places.cosine, name=f"{here}/Mul")
        return self.op("Add", kept, self.op("Mul", swapped, places.sine, name=f"{here}/Mul_1"), name=f"{here}/Add")

    def extend(self, value: ir.Value, past: ir.Value, here: str) -> tuple[ir.Value, ir.Value]:
        """Put what is cached in front; returned with the axis of queries a key, and without it."""
        axis = self.constant([2], f"{here}/shared")
        alone = self.op("Squeeze", value, axis, name=f"{here}/Squeeze")
        whole = self.op("Concat", past, alone, name=f"{here}/extended", axis=2)
        return self.op("Unsqueeze", whole, axis, name=f"{here}/Unsqueeze"), whole

    def feed_forward(self, hidden: ir.Value, module: str) -> ir.Value:
        """down(silu(gate(x)) up(x))."""
        gate = self.linear(hidden, f"{module}.gate_proj")
        share = self.op("Sigmoid", gate, name=f"/{module}/Sigmoid")
        silu = self.op("Mul", gate, share, name=f"/{module}/Mul")
        gated = self.op("Mul", silu, self.linear(hidden, f"{module}.up_proj"), name=f"/{module}/Mul_1")
        return self.linear(gated, f"{module}.down_proj")

    def normalize(self, hidden: ir.Value, module: str) -> ir.Value:
        """weight x / sqrt(mean(x^2) + epsilon)."""
        here = f"/{module}"
        square = self.op("Pow", hidden, self.constant(2.0, f"{here}/two"), name=f"{here}/Pow")
        mean = self.op("ReduceMean", square, self.constant([-1], f"{here}/last"), name=f"{here}/ReduceMean")
        safe = self.op("Add", mean, self.constant(self.shape.epsilon, f"{here}/epsilon"), name=f"{here}/Add")
        root = self.op("Sqrt", safe, name=f"{here}/Sqrt")
        inverse = self.op("Div", self.constant(1.0, f"{here}/one"), root, name=f"{here}/Div")
        unit = self.op("Mul", hidden, inverse, name=f"{here}/Mul")
        return self.op("Mul", unit, self.weight(f"{module}.weight"), name=f"{here}/Mul_1")

    def score(self, hidden: ir.Value) -> None:
        """Every token of the vocabulary, by its embedding."""
        turned = self.op("Transpose", self.weight("embed_tokens.weight"), name="/lm_head/Transpose", perm=(1, 0))
        self.op("MatMul", hidden, turned, name="/lm_head/MatMul")

    def linear(self, value: ir.Value, module: str) -> ir.Value:
        """x W^T; the weight is stored turned, [inputs, outputs], as MatMul wants it."""
        turned = self.initializer(f"{module}.weight", self.weights[f"{module}.weight"].T)
        return self.op("MatMul", value, turned, name=f"/{module}/MatMul")

    def cached(self, name: str, length: str) -> ir.Value:
        return ir.val(name, _FLOAT, ["batch", self.shape.key_heads, length, self.shape.head_size])

    def rename(self, value: ir.Value, *, like: str) -> ir.Value:
        value.name, value.dtype = like, _FLOAT
        value.shape = ir.Shape(["batch", self.shape.key_heads, "total", self.shape.head_size])
        return value

    def op(self, kind: str, *inputs: ir.Value, name: str, **attributes: int | float | Sequence[int]) -> ir.Value:
        return self.tape.op(kind, inputs, attributes, name=name, output=ir.val(f"{name}_output_0"))

    def constant(self, value: float | int | list[int], name: str) -> ir.Value:
        array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        return self.tape.op(
            "Constant", (), {"value": ir.tensor(array, name=name)}, name=f"{name}/Constant", output=ir.val(name)
        )

    def weight(self, name: str) -> ir.Value:
        if name not in self.numbers:
            self.numbers[name] = self.initializer(name, self.weights[name])
        return self.numbers[name]

    def initializer(self, name: str, array: Array) -> ir.Value:
        return self.tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))
