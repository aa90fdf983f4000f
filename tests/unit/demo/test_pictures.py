"""The demo's pictures: of their size, different from hour to hour, with something to see."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gearworker.demo.pictures import HOURS, SIZE_PIXELS, paint, paint_all


def brightness(picture: Image.Image) -> float:
    histogram = picture.convert("L").histogram()
    return sum(light * count for light, count in enumerate(histogram)) / sum(histogram)


def test_every_hour_becomes_a_file_with_a_picture_of_its_own(tmp_path: Path) -> None:
    files = paint_all(tmp_path)
    assert [file.name for file in files] == [f"valley-{hour:02}h.jpg" for hour in HOURS]
    assert len(files) == 12
    assert len({file.read_bytes() for file in files}) == 12
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("JPEG", SIZE_PIXELS)


@pytest.mark.parametrize("hour", HOURS)
def test_a_picture_is_not_one_flat_colour(hour: int) -> None:
    colours = paint(hour).getcolors(maxcolors=SIZE_PIXELS[0] * SIZE_PIXELS[1])
    assert len(colours) > 500


def test_noon_is_bright_and_midnight_is_dark() -> None:
    assert brightness(paint(12)) > 100 > 40 > brightness(paint(0))


def test_the_same_hour_is_painted_alike_twice() -> None:
    assert paint(18).tobytes() == paint(18).tobytes()
