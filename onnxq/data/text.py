"""Lines of text as samples, through the tokenizer that the model was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.data.arrays import files_digest
from onnxq.data.reader import DataReader, RawItem
from onnxq.data.signature import InputSpec, Signature
from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError

# Lengths that position tables of encoders commonly have.
_MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """How a line becomes a model's input.

    Attributes:
        tokenizer: path of a `tokenizer.json` (Hugging Face tokenizers).
        max_length: most tokens a line; 0 for the tokenizer's own limit, or 512. A length fixed by the model wins.
    """

    tokenizer: str = ""
    max_length: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.tokenizer:
            raise RecipeError("text needs a tokenizer: text:FILE?tokenizer=tokenizer.json")
        if self.max_length < 0:
            raise RecipeError(f"text: max_length must be at least 1, not {self.max_length}")


class TextReader(DataReader):
    """Reads the lines of a UTF-8 file that are not blank; each is a sample of its own length.

    Lines that run together (`size`) are padded to the longest of them, as when serving, and so are all lines where the
    model fixes the length. Inputs are filled by name: ids, attention mask, token types, positions.
    """

    asks_size = True

    def __init__(self, path: Path, options: TextOptions) -> None:
        self.description = str(path)
        self._path = path
        self._options = options
        if not path.is_file():
            raise CalibrationError(f"no text file '{path}'; check the path")

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        tokenizer = _tokenizer(Path(self._options.tokenizer), self._options.max_length, _fixed_length(signature))
        fillers = {spec.name: _filler(spec) for spec in signature.inputs}
        numbered = self._lines()
        while group := list(islice(numbered, size or 1)):
            encodings = tokenizer.encode_batch([line for _, line in group])
            values = {name: np.array([fill(each) for each in encodings], np.int64) for name, fill in fillers.items()}
            yield RawItem(values=_squeezed(values, signature), where=f"{self._path}, line {group[0][0]}")

    def count(self, signature: Signature) -> int | None:
        """See `DataReader`."""
        return sum(1 for _ in self._lines())

    def digest(self) -> str | None:
        """See `DataReader`."""
        return files_digest([self._path, Path(self._options.tokenizer)])

    def _lines(self) -> Iterator[tuple[int, str]]:
        try:
            with self._path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, line.strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read '{self._path}' as UTF-8 text: {error}") from error


def _tokenizer(path: Path, max_length: int, fixed: int | None) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError("text is read with tokenizers: pip install 'onnxq[text]'") from error
    if not path.is_file():
        raise CalibrationError(f"no tokenizer '{path}'; give the model's tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise CalibrationError(f"'{path}' is not a tokenizer.json: {error}") from error
    own = tokenizer.truncation
    limit = fixed or max_length or (own["max_length"] if own else _MOST_TOKENS)
    tokenizer.enable_truncation(max_length=limit)
    padding = tokenizer.padding or {}
    kept = {key: padding[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token") if key in padding}
    tokenizer.enable_padding(length=fixed, **(kept or _pad_token(tokenizer)))
    return tokenizer


def _pad_token(tokenizer: Any) -> dict[str, Any]:
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        if tokenizer.token_to_id(token) is not None:
            return {"pad_token": token, "pad_id": tokenizer.token_to_id(token)}
    return {}


def _fixed_length(signature: Signature) -> int | None:
    lasts = (spec.dims[-1] for spec in signature.inputs if spec.dims)
    fixed = {dim for dim in lasts if isinstance(dim, int)}
    return fixed.pop() if len(fixed) == 1 else None


def _filler(spec: InputSpec) -> Any:
    name = spec.name.lower()
    if spec.dtype.kind not in "iub":
        raise CalibrationError(f"input '{spec.name}' is {spec}: text gives token ids; give batches instead")
    if "mask" in name:
        return lambda encoding: encoding.attention_mask
    if "type" in name or "segment" in name:
        return lambda encoding: encoding.type_ids
    if "position" in name:
        return lambda encoding: list(range(len(encoding.ids)))
    if "id" in name or "token" in name or name in ("x", "input", "inputs", "text"):
        return lambda encoding: encoding.ids
    message = f"input '{spec.name}' is neither ids, mask, token types nor positions"
    raise CalibrationError(f"{message}; give batches instead")


def _squeezed(values: dict[str, npt.NDArray[Any]], signature: Signature) -> dict[str, npt.NDArray[Any]]:
    """Remove the batch axis where the model has none, and convert to the model's dtypes."""
    ranks = {spec.name: 2 if spec.dims is None else len(spec.dims) for spec in signature.inputs}
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    return {
        name: (array[0] if ranks[name] == 1 and len(array) == 1 else array).astype(dtypes[name])
        for name, array in values.items()
    }
