"""Train Experts on the real host: what it writes, how it goes on, what it refuses, and the bank as a guide."""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from another_process import begun, said
from guide_folder import lend
from PIL import Image
from world import LABELS, render

from faulting.training import TrainingScene
from guidance_pack.guidance.experts.bank import ExpertBank, adapter_tensors
from guidance_pack.guidance.experts.file import read_bank
from guidance_pack.guidance.training.lora_targets import Adaptation
from guidance_pack.guidance.training.recipe import ExpertRecipe

COUNT = 6
RECIPE = ExpertRecipe(
    experts=2, iterations=6, batch=2, learning_rate=1e-3, schedule="cosine", adaptation=Adaptation(rank=2, alpha=2)
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with a sub-folder for each class of the shapes world."""
    root = tmp_path_factory.mktemp("drawn")
    world = render(COUNT, 77)
    for index, (image, label) in enumerate(zip(world.images, world.labels.tolist(), strict=True)):
        folder = root / LABELS[label]
        folder.mkdir(exist_ok=True)
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return root


def folder_of(root):
    from guidance_pack.host.training.pictures import PictureFolder

    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    return PictureFolder(root, tuple(files), (32, 32), tuple(sorted({name.partition("/")[0] for name in files})))


@pytest.fixture
def scene(comfy, drawn, tmp_path, monkeypatch):
    """A place of its own for banks and stopped trainings."""
    import folder_paths

    from guidance_pack.host.training import train as train_experts
    lend(monkeypatch, tmp_path / "guides")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))

    class Scene:
        module, guides, waiting = train_experts, tmp_path / "guides", tmp_path / "output" / "guidance"
        pictures = folder_of(drawn)

        def request(self, name="team", recipe=RECIPE, guide="shapes-classifier", **changed):
            from guidance_pack.host.models.guides import load_guide

            given = {"guide": load_guide(guide), "pictures": self.pictures, "name": name, "recipe": recipe}
            return train_experts.Request(**{**given, **changed})

        def train(self, *args, watch=lambda training, report: None, **changed):
            with torch.inference_mode():  # as ComfyUI runs nodes
                return train_experts.train_experts(self.request(*args, **changed), watch)

        def adapters(self, name="team"):
            return adapter_tensors(read_bank(self.guides / f"{name}.safetensors").adapters)

    return Scene()


def stop_after(steps):
    seen = []

    def watch(training, report):
        seen.append(report)
        if len(seen) == steps:
            from comfy.model_management import InterruptProcessingException

            raise InterruptProcessingException()

    return watch


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_bank_is_written_and_steers(scene):
    from guidance_pack.host.models.guides import guide_names, load_guide

    trained = scene.train(workflow={"workflow": '{"nodes": []}', "prompt": "{}"})
    assert trained.path == scene.guides / "team.safetensors" and "team.safetensors" in guide_names()
    assert [len(curve) for curve in trained.curves] == [3, 3]
    file = read_bank(trained.path)
    assert file.header.base == "shapes-classifier" and file.header.labels == LABELS and file.header.count == 2
    assert file.training["recipe"] == json.loads(json.dumps(RECIPE.as_dict()))
    assert file.training["pictures"]["count"] == COUNT and file.workflow["workflow"] == '{"nodes": []}'
    for guide in (trained.guide, load_guide("team.safetensors")):
        assert len(guide.patchers) == 1 and isinstance(guide.patchers[0].model, ExpertBank)
        assert guide.guide.sees_noise and guide.guide.experts.count == 2
    assert not list(scene.waiting.rglob("*.safetensors")), "nothing waits any more"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(scene, stop):
    from comfy.model_management import InterruptProcessingException

    scene.train("whole")
    with pytest.raises(InterruptProcessingException):
        scene.train("team", watch=stop_after(stop))
    assert not (scene.guides / "team.safetensors").exists()
    seen = []
    scene.train("team", watch=lambda training, report: seen.append(report))
    assert len(seen) == 6 - stop
    assert same(scene.adapters("team"), scene.adapters("whole"))


@pytest.mark.slow
def test_the_same_settings_give_the_same_file(scene):
    first = scene.train().path.read_bytes()
    shutil.move(scene.guides / "team.safetensors", scene.guides / "old.safetensors")
    assert scene.train().path.read_bytes() == first


def test_a_finished_bank_is_loaded_and_never_overwritten(scene):
    scene.train()
    before = (scene.guides / "team.safetensors").read_bytes()
    calls = []
    again = scene.train(watch=lambda *seen: calls.append(seen))
    assert not calls and [len(curve) for curve in again.curves] == [3, 3]
    with pytest.raises(ValueError, match=r"trained otherwise \(seed 0 instead of 1\)"):
        scene.train(recipe=replace(RECIPE, seed=1))
    with pytest.raises(ValueError, match="trained otherwise.*base shapes-classifier instead of shapes-segmentation"):
        scene.train(guide="shapes-segmentation")
    assert (scene.guides / "team.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_training_that_waits_is_not_mixed_with_another(scene):
    from comfy.model_management import InterruptProcessingException

    with pytest.raises(InterruptProcessingException):
        scene.train(watch=stop_after(2))
    with pytest.raises(ValueError, match="was stopped and waits with other settings.*batch 2 instead of 3.*delete"):
        scene.train(recipe=replace(RECIPE, batch=3))
    scene.train()


@pytest.mark.slow
def test_a_full_disk_loses_nothing(scene, monkeypatch):
    from guidance_pack.guidance.training import checkpoint

    monkeypatch.setattr(checkpoint, "write_bank", full_disk)
    with pytest.raises(OSError, match=r"The disk is full at .*guides \(No space.*All steps are taken.*run this again"):
        scene.train()
    monkeypatch.undo()
    monkeypatch.setattr(scene.module, "_waiting_path", lambda name: next(scene.waiting.rglob("*.safetensors")))
    lent = scene.guides
    monkeypatch.setattr(scene.module, "bank_path", lambda name: lent / f"{name}.safetensors")
    calls = []
    scene.train(watch=lambda *seen: calls.append(seen))
    assert not calls, "all steps were done already"


def full_disk(*args, **more):
    raise OSError(28, "No space left on device")


def test_a_save_on_a_full_disk_is_said_and_an_interrupt_there_stays_one(scene, monkeypatch, caplog):
    from comfy.model_management import InterruptProcessingException

    from guidance_pack.guidance.training import checkpoint
    from guidance_pack.host.training import keeping

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic_save", full_disk)
        with pytest.raises(InterruptProcessingException):
            scene.train(watch=stop_after(2))
        assert "team could not be saved. The disk is full at" in caplog.text
        patch.setattr(keeping, "SAVE_SECONDS", -1.0)
        with pytest.raises(OSError, match="The disk is full at .*unfinished experts .*Of the 1 steps.*Make room"):
            scene.train()
    calls = []
    scene.train(watch=lambda *seen: calls.append(seen))
    assert len(calls) == 6


@pytest.mark.parametrize("place", ["guides", "waiting"])
def test_folders_that_cannot_be_written_are_found_before_the_first_step(scene, monkeypatch, tmp_path, place):
    import folder_paths

    (tmp_path / "file").write_text("in the way")
    if place == "guides":
        lend(monkeypatch, tmp_path / "file" / "guides")
    else:
        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "file" / "output"))
    calls = []
    with pytest.raises(OSError, match="Nothing can be written at .*file.*Nothing was trained"):
        scene.train(watch=lambda *seen: calls.append(seen))
    assert not calls


def test_a_disk_that_is_too_small_is_found_before_the_first_step(scene, monkeypatch):
    from guidance_pack.guidance.checkpoints import atomic

    left = atomic.shutil.disk_usage(scene.guides.parent)._replace(free=1000)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: left)
    calls = []
    with pytest.raises(OSError, match="guides has 0.0 MB left, and the bank needs"):
        scene.train(watch=lambda *seen: calls.append(seen))
    assert not calls and not list(scene.waiting.rglob("*.*"))


@pytest.mark.slow
def test_a_name_that_another_process_trains_under_is_refused(scene):
    code = """with name_lock(path):
        print("mine", flush=True)
        input()"""
    other = begun(code, scene.guides / "team.safetensors")
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(ValueError, match="Another ComfyUI or command is at work on .*team"):
        scene.train()
    said(other)
    scene.train()


def test_a_bank_that_came_meanwhile_is_not_overwritten_and_no_step_is_lost(scene):
    path = scene.guides / "team.safetensors"
    scene.train("other", recipe=replace(RECIPE, seed=1))
    other = (scene.guides / "other.safetensors").read_bytes()

    def watch(training, report):
        path.write_bytes(other)

    with pytest.raises(ValueError, match=r"team.safetensors is in models/guides already and was trained otherwise"):
        scene.train(watch=watch)
    assert path.read_bytes() == other
    path.unlink()
    calls = []
    scene.train(watch=lambda *seen: calls.append(seen))
    assert not calls and path.read_bytes() != other


@pytest.mark.many
@pytest.mark.parametrize(
    ("place", "words", "left"),
    [
        ("base", "for one batch of this training, after 2 steps.*another name.*smaller batch_size", 4),
        ("optimizer", "for the optimiser, .* after 2 steps.*another name.*smaller rank", 6),  # nothing was saved before
        ("_beginning", "for the next expert .* after 3 steps", 3),
        ("watch", "such as the preview, after 3 steps.*with no model connected", 3),
    ],
)
def test_out_of_memory_says_what_for_and_the_next_training_is_as_if_it_had_not_been(scene, place, words, left):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def watch(training, report):
        if place == "watch" and len(training.losses) == 3:
            full()
        if place != "watch" and len(training.losses) == 2:
            target = {"base": training.base, "optimizer": training.optimizer}.get(place, training)
            setattr(target, {"base": "forward", "optimizer": "step"}.get(place, place), full)

    scene.train("whole")
    with pytest.raises(RuntimeError, match=words):
        scene.train(watch=watch)
    calls = []
    scene.train(watch=lambda *seen: calls.append(seen))
    assert len(calls) == left and same(scene.adapters("team"), scene.adapters("whole"))


def test_load_guide_notices_that_the_bank_or_its_base_changed(scene, tmp_path, monkeypatch):
    from guidance_pack.host.models import guides

    path = scene.train().path
    first = guides.fingerprint("team.safetensors")
    assert guides.fingerprint("team.safetensors") == first
    monkeypatch.setattr(guides, "ASSETS", tmp_path)
    assert guides.fingerprint("team.safetensors") == first.rpartition("; ")[0] + "; missing"
    monkeypatch.undo()
    path.touch()
    lend(monkeypatch, scene.guides)
    assert guides.fingerprint("team.safetensors") != first


def test_loading_a_bank_leaves_nothing_in_the_temporary_folder(scene, monkeypatch, tmp_path):
    import folder_paths

    from guidance_pack.host.models.guides import load_guide

    scene.train()
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    loaded = [load_guide("team.safetensors") for _ in range(3)]
    assert not list((tmp_path / "temp").iterdir())
    (scene.guides / "team.safetensors").write_bytes(b"")
    shutil.rmtree(tmp_path / "temp")  # as another server does when it starts
    outputs = [guide.patchers[0].model.use(1).use(0)(torch.zeros(1, 3, 32, 32)) for guide in loaded]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_the_user_s_guide_stays_as_it_was(scene):
    request = scene.request()
    network = request.guide.patchers[0].model
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        scene.module.train_experts(request, lambda *seen: None)
    after = network.state_dict()
    assert same(before, after) and not network.training


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["shapes-depth", "shapes-segmentation"])
def test_maps_have_experts_too(scene, guide):
    trained = scene.train(guide=guide)
    assert read_bank(trained.path).header.task == guide.removeprefix("shapes-")
    level = torch.tensor([0.1, 5.0])
    from guidance_pack.guidance.noise_level import NoiseLevel

    bank, first = trained.guide.patchers[0].model, trained.guide.guide.first
    output = first.output(bank.use(1), torch.zeros(2, 3, 32, 32), NoiseLevel.variance_exploding(level))
    assert output.shape[-2:] == (32, 32) and bool(torch.isfinite(output).all())


def test_labels_are_matched_by_name(scene, drawn, tmp_path):
    scene.train(recipe=replace(RECIPE, learn_from="labels"))
    shutil.copytree(drawn, tmp_path / "renamed")
    some = next((tmp_path / "renamed").iterdir())
    some.rename(some.with_name("zebra"))
    with pytest.raises(ValueError, match="folder 'zebra'; name the folders as shapes-classifier names its classes"):
        other = folder_of(tmp_path / "renamed")
        scene.train("other", recipe=replace(RECIPE, learn_from="labels"), pictures=other)


@pytest.mark.parametrize("name", ["", "../out", "/out/x", "a//b", "a\\b", "c:x", "team.safetensors", " x", "a/.."])
def test_names_that_point_elsewhere_are_refused_in_words(scene, name):
    with pytest.raises(ValueError, match="name is .*Choose a plain name such as mine/ppap-resnet50"):
        scene.train(name)
    from guidance_pack.host.models.guides import bank_name_problem

    assert bank_name_problem("mine/ppap-resnet50") is None


def test_a_guide_that_sees_noise_is_refused(scene):
    with pytest.raises(ValueError, match="shapes-noisy-classifier sees noise already; connect the clean network"):
        scene.train(guide="shapes-noisy-classifier")


def test_a_bank_without_its_base_says_what_is_missing(scene, monkeypatch):
    from guidance_pack.host.models import guides

    scene.train()
    monkeypatch.setattr(guides, "ASSETS", scene.guides)
    with pytest.raises(ValueError, match="team is a bank of experts of shapes-classifier, which is missing"):
        guides.load_guide("team.safetensors")


@pytest.mark.slow
def test_a_fault_in_any_operation_leaves_a_training_that_ends_the_same(comfy, tmp_path):
    """A seeded few of the operations from the guide's file to the bank's."""
    from comfy.model_management import InterruptProcessingException

    training = TrainingScene(tmp_path / "scene")
    errors = (torch.OutOfMemoryError("full"), InterruptProcessingException(), KeyboardInterrupt(), ValueError("broken"))
    places = random.Random(22).sample(range(training.operations), 8)
    assert [training.wrong_after(at, errors[number % 4]) for number, at in enumerate(places)] == [""] * 8
