"""After a failure in a gradient nothing stays behind: no alias, no flag, and the next plain run is bit-identical."""

import pytest
import steering
import torch
from host_models import MODELS
from test_engine_gradient_runs import PLACES, place, run
from test_engine_gradients import steer

SD15 = MODELS["sd15"]
main, guide, vae = steering.main, steering.guide, steering.vae


def whole(main, guide, vae):
    """Whether every weight is what it was: an inference tensor of the loader, no alias."""
    import comfy.model_management as management

    networks = [main.model, guide.patchers[0].model, vae.first_stage_model]
    weights = [w for n in networks for w in [*n.parameters(), *n.buffers()]]
    return all(w.is_inference() for w in weights) and not management.in_training


def failures():
    import comfy.model_management as management

    return [RuntimeError("broken"), management.InterruptProcessingException(), torch.OutOfMemoryError("no memory")]


@pytest.mark.many
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["exception", "interrupt", "out of memory"])
@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("name", PLACES)
def test_a_failure_in_a_gradient_leaves_nothing_behind(main, guide, vae, kind, when, name):
    model = steer(main, guide, **place(name, vae))
    before = run(main)
    error, network = failures()[kind], guide.patchers[0].model

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, _):
            raise error

    def hook(_, args):
        if when == "forward":
            raise error
        return (Broken.apply(args[0]), *args[1:])

    handle = network.register_forward_pre_hook(hook)
    try:
        with pytest.raises(type(error)):
            run(model)
    finally:
        handle.remove()
    assert whole(main, guide, vae) and main.model.current_patcher is None
    assert torch.equal(run(main), before)
    assert torch.is_inference_mode_enabled() is False and torch.is_grad_enabled()
    assert not torch.equal(run(model), before)


@pytest.mark.slow
def test_a_finished_run_leaves_nothing_behind(main, guide, vae):
    for name in PLACES:
        run(steer(main, guide, **place(name, vae)))
    assert whole(main, guide, vae)
    assert all(w.grad is None for w in guide.patchers[0].model.parameters())
