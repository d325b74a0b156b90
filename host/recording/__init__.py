"""What an inspected MODEL writes down while it samples: figures, pictures, time and memory of every evaluation.

From outside: `Inspection`, `Record` and its parts, `Recorder`, the words of `text`. It knows neither plan nor engine.
"""
