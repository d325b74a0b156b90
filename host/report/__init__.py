"""What a MODEL will do and what it did, in words, plots and pictures.

From outside: `report`, `plot` and `show`; `identity`, by which two MODELs that draw alike are known.
"""
