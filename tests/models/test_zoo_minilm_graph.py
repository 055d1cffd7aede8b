"""The graph written for the sentence encoder computes BERT, mean pooling and unit length: against numpy in float64."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models.minilm.graph import Shape, build_encoder

Array = npt.NDArray[Any]
SHAPE = Shape(layers=2, heads=2, width=8)
WORDS, LONGEST, INNER = 30, 12, 16


def weights() -> dict[str, Array]:
    random = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, SHAPE.width),
        "embeddings.position_embeddings.weight": (LONGEST, SHAPE.width),
        "embeddings.token_type_embeddings.weight": (2, SHAPE.width),
        "embeddings.LayerNorm.weight": (SHAPE.width,),
        "embeddings.LayerNorm.bias": (SHAPE.width,),
    }
    for k in range(SHAPE.layers):
        for module, size in {
            "attention.self.query": (SHAPE.width, SHAPE.width),
            "attention.self.key": (SHAPE.width, SHAPE.width),
            "attention.self.value": (SHAPE.width, SHAPE.width),
            "attention.output.dense": (SHAPE.width, SHAPE.width),
            "intermediate.dense": (INNER, SHAPE.width),
            "output.dense": (SHAPE.width, INNER),
        }.items():
            shapes[f"encoder.layer.{k}.{module}.weight"] = size
            shapes[f"encoder.layer.{k}.{module}.bias"] = size[:1]
        for module in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{k}.{module}.weight"] = (SHAPE.width,)
            shapes[f"encoder.layer.{k}.{module}.bias"] = (SHAPE.width,)
    made = {name: random.normal(0, 0.5, size=size).astype(np.float32) for name, size in shapes.items()}
    return {**made, "embeddings.position_ids": np.arange(LONGEST, dtype=np.int64)[None]}


def bert(w: dict[str, Array], ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
    """One text at a time, only the tokens that its mask keeps: no mask arithmetic at all."""
    erf = np.vectorize(math.erf)
    hidden = np.zeros((*ids.shape, SHAPE.width))
    sentences = np.zeros((len(ids), SHAPE.width))

    def normal(x: Array, module: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + SHAPE.epsilon)
        return np.asarray(scaled * w[f"{module}.weight"] + w[f"{module}.bias"], dtype=np.float64)

    def linear(x: Array, module: str) -> Array:
        return np.asarray(x @ w[f"{module}.weight"].T.astype(np.float64) + w[f"{module}.bias"], dtype=np.float64)

    for row in range(len(ids)):
        keep = mask[row] == 1
        x = normal(
            w["embeddings.word_embeddings.weight"][ids[row][keep]].astype(np.float64)
            + w["embeddings.position_embeddings.weight"][: len(keep)][keep]
            + w["embeddings.token_type_embeddings.weight"][types[row][keep]],
            "embeddings.LayerNorm",
        )
        for k in range(SHAPE.layers):
            layer, parts = f"encoder.layer.{k}", []
            q, key, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
            size = SHAPE.width // SHAPE.heads
            for head in range(SHAPE.heads):
                columns = slice(head * size, (head + 1) * size)
                scores = np.exp(q[:, columns] @ key[:, columns].T / math.sqrt(size))
                parts.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, columns])
            attended = linear(np.concatenate(parts, axis=1), f"{layer}.attention.output.dense")
            x = normal(x + attended, f"{layer}.attention.output.LayerNorm")
            wide = linear(x, f"{layer}.intermediate.dense")
            narrow = linear(wide * (1 + erf(wide / math.sqrt(2))) / 2, f"{layer}.output.dense")
            x = normal(x + narrow, f"{layer}.output.LayerNorm")
        hidden[row][keep] = x
        sentences[row] = x.mean(axis=0) / np.linalg.norm(x.mean(axis=0))
    return hidden, sentences


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("length", [5, LONGEST])
def test_encoder_agrees_with_float64(level: str, length: int) -> None:
    proto = ir.to_proto(build_encoder(weights(), SHAPE))
    onnx.checker.check_model(proto, full_check=True)
    random = np.random.default_rng(length)
    ids, types = random.integers(WORDS, size=(3, length)), random.integers(2, size=(3, length))
    mask = np.ones((3, length), dtype=np.int64)
    mask[1, 3:] = mask[2, 1:] = 0
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    hidden, sentence = session.run(["last_hidden_state", "sentence_embedding"], feeds)
    expected_hidden, expected_sentence = bert(weights(), ids, mask, types)
    np.testing.assert_allclose(hidden[mask == 1], expected_hidden[mask == 1], atol=1e-5)
    np.testing.assert_allclose(sentence, expected_sentence, atol=1e-6)
