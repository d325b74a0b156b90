"""The search for settings: trials are cells of Compare, Optuna chooses what to try, guides judge.

From outside: `tune` (the search), `space` (what may vary), `recipes` (settings on a MODEL as JSON and back).
"""
