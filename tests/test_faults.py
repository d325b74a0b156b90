"""The faults command: it finds what a failure leaves behind, and a sample of its faults leaves nothing."""

from random import Random

import pytest
import torch
from torch import nn

from faulting.draws import SCENES, Drawer
from faulting.operations import FailingOperation
from faulting.trial import Scene, Trial

SAMPLE = (  # cheap scenes of every kind
    "apg", "autoguidance", "loss through", "skipped layers", "experts", "make pictures", "train experts",
    "convert checkpoint", "export experts",
)  # fmt: skip


class Careless:
    """A node that leaves something behind where it fails."""

    def __init__(self, folder, leave):
        self.network, self.folder, self.leave = nn.Linear(400, 400), folder, leave
        self.kept, self.leaked = [], []

    def act(self):
        x = torch.ones(2, 4)
        try:
            for _ in range(6):
                x = torch.sin(x)
            return x
        except BaseException:
            self.leave(self)
            raise

    def plain(self):
        return torch.zeros(1) if not self.kept else torch.ones(1)

    def scene(self):
        return Scene(self.act, self.plain, networks=[self.network], stray=lambda: [*self.folder.iterdir()])


def changed(node):
    with torch.no_grad():
        node.network.bias.add_(1)


def loaded_anew(node):
    """As the host does: the same numbers in other tensors."""
    node.network.load_state_dict({name: held.clone() for name, held in node.network.state_dict().items()}, assign=True)


def loaded_and_kept(node):
    loaded_anew(node)
    node.leaked.append(torch.empty(100_000))


def switched(_):
    torch._C._set_grad_enabled(False)


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda node: None, ""),
        (changed, "weights have changed"),
        (lambda node: (node.folder / "half.partial").touch(), "half.partial is left behind"),
        (lambda node: node.kept.append(torch.empty(1_000_000)), "differs"),
        (lambda node: node.leaked.append(torch.empty(100_000)), "400000 bytes of tensors stay alive"),
        (loaded_anew, ""),
        (loaded_and_kept, "400000 bytes of tensors stay alive"),
        (switched, "no gradients is left on"),
        (lambda node: setattr(node, "act", None) or setattr(node, "plain", None), "the next run fails: TypeError"),
    ],
)
def test_what_is_left_behind_is_found(comfy, tmp_path, leave, words):
    before = torch.is_grad_enabled()
    try:
        node = Careless(tmp_path, leave)
        scene = node.scene()
        trial = Trial(Scene(lambda: node.act(), lambda: node.plain(), networks=scene.networks, stray=scene.stray))
        record = trial.run(Random(0))
    finally:
        torch.set_grad_enabled(before)
    assert record["raised"] and record["outcome"] == ("wrong" if words else "right")
    assert words in record["words"]


def test_comfyui_is_left_to_take_patches_off(comfy):
    from comfy.model_patcher import ModelPatcher

    cpu = torch.device("cpu")
    patcher = ModelPatcher(nn.Linear(2, 2), cpu, cpu, weight_inplace_update=True)
    patcher.patches["weight"] = [(1.0, (torch.ones(2, 2),), 1.0, None, None)]
    patcher.patch_model(cpu)
    with FailingOperation(0, RuntimeError("injected")) as failing:
        patcher.unpatch_model(cpu)
        assert failing.count > 0
        with pytest.raises(RuntimeError, match="injected"):
            torch.ones(1)
        torch.ones(1)


def test_a_number_is_a_fault_and_every_scene_takes_its_turn():
    first, again, other = Drawer(1), Drawer(1), Drawer(2)
    turns = [first.scene(number) for number in range(2 * len(SCENES))]
    assert set(turns[: len(SCENES)]) == set(turns[len(SCENES) :]) == set(SCENES)
    assert turns == [again.scene(number) for number in range(len(turns))]
    assert turns != [other.scene(number) for number in range(len(turns))]


@pytest.mark.slow
def test_a_sample_of_faults_leaves_nothing_behind(comfy):
    drawer = Drawer(3, {name: SCENES[name] for name in SAMPLE})
    records = [drawer.record(number) for number in range(len(SAMPLE))]
    assert [record for record in records if record["outcome"] == "wrong"] == []
    assert sum(record["outcome"] == "right" for record in records) > len(SAMPLE) / 2
