"""Guides that take turns on the real host: by edges in every unit, in its own queue; and what is refused."""

import asyncio
import math
import uuid

import pytest
import torch
from guide_files import glpn
from guide_folder import EMBEDDED, lend

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.routing import Experts


def level(*sigmas):
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    return NoiseLevel(torch.ones_like(sigma), sigma)


@pytest.mark.slow
def test_a_switch_keeps_members_and_patchers_in_order(guides):
    clean, noisy = guides.load_guide("someone/resnet"), guides.load_guide("noisy/resnet18.safetensors")
    team = guides.switch([clean, noisy], Experts((2.0,)))
    assert team.guide.members == (clean.guide.first, noisy.guide.first) and team.guide.sees_noise
    assert team.patchers == (*clean.patchers, *noisy.patchers) and team.get_models() == list(team.patchers)
    charge = team.guide.experts.gate_weights(level(1.9, 2.0, 50.0))
    assert charge.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert guides.switch([clean], Experts()).guide.members == clean.guide.members


def test_who_cannot_take_turns_in_words(guides, guide_root, tmp_path, monkeypatch):
    glpn(tmp_path / "glpn")
    lend(monkeypatch, tmp_path, guide_root)
    one, other = guides.load_guide("someone/resnet"), guides.load_guide("own.safetensors")
    team = guides.switch([one, other], Experts((1.0,)))
    with pytest.raises(ValueError, match="Connect the guides that are to take turns"):
        guides.switch([], Experts())
    with pytest.raises(ValueError, match="is a bank of 2 guides already; connect its members themselves"):
        guides.switch([team, one], Experts((1.0,)))
    with pytest.raises(ValueError, match="2 guides need 1 edges between them; got 2"):
        guides.switch([one, other], Experts((1.0, 2.0)))
    with pytest.raises(ValueError, match="must have the same task; .* has classification; glpn has depth"):
        guides.switch([one, guides.load_guide("glpn")], Experts((1.0,)))
    with pytest.raises(ValueError, match="must have the same labels; .*5 labels; .*3 labels"):
        guides.switch([one, guides.load_guide("squeeze.safetensors")], Experts((1.0,)))


@pytest.fixture
def pair(guides):
    return [guides.load_guide("someone/resnet"), guides.load_guide("noisy/resnet18.safetensors")]


@pytest.mark.many
@pytest.mark.parametrize(
    ("edges_from", "edges", "schedule", "sigma"),
    [
        ("adm linear", "ignored", "cosine", lambda: noise_schedule("linear").below(500)),
        ("cosine", "", "adm linear", lambda: noise_schedule("cosine").below(500)),
        ("stable diffusion", "", "adm linear", lambda: noise_schedule("stable diffusion").below(500)),
        ("own schedule", "", "adm linear", lambda: noise_schedule("cosine").below(500)),
        ("timesteps", "250", "adm linear", lambda: noise_schedule("linear").below(250)),
        ("timesteps", " 250, ", "own schedule", lambda: noise_schedule("cosine").below(250)),
        ("sigma", "2.5", "adm linear", lambda: 2.5),
        ("snr", "0.25", "adm linear", lambda: 2.0),
    ],
)
def test_edges_in_every_unit(pair, edges_from, edges, schedule, sigma):
    from guidance_pack.host.models.expert_switch import expert_switch

    (edge,) = expert_switch(pair, edges_from, edges, schedule, 0.0).guide.experts.edges
    assert math.isclose(edge, sigma(), rel_tol=1e-12)


def test_snr_may_fall_or_rise_and_three_take_turns(pair):
    from guidance_pack.host.models.expert_switch import expert_switch

    three = [*pair, pair[0]]
    falling = expert_switch(three, "snr", "4, 0.04", "cosine", 0.5).guide.experts
    assert falling == expert_switch(three, "snr", "0.04, 4", "cosine", 0.5).guide.experts
    torch.testing.assert_close(torch.tensor(falling.edges), torch.tensor([0.5, 5.0]))
    assert falling.handover == 0.5
    equal = expert_switch(three, "cosine", "", "cosine", 0.0).guide.experts.edges
    assert equal == tuple(noise_schedule("cosine").below(t) for t in (333, 666))


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        (("karras", "", "cosine", 0.0), "edges_from is 'karras'; it can be adm linear, cosine"),
        (("timesteps", "5", "karras", 0.0), "schedule is 'karras'; it can be adm linear, cosine"),
        (("timesteps", "half", "cosine", 0.0), "edges has 'half'; it must be numbers above 0 with commas"),
        (("timesteps", "0", "cosine", 0.0), "edges has '0'"),
        (("sigma", "1, -2", "cosine", 0.0), "edges has '-2'"),
        (("sigma", "1, nan", "cosine", 0.0), "edges has 'nan'"),
        (("timesteps", "1000", "cosine", 0.0), "whole numbers from 1 to 999"),
        (("timesteps", "10.5", "cosine", 0.0), "edges has the timestep 10.5"),
        (("timesteps", "500, 250", "cosine", 0.0), "edges is 500, 250; timesteps must go from clean to noisy"),
        (("timesteps", "500, 250", "own schedule", 0.0), "edges is 500, 250"),
        (("sigma", "2, 2", "cosine", 0.0), "edges is 2, 2; sigma must go from clean to noisy, each number once"),
        (("snr", "1, 5, 2", "cosine", 0.0), "snr must go one way"),
        (("sigma", "2, 2.1", "cosine", 1.0), "no wider than the narrowest"),
        (("cosine", "", "cosine", -1.0), "handover is -1; it must be 0 (at once)"),
        (("cosine", "," * 900, "cosine", 1.0), "no wider than the narrowest"),
    ],
)
def test_wrong_edges_are_answered_when_queued(comfy, widgets, words):
    from guidance_pack.host.models.expert_switch import edges_problem

    assert words in edges_problem(2 + widgets[1].count(","), *widgets)


