"""The mathematics of guidance, in pure torch.

Its core exists so that every formula can be read, tested and reused without ComfyUI. It is the only room that does
arithmetic on predictions. It knows no ComfyUI, no disk and no device policy: tensors come in, tensors go out.

Reading order: `noise_level` (how noisy), `schedule` (how strong, where), `branch` (what to evaluate), `step`
(what a rule sees), `rule` (one guidance rule), `rules/` (the rules themselves), `compose` (the law that joins them).
"""
