"""What ComfyUI's memory manager is told before a run: room for guides, decoders and what a backward keeps."""

import pytest
import steering
from engine_probe import cfg_guider, guided, setting_of
from test_engine_gradients import SD15, steer

main = steering.main


@pytest.fixture
def told(comfy, monkeypatch):
    """What the host reserves when it loads a run's networks: (with room for batches, at the least), in bytes."""
    import comfy.model_management as management

    load = management.load_models_gpu
    seen = []

    def note(models, memory_required=0, *args, minimum_memory_required=None, **more):
        if minimum_memory_required is not None:
            seen.append((memory_required, minimum_memory_required))
        return load(models, memory_required, *args, minimum_memory_required=minimum_memory_required, **more)

    monkeypatch.setattr(management, "load_models_gpu", note)

    def run(model, batch=1):
        seen.clear()
        spec = SD15
        setting_of(model, spec, steps=1, batch=batch).run(
            cfg_guider(model, spec.conditioning(1), spec.conditioning(2), 1.0)
        )
        (found,) = seen
        return found

    return run


def test_a_gradient_is_told_with_all_that_it_passes_through(main, told):
    guide, vae = steering.loaded(3), steering.autoencoder(1)
    plain = told(main)
    held = told(steer(main, guide, at="denoised", decoder="linear rgb", scale=1.0))
    decoded = told(steer(main, guide, at="denoised", vae=vae, scale=1.0))
    through = told(steer(main, guide, at="through denoiser", decoder="linear rgb", scale=1.0))
    assert plain[1] <= held[1] < decoded[1]
    assert through[1] > 10 * plain[1]
    decoding = vae.memory_used_decode((1, 4, 8, 8), vae.vae_dtype)
    assert decoded[1] >= 2.6 * decoding
    assert told(steer(main, guide, at="denoised", vae=vae, scale=1.0), batch=3)[1] == pytest.approx(3 * decoded[1])
    assert told(main) == plain


def test_a_larger_guide_is_told_and_a_smaller_one_needs_nothing_more(main, told, monkeypatch):
    other = steering.as_nodes_do(SD15.build, 7)
    plain = told(main)
    assert told(guided(main, other, cfg=False)) == plain
    monkeypatch.setattr(other.model, "memory_usage_factor", 3 * main.model.memory_usage_factor)
    more = told(guided(main, other, cfg=False))
    assert more[1] == pytest.approx(3 * plain[1]) and more[0] > plain[0]
