"""The plan of a patched MODEL and the engine that follows it while the host samples.

From outside: `install` to put components on a MODEL, `steer` for gradients, `plan` to read what a MODEL carries,
`page_events` to tell the page. `wrappers`, `run`, `branches`, `guide_model` and `gradients` are the engine's own.
"""
