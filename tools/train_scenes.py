"""Train networks on scenes: 64x64 pictures of a thing with a shape, a colour and a ground, each of them a word.

    python tools/train_scenes.py [--only NAME ...] [--out .cache/scenes] [--work .cache/training] [--minutes M]

The first workflow draws them; the others will. Each recipe is seeded and takes up a stopped training where it left
off, as those of train_world.py and train_guides.py do, which it borrows. On one core without AVX-512: 0.46 s per step
of the main denoiser (batch 32, compiled) and 0.09 s for its pictures, 0.3 s of the verdict's (batch 64).
"""

from __future__ import annotations

from dataclasses import replace

import train_guides
from train_world import EDM, ROOT, Recipe, begin, parser_of, train_denoiser
from world.noise import LogNormal
from world.scenes import WORDS

NULL_WORDS = tuple(len(words) for words in WORDS)
SCENES = {"patch": 4, "attributes": NULL_WORDS[1:], "up_blocks": 1}
MAIN = SCENES | {"width": 48, "deep_width": 128, "deep_blocks": 3}
WEAK = SCENES | {"width": 24, "deep_width": 64, "deep_blocks": 2}
# The main denoiser in assets/ is that of step 11,011; from 8,795 on it also learned what little noise hides.
# Pictures of twice the side hide the same things under twice the noise.
SETTINGS = replace(EDM, null_class=NULL_WORDS, noise=LogNormal(0.4, 1.3), part_dropout=0.1)
DENOISERS: dict[str, Recipe] = {
    "scenes-edm": Recipe(MAIN, SETTINGS, steps=30000, world="scenes", then=(8795, LogNormal(-0.6, 1.4))),
    "scenes-edm-early": Recipe(MAIN, SETTINGS, steps=1500, seed=1, world="scenes"),
    "scenes-edm-weak": Recipe(WEAK, SETTINGS, steps=1500, seed=1, world="scenes"),
}
GUIDES: dict[str, Recipe] = {
    name.replace("shapes", "scenes"): replace(recipe, config=recipe.config | {"patch": 4}, world="scenes")
    for name, recipe in train_guides.RECIPES.items()
}


def main() -> None:
    options = begin(parser_of(__doc__, [*DENOISERS, *GUIDES], ROOT / ".cache" / "scenes"))
    for name in options.only:
        if name in GUIDES:
            train_guides.train(name, GUIDES[name], options)
            continue
        recipe = replace(DENOISERS[name], steps=options.steps or DENOISERS[name].steps)
        train_denoiser(name, recipe, options)


if __name__ == "__main__":
    main()
