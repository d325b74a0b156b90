"""Networks as ComfyUI holds them: denoisers as MODEL, guides and experts' banks, their files in and out.

From outside: the `load_*`, `*_names` and `*_problem` functions, `LoadedGuide`, `expert_switch`.
"""
