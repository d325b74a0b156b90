#!/usr/bin/env python3
"""Draws docs/icon.png and docs/banner.png: pictures on their way from noise, and guidance that bends it.

    .venv/bin/python tools/draw_icon.py

The lines are true: probability-flow paths of a mixture of two Gaussians, without guidance and with classifier guidance
towards one of the two.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parent.parent / "docs"
FINE = 3  # drawn this much larger and reduced, for smooth lines
NIGHT, DIM, PLAIN, GUIDED, TARGET = "#141b2d", "#2a3550", "#7f8fb3", "#ff8a3d", "#ffd9a8"
MEANS, SPREAD = (0.9, -0.9), 0.16
HIGH, LOW, STEPS, SCALE = 4.0, 0.02, 120, 2.5


def posterior(x: float, sigma: float) -> tuple[float, float]:
    """The denoised estimate and the probability of the upper Gaussian, of x = x0 + sigma n."""
    variance = SPREAD**2 + sigma**2
    logs = [-((x - mean) ** 2) / (2 * variance) for mean in MEANS]
    upper = 1 / (1 + math.exp(logs[1] - logs[0]))
    kept = SPREAD**2 / variance
    means = [mean + kept * (x - mean) for mean in MEANS]
    return upper * means[0] + (1 - upper) * means[1], upper


def path(start: float, scale: float) -> list[tuple[float, float]]:
    """(time from 0 to 1, x over the spread of everything at that time) along the flow."""
    x, found = start * HIGH, []
    sigmas = [math.exp(math.log(HIGH) + (math.log(LOW) - math.log(HIGH)) * i / STEPS) for i in range(STEPS + 1)]
    for index, sigma in enumerate(sigmas):
        found.append((index / STEPS, x / math.sqrt(1 + sigma**2)))
        if index < STEPS:
            denoised, upper = posterior(x, sigma)
            slope_of_log = (1 - upper) * (MEANS[0] - MEANS[1]) / (SPREAD**2 + sigma**2)
            denoised += scale * sigma**2 * slope_of_log
            x += (x - denoised) / sigma * (sigmas[index + 1] - sigma)
    return found


def draw(
    pen: ImageDraw.ImageDraw, left: float, top: float, width: float, height: float, line: float, count: int
) -> None:
    """`count` paths in a box, and those of its lower half once more, guided."""

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (left + width * point[0]) * FINE, (top + height * (0.5 - 0.36 * point[1])) * FINE

    starts = [2.6 * (i / (count - 1) - 0.5) for i in range(count)]
    for scale, colour, weight in ((0.0, PLAIN, 1.0), (SCALE, GUIDED, 1.6)):
        for start in starts:
            if scale and start > 0.0:
                continue
            pen.line([place(p) for p in path(start, scale)], colour, round(line * weight * FINE), joint="curve")
    for mean in MEANS:
        x, y = place((1.0, mean))
        size = line * 4.2 * FINE
        pen.ellipse((x - size, y - size, x + size, y + size), TARGET if mean > 0 else PLAIN)


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width * FINE, height * FINE), NIGHT)
    return image, ImageDraw.Draw(image)


def finished(image: Image.Image) -> Image.Image:
    return image.resize((image.width // FINE, image.height // FINE), Image.Resampling.LANCZOS)


def main() -> None:
    image, pen = canvas(400, 400)
    draw(pen, 46, 30, 290, 340, 7.0, 6)
    finished(image).save(DOCS / "icon.png", optimize=True)
    image, pen = canvas(1260, 540)
    draw(pen, 640, 30, 540, 480, 4.0, 12)
    pen.text((76 * FINE, 226 * FINE), "Guidance", "#ffffff", ImageFont.load_default(76 * FINE), anchor="ls")
    pen.text((76 * FINE, 306 * FINE), "Components", "#ffffff", ImageFont.load_default(76 * FINE), anchor="ls")
    words = "Steer any diffusion model in ComfyUI"
    pen.text((80 * FINE, 366 * FINE), words, PLAIN, ImageFont.load_default(26 * FINE), anchor="ls")
    finished(image).save(DOCS / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
