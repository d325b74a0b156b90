"""A node of the tests' own, loaded by the real server: it writes down every evaluation of a MODEL that passes it."""

from pathlib import Path

import folder_paths
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file


class TestRecordEvaluations:
    """MODEL in, MODEL out; x, sigma and denoised of every call go to <output>/<name>_<call>.safetensors."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "record", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {"default": "calls"})}}

    def record(self, model, name):
        calls = iter(range(10**6))
        folder = Path(folder_paths.get_output_directory())

        def write_down(executor, x, timestep, *rest):
            denoised = executor(x, timestep, *rest)
            found = {"x": x, "sigma": timestep, "denoised": denoised}
            save_file({key: value.clone().cpu() for key, value in found.items()},
                      folder / f"{name}_{next(calls)}.safetensors")
            return denoised

        out = model.clone()
        out.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, f"tests/{name}", write_down)
        return (out,)


NODE_CLASS_MAPPINGS = {"TestRecordEvaluations": TestRecordEvaluations}
