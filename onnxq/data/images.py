"""Photographs as samples: a folder of image files, resized, cropped and normalized as the model expects them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxq.data.arrays import files_digest
from onnxq.data.listing import list_files
from onnxq.data.reader import DataReader, RawItem
from onnxq.data.signature import InputSpec, Signature
from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError, nearest

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LAYOUTS = ("nchw", "nhwc")
FITS = ("crop", "stretch", "pad")
COLORS = ("rgb", "bgr", "gray")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions:
    """How a photograph becomes a model's input: (pixel * scale - mean) / std, for models that take floats.

    Attributes:
        size: height and width; () where the model fixes them.
        mean: one number, or one a channel, on the scaled pixels.
        std: one number, or one a channel, on the scaled pixels.
        scale: factor on pixels 0..255.
        layout: "nchw" or "nhwc"; "" reads it off the model's fixed extents.
        fit: "crop" scales the shorter side to `size` and cuts out the middle, "stretch" ignores the proportions, "pad"
            scales the longer side and fills up with black.
        resize: length of the shorter side before the cut, 0 for that of `size` (256 is usual before 224).
        color: "rgb", "bgr" or "gray"; "" takes gray for models of one channel, else rgb.
    """

    size: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: str = ""
    fit: str = "crop"
    resize: int = 0
    color: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        for option, value, known in (
            ("layout", self.layout, ("", *LAYOUTS)),
            ("fit", self.fit, FITS),
            ("color", self.color, ("", *COLORS)),
        ):
            if value not in known:
                raise RecipeError(f"images: unknown {option} '{value}'{nearest(value, filter(None, known))}")
        if len(self.size) > 2 or any(extent < 1 for extent in self.size) or self.resize < 0:
            raise RecipeError("images: size is one number of pixels, or height,width")
        if any(value == 0 for value in self.std):
            raise RecipeError("images: std divides, and cannot be 0")


class ImageReader(DataReader):
    """Reads the images of a folder and its subfolders in natural order of their paths."""

    asks_size = True

    def __init__(self, path: Path, options: ImageOptions) -> None:
        self.description = str(path)
        self._options = options
        self._paths = list_files(path, SUFFIXES, "image")

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        pillow = _pillow()
        frame = _Frame(signature, self._options)
        for path in self._paths:
            yield RawItem(values={frame.name: frame.fill(_open(pillow, path))}, where=str(path))

    def count(self, signature: Signature) -> int | None:
        """See `DataReader`."""
        return len(self._paths)

    def digest(self) -> str | None:
        """See `DataReader`."""
        return files_digest(self._paths)


class _Frame:
    """The model's input, and how to fill it with an image."""

    def __init__(self, signature: Signature, options: ImageOptions) -> None:
        if len(signature.inputs) != 1:
            names = ", ".join(f"'{name}'" for name in signature.names)
            raise CalibrationError(f"images can feed models with one input, this one has {names}; give batches instead")
        spec = signature.inputs[0]
        self.name = spec.name
        self._spec = spec
        self._options = options
        dims = (None,) * 4 if spec.dims is None else spec.dims
        if len(dims) not in (3, 4):
            raise CalibrationError(f"input '{spec.name}' is {spec}, not an image; give batches instead")
        self._batched = len(dims) == 4
        image = dims[-3:]
        self._layout = options.layout or ("nhwc" if image[2] in (1, 3) and image[0] not in (1, 3) else "nchw")
        channels, *extents = image if self._layout == "nchw" else (image[2], image[0], image[1])
        self._color = options.color or ("gray" if channels == 1 else "rgb")
        self._size = self._extents(spec, extents)
        self._mean, self._std = (self._channels(values) for values in (options.mean, options.std))

    def fill(self, image: Image.Image) -> npt.NDArray[Any]:
        """Return an image as the model's input."""
        fitted = _fit(image.convert("L" if self._color == "gray" else "RGB"), self._size, self._options)
        pixels = np.asarray(fitted).reshape(*self._size, -1)
        if self._color == "bgr":
            pixels = pixels[:, :, ::-1]
        if self._spec.dtype != np.uint8:
            floats = pixels.astype(np.float32) * np.float32(self._options.scale)
            pixels = ((floats - self._mean) / self._std).astype(self._spec.dtype)
        if self._layout == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None] if self._batched else pixels)

    def _extents(self, spec: InputSpec, dims: list[int | str | None]) -> tuple[int, int]:
        wanted = self._options.size * 2 if len(self._options.size) == 1 else self._options.size
        fixed = [dim if isinstance(dim, int) else None for dim in dims]
        chosen = [own if own is not None else other for own, other in zip(fixed, wanted or (None, None), strict=True)]
        if chosen[0] is None or chosen[1] is None:
            raise CalibrationError(f"input '{spec.name}' is {spec}: its size is open, say which: size=224")
        if wanted and tuple(chosen) != wanted:
            raise CalibrationError(f"input '{spec.name}' is {spec}, size {wanted[0]}x{wanted[1]} does not fit it")
        return chosen[0], chosen[1]

    def _channels(self, values: tuple[float, ...]) -> npt.NDArray[np.float32]:
        channels = 1 if self._color == "gray" else 3
        if len(values) not in (1, channels):
            raise RecipeError(f"images: {len(values)} numbers for mean or std, the images have {channels} channels")
        return np.array(values, np.float32)


def _fit(image: Image.Image, size: tuple[int, int], options: ImageOptions) -> Image.Image:
    from PIL import Image, ImageOps

    height, width = size
    if options.fit == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    if options.fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    # The shorter side becomes `resize`, but never less than the cut.
    factor = max(height / image.height, width / image.width, options.resize / min(image.size))
    scaled = image.resize(
        (max(width, round(image.width * factor)), max(height, round(image.height * factor))), Image.Resampling.BILINEAR
    )
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def _open(pillow: Any, path: Path) -> Image.Image:
    from PIL import ImageOps

    try:
        with pillow.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise CalibrationError(f"image '{path}' is gone; was it moved while calibrating?") from error
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise CalibrationError(f"cannot read image '{path}': {error}; remove or replace it") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("images are read with Pillow: pip install 'onnxq[images]'") from error
    return Image
