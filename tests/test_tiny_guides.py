"""The embedded guides: the network, its files, its training, what the four of them know, and that they steer."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from world import LABELS, render
from world.judge import JUDGE

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError, GuideSource
from guidance_pack.guidance.guides.tiny import TinyFile
from guidance_pack.guidance.networks.tiny import files
from guidance_pack.guidance.networks.tiny.guide import TinyGuide
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import quality  # noqa: E402, F401 - names the pack for the benchmarks beside it
from classifier import METHODS, Bench, Row, good, table  # noqa: E402
from train_guides import RECIPES, Training, accuracy_by_timestep, mean_iou, noisy  # noqa: E402
from train_world import RECIPES as WORLD  # noqa: E402
from train_world import Recipe  # noqa: E402

SMALL = {"width": 8, "groups": 4, "embedding": 8}
TASKS = ("classification", "depth", "segmentation")
FRESH_SEED = 66_666  # no training uses this world


def asset(name):
    return ROOT / "assets" / f"{name}.safetensors"


def loaded(name):
    """The guide's own network and its spec, as the guide loader gets them."""
    return TinyFile().load(GuideSource(asset(name)))


def small(seed=0, **config):
    """Random weights everywhere, also where training starts at zero."""
    network = TinyGuide(**SMALL | config)
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            nn.init.normal_(value, std=0.3, generator=generator)
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
    return network.eval().requires_grad_(False)


def times(network, count):
    return torch.linspace(0, 999, count) if network.config.timestep else None


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (4, 8), (36, 20)])
@pytest.mark.parametrize("task, channels", zip(TASKS, (10, 1, 11), strict=True))
def test_any_size_that_the_stride_divides(task, channels, size):
    shape = (2, channels) if task == "classification" else (2, channels, *size)
    assert small(task=task)(torch.randn(2, 3, *size)).shape == shape


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ValueError, match="30x32 pixels; width and height must be multiples of 4"):
        small()(torch.randn(1, 3, 32, 30))
    with pytest.raises(ValueError, match="needs their timesteps, 0 to 999"):
        small(timestep=True)(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="task is 'colour'; it can be classification, depth, segmentation"):
        TinyGuide(task="colour")
    with pytest.raises(ValueError, match="norm is 'layer'; it can be group, batch"):
        TinyGuide(norm="layer")


@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_equals_finite_differences(task):
    network = small(task=task, timestep=True).double()
    generator = torch.Generator().manual_seed(3)
    x, direction = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64, generator=generator)
    t = torch.tensor([12.5, 700.0], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf, t).square().sum(), leaf)
    h = 1e-5
    slope = (network(x + h * direction, t).square().sum() - network(x - h * direction, t).square().sum()) / (2 * h)
    torch.testing.assert_close((found * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_layers_come_from_the_injected_operations():
    made = []

    def layer(kind):
        def make(*args, **options):
            made.append(kind.__name__)
            return kind(*args, **options)

        return make

    operations = SimpleNamespace(**{k.__name__: layer(k) for k in (nn.Conv2d, nn.Linear, nn.GroupNorm)})
    for task in TASKS:
        network = TinyGuide(**SMALL, task=task, timestep=True, operations=operations, dtype=torch.float64)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.GroupNorm)]
        assert len(made) == len(layers) > 10
        assert all(p.dtype == torch.float64 for p in network.parameters())
        made.clear()


def test_a_fresh_network_says_nothing_and_depends_on_its_seed():
    networks = [TinyGuide(**SMALL, task="depth", norm="batch") for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        network.initialise(torch.Generator().manual_seed(seed))
    weights = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in networks]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert networks[0](torch.randn(2, 3, 8, 8)).abs().max() == 0


def facts(network, **more):
    known = {"recipe": "test", "labels": list(LABELS), "data_seed": 0, "training_seed": 0, "steps": 1, "batch": 1}
    known |= {"pictures_seen": 1, "parameters": 1, "task": network.config.task, "sees": "clean", "schedule": None}
    return known | more


def written(path, network, **more):
    files.write_network(path, files.GUIDE, network.config.as_dict(), facts(network, **more), network.state_dict())
    return GuideSource(path)


