"""Files of known type, made here: archives, pictures, documents, tables, data. The same bytes every time."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import time
import wave
import zipfile
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from models.entry import Array

PER_TYPE = 6
_NAMES = "anna boris carla daniel elena farid grace hugo irene jonas kamal lena marco nadia oscar petra"
NAMES = tuple(_NAMES.split())
"""Cells of tables and names of files."""

Maker = Callable[[np.random.Generator], bytes]


def made_files(seed: int = 41) -> Iterator[tuple[str, bytes]]:
    """(type as magika calls it, content), PER_TYPE of each."""
    for label, maker in MAKERS.items():
        for number in range(PER_TYPE):
            yield label, maker(np.random.default_rng((seed, number)))


def _words(random: np.random.Generator, low: int, high: int) -> list[str]:
    return [NAMES[int(k)] for k in random.integers(len(NAMES), size=int(random.integers(low, high)))]


def _prose(random: np.random.Generator) -> bytes:
    lines = (" ".join(_words(random, 4, 14)).capitalize() + "." for _ in range(int(random.integers(10, 60))))
    return "\n".join(lines).encode()


def _rows(random: np.random.Generator) -> list[list[object]]:
    return [
        [
            number,
            _words(random, 1, 2)[0],
            round(float(random.normal(50, 20)), 2),
            f"2024-{random.integers(1, 13):02}-03",
        ]
        for number in range(int(random.integers(20, 80)))
    ]


HEADER = ["id", "name", "amount", "date"]


def _table(random: np.random.Generator, delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(HEADER)
    writer.writerows(_rows(random))
    return text.getvalue().encode()


def _json_lines(random: np.random.Generator) -> bytes:
    return "\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in _rows(random)).encode()


def _xml(random: np.random.Generator) -> bytes:
    root = ElementTree.Element("orders")
    for row in _rows(random):
        order = ElementTree.SubElement(root, "order", id=str(row[0]))
        for name, value in zip(HEADER[1:], row[1:], strict=True):
            ElementTree.SubElement(order, name).text = str(value)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _html(random: np.random.Generator) -> bytes:
    cells = ("".join(f"<td>{value}</td>" for value in row) for row in _rows(random))
    table = "\n".join(f"    <tr>{row}</tr>" for row in cells)
    head = "<head>\n  <meta charset='utf-8'>\n  <title>Orders</title>\n  <style>td { padding: 4px; }</style>\n</head>"
    body = f"<body>\n  <h1>{_words(random, 1, 2)[0]}</h1>\n  <table>\n{table}\n  </table>\n</body>"
    return f"<!DOCTYPE html>\n<html lang='en'>\n{head}\n{body}\n</html>\n".encode()


def _ini(random: np.random.Generator) -> bytes:
    sections = []
    for name in sorted(set(_words(random, 4, 12))):
        values = [f"{key} = {value}" for key, value in zip(HEADER, _rows(random)[0], strict=True)]
        sections.append("\n".join([f"[{name}]", *values, "; comment", "enabled = true"]))
    return "\n\n".join(sections).encode()


def _sql(random: np.random.Generator) -> bytes:
    create = "CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount REAL, date TEXT);"
    inserts = (f"INSERT INTO orders VALUES ({row[0]}, '{row[1]}', {row[2]}, '{row[3]}');" for row in _rows(random))
    return "\n".join([create, *inserts, "SELECT name, SUM(amount) FROM orders GROUP BY name;"]).encode()


def _picture(random: np.random.Generator) -> Image.Image:
    """Smooth coloured waves with a little grain."""
    width, height = (int(side) for side in random.integers(40, 200, size=2))
    y, x = np.mgrid[0:height, 0:width]
    angles = [x * random.uniform(0.01, 0.2) + y * random.uniform(0.01, 0.2) + shift for shift in range(3)]
    waves: Array = 127 + 100 * np.sin(np.stack(angles, axis=2)) + random.normal(0, 6, size=(height, width, 3))
    return Image.fromarray(np.clip(waves, 0, 255).astype(np.uint8))


def _saved(form: str, **options: object) -> Maker:
    def make(random: np.random.Generator) -> bytes:
        sink = io.BytesIO()
        _picture(random).save(sink, form, **options)
        return sink.getvalue()

    return make


def _zip(random: np.random.Generator) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(set(_words(random, 2, 8))):
            archive.writestr(zipfile.ZipInfo(f"{name}.txt"), _prose(random))
    return sink.getvalue()


def _tar(random: np.random.Generator) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in sorted(set(_words(random, 2, 8))):
            content = _prose(random)
            entry = tarfile.TarInfo(f"notes/{name}.txt")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def _sound(random: np.random.Generator) -> bytes:
    sink = io.BytesIO()
    tone = np.sin(np.arange(8000) * random.uniform(0.05, 0.5)) * 9000 + random.normal(0, 200, size=8000)
    with wave.open(sink, "wb") as target:
        target.setparams((1, 2, 16000, 0, "NONE", ""))
        target.writeframes(tone.astype("<i2").tobytes())
    return sink.getvalue()


def _database(random: np.random.Generator) -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(_sql(random).decode())
        connection.commit()
        return connection.serialize()


def _array(random: np.random.Generator) -> bytes:
    sink = io.BytesIO()
    np.save(sink, random.normal(size=(int(random.integers(20, 90)), 8)))
    return sink.getvalue()


def _pickle(random: np.random.Generator) -> bytes:
    return pickle.dumps([dict(zip(HEADER, row, strict=True)) for row in _rows(random)], protocol=4)


_EPOCH = time.gmtime(0)
MAKERS: dict[str, Maker] = {
    "csv": lambda random: _table(random, ","),
    "tsv": lambda random: _table(random, "\t"),
    "jsonl": _json_lines,
    "xml": _xml,
    "html": _html,
    "ini": _ini,
    "sql": _sql,
    "png": _saved("PNG"),
    "jpeg": _saved("JPEG"),
    "gif": _saved("GIF"),
    "bmp": _saved("BMP"),
    "tiff": _saved("TIFF"),
    "webp": _saved("WEBP"),
    "ico": _saved("ICO"),
    "pdf": _saved("PDF", creationDate=_EPOCH, modDate=_EPOCH),
    "zip": _zip,
    "tar": _tar,
    "gzip": lambda random: gzip.compress(_prose(random), mtime=0),
    "bzip": lambda random: bz2.compress(_prose(random)),
    "xz": lambda random: lzma.compress(_prose(random)),
    "wav": _sound,
    "sqlite": _database,
    "npy": _array,
    "pickle": _pickle,
}
