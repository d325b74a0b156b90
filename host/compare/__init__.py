"""One picture per setting of the components, side by side on a labelled sheet.

From outside: `compare`, `grid` (axes) and `settings` (what may vary).
"""
