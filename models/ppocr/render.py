"""Text drawn with Pillow: lines for the recognizer, pages for the detector, each varied as photographs and scans are.

Fonts: the sans serif that Pillow carries inside (Aileron) and the four serif faces of Caladea (Apache-2.0), from the
wheel of font-caladea. Everything is drawn from a numpy generator, so a seed fixes every pixel for one Pillow version.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models.entry import Array
from models.fetch import Wheel

CALADEA = Wheel(
    project="font-caladea",
    version="0.0.2",
    sha256="eab5b77f1da830226524f419d16d4bc4cb5b68d2de0f47ef83760a8b202e94bc",
    members=tuple(f"font_caladea/files/Caladea-{style}.ttf" for style in ("Regular", "Bold", "Italic", "BoldItalic")),
)
FACES = 1 + len(CALADEA.members)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A picture [height, width, 3] uint8 and the box around each of its text lines."""

    pixels: Array
    boxes: list[Box]


@cache
def font(face: int, size: int) -> Font:
    """Face 0 is Pillow's own, 1 to 4 are Caladea's; ``size`` in pixels."""
    if face == 0:
        return ImageFont.load_default(size)
    return ImageFont.truetype(CALADEA.file(CALADEA.members[face - 1]), size)


def draw_line(text: str, random: np.random.Generator) -> Array:
    """One line of ``text`` with a narrow margin: [height, width, 3] uint8."""
    face = font(int(random.integers(FACES)), int(random.integers(20, 44)))
    left, top, right, bottom = (int(edge) for edge in face.getbbox(text))
    margin = random.integers(2, 9, size=4)
    paper, ink = _colours(random)
    size = (right - left + int(margin[0] + margin[1]), bottom - top + int(margin[2] + margin[3]))
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((int(margin[0]) - left, int(margin[2]) - top), text, font=face, fill=ink)
    image = image.rotate(random.uniform(-1.0, 1.0), Image.Resampling.BICUBIC, fillcolor=paper)
    return _worn(image, random)


def draw_page(lines: list[str], width: int, height: int, random: np.random.Generator) -> Page:
    """As many of ``lines`` as fit, one below the other in uneven sizes and columns, with rules and boxes between."""
    paper, ink = _colours(random)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    boxes: list[Box] = []
    top = int(random.integers(10, 50))
    for text in lines:
        size = int(random.integers(11, 40))
        face = font(int(random.integers(FACES)), size)
        left = int(random.integers(10, max(11, width // 3)))
        x0, y0, x1, y1 = (int(edge) for edge in draw.textbbox((left, top), text, font=face))
        if y1 > height - 10:
            break
        if x1 < width - 10:
            draw.text((left, top), text, font=face, fill=ink)
            boxes.append((x0, y0, x1, y1))
            if random.random() < 0.15:
                draw.line((10, y1 + 7, width - 10, y1 + 7), fill=ink, width=int(random.integers(1, 4)))
        top = y1 + int(random.integers(12, 40))
    return Page(pixels=_worn(image, random), boxes=boxes)


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink: dark on light or, one time in four, light on dark; slightly tinted."""
    light, dark = random.integers(190, 256, size=3), random.integers(0, 90, size=3)
    paper, ink = (light, dark) if random.random() < 0.75 else (dark, light)
    return tuple(paper.tolist()), tuple(ink.tolist())


def _worn(image: Image.Image, random: np.random.Generator) -> Array:
    """Blur, uneven light and sensor noise."""
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.8)))
    pixels = np.asarray(image, dtype=np.float32)
    light = np.linspace(random.uniform(0.8, 1.0), random.uniform(0.8, 1.0), pixels.shape[1], dtype=np.float32)
    noise = random.normal(0.0, random.uniform(0.0, 10.0), size=pixels.shape)
    return np.clip(pixels * light[None, :, None] + noise, 0, 255).astype(np.uint8)
