"""Decoders: the graph computes LLaMA (against numpy in float64), with and without a cache; texts; perplexity."""

import hashlib
import io
import lzma
import math
import pathlib
import struct
import tarfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
from models.austen import AUSTEN, NOVELS, novel
from models.debian import Deb, fetch_deb
from models.decoder import Shape, build_decoder
from models.errors import ZooError
from models.perplexity import feeds, perplexity, windows

import models
from models import austen, debian, smollm2

Array = npt.NDArray[Any]
SHAPE = Shape(layers=2, heads=4, key_heads=2, width=16, inner=24, vocabulary=30, rotary_base=100.0, epsilon=1e-5)


def weights() -> dict[str, Array]:
    random = np.random.default_rng(3)
    shared = SHAPE.key_heads * SHAPE.head_size
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (SHAPE.vocabulary, SHAPE.width), "norm.weight": (16,)}
    for k in range(SHAPE.layers):
        for module, size in {
            "self_attn.q_proj": (SHAPE.width, SHAPE.width),
            "self_attn.k_proj": (shared, SHAPE.width),
            "self_attn.v_proj": (shared, SHAPE.width),
            "self_attn.o_proj": (SHAPE.width, SHAPE.width),
            "mlp.gate_proj": (SHAPE.inner, SHAPE.width),
            "mlp.up_proj": (SHAPE.inner, SHAPE.width),
            "mlp.down_proj": (SHAPE.width, SHAPE.inner),
            "input_layernorm": (SHAPE.width,),
            "post_attention_layernorm": (SHAPE.width,),
        }.items():
            shapes[f"layers.{k}.{module}.weight"] = size
    return {name: random.normal(0.1, 0.5, size=size).astype(np.float32) for name, size in shapes.items()}


