import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from onnxq.errors import PlanError
from onnxq.types.plain_data import Real, from_plain, plain
from pydantic import Field


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"


@dataclass(frozen=True, kw_only=True)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True, kw_only=True)
class Picture:
    name: str
    colour: Colour
    shape: Annotated[Circle | Square, Field(discriminator="kind")]
    sizes: tuple[int, ...] = ()
    pair: tuple[str, str] | None = None
    by_slot: dict[int, str] = field(default_factory=dict)
    shown: bool = False
    weight: Real = 0.0


FULL = Picture(
    name="p",
    colour=Colour.BLUE,
    shape=Square(side=2),
    sizes=(1, 2),
    pair=("a", "b"),
    by_slot={3: "c"},
    shown=True,
    weight=math.inf,
)


def read(data):
    return from_plain(Picture, data, what="picture", error=PlanError)


def test_keys_stand_in_the_order_of_the_fields():
    assert list(plain(FULL)) == ["name", "colour", "shape", "sizes", "pair", "by_slot", "shown", "weight"]
    assert list(plain({"z": 1, "a": 2})) == ["z", "a"]


def test_values_json_cannot_hold_become_ones_it_can():
    values = {
        "nan": math.nan,
        "inf": np.float32(np.inf),
        "scalar": np.int64(3),
        "flag": np.bool_(True),
        "array": np.array([[0.1, -np.inf]], np.float32),
        "path": Path("a") / "b",
        "enum": Colour.RED,
        "set": frozenset({"b", "a"}),
        1: None,
    }
    text = json.dumps(plain(values), allow_nan=False)
    assert json.loads(text) == {
        "nan": "nan",
        "inf": "inf",
        "scalar": 3,
        "flag": True,
        "array": [[float(np.float32(0.1)), "-inf"]],
        "path": str(Path("a") / "b"),
        "enum": "red",
        "set": ["a", "b"],
        "1": None,
    }


def test_what_has_no_plain_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


def test_the_way_back():
    assert read(json.loads(json.dumps(plain(FULL), allow_nan=False))) == FULL
    assert read({"name": "p", "colour": "red", "shape": {"kind": "circle", "radius": 2}}) == Picture(
        name="p", colour=Colour.RED, shape=Circle(radius=2.0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colur": "red"}, r"picture: unknown key 'colur'; did you mean 'colour'\?"),
        ({"colour": "bleu"}, r"picture: colour: unknown value 'bleu'; did you mean 'blue'\?"),
        ({"colour": []}, r"picture: colour: input should be 'red' or 'blue', found \[\]"),
        ({"name": 1}, "picture: name: input should be a valid string, found 1"),
        ({"sizes": [1, "2"]}, r"picture: sizes\[1\]: input should be a valid integer, found '2'"),
        ({"sizes": 1}, "picture: sizes: input should be a valid array, found 1"),
        ({"sizes": [True]}, r"picture: sizes\[0\]: input should be a valid integer, found True"),
        ({"pair": ["a"]}, r"picture: 'pair\[1\]' is missing"),
        (
            {"by_slot": {"first": "c"}},
            r"picture: by_slot\['first'\]: input should be a valid integer.*'first'",
        ),
        ({"shown": 1}, "picture: shown: input should be a valid boolean, found 1"),
        ({"weight": "heavy"}, "picture: weight: input should be a valid number, found 'heavy'"),
        (
            {"shape": {"kind": "sqare", "side": 1}},
            r"picture: shape.kind: .*'sqare'; did you mean 'square'\?",
        ),
        ({"shape": {"kind": "square"}}, "picture: 'shape.side' is missing"),
        ({"shape": {"kind": "square", "side": 1, "radius": 1}}, "picture: unknown key 'shape.radius'"),
        ({"shape": None}, "picture: shape: input should be an object, found None"),
    ],
)
def test_faults_are_told_with_their_place(change, message):
    with pytest.raises(PlanError, match=message):
        read(plain(FULL) | change)


def test_no_object_at_all():
    with pytest.raises(PlanError, match=r"picture: it: input should be an object, found \[\]"):
        read([])