def test_a_file_keeps_weights_statistics_and_counters(tmp_path):
    network = small(norm="batch")
    network.encoder[0].norm_in.num_batches_tracked.fill_(4097)  # no float16
    source = written(tmp_path / "mine.safetensors", network)
    assert TinyFile().recognises(source)
    again, spec = TinyFile().load(source)
    for name, value in network.state_dict().items():
        other = again.state_dict()[name]
        assert other.dtype == value.dtype and torch.equal(other, value.half().to(value) if value.ndim else value)
    assert spec.name == "mine" and not again.training and not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"sees": "timestep", "schedule": "linear"}, "its network has no timestep"),
        ({"sees": "blurred"}, "sees is 'blurred'; it can be clean, noisy, timestep"),
        ({"schedule": "quadratic"}, "no noise schedule 'quadratic'"),
        ({"labels": ["one"]}, "names 1 labels and has 10 classes"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(tmp_path, changed, words):
    with pytest.raises(GuideFileError, match=words):
        TinyFile().load(written(tmp_path / "mine.safetensors", small(), **changed))


def test_another_version_is_known_and_refused(tmp_path):
    path = tmp_path / "newer.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"format": "guidance-components/tiny-guide/2"})
    assert TinyFile().recognises(GuideSource(path))
    with pytest.raises(GuideFileError, match="reads version 1; update the pack"):
        TinyFile().load(GuideSource(path))
    assert not TinyFile().recognises(GuideSource(JUDGE))


@pytest.mark.parametrize("task, more", [("classification", {"norm": "batch"}), ("depth", {"timestep": True})])
def test_a_stopped_training_goes_on_as_if_it_had_not(task, more):
    recipe = Recipe({**SMALL, "task": task, **more}, None, steps=6, batch=4, data_seed=5, seed=5)
    whole, first, second = Training(recipe), Training(recipe), Training(recipe)
    losses = [loss for _, loss in whole.steps(5)]
    before = [loss for _, loss in first.steps(2)]
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert before + [loss for _, loss in second.steps(5)] == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), second.tensors().values(), strict=True))


def test_mean_iou_by_hand():
    truth = torch.arange(11).view(1, 1, 11)
    found = truth.clone()
    found[0, 0, 10] = 9  # class 9: one of two pixels; class 10: none of one
    assert mean_iou(found, truth) == pytest.approx((9 + 0.5 + 0) / 11)


@pytest.mark.parametrize("name", RECIPES)
def test_assets_are_what_their_recipes_make(name):
    recipe, file = RECIPES[name], files.read_guide(asset(name))
    known = file.metadata
    assert recipe.config.items() <= file.config.items()
    assert known["recipe"] == name and known["task"] == recipe.config["task"]
    assert (known["steps"], known["batch"]) == (recipe.steps, recipe.batch)
    assert known["pictures_seen"] == recipe.steps * recipe.batch
    assert (known["data_seed"], known["training_seed"]) == (recipe.data_seed, recipe.seed)
    network = files.build(file)
    assert known["parameters"] == sum(p.numel() for p in network.parameters())
    assert asset(name).stat().st_size < 1.25e6