def llama(w: dict[str, Array], ids: Array) -> Array:
    """One text, one head at a time; rotations as products of complex numbers."""
    size, group = SHAPE.head_size, SHAPE.heads // SHAPE.key_heads
    half = size // 2
    places = np.arange(len(ids))
    turns = np.exp(1j * np.outer(places, SHAPE.rotary_base ** (-np.arange(half) / half)))

    def normal(x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + SHAPE.epsilon) * w[f"{name}.weight"]

    def turned(x: Array) -> Array:
        pairs = (x[:, :half] + 1j * x[:, half:]) * turns
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    x = w["embed_tokens.weight"].astype(np.float64)[ids]
    for k in range(SHAPE.layers):
        here = f"layers.{k}"
        y = normal(x, f"{here}.input_layernorm")
        q, key, value = (y @ w[f"{here}.self_attn.{part}_proj.weight"].T for part in "qkv")
        heads = []
        for head in range(SHAPE.heads):
            mine, shared = slice(head * size, (head + 1) * size), head // group * size
            scores = turned(q[:, mine]) @ turned(key[:, shared : shared + size]).T / math.sqrt(size)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ value[:, shared : shared + size])
        x = x + np.concatenate(heads, axis=-1) @ w[f"{here}.self_attn.o_proj.weight"].T
        y = normal(x, f"{here}.post_attention_layernorm")
        gate = y @ w[f"{here}.mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (y @ w[f"{here}.mlp.up_proj.weight"].T)
        x = x + inner @ w[f"{here}.mlp.down_proj.weight"].T
    return normal(x, "norm") @ w["embed_tokens.weight"].T


@pytest.fixture(scope="module")
def sessions() -> dict[bool, onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = {}
    for cache in (False, True):
        proto = ir.to_proto(build_decoder(weights(), SHAPE, cache=cache))
        made[cache] = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return made


def ids(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, SHAPE.vocabulary, size=count)


def test_the_graph_computes_the_decoder(sessions: dict[bool, onnxruntime.InferenceSession]) -> None:
    texts = np.stack([ids(9), ids(9, 1)])
    (found,) = sessions[False].run(["logits"], feeds(texts))
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(row, llama(weights(), text), rtol=1e-3, atol=1e-4)


def test_padding_on_either_side_changes_nothing(sessions: dict[bool, onnxruntime.InferenceSession]) -> None:
    text, expected = ids(6), llama(weights(), ids(6))
    for before, after in ((3, 0), (0, 3), (2, 1)):
        padded = np.concatenate([ids(before, 5), text, ids(after, 6)])[None]
        mask = np.concatenate([np.zeros(before), np.ones(6), np.zeros(after)]).astype(np.int64)[None]
        (found,) = sessions[False].run(["logits"], {"input_ids": padded, "attention_mask": mask})
        np.testing.assert_allclose(found[0, before : before + 6], expected, rtol=1e-3, atol=1e-4)


def test_pieces_through_the_cache_give_what_the_whole_gives(sessions: dict[bool, onnxruntime.InferenceSession]) -> None:
    text, expected = ids(10), llama(weights(), ids(10))
    names = [output.name for output in sessions[True].get_outputs()]
    empty = np.zeros((1, SHAPE.key_heads, 0, SHAPE.head_size), np.float32)
    state = {name.replace("present", "past_key_values"): empty for name in names[1:]}
    logits, start = [], 0
    for end in (4, 5, 6, 10):
        mask = np.ones((1, end), np.int64)
        found = sessions[True].run(names, {"input_ids": text[None, start:end], "attention_mask": mask, **state})
        state = {
            name.replace("present", "past_key_values"): each for name, each in zip(names[1:], found[1:], strict=True)
        }
        logits.append(found[0][0])
        start = end
    np.testing.assert_allclose(np.concatenate(logits), expected, rtol=1e-3, atol=1e-4)


def test_perplexity_of_knowing_nothing_is_the_vocabulary() -> None:
    def knows_nothing(batch: dict[str, Array]) -> dict[str, Array]:
        return {"logits": np.zeros((*batch["input_ids"].shape, 50), np.float32)}

    def knows_all(batch: dict[str, Array]) -> dict[str, Array]:
        following = np.roll(batch["input_ids"], -1, axis=1)
        return {"logits": 100 * np.eye(50, dtype=np.float32)[following]}

    text = ids(40).reshape(4, 10)
    assert perplexity(knows_nothing, text) == pytest.approx(50)
    assert perplexity(knows_all, text) == pytest.approx(1)


def test_the_real_decoder_reads_emma() -> None:
    smollm2.build()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(smollm2.model_path(), options)
    text = windows(smollm2.tokenizer(), novel("Emma"), context=128, count=2)
    assert smollm2.tokenizer().decode(text[0].tolist()).startswith("EMMA\n\nBy Jane Austen\n\nVOLUME I")
    found = perplexity(lambda batch: {"logits": session.run(["logits"], batch)[0]}, text)
    assert 30 < found < 60


def test_the_small_decoder_was_trained_and_fits_the_repository() -> None:
    zoo = models.load("novel")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(zoo.path, options)
    assert zoo.metric is not None
    assert not zoo.metric.higher_is_better
    assert zoo.metric.compute(lambda batch: {"logits": session.run(["logits"], batch)[0]}) < 46.8
    folder = pathlib.Path(models.novel.__file__).parent
    assert (folder / "weights.safetensors").stat().st_size < 5_000_000


def test_the_six_novels() -> None:
    texts = [novel(title) for title in NOVELS]
    assert [len(text) // 10_000 for text in texts] == [88, 88, 43, 46, 68, 66]
    assert texts[0].startswith("EMMA\n\nBy Jane Austen\n\nVOLUME I\n\nCHAPTER I\n\nEmma Woodhouse, handsome, clever,")
    assert all("\n\n" in text and "  " not in text for text in texts)


def test_lines_are_read_as_r_writes_them() -> None:
    strings = b"".join(struct.pack(">ii", 9, len(each)) + each for each in (b"one", b"two"))
    vector = b"X\n" + struct.pack(">iiiii", 2, 0, 0, 16, 2) + strings
    database = b"".join(struct.pack(">I", len(each)) + zlib.compress(each) for each in (b"other", vector))
    assert austen._lines(database, 1) == ["one", "two"]
    with pytest.raises(ZooError, match="XDR"):
        austen._lines(database, 0)


def test_a_package_is_checked_and_only_named_files_are_kept(tmp_path, monkeypatch) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("./usr/share/text", "./usr/bin/run"):
            archive.addfile(tarfile.TarInfo(name))
    data = lzma.compress(tar.getvalue())
    member = b"data.tar.xz     " + b"0           0     0     100644  " + f"{len(data):<10}".encode() + b"`\n"
    content = b"!<arch>\n" + member + data

    def download(deb: Deb, into: Any) -> Any:
        (into / "it.deb").write_bytes(content)
        return into / "it.deb"

    monkeypatch.setenv("ONNXQ_MODELS", str(tmp_path))
    monkeypatch.setattr(debian, "_download", download)

    digest = hashlib.sha256(content).hexdigest()
    pinned = Deb(package="it", version="1", sha256=digest, members=("./usr/share/text",))
    folder = fetch_deb(pinned)
    assert [path.name for path in folder.iterdir()] == ["text"]
    with pytest.raises(ZooError, match="not the pinned file"):
        fetch_deb(Deb(package="it", version="2", sha256="0" * 64, members=("./usr/share/text",)))
    with pytest.raises(ZooError, match=r"no file '\./usr/share/other'"):
        fetch_deb(Deb(package="it", version="3", sha256=digest, members=("./usr/share/other",)))
    assert AUSTEN.members
