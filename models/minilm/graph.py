"""BERT encoder weights -> ONNX graph, node for node as the usual exporters of sentence encoders write it.

The architecture is BERT (Devlin et al., 2019) with mean pooling and unit length on top (Reimers and Gurevych, 2019).
Opset 17: LayerNormalization is one node, Gelu is spelt with Erf, and the attention mask is added before Softmax as 0 or
finfo(float32).min.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from models.entry import Array

OPSET = 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HIDDEN, SENTENCE = "last_hidden_state", "sentence_embedding"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of a BERT encoder; the defaults are those of all-MiniLM-L6-v2."""

    layers: int = 6
    heads: int = 12
    width: int = 384
    epsilon: float = 1e-12


def build_encoder(weights: Mapping[str, Array], shape: Shape) -> ir.Model:
    """The encoder as a model of three inputs and two outputs.

    Inputs, int64 [batch, sequence]: `input_ids`, `attention_mask`, `token_type_ids`. Outputs, float32:
    `last_hidden_state` [batch, sequence, width] and `sentence_embedding` [batch, width], each row of length 1.

    ``weights`` are named as in Hugging Face's BertModel.
    """
    inputs = [ir.val(name, ir.DataType.INT64, ["batch", "sequence"]) for name in INPUTS]
    ids, mask, types = inputs
    write = _Writer(weights, shape)
    bias = write.mask_bias(mask)
    hidden = write.embeddings(ids, types)
    for k in range(shape.layers):
        hidden = write.layer(hidden, bias, f"encoder.layer.{k}")
    sentence = write.sentence(hidden, mask)
    hidden.name, hidden.dtype, hidden.shape = HIDDEN, ir.DataType.FLOAT, ir.Shape(["batch", "sequence", shape.width])
    sentence.name, sentence.dtype, sentence.shape = SENTENCE, ir.DataType.FLOAT, ir.Shape(["batch", shape.width])
    graph = ir.Graph(
        inputs,
        [hidden, sentence],
        nodes=write.tape.nodes,
        initializers=write.tape.initializers,
        opset_imports={"": OPSET},
        name="sentence_encoder",
    )
    return ir.Model(graph, ir_version=8, producer_name="onnxq-models")


