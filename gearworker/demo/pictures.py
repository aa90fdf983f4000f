"""The pictures that the demo resizes: one valley at twelve hours of a day, painted with Pillow."""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

SIZE_PIXELS = (1600, 1200)
HOURS = tuple(range(0, 24, 2))
RIDGES = 6
HORIZON = 0.55

# The sky at the zenith, the sky at the horizon, and the nearest ridge, from hour to hour.
_SKIES: dict[int, tuple[Colour, Colour, Colour]] = {
    0: ((6, 9, 32), (25, 33, 76), (4, 6, 16)),
    4: ((16, 20, 58), (84, 60, 108), (10, 10, 26)),
    6: ((74, 86, 150), (255, 170, 120), (38, 28, 46)),
    8: ((90, 150, 220), (255, 222, 180), (30, 58, 50)),
    12: ((40, 120, 215), (190, 226, 250), (22, 74, 44)),
    16: ((58, 130, 210), (244, 228, 190), (36, 72, 36)),
    18: ((92, 70, 140), (255, 140, 80), (48, 26, 34)),
    20: ((40, 30, 90), (190, 80, 100), (22, 14, 30)),
    24: ((6, 9, 32), (25, 33, 76), (4, 6, 16)),
}


def paint_all(directory: Path) -> list[Path]:
    """Paint every hour into a directory that is there; gives the files."""
    return [paint_to(directory / f"valley-{hour:02}h.jpg", hour) for hour in HOURS]


def paint_to(file: Path, hour: int) -> Path:
    """Paint the valley at an hour into a file."""
    paint(hour).save(file, quality=92)
    return file


def paint(hour: int) -> Image.Image:
    """Paint the valley at an hour from 0 to 23."""
    zenith, horizon, ground = _colours(hour)
    picture = _gradient(zenith, horizon)
    if not 6 <= hour <= 18:
        _stars(picture, hour)
    _light(picture, hour)
    for ridge in range(RIDGES):
        nearness = (ridge + 1) / RIDGES
        _ridge(picture, nearness, _mix(horizon, ground, nearness**0.8), seed=ridge)
    _title(picture, f"{hour:02}:00", horizon)
    return picture


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _colours(hour: int) -> tuple[Colour, Colour, Colour]:
    before = max(known for known in _SKIES if known <= hour)
    after = min(known for known in _SKIES if known > hour)
    share = (hour - before) / (after - before)
    zenith, horizon, ground = (_mix(a, b, share) for a, b in zip(_SKIES[before], _SKIES[after], strict=True))
    return zenith, horizon, ground


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    width, height = SIZE_PIXELS
    shade = Image.linear_gradient("L").resize((width, round(height * HORIZON)))
    mask = Image.new("L", SIZE_PIXELS, 255)
    mask.paste(shade, (0, 0))
    return Image.composite(Image.new("RGB", SIZE_PIXELS, bottom), Image.new("RGB", SIZE_PIXELS, top), mask)


def _stars(picture: Image.Image, seed: int) -> None:
    chance, draw = random.Random(seed), ImageDraw.Draw(picture)
    for _ in range(260):
        x, y = chance.randrange(SIZE_PIXELS[0]), chance.randrange(round(SIZE_PIXELS[1] * HORIZON))
        radius = chance.choice((1, 1, 1, 2, 3))
        light = chance.randrange(150, 256)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(light, light, min(255, light + 20)))


def _light(picture: Image.Image, hour: int) -> None:
    """The sun by day, the moon by night, each on its arc over the valley, with a glow around it."""
    by_day = 6 <= hour <= 18
    way = (hour - 6) / 12 if by_day else ((hour - 18) % 24) / 12
    width, height = SIZE_PIXELS
    x, y = width * (0.1 + 0.8 * way), height * (HORIZON - 0.44 * math.sin(math.pi * way))
    radius, colour = (75, (255, 244, 214)) if by_day else (52, (226, 230, 245))
    glow = Image.new("L", (width // 8, height // 8), 0)
    _disc(ImageDraw.Draw(glow), x / 8, y / 8, radius / 3, 190 if by_day else 90)
    glow = glow.filter(ImageFilter.GaussianBlur(14)).resize(SIZE_PIXELS)
    picture.paste(Image.new("RGB", SIZE_PIXELS, colour), (0, 0), glow)
    _disc(ImageDraw.Draw(picture), x, y, radius, colour)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int | Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _ridge(picture: Image.Image, nearness: float, colour: Colour, *, seed: int) -> None:
    """One line of hills: a few waves on each other, rougher and lower in the picture the nearer it is."""
    chance, (width, height) = random.Random(seed * 7 + 3), SIZE_PIXELS
    all_turns = [n * chance.uniform(0.8, 1.3) for n in (1, 2, 5, 11)]
    waves = [(chance.uniform(0.6, 1.0) / turns, turns, chance.uniform(0, 2 * math.pi)) for turns in all_turns]
    base, rise = height * (HORIZON - 0.08 + 0.46 * nearness), height * (0.06 + 0.03 * nearness)
    line: list[tuple[float, float]] = []
    for x in range(0, width + 8, 8):
        swing = sum(size * math.sin(turns * x / width * 2 * math.pi + phase) for size, turns, phase in waves)
        line.append((x, base - rise * swing))
    ImageDraw.Draw(picture).polygon([*line, (width, height), (0, height)], fill=colour)


def _title(picture: Image.Image, text: str, colour: Colour) -> None:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=96)
    draw.text((70, SIZE_PIXELS[1] - 70), text, font=font, fill=_mix(colour, (255, 255, 255), 0.5), anchor="ls")
