import hashlib
import zipfile

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import CalibrationError


def sign(text):
    return signature(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({text}) => () {{}}'))


ONE = sign("float[batch,3] x")
TWO = sign("float[batch,3] x, float s")


def rows(count):
    return np.arange(3 * count, dtype=np.float32).reshape(-1, 3)


def stacked(source, name="x"):
    return np.concatenate([feeds[name] for feeds in source])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_batched_npz_is_read_in_pieces(tmp_path, save):
    save(tmp_path / "c.npz", x=rows(70), labels=np.arange(70))
    source = open_source(tmp_path / "c.npz", ONE)
    assert [len(feeds["x"]) for feeds in source] == [32, 32, 6]
    np.testing.assert_array_equal(stacked(source), rows(70))
    np.testing.assert_array_equal(np.concatenate(source.labels), np.arange(70))
    assert source.samples == 70
    assert source.sha256 == hashlib.sha256((tmp_path / "c.npz").read_bytes()).hexdigest()


def test_pieces_are_smaller_where_samples_are_large(tmp_path):
    np.savez(tmp_path / "c.npz", x=np.zeros((3, 40000), np.float32))
    assert [len(feeds["x"]) for feeds in open_source(tmp_path / "c.npz", sign("float[batch,L] x"))] == [1, 1, 1]


def test_the_wished_size_is_what_is_read(tmp_path):
    np.savez(tmp_path / "c.npz", x=rows(7), s=np.float32(2))
    source = open_source(str(tmp_path / "c.npz"), TWO, batch_size=3)
    assert [(feeds["x"].shape, feeds["s"].tolist()) for feeds in source] == [
        ((3, 3), 2.0),
        ((3, 3), 2.0),
        ((1, 3), 2.0),
    ]


def test_only_the_piece_is_in_memory(tmp_path):
    """64 MB of data pass through; what is held at any time is far less."""
    import tracemalloc

    np.savez_compressed(tmp_path / "c.npz", x=np.zeros((64, 256 << 10), np.float32))
    source = open_source(tmp_path / "c.npz", sign("float[batch,L] x"))
    tracemalloc.start()
    total = sum(feeds["x"].size for feeds in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 * (256 << 10)
    assert peak < 8 << 20


def test_fortran_order_is_understood(tmp_path):
    np.save(tmp_path / "c.npy", np.asfortranarray(rows(40)))
    np.testing.assert_array_equal(stacked(open_source(tmp_path / "c.npy", ONE)), rows(40))


def test_an_array_without_a_name_is_the_only_input(tmp_path):
    np.save(tmp_path / "c.npy", rows(4))
    np.savez(tmp_path / "c.npz", rows(4))
    for name in ("c.npy", "c.npz"):
        np.testing.assert_array_equal(stacked(open_source(tmp_path / name, ONE)), rows(4))
    with pytest.raises(CalibrationError, match=r"holds one array, the model has 2 inputs: 'x', 's'"):
        list(open_source(tmp_path / "c.npy", TWO))


def test_a_folder_is_read_in_natural_order_one_sample_a_file(tmp_path):
    for index in (10, 2, 1):
        np.savez(tmp_path / f"sample{index}.npz", x=np.full(3, index, np.float32), s=np.float32(0))
    source = open_source(tmp_path, TWO)
    assert stacked(source)[:, 0].tolist() == [1, 2, 10]
    assert source.samples == 3
    assert [len(feeds["x"]) for feeds in open_source(tmp_path, TWO, batch_size=2)] == [2, 1]


def test_stacked_batches_have_one_axis_more(tmp_path):
    x, s = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3), np.arange(4, dtype=np.float32)
    np.savez(tmp_path / "c.npz", x=x, s=s)
    source = open_source(tmp_path / "c.npz", TWO)
    assert [(feeds["x"].tolist(), feeds["s"].tolist()) for feeds in source] == list(
        zip(x.tolist(), s.tolist(), strict=True)
    )
    assert source.samples == 8


def test_a_model_without_batch_axis_gets_the_whole_file(tmp_path):
    image = sign("float[height,width,3] x")
    np.savez(tmp_path / "one.npz", x=np.zeros((5, 7, 3), np.float32))
    np.savez(tmp_path / "many.npz", x=np.zeros((2, 5, 7, 3), np.float32))
    assert [feeds["x"].shape for feeds in open_source(tmp_path / "one.npz", image)] == [(5, 7, 3)]
    assert [feeds["x"].shape for feeds in open_source(tmp_path / "many.npz", image)] == [(5, 7, 3)] * 2
    assert open_source(tmp_path / "many.npz", image).samples == 2


def truncated(path):
    np.savez(path, x=rows(1000))
    path.write_bytes(path.read_bytes()[:5000])


def flipped(path):
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[4000] ^= 0xFF
    path.write_bytes(bytes(data))


def cut_inside(path):
    """A whole archive whose array ends too early."""
    np.save(path.with_suffix(".npy"), rows(1000))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", path.with_suffix(".npy").read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "cannot read .*c.npz.*damaged"),
        (flipped, "cannot read .*c.npz, array 'x'.*damaged"),
        (cut_inside, "c.npz, array 'x': it ends too early"),
        (lambda path: path.write_text("hello"), "cannot read .*c.npz.*save it again"),
        (lambda path: np.savez(path, x=np.array([object()])), "holds Python objects, which are not loaded"),
        (lambda path: np.savez(path, xs=rows(3)), "the model has no input 'xs'; did you mean 'x'"),
        (lambda path: np.savez(path, x=rows(0)), "c.npz holds no sample"),
        (lambda path: np.savez(path, x=rows(3), labels=np.arange(2)), "different numbers of samples.*'labels' has 2"),
        (lambda path: np.savez(path, x=np.where(rows(40) == 100, np.nan, rows(40))), "batch 2: input 'x' holds 1 NaN"),
    ],
)
def test_bad_files(tmp_path, make, message):
    make(tmp_path / "c.npz")
    with pytest.raises(CalibrationError, match=message):
        list(open_source(tmp_path / "c.npz", ONE))


def test_missing_and_strange_paths(tmp_path):
    np.savez(tmp_path / "calibration.npz", x=rows(3))
    with pytest.raises(CalibrationError, match=r"no file or folder .*calibraton.npz'; did you mean 'calibration.npz'"):
        open_source(tmp_path / "calibraton.npz", ONE)
    (tmp_path / "data.csv").write_text("1,2,3")
    with pytest.raises(CalibrationError, match=r"data.csv' is not one of the .npz or .npy files"):
        open_source(tmp_path / "data.csv", ONE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(
        CalibrationError, match=r"holds no .npz or .npy file, only .jpg; photographs are given as images:"
    ):
        open_source(tmp_path / "photos", ONE)


def test_a_file_that_disappears_halfway(tmp_path):
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", x=rows(1))
    batches = iter(open_source(tmp_path, ONE))
    next(batches)
    (tmp_path / "2.npz").unlink()
    next(batches)
    with pytest.raises(CalibrationError, match=r"no file .*2.npz"):
        next(batches)