class _Writer:
    """Writes one encoder onto a tape; each method takes and returns values of the graph.

    A node is called after the module it computes, `/encoder.layer.0/attention.self/query/MatMul`, and its output after
    the node; a weight keeps its name.
    """

    def __init__(self, weights: Mapping[str, Array], shape: Shape) -> None:
        self.weights = weights
        self.shape = shape
        self.tape = Tape()

    def mask_bias(self, mask: ir.Value) -> ir.Value:
        """[batch, sequence] of 1 and 0 -> [batch, 1, 1, sequence] of 0 and finfo.min, to add to attention scores."""
        wide = self.op("Unsqueeze", mask, self.constant([1, 2], "/mask/axes"), name="/mask/Unsqueeze")
        kept = self.op("Cast", wide, name="/mask/Cast", to=int(ir.DataType.FLOAT))
        hidden = self.op("Sub", self.constant(1.0, "/mask/one"), kept, name="/mask/Sub")
        return self.op("Mul", hidden, self.constant(float(np.finfo(np.float32).min), "/mask/lowest"), name="/mask/Mul")

    def embeddings(self, ids: ir.Value, types: ir.Value) -> ir.Value:
        """Word + token type + position, normalized: [batch, sequence, width]."""
        here = "/embeddings"
        words = self.op("Gather", self.weight("embeddings.word_embeddings.weight"), ids, name=f"{here}/words/Gather")
        kinds = self.op(
            "Gather", self.weight("embeddings.token_type_embeddings.weight"), types, name=f"{here}/types/Gather"
        )
        length = self.op(
            "Gather",
            self.op("Shape", ids, name=f"{here}/Shape"),
            self.constant([1], f"{here}/one"),
            name=f"{here}/Gather",
        )
        ends = (self.constant([0], f"{here}/start"), length, self.constant([1], f"{here}/axis"))
        numbers = self.op("Slice", self.weight("embeddings.position_ids"), *ends, name=f"{here}/Slice")
        positions = self.op(
            "Gather", self.weight("embeddings.position_embeddings.weight"), numbers, name=f"{here}/positions/Gather"
        )
        total = self.op("Add", words, kinds, name=f"{here}/Add")
        return self.normalize(self.op("Add", total, positions, name=f"{here}/Add_1"), "embeddings.LayerNorm")

    def layer(self, hidden: ir.Value, bias: ir.Value, module: str) -> ir.Value:
        """Self-attention and feed-forward, each with its residual and normalization (post-norm, as BERT has it)."""
        attended = self.linear(
            self.attention(hidden, bias, f"{module}.attention.self"), f"{module}.attention.output.dense"
        )
        summed = self.op("Add", attended, hidden, name=f"/{module}/attention/Add")
        middle = self.normalize(summed, f"{module}.attention.output.LayerNorm")
        wide = self.gelu(self.linear(middle, f"{module}.intermediate.dense"), f"/{module}/gelu")
        narrow = self.linear(wide, f"{module}.output.dense")
        return self.normalize(self.op("Add", narrow, middle, name=f"/{module}/Add"), f"{module}.output.LayerNorm")

    def attention(self, hidden: ir.Value, bias: ir.Value, module: str) -> ir.Value:
        """softmax(Q K^T / sqrt(d) + bias) V over all heads: [batch, sequence, width]."""
        here = f"/{module}"
        size = self.shape.width // self.shape.heads
        query = self.split_heads(self.linear(hidden, f"{module}.query"), f"{here}/query", (0, 2, 1, 3))
        key = self.split_heads(self.linear(hidden, f"{module}.key"), f"{here}/key", (0, 2, 3, 1))
        value = self.split_heads(self.linear(hidden, f"{module}.value"), f"{here}/value", (0, 2, 1, 3))
        scores = self.op("MatMul", query, key, name=f"{here}/MatMul")
        scaled = self.op("Div", scores, self.constant(math.sqrt(size), f"{here}/root"), name=f"{here}/Div")
        masked = self.op("Add", scaled, bias, name=f"{here}/Add")
        shares = self.op("Softmax", masked, name=f"{here}/Softmax", axis=-1)
        mixed = self.op("MatMul", shares, value, name=f"{here}/MatMul_1")
        merged = self.op("Transpose", mixed, name=f"{here}/Transpose", perm=(0, 2, 1, 3))
        return self.op(
            "Reshape", merged, self.constant([0, 0, self.shape.width], f"{here}/shape"), name=f"{here}/Reshape"
        )

    def split_heads(self, value: ir.Value, here: str, order: Sequence[int]) -> ir.Value:
        """[batch, sequence, width] -> [batch, sequence, heads, width / heads], axes then put in ``order``."""
        heads = self.constant([0, 0, self.shape.heads, self.shape.width // self.shape.heads], f"{here}/shape")
        return self.op(
            "Transpose", self.op("Reshape", value, heads, name=f"{here}/Reshape"), name=f"{here}/Transpose", perm=order
        )

    def linear(self, value: ir.Value, module: str) -> ir.Value:
        """x W^T + b; the weight is stored turned, [inputs, outputs], as MatMul wants it."""
        turned = self.initializer(f"{module}.weight", self.weights[f"{module}.weight"].T)
        product = self.op("MatMul", value, turned, name=f"/{module}/MatMul")
        return self.op("Add", self.weight(f"{module}.bias"), product, name=f"/{module}/Add")

    def gelu(self, value: ir.Value, here: str) -> ir.Value:
        """x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel, 2016)."""
        error = self.op("Div", value, self.constant(math.sqrt(2), f"{here}/root"), name=f"{here}/Div")
        raised = self.op(
            "Add", self.op("Erf", error, name=f"{here}/Erf"), self.constant(1.0, f"{here}/one"), name=f"{here}/Add"
        )
        product = self.op("Mul", value, raised, name=f"{here}/Mul")
        return self.op("Mul", product, self.constant(0.5, f"{here}/half"), name=f"{here}/Mul_1")

    def normalize(self, value: ir.Value, module: str) -> ir.Value:
        scale, shift = self.weight(f"{module}.weight"), self.weight(f"{module}.bias")
        return self.op(
            "LayerNormalization", value, scale, shift, name=f"/{module}", axis=-1, epsilon=self.shape.epsilon
        )

    def sentence(self, hidden: ir.Value, mask: ir.Value) -> ir.Value:
        """Mean over the tokens that the mask keeps, scaled to length 1: [batch, width]."""
        here, last = "/pooling", self.constant([-1], "/pooling/last")
        kept = self.op("Cast", self.op("Unsqueeze", mask, last, name=f"{here}/Unsqueeze"), name=f"{here}/Cast", to=1)
        middle = self.constant([1], f"{here}/middle")
        product = self.op("Mul", hidden, kept, name=f"{here}/Mul")
        total = self.op("ReduceSum", product, middle, name=f"{here}/ReduceSum", keepdims=0)
        count = self.op("ReduceSum", kept, middle, name=f"{here}/ReduceSum_1", keepdims=0)
        safe = self.op("Clip", count, self.constant(1e-9, f"{here}/least"), name=f"{here}/Clip")
        mean = self.op("Div", total, safe, name=f"{here}/Div")
        length = self.op("ReduceL2", mean, name="/normalize/ReduceL2", axes=(1,), keepdims=1)
        positive = self.op("Clip", length, self.constant(1e-12, "/normalize/least"), name="/normalize/Clip")
        return self.op("Div", mean, positive, name="/normalize/Div")

    def op(self, kind: str, *inputs: ir.Value, name: str, **attributes: int | float | Sequence[int]) -> ir.Value:
        return self.tape.op(kind, inputs, attributes, name=name, output=ir.val(f"{name}_output_0"))

    def constant(self, value: float | list[int], name: str) -> ir.Value:
        array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        return self.tape.op(
            "Constant", (), {"value": ir.tensor(array, name=name)}, name=f"{name}/Constant", output=ir.val(name)
        )

    def weight(self, name: str) -> ir.Value:
        return self.initializer(name, self.weights[name])

    def initializer(self, name: str, array: Array) -> ir.Value:
        return self.tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))