def test_edges_that_the_guides_settle_are_answered_when_they_are_there(pair):
    from guidance_pack.host.models.expert_switch import edges_problem, expert_switch

    for widgets in [
        (2, "timesteps", "9999", "own schedule", 0.0), (3, "sigma", "1, 2", "cosine", 0.0), (None,) * 5,
        (9, "own schedule", "", "cosine", 0.0), (None, "sigma", "1, 2", "cosine", 0.0), (2, "snr", "5", "cosine", 1.0),
    ]:
        assert edges_problem(*widgets) is None
    with pytest.raises(ValueError, match="2 guides need 1 edges between them; edges has 2: '1, 2'"):
        expert_switch(pair, "sigma", "1, 2", "cosine", 0.0)
    with pytest.raises(ValueError, match="whole numbers from 1 to 999"):
        expert_switch(pair, "timesteps", "9999", "own schedule", 0.0)
    with pytest.raises(ValueError, match="None of the guides has a noise schedule of its own"):
        expert_switch([pair[0], pair[0]], "own schedule", "", "cosine", 0.0)


class Listener:
    """What the executor tells a browser, kept."""

    client_id, last_node_id, last_prompt_id = None, None, None

    def __init__(self):
        self.events = []

    def send_sync(self, event, data, client_id=None):
        self.events.append((event, data))


@pytest.fixture
def queue(guides, monkeypatch):
    """Queues a prompt on ComfyUI: (its outputs by node, the answer where it is refused)."""
    import execution
    from comfy_api.latest import io

    import nodes
    from guidance_pack.host.schema.inputs import GuideSocket
    from guidance_pack.nodes.guides import GuidanceExpertSwitch, GuidanceLoadGuide

    seen = []

    class SeeGuide(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="SeeGuide", inputs=[GuideSocket.Input("guide")], is_output_node=True)

        @classmethod
        def execute(cls, guide):
            seen.append(guide)
            return io.NodeOutput()

    for node in (GuidanceLoadGuide, GuidanceExpertSwitch, SeeGuide):
        node.GET_SCHEMA()
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.__name__, node)

    def run(prompt):
        key, listener = uuid.uuid4().hex, Listener()
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt(key, prompt, None))
        if not valid:
            return None, str(error) + str(node_errors)
        executor = execution.PromptExecutor(listener, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0})
        executor.execute(prompt, key, execute_outputs=outputs)
        assert executor.success, [data for event, data in listener.events if event == "execution_error"]
        return seen.pop(), ""

    return run


def prompt_of(names, **widgets):
    loaders = {str(i): {"class_type": "GuidanceLoadGuide", "inputs": {"name": n}} for i, n in enumerate(names)}
    given = {"edges_from": "adm linear", "edges": "500", "schedule": "adm linear", "handover": 0.0, **widgets}
    wires = {f"guides.guide{i}": [str(i), 0] for i in range(len(names))}
    return {
        **loaders, "switch": {"class_type": "GuidanceExpertSwitch", "inputs": {**wires, **given}},
        "see": {"class_type": "SeeGuide", "inputs": {"guide": ["switch", 0]}},
    }


def test_a_queued_prompt_loads_guides_and_makes_a_bank(queue):
    names = ["someone/resnet", "own.safetensors", EMBEDDED]
    team, answer = queue(prompt_of(names))
    assert answer == "" and [member.name for member in team.guide.members] == names
    assert team.guide.experts.edges == tuple(noise_schedule("linear").below(t) for t in (333, 666))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (prompt_of(["nowhere", "own.safetensors"]), "There is no guide 'nowhere'"),
        (prompt_of(["own.safetensors"]), "Required input is missing"),
        (prompt_of(["own.safetensors"] * 2, edges_from="sigma", edges="big"), "edges has 'big'"),
        (prompt_of(["own.safetensors"] * 3, edges_from="snr", edges="5"), "3 guides need 2 edges between them"),
        (prompt_of(["own.safetensors"] * 2, edges_from="stars"), "edges_from is 'stars'"),
    ],
)
def test_wrong_prompts_are_refused_by_the_queue(queue, prompt, words):
    made, answer = queue(prompt)
    assert made is None and words in answer