def test_the_judge_and_the_guides_share_no_data_and_no_seed():
    everyone = [*RECIPES.values(), *WORLD.values()]
    judge = WORLD["shapes-judge"]
    assert sum(r.data_seed == judge.data_seed for r in everyone) == sum(r.seed == judge.seed for r in everyone) == 1
    assert len({r.data_seed for r in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_specs_say_what_the_guides_are(name):
    _, spec = loaded(name)
    sees = "timestep" if "noisy" in name else "clean"
    labels = {"classification": LABELS, "depth": (), "segmentation": ("background", *LABELS)}[spec.task]
    assert (spec.name, spec.domain, spec.sees, spec.labels) == (name, "pixels", sees, labels)
    assert (spec.schedule.name if spec.schedule else None) == ("linear" if sees == "timestep" else None)
    picture = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(spec.prepare(picture), picture)
    assert spec.prepare(torch.randn(1, 3, 30, 33)).shape == picture.shape


@pytest.mark.parametrize("name", RECIPES)
def test_samples_do_not_see_each_other_and_the_gradient_reaches_every_one(name):
    network, _ = loaded(name)
    x, t = render(3, FRESH_SEED).images, times(network, 3)
    whole = network(x, t)
    assert torch.equal(whole, network(x, t))
    alone = torch.cat([network(x[i : i + 1], None if t is None else t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf, t)[1].square().sum(), leaf)
    assert found[1].abs().min(0).values.gt(0).float().mean() > 0.9 and found[[0, 2]].abs().max() == 0


@pytest.fixture(scope="module")
def fresh():
    return render(500, FRESH_SEED)


@torch.no_grad()
def test_the_clean_classifier_knows_the_world(fresh):
    network, _ = loaded("shapes-classifier")
    assert (network(fresh.images).argmax(1) == fresh.labels).float().mean() > 0.99


@torch.no_grad()
def test_the_depth_guide_knows_the_world(fresh):
    network, _ = loaded("shapes-depth")
    error = (network(fresh.images) - fresh.depth).abs().mean()
    flat = (fresh.depth - fresh.depth.median()).abs().mean()
    assert error < 0.022 and error < flat / 4


@pytest.mark.slow
@torch.no_grad()
def test_the_segmentation_guide_knows_the_world(fresh):
    network, _ = loaded("shapes-segmentation")
    found = network(fresh.images).argmax(1)
    assert (found == fresh.segmentation).float().mean() > 0.97 and mean_iou(found, fresh.segmentation) > 0.8


@pytest.mark.slow
@torch.no_grad()
def test_noise_makes_the_noisy_classifier_less_sure(fresh):
    network, _ = loaded("shapes-noisy-classifier")
    shares = accuracy_by_timestep(network, fresh, seed=1, bins=5)
    assert shares[0] > 0.96 and shares[1] > 0.78 and shares[-1] < 0.2
    assert all(later < earlier + 0.04 for earlier, later in zip(shares, shares[1:], strict=False))


@pytest.mark.slow
@torch.no_grad()
def test_it_reads_noise_that_the_clean_one_cannot_and_needs_the_timestep(fresh):
    at, images, labels = torch.full((250,), 200), fresh.images[:250], fresh.labels[:250]
    seen = noisy(images, torch.randn(images.shape, generator=torch.Generator().manual_seed(0)), at)
    network, spec = loaded("shapes-noisy-classifier")
    clean, _ = loaded("shapes-classifier")

    def right(scores):
        return (scores.argmax(1) == labels).float().mean()

    told = right(network(seen, at))
    assert told > 0.92 and right(clean(seen)) < 0.4
    assert right(network(seen, torch.full((250,), 999))) < 0.5
    torch.testing.assert_close(network(seen[:9], at[:9] + 0.5), network(seen[:9], at[:9]), rtol=0.1, atol=0.1)
    level = NoiseLevel.variance_exploding(noise_schedule("linear").sigmas[at])
    torch.testing.assert_close(spec.output(network, seen, level), network(seen, at), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_it_steers_the_unconditional_denoiser():
    options = SimpleNamespace(assets=ROOT / "assets", samples=40, steps=7, batch=40, seed=4)
    bench = Bench(options)
    method = METHODS["noise-aware"]
    unguided, guided = (bench.row("", scale, bench.guided(method, scale)) for scale in (0.0, 4.0))
    assert unguided.accuracy < 0.3 and guided.accuracy > unguided.accuracy + 0.3


def test_the_benchmarks_table_by_hand():
    rows = [Row(name, 0.0, 0.1, 2.0, 0.5, 0.25, 0) for name in
            ("real pictures", "class given to the denoiser", "unguided")]
    rows += [Row("a", 1.0, 0.5, 9.0, 0, 0, 0), Row("a", 2.0, 0.95, 7.0, 0, 0, 0), Row("a", 4.0, 1.0, 8.0, 0, 0, 0)]
    assert good(rows, "a").scale == 2
    lines = table(rows).splitlines()
    assert lines[0].endswith("| s = 0 | s = 1 | s = 2 | s = 4 |")
    assert lines[2].startswith("| a | 10.0% / 2.0 / 0.50 / 0.25 | 50.0% / 9.0 / 0.00 / 0.00 | 95.0%")


def test_assets_load_without_pickles():
    for name in RECIPES:
        assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in load_file(asset(name)).values())
