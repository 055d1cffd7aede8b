"""How answers are read: CTC decoding, edit distance, boxes from a map, tokens of a file."""

import numpy as np
import pytest
from models.magika import tokens
from models.ppocr.detection import find_boxes, overlap
from models.ppocr.recognition import decode, edit_distance, prepare


def test_decode_merges_repeats_and_keeps_those_that_a_blank_parts() -> None:
    path = [0, 1, 1, 0, 1, 2, 2, 3, 0]
    alphabet = ("", "l", "o", " ")
    assert decode(np.eye(4)[[path]], alphabet) == ["llo"]


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("", "", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("", "abc", 3)]
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance
    assert edit_distance(second, first) == distance


def test_lines_are_scaled_to_one_height_and_filled_up_on_the_right() -> None:
    batch = prepare([np.full((24, 50, 3), 255, np.uint8), np.zeros((96, 400, 3), np.uint8)])
    assert batch.shape == (2, 3, 48, 200)
    assert (batch[0, :, :, :100] == 1).all()
    assert (batch[0, :, :, 100:] == 0).all()
    assert (batch[1] == -1).all()


def test_a_region_grows_to_the_box_it_was_shrunk_from() -> None:
    # A line of 200 x 20 loses area * (1 - 0.4^2) / perimeter = 7.6 pixels a side: 185 x 5 are left. Growing by the
    # area left * 1.6 / perimeter gives back 3.9 a side: less than was lost, but more than half of the box.
    shares = np.zeros((64, 256))
    shares[20:25, 30:215] = 0.9
    shares[0, 0] = 1.0  # a speck
    assert find_boxes(shares) == [(26, 16, 219, 29)]


def test_overlap_of_boxes() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0


def test_tokens_of_a_short_file_are_padded_between_its_two_copies() -> None:
    row = tokens(b"  ab\n")
    assert row.shape == (2048,)
    assert row.dtype == np.int32
    assert row[:4].tolist() == [97, 98, 10, 256]
    assert row[-5:].tolist() == [256, 32, 32, 97, 98]


def test_tokens_of_a_long_file_are_its_first_and_last_kilobyte() -> None:
    content = bytes(range(33, 127)) * 100
    row = tokens(content)
    assert bytes(row[:1024].tolist()) == content[:1024]
    assert bytes(row[1024:].tolist()) == content[-1024:]
