import builtins
import wave

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.data.spec import format_spec
from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError
from PIL import Image


def sign(text):
    return signature(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({text}) => () {{}}'))


NCHW = sign("float[N,3,H,W] x")


@pytest.fixture
def photos(tmp_path):
    """Three 8x4 images: left half pure red, right half pure blue; the second one in a subfolder."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 2] = 255
    (tmp_path / "a").mkdir()
    for name in ("1.png", "a/2.png", "10.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_cropped_normalized_and_laid_out(photos):
    source = open_source(f"images:{photos}?size=4&mean=0.5,0,0&std=0.5,1,2", NCHW)
    feeds = list(source)
    assert [each["x"].shape for each in feeds] == [(1, 3, 4, 4)] * 3
    red, green, blue = feeds[0]["x"][0]
    # The middle four columns: two red, two blue.
    np.testing.assert_allclose(red, [[1, 1, -1, -1]] * 4, atol=1e-6)
    np.testing.assert_allclose(green, 0)
    np.testing.assert_allclose(blue, [[0, 0, 0.5, 0.5]] * 4, atol=1e-6)
    assert source.samples == 3
    assert len(source.sha256) == 64


def test_order_and_batches_of_images(photos):
    assert [feeds["x"].shape for feeds in open_source(f"images:{photos}?size=4", NCHW, batch_size=2)] == [
        (2, 3, 4, 4),
        (1, 3, 4, 4),
    ]
    places = [batch.where for batch in open_source(f"images:{photos}?size=4", NCHW).batches()]
    assert [place.removeprefix(str(photos)) for place in places] == ["/1.png", "/10.bmp", "/a/2.png"]


def test_the_model_says_size_layout_and_channels(photos):
    (first, *_) = open_source(f"images:{photos}", sign("float[1,4,8,3] x"))
    assert first["x"].shape == (1, 4, 8, 3)
    np.testing.assert_allclose(first["x"][0, 0, 0], [1, 0, 0])
    (first, *_) = open_source(f"images:{photos}", sign("float[1,1,4,8] x"))
    # ITU-R 601 luma of red and blue
    np.testing.assert_allclose(first["x"][0, 0, 0], [76 / 255] * 4 + [29 / 255] * 4, atol=1e-6)
    (first, *_) = open_source(f"images:{photos}?fit=stretch&size=4,4", NCHW)
    np.testing.assert_allclose(first["x"][0, 0, 0, [0, 3]], [1, 0])
    (first, *_) = open_source(f"images:{photos}?color=bgr&size=4,8", NCHW)
    np.testing.assert_allclose(first["x"][0, :, 0, 0], [0, 0, 1])
    (first, *_) = open_source(f"images:{photos}?fit=pad&size=8", sign("uint8[H,W,3] x"))
    assert first["x"].dtype == np.uint8
    assert first["x"][0, 0].tolist() == [0, 0, 0]
    assert first["x"][4, 0].tolist() == [255, 0, 0]


def test_resize_sets_how_much_the_cut_leaves(photos):
    (first, *_) = open_source(f"images:{photos}?size=4&resize=8", NCHW)
    red = first["x"][0, 0]
    assert red.shape == (4, 4)
    assert red[0, 0] > 0.9
    assert red[0, 3] < 0.1


@pytest.mark.parametrize(
    ("spec", "model", "error", "message"),
    [
        ("size=4&men=1", NCHW, RecipeError, "images: unknown option 'men'; did you mean 'mean'"),
        ("size=big", NCHW, RecipeError, "images: size cannot be 'big'"),
        ("size=4&layout=nchv", NCHW, RecipeError, "unknown layout 'nchv'; did you mean 'nchw'"),
        ("size=4&std=0", NCHW, RecipeError, "std divides"),
        ("size=4&mean=1,2", NCHW, RecipeError, "2 numbers for mean or std, the images have 3 channels"),
        ("", NCHW, CalibrationError, "its size is open, say which: size=224"),
        ("size=5", sign("float[1,3,4,4] x"), CalibrationError, "size 5x5 does not fit it"),
        ("size=4", sign("float[N,3,H,W] x, float[N] y"), CalibrationError, "models with one input.*'x', 'y'"),
        ("size=4", sign("float[N,3] x"), CalibrationError, "not an image; give batches"),
    ],
)
def test_bad_image_options(photos, spec, model, error, message):
    with pytest.raises(error, match=message):
        list(open_source(f"images:{photos}?{spec}", model))


def test_damaged_and_missing_images(photos):
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:40])
    with pytest.raises(CalibrationError, match=r"cannot read image .*1.png.*remove or replace it"):
        list(open_source(f"images:{photos}?size=4", NCHW))
    with pytest.raises(CalibrationError, match=r"holds no wav file, only .bmp, .png, .txt, a"):
        open_source(f"wav:{photos}", NCHW)


def test_a_missing_library_is_one_line(photos, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] in ("PIL", "tokenizers"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxq\[images\]'"):
        list(open_source(f"images:{photos}?size=4", NCHW))
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxq\[text\]'"):
        list(open_source(f"text:{photos / 'notes.txt'}?tokenizer=t.json", NCHW and sign("int64[N,L] ids")))


@pytest.fixture
def lines(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "the", "cat", "sat", "down"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=16, pad_token="[PAD]", pad_id=0)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("the cat sat down\n\nthe dog\ncat\n", encoding="utf-8")
    return f"text:{tmp_path / 'text.txt'}?tokenizer={tmp_path / 'tokenizer.json'}"


def test_lines_keep_their_length_unless_they_run_together(lines):
    model = sign("int64[batch,seq] input_ids, int64[batch,seq] attention_mask, int32[batch,seq] token_type_ids")
    feeds = list(open_source(lines, model))
    assert [each["input_ids"].tolist() for each in feeds] == [[[2, 3, 4, 5]], [[2, 1]], [[3]]]
    assert feeds[0]["token_type_ids"].dtype == np.int32
    together = list(open_source(lines, model, batch_size=2))
    assert together[0]["input_ids"].tolist() == [[2, 3, 4, 5], [2, 1, 0, 0]]
    assert together[0]["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert together[1]["input_ids"].tolist() == [[3]]
    assert open_source(lines, model).samples == 3


def test_lengths_are_cut_and_fixed_ones_filled(lines):
    ids = sign("int64[batch,seq] input_ids")
    assert [each["input_ids"].shape for each in open_source(f"{lines}&max_length=2", ids)] == [(1, 2), (1, 2), (1, 1)]
    fixed = sign("int64[1,6] input_ids, int64[1,6] mask")
    assert [each["input_ids"].tolist()[0] for each in open_source(lines, fixed)][1] == [2, 1, 0, 0, 0, 0]


def test_bad_text(lines, tmp_path):
    ids = sign("int64[batch,seq] input_ids")
    with pytest.raises(RecipeError, match=r"text needs a tokenizer"):
        open_source(f"text:{tmp_path / 'text.txt'}", ids)
    with pytest.raises(CalibrationError, match=r"no tokenizer 'none.json'"):
        list(open_source(f"text:{tmp_path / 'text.txt'}?tokenizer=none.json", ids))
    with pytest.raises(CalibrationError, match=r"is not a tokenizer.json"):
        list(open_source(f"text:{tmp_path / 'text.txt'}?tokenizer={tmp_path / 'text.txt'}", ids))
    with pytest.raises(CalibrationError, match=r"no text file"):
        open_source("text:none.txt?tokenizer=t.json", ids)
    with pytest.raises(CalibrationError, match=r"input 'x' is float32\[N, 3, H, W\]: text gives token ids"):
        list(open_source(lines, NCHW))
    with pytest.raises(CalibrationError, match=r"input 'lengths' is neither"):
        list(open_source(lines, sign("int64[N,L] input_ids, int64[N] lengths")))
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CalibrationError, match=r"as UTF-8 text"):
        list(open_source(lines, ids))


def save_wave(path, values, width=2, channels=1, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(values)


def test_sound_is_framed_and_scaled(tmp_path):
    save_wave(tmp_path / "a.wav", np.array([0, 16384, -32768, 8192, 4096], "<i2").tobytes())
    source = open_source(f"wav:{tmp_path}?frame=2", sign("float[batch,time] x, int64 sr"))
    feeds = list(source)
    assert [each["x"].tolist() for each in feeds] == [[[0, 0.5]], [[-1, 0.25]], [[0.125, 0]]]
    assert feeds[0]["sr"] == 8000
    assert [each["x"].shape for each in open_source(f"wav:{tmp_path}", sign("float[batch,time] x"))] == [(1, 5)]
    overlapping = open_source(f"wav:{tmp_path}?hop=1", sign("float[batch,2] x"))
    assert [each["x"][0, 0] for each in overlapping] == [0, 0.5, -1, 0.25, 0.125]
    assert [
        each["x"].shape for each in open_source(f"wav:{tmp_path}?frame=2", sign("float[n,time] x"), batch_size=2)
    ] == [
        (2, 2),
        (1, 2),
    ]


@pytest.mark.parametrize(
    ("width", "data", "wanted"),
    [
        (1, bytes([128, 192, 0]), [0, 0.5, -1]),
        (3, b"\0\0\0" + b"\0\0\x40" + b"\0\0\x80", [0, 0.5, -1]),
        (4, np.array([0, 2**30, -(2**31)], "<i4").tobytes(), [0, 0.5, -1]),
    ],
)
def test_widths_of_pcm(tmp_path, width, data, wanted):
    save_wave(tmp_path / "a.wav", data, width)
    assert next(iter(open_source(f"wav:{tmp_path}", sign("float[batch,time] x"))))["x"].tolist() == [wanted]


def test_channels_are_averaged(tmp_path):
    save_wave(tmp_path / "a.wav", np.array([[0, 16384], [16384, -16384]], "<i2").tobytes(), channels=2)
    assert next(iter(open_source(f"wav:{tmp_path / 'a.wav'}", sign("float[time] x"))))["x"].tolist() == [0.25, 0]


def test_bad_sound(tmp_path):
    sound = sign("float[batch,time] x")
    save_wave(tmp_path / "a.wav", np.zeros(4, "<i2").tobytes())
    with pytest.raises(CalibrationError, match=r"sampled at 8000 Hz, not at 16000; resample"):
        list(open_source(f"wav:{tmp_path}?rate=16000", sound))
    with pytest.raises(CalibrationError, match=r"frames of 3 do not fit it"):
        list(open_source(f"wav:{tmp_path}?frame=3", sign("float[batch,2] x")))
    with pytest.raises(CalibrationError, match=r"one float input"):
        list(open_source(f"wav:{tmp_path}", sign("float[batch,time] x, float[2,batch,128] state")))
    save_wave(tmp_path / "a.wav", b"")
    with pytest.raises(CalibrationError, match=r"holds no sound"):
        list(open_source(f"wav:{tmp_path}", sound))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(CalibrationError, match=r"cannot read .*a.wav.*save it as PCM"):
        list(open_source(f"wav:{tmp_path}", sound))


def test_a_spec_is_written_as_it_is_read(photos):
    spec = format_spec("images", photos, size=4, mean=(0.5, 0.0, 0.0), layout=None)
    assert spec == f"images:{photos}?size=4&mean=0.5,0.0,0.0"
    assert len(list(open_source(spec, NCHW))) == 3
