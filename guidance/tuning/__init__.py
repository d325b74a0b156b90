"""What a search for settings needs to know, without ComfyUI: recipes, guards, and whether a winner is one.

From outside: `recipe` and `guider_config` (settings as JSON), `guards` (what a picture may look like), `evidence`.
"""
