"""How often an evaluation waits for the device: once, for its noise level, whatever is on the MODEL, but for what a
rule decides by the numbers themselves."""

from functools import partial

import elsewhere
import pytest
import torch

ATEN = torch.ops.aten
READS = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.equal, ATEN.masked_select}


@pytest.fixture(scope="module")
def away(comfy):
    """The pretend device, and a function that counts how often something waits for it while it runs."""
    import comfy.model_management as management

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(management, "directml_enabled", True)
        patch.setattr(management, "directml_device", elsewhere.AWAY, raising=False)
        compute, waits = elsewhere.compute, []

        def counted(function, args, kwargs):
            if waits_for_the_device(function.overloadpacket, args, kwargs):
                waits.append(function)
            return compute(function, args, kwargs)

        def listed(tensor):
            waits.append("tolist")
            return tensor.here.tolist()

        patch.setattr(elsewhere, "compute", counted)
        patch.setattr(elsewhere.Away, "tolist", listed)

        def count(run):
            waits.clear()
            run()
            return len(waits)

        with elsewhere.device():
            yield count
            management.unload_all_models()


def waits_for_the_device(packet, args, kwargs):
    if packet is ATEN.copy_:
        return isinstance(args[1], elsewhere.Away) and not isinstance(args[0], elsewhere.Away)
    if packet is ATEN._to_copy:
        target = kwargs.get("device")
        return isinstance(args[0], elsewhere.Away) and target is not None and torch.device(target) != elsewhere.AWAY
    return packet in READS and any(isinstance(value, elsewhere.Away) for value in args)


@pytest.fixture(scope="module")
def parts(away):
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        main, weak = map(load_tiny_model, ("shapes-edm", "shapes-edm-weak"))
        yield {"model": main}, weak, load_guide("shapes-noisy-classifier"), load_guide("shapes-classifier")


def waits_of_an_evaluation(away, model):
    """In the middle of a run: what four steps have more than three. The first run loads."""
    import nodes
    from guidance_pack.host.common.labels import class_conditioning

    positive, negative = class_conditioning(model, "star"), class_conditioning(model, "")
    latent = {"samples": torch.zeros(2, 3, 16, 16)}

    def waits(steps):
        settings = (model, 0, steps, 1.0, "euler", "karras", positive, negative, latent)
        with torch.inference_mode():
            return away(partial(nodes.common_ksampler, *settings))

    waits(2)
    return waits(4) - waits(3)


def built(parts, name):
    from compare_scene import given

    from guidance_pack.host.engine.install import with_inspection
    from guidance_pack.host.recording.inspection import Inspection
    from guidance_pack.nodes import adaptive_weight, cfg, degrade, gradient, schedule, weak_model

    on, weak, noisy, clean = parts
    strong = given(
        cfg.GuidanceCFG, **on, weight_from="node", weight=3.0, start=0.1, end=0.9,
        schedule=given(schedule.GuidanceSchedule, shape="cosine"),
    )  # fmt: skip
    if name == "CFG, autoguidance, APG and Rescale":
        both = given(weak_model.GuidanceAutoguidance, model=strong, guide_model=weak)
        return given(cfg.GuidanceRescale, model=given(cfg.GuidanceAPG, model=both))
    if name == "its degraded self":
        return given(weak_model.GuidanceAutoguidance, **on, guide_model=given(degrade.GuidanceDegrade, **on))
    if name == "inspected":
        return with_inspection(strong, Inspection())
    if name == "an adaptive weight":
        return given(adaptive_weight.GuidanceAdaptiveWeight, **on, method="feedback")
    asked = {"guide": noisy if name == "classifier of the noisy input" else clean, "label": "star"}
    at = "noisy input" if name == "classifier of the noisy input" else "denoised"
    return given(gradient.GuidanceClassifier, **on, **asked, at=at)


EXTRA = {
    "CFG, autoguidance, APG and Rescale": 0,
    "its degraded self": 0,
    "inspected": 1,  # a picture of the strip, which is copied at the end
    "an adaptive weight": 1,  # its strength is found in the estimates themselves
    "classifier of the noisy input": 1,  # whether the gradient is finite, for the message to name its noise level
    "classifier of the denoised estimate": 1,  # the same
}


@pytest.fixture(scope="module")
def bare(away, parts):
    return waits_of_an_evaluation(away, parts[0]["model"])


@pytest.mark.parametrize("name", EXTRA)
def test_an_evaluation_waits_once(away, parts, bare, name, monkeypatch):
    from guidance_pack.host.recording import recorder

    monkeypatch.setattr(recorder, "PAUSE", float("inf"))
    assert waits_of_an_evaluation(away, built(parts, name)) - bare == 1 + EXTRA[name]
