"""Unloading that is broken off leaves ComfyUI able to load and sample."""

import pytest
import torch
from host_models import MODELS, sample


def test_unloading_that_is_broken_off_leaves_the_host_whole(comfy, monkeypatch):
    import comfy.model_management as management

    from guidance_pack.host.common.unloading import unload_everything

    spec = MODELS["sd15"]
    asked = spec.conditioning(1), spec.conditioning(2), spec.latent(1)
    models = [spec.build(seed) for seed in (0, 7)]
    before = [sample(model, *asked, steps=1) for model in models]
    assert len(management.current_loaded_models) >= 2
    unload, turns = management.LoadedModel.model_unload, iter([False])

    def fail_at_the_second(self, *args, **more):
        if next(turns, True):
            raise RuntimeError("not enough memory")
        return unload(self, *args, **more)

    with monkeypatch.context() as broken:
        broken.setattr(management.LoadedModel, "model_unload", fail_at_the_second)
        with pytest.raises(RuntimeError, match="not enough memory"):
            unload_everything()
    for model, expected in zip(models, before, strict=True):
        assert torch.equal(sample(model, *asked, steps=1), expected)
