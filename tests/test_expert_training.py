"""Training experts: ranges, lessons, resuming, and that the teacher stays as it was."""

import random

import pytest
import torch
import torch.nn.functional as F
from bank_adapters import CLASSES, small, spec, state
from torch import nn

from faulting.operations import FailingOperation
from guidance_pack.guidance.experts.bank import ExpertBank, adapter_names, adapter_tensors, own_tensors, problems
from guidance_pack.guidance.guide import with_noise
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.training.distillation import distillation_loss, scale_and_shift, soft_labels
from guidance_pack.guidance.training.experts import ExpertsTraining
from guidance_pack.guidance.training.lora_targets import Adaptation, low_rank_layers, whole_tensors
from guidance_pack.guidance.training.recipe import ExpertRecipe, level_weights
from guidance_pack.guidance.training.student import Student

COUNT = 12
SMALL = Adaptation(rank=2, alpha=2)


def pictures(indices):
    generator = torch.Generator().manual_seed(5)
    all_of_them = torch.rand(COUNT, 3, 8, 8, generator=generator) * 2 - 1
    return all_of_them[indices], torch.arange(COUNT)[indices] % CLASSES


def unlabelled(indices):
    return pictures(indices)[0], None


def recipe(**changed) -> ExpertRecipe:
    given = {"experts": 3, "iterations": 9, "batch": 4, "learning_rate": 0.01, "adaptation": SMALL}
    return ExpertRecipe(**{**given, **changed})


def trained(norm: str = "batch", base=None, seen=unlabelled, **changed) -> ExpertsTraining:
    training = ExpertsTraining(base or small(norm), spec(), recipe(**changed))
    for _ in training.steps(seen, COUNT):
        pass
    return training


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_every_expert_learns_its_own_half_open_range():
    team = recipe(experts=5, iterations=5, schedule="linear")
    ranges = [team.timesteps(index) for index in range(5)]
    assert [timestep for own in ranges for timestep in own] == list(range(1000))
    assert [len(own) for own in ranges] == [200] * 5 and ranges[1].start == 200
    assert team.edges == pytest.approx([1.9239, 0.24131, 0.026402, 0.0015222], rel=2e-2)  # half a timestep below F4's
    sigmas = noise_schedule("linear").sigmas
    for edge, own in zip(team.edges, ranges[1:], strict=True):
        assert sigmas[own.start - 1] < edge**-0.5 < sigmas[own.start]


def test_uneven_ranges_cover_every_timestep_once():
    team = recipe(experts=7, iterations=7)
    assert [timestep for index in range(7) for timestep in team.timesteps(index)] == list(range(1000))


def test_the_first_loss_is_the_lesson_by_hand():
    """One step without training's effect: the loss of the untouched network at the drawn timesteps, written out."""
    seen = []

    def watch(indices):
        found = unlabelled(indices)
        seen.append(found[0])
        return found

    base, training = small("group"), ExpertsTraining(small("group"), spec(), recipe(flip=False, weighting="p2"))
    levels = []
    output = training.student.network.forward
    training.student.network.forward = lambda x, t: levels.append(x) or output(x, t)
    report = next(iter(training.steps(watch, COUNT)))
    clean, noisy = seen[0], levels[0]
    aim = (base(clean) / 0.25).softmax(1)
    each = (aim * (aim.log() - base(noisy).log_softmax(1))).sum(1)
    # The timesteps, from what noise was added: alpha_bar by the overlap with the clean picture is not exact, so
    # they are drawn again as the trainer says it draws: rows first.
    from guidance_pack.guidance.training.experts import _generator

    rows = torch.randint(len(training.recipe.timesteps(0)), (4,), generator=_generator(0, 0, 1))
    level = NoiseLevel.variance_exploding(noise_schedule("linear").sigmas[rows])
    noise = (noisy - level.alpha_bar.sqrt().float()[:, None, None, None] * clean)
    noise = noise / (1 - level.alpha_bar).sqrt().float()[:, None, None, None]
    torch.testing.assert_close(with_noise(clean, noise, level), noisy)
    assert 0.8 < float(noise.std()) < 1.2
    table = level_weights("p2", NoiseLevel.variance_exploding(noise_schedule("linear").sigmas[:333]))
    weights = (table / table.mean())[rows]
    assert report.loss == pytest.approx(float((weights * each).mean()), rel=1e-4)


@pytest.mark.parametrize("weighting", ["p2", "min-SNR"])
def test_weights_are_the_papers_relative_to_the_plain_loss(weighting):
    level = NoiseLevel.variance_exploding(torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64))
    snr = level.snr
    expected = 1 / (1 + snr) if weighting == "p2" else (5 / snr).clamp(max=1)
    torch.testing.assert_close(level_weights(weighting, level), expected)


def test_the_teacher_stays_as_it_was():
    base = small()
    before = state(base)
    trained(base=base)
    assert_same(state(base), before)
    assert not any(p.requires_grad for p in base.parameters()) and not base.training


def test_the_same_seed_gives_the_same_experts_whatever_else_draws():
    first = adapter_tensors(trained().adapters)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = trained()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(first, adapter_tensors(again.adapters))
    other = adapter_tensors(trained(seed=1).adapters)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.many
@pytest.mark.parametrize("stop", [1, 3, 4, 8])
@pytest.mark.parametrize(
    "changed",
    [{}, {"warm_start": False}, {"precision": "bf16"}, {"precision": "fp16"},
     {"adaptation": Adaptation(efficient=False)}],
)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(stop, changed):
    whole = trained(**changed)
    first = ExpertsTraining(small(), spec(), recipe(**changed))
    steps = first.steps(unlabelled, COUNT)
    for _ in range(stop):
        next(steps)
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = ExpertsTraining(small(), spec(), recipe(**changed))
    second.restore(saved)
    rest = list(second.steps(unlabelled, COUNT))
    assert len(rest) == 9 - stop and second.losses == whole.losses
    assert_same(adapter_tensors(second.adapters), adapter_tensors(whole.adapters))


def stopped_state():
    """A training at the second step of its second expert."""
    training = ExpertsTraining(small(), spec(), recipe())
    steps = training.steps(unlabelled, COUNT)
    for _ in range(4):
        next(steps)
    return {name: tensor.clone() for name, tensor in training.tensors().items()}


def first_of(prefix, saved):
    return next(name for name in saved if name.startswith(prefix) and saved[name].ndim)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("at"), "does not say how far"), (lambda s: s.pop("losses"), "does not say how far"),
        (lambda s: s.update(at=torch.tensor([1, 1, 1])), "does not say how far"),
        (lambda s: s.update(at=torch.tensor([1.0, 1.0])), "does not say how far"),
        (lambda s: s.update(at=torch.tensor([1, 99])), "is at step 99 of expert 2, of 3 steps"),
        (lambda s: s.update(at=torch.tensor([2**40, 0])), "is at step 0 of expert"),
        (lambda s: s.update(at=torch.tensor([-1, 1])), "is at step 1 of expert 0"),
        (lambda s: s.update(at=torch.tensor([2, 1])), "has not the 7 losses"),
        (lambda s: s.update(losses=s["losses"] * float("nan")), "has not the 4 losses"),
        (lambda s: s.pop(first_of("expert.0.down", s)), "only half of the change"),
        (lambda s: s.update({first_of("expert.0.up", s): torch.zeros(1, 1)}), "does not give its shape"),
        (lambda s: s.update({(n := first_of("expert.0.up", s)): s[n].int()}), "is of int32; weights are"),
        (lambda s: s.update({(n := first_of("expert.0.up", s)): s[n].long()}), "is of int64; weights are"),
        (lambda s: s.update({"expert.7.whole.x": torch.zeros(1)}), "has expert.7.whole.x, which is of no finished"),
        (lambda s: s.pop(first_of("student.", s)), "lacks student."),
        (lambda s: s.update({first_of("student.", s): torch.zeros(1, 2, 3)}), r"of shape \[1, 2, 3\] instead of"),
        (lambda s: s.update({(n := first_of("student.", s)): s[n] / 0}), "is not finite"),
        (lambda s: s.pop(first_of("optimizer.exp_avg.", s)), "lacks optimizer.exp_avg."),
        (lambda s: s.update({(n := first_of("optimizer.exp_avg_sq.", s)): s[n] - 1}), "is below 0"),
        (lambda s: s.update({"more": torch.zeros(1)}), "has the unknown more"),
    ],
)
def test_a_state_that_cannot_be_is_refused_in_words(spoil, words):
    saved = stopped_state()
    spoil(saved)
    with pytest.raises(ValueError, match=words) as caught:
        ExpertsTraining(small(), spec(), recipe()).restore(saved)
    assert len(str(caught.value)) < 400


def test_the_parts_fit_and_give_what_the_student_gave():
    training = ExpertsTraining(small(), spec(), recipe(experts=1, iterations=4))
    student = training.student.network
    for _ in training.steps(unlabelled, COUNT):
        pass
    base = small()
    assert problems(base, training.adapters) == []
    bank = ExpertBank(base, training.adapters, own_tensors(base, adapter_names(training.adapters)))
    seen = unlabelled(torch.arange(4))[0]
    torch.testing.assert_close(bank.use(0)(seen), student.eval()(seen, None), rtol=1e-5, atol=1e-6)
    names = training.adapters[0].names()
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "norm.weight", "head.bias"} <= names
    assert "grouped.weight" not in names and "head.weight" not in names


def test_a_network_that_is_moved_keeps_its_statistics():
    """As to a GPU: parameters stay the same objects, buffers do not."""
    student = Student(small(), SMALL, torch.Generator().manual_seed(0))
    student.network._apply(torch.clone)
    student.network(unlabelled(torch.arange(4))[0])
    assert int(student.adapter().whole["norm.num_batches_tracked"]) == 1
    assert not torch.equal(student.adapter().whole["norm.running_mean"], small().norm.running_mean)


def test_full_training_changes_every_weight_and_low_rank_only_what_it_says():
    full = trained(adaptation=Adaptation(efficient=False)).adapters[0]
    assert not full.low_rank and {*full.whole} == {*small().state_dict()}
    adapter = trained().adapters[0]
    assert {*adapter.low_rank} == {"first.weight", "mix.weight", "inner.weight"}
    assert adapter.low_rank["first.weight"].scale == 1.0


def test_an_expert_goes_on_from_the_one_before_or_starts_anew():
    def start_of_the_second(**changed):
        training = ExpertsTraining(small("group"), spec(), recipe(**changed))
        begun = []
        for report in training.steps(unlabelled, COUNT):
            if report.expert == 0 and report.step == training.recipe.steps:
                begun.append({name: t.detach().clone() for name, t in training.student.tensors().items()})
        return training.adapters[0], begun[0]

    adapter, begun = start_of_the_second(warm_start=True)
    assert torch.equal(begun["mix.lora_B.expert.weight"], adapter.low_rank["mix.weight"].up)
    _, begun = start_of_the_second(warm_start=False)
    assert not bool(begun["mix.lora_B.expert.weight"].any()), "LoRA starts at nothing"


@pytest.mark.slow
def test_learning_lowers_the_loss():
    losses = trained(experts=1, iterations=150, batch=12, schedule="cosine", learning_rate=0.02).losses
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_accumulated_batches_are_one_larger_batch():
    """Without BatchNorm, whose statistics are those of one forward. The draws differ, so the pictures do as well."""
    training = ExpertsTraining(small("group"), spec(), recipe(accumulate=2, flip=False))
    calls = []
    next(iter(training.steps(lambda i: calls.append(len(i)) or unlabelled(i), COUNT)))
    assert calls == [4, 4] and training.step == 1


def test_lessons_by_hand():
    generator = torch.Generator().manual_seed(2)
    output, aim = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    p = (aim / 0.25).softmax(1)
    torch.testing.assert_close(soft_labels(output, aim, 0.25), (p * (p.log() - output.log_softmax(1))).sum(1))
    maps, target = torch.randn(2, 4, 3, 3, generator=generator), torch.randn(2, 4, 3, 3, generator=generator)
    pixels = [soft_labels(maps[:, :, y, x], target[:, :, y, x], 1.0) for y in range(3) for x in range(3)]
    torch.testing.assert_close(soft_labels(maps, target, 1.0), torch.stack(pixels).mean(0))
    found = distillation_loss("labels", "classification", 1.0)(output, torch.tensor([0, 1, 3]))
    torch.testing.assert_close(found, -output.log_softmax(1)[torch.arange(3), torch.tensor([0, 1, 3])])
    found = distillation_loss("mse", "depth", 1.0)(maps, target)
    torch.testing.assert_close(found, (maps - target).square().mean((1, 2, 3)))
    found = distillation_loss("task", "embedding", 1.0)(output, aim)
    torch.testing.assert_close(found, 1 - (F.normalize(output) * F.normalize(aim)).sum(1))
    assert float(soft_labels(aim / 0.25, aim, 0.25).abs().max()) < 1e-6


def test_depth_is_compared_up_to_scale_and_shift_but_not_sign():
    generator = torch.Generator().manual_seed(3)
    depth = torch.rand(2, 1, 5, 5, generator=generator)
    assert float(scale_and_shift(3 * depth - 1, depth).max()) < 1e-5
    assert float(scale_and_shift(-depth, depth).min()) > 0.5
    flat = depth[0].flatten()
    median = flat.median()
    by_hand = (flat - median) / (flat - median).abs().mean()
    other = torch.rand(1, 1, 5, 5, generator=generator)
    standing = (other.flatten() - other.median()) / (other.flatten() - other.median()).abs().mean()
    torch.testing.assert_close(scale_and_shift(depth[:1], other)[0], (by_hand - standing).abs().mean())
    assert bool(torch.isfinite(scale_and_shift(torch.zeros(1, 1, 5, 5), other)).all())


@pytest.mark.slow
def test_the_papers_layers_are_found_in_the_papers_networks():
    from torchvision.models import resnet50, vit_b_16
    from transformers import DeiTConfig, DeiTForImageClassification, ResNetConfig, ResNetForImageClassification

    resnet = resnet50()
    assert len(low_rank_layers(resnet, Adaptation())) == 33  # papers' stem, and conv1 and conv2 of 16 blocks
    assert not [n for n in low_rank_layers(resnet, Adaptation()) if "conv3" in n or "downsample" in n or n == "fc"]
    assert len(low_rank_layers(ResNetForImageClassification(ResNetConfig()), Adaptation())) == 33
    parameters, buffers = whole_tensors(resnet, Adaptation())
    assert len(buffers) == 3 * 53 and len(parameters) == 2 * 53 + 1
    deit = DeiTForImageClassification(DeiTConfig(hidden_size=32, num_attention_heads=2, intermediate_size=64))
    assert len(low_rank_layers(deit, Adaptation())) == 4 * 12  # query, key, value and output of 12 blocks
    vit = low_rank_layers(vit_b_16(), Adaptation())
    assert vit and not [name for name in vit if "self_attention" in name or name.startswith("heads")]


@pytest.mark.slow
def test_peft_counts_of_the_paper():
    """B4: five experts of a ResNet-50 at the paper's rank are 5.71 % each; peft's convolutions need fewer numbers."""
    from torchvision.models import resnet50

    network = resnet50()
    adapter = Student(network, Adaptation(), torch.Generator().manual_seed(0)).adapter()
    share = adapter.numbers() / sum(p.numel() for p in network.parameters())
    assert 0.03 < share < 0.0571


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"experts": 0}, "experts is 0"),
        ({"iterations": 2}, "needs at least 1"),
        ({"batch": 0}, "batch is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"weighting": "max"}, "weighting is 'max'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"schedule": "none"}, "no noise schedule"),
        ({"experts": 2000, "iterations": 4000}, "1 to 1000 experts"),
    ],
)
def test_recipes_that_cannot_be_are_refused_in_words(changed, words):
    with pytest.raises(ValueError, match=words):
        recipe(**changed)


def test_trainings_that_cannot_be_are_refused_in_words():
    with pytest.raises(ValueError, match="sees noisy pictures; experts are made of a network that sees clean"):
        ExpertsTraining(small(), spec(sees="noisy"), recipe())
    with pytest.raises(ValueError, match="no pictures"):
        next(iter(ExpertsTraining(small(), spec(), recipe()).steps(unlabelled, 0)))
    with pytest.raises(ValueError, match="no labels"):
        trained(learn_from="labels")
    with pytest.raises(ValueError, match="Labels are for classification"):
        ExpertsTraining(small(), spec(task="depth", labels=()), recipe(learn_from="labels"))
    with pytest.raises(ValueError, match="temperature is 0"):
        ExpertsTraining(small(), spec(), recipe(temperature=0.0))
    with pytest.raises(ValueError, match="layers has 'nothing.*'.*first, mix, inner, head"):
        ExpertsTraining(small(), spec(), recipe(adaptation=Adaptation(layers="nothing.*")))
    with pytest.raises(ValueError, match="rank is 0"):
        Adaptation(rank=0)
    assert low_rank_layers(small(), Adaptation(layers="mix, he*")) == ["mix", "head"]


def test_a_loss_that_overflows_stops_and_leaves_the_weights():
    training = ExpertsTraining(small(), spec(), recipe())
    steps = training.steps(lambda i: (torch.full((len(i), 3, 8, 8), float("inf")), None), COUNT)
    before = {name: tensor.detach().clone() for name, tensor in training.student.tensors().items()}
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        next(steps)
    assert_same({name: tensor.detach() for name, tensor in training.student.tensors().items()}, before)
    assert training.step == 0 and training.losses == []


class Named(nn.Module):
    """A network whose layers are called as the names that a saved training is made of."""

    def __init__(self):
        super().__init__()
        self.scaler, self.expert = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.base_layer, self.lora_A = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)
        self.student = nn.Linear(8, CLASSES)

    def forward(self, input, timestep=None):
        return self.student(self.lora_A(self.base_layer(self.expert(self.scaler(input))).mean((2, 3))))


def named_otherwise() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Named().eval().requires_grad_(False)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layers_may_be_called_as_anything(precision):
    whole = trained(base=named_otherwise(), precision=precision)
    first = ExpertsTraining(named_otherwise(), spec(), recipe(precision=precision))
    next(first.steps(unlabelled, COUNT))
    second = ExpertsTraining(named_otherwise(), spec(), recipe(precision=precision))
    second.restore(first.tensors())
    assert len(list(second.steps(unlabelled, COUNT))) == 8
    assert_same(adapter_tensors(second.adapters), adapter_tensors(whole.adapters))
    adapter = whole.adapters[0]
    assert {*adapter.low_rank} == {"scaler.weight", "base_layer.weight", "lora_A.weight"}
    assert {"expert.running_mean", "base_layer.bias", "expert.weight"} <= adapter.whole.keys()
    assert problems(named_otherwise(), whole.adapters) == []


def broken_off(at: int, error: BaseException, **changed) -> dict[str, torch.Tensor]:
    """What is saved of a training whose operation number `at` fails: the last that could be saved before or then."""
    training = ExpertsTraining(small(), spec(), recipe(**changed))
    kept = training.tensors()
    try:
        with FailingOperation(at, error):
            for _ in training.steps(unlabelled, COUNT):
                kept = training.tensors()
    except type(error) as raised:
        assert raised is error
        return training.tensors() if training.consistent else kept
    raise AssertionError(f"there is no operation {at}")


@pytest.mark.many
@pytest.mark.parametrize("changed", [{}, {"warm_start": False}, {"adaptation": Adaptation(efficient=False)}])
def test_a_failure_in_any_operation_leaves_a_training_that_goes_on_as_if_it_had_not(changed):
    small_recipe = {"experts": 2, "iterations": 4, **changed}
    training = ExpertsTraining(small(), spec(), recipe(**small_recipe))
    with FailingOperation(None) as counted:
        for _ in training.steps(unlabelled, COUNT):
            training.tensors()
    whole = adapter_tensors(training.adapters)
    errors = (torch.OutOfMemoryError("full"), KeyboardInterrupt(), RuntimeError("broken"))
    for number, at in enumerate(random.Random(str(changed)).sample(range(counted.count), 9)):
        error = errors[number % 3]
        second = ExpertsTraining(small(), spec(), recipe(**small_recipe))
        second.restore(broken_off(at, error, **small_recipe))
        for _ in second.steps(unlabelled, COUNT):
            pass
        assert second.losses == training.losses, at
        assert_same(adapter_tensors(second.adapters), whole)


def test_a_step_that_broke_off_in_the_optimiser_is_neither_saved_nor_gone_on_from(monkeypatch):
    training = ExpertsTraining(small(), spec(), recipe())
    next(training.steps(unlabelled, COUNT))
    monkeypatch.setattr(training.optimizer, "step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(training.steps(unlabelled, COUNT))
    assert training.work == "the weights" and not training.consistent
    with pytest.raises(RuntimeError, match="inside the optimiser"):
        training.tensors()
    with pytest.raises(RuntimeError, match="restore the training"):
        next(training.steps(unlabelled, COUNT))


def test_an_expert_that_could_not_begin_costs_no_step(monkeypatch):
    training = ExpertsTraining(small(), spec(), recipe())
    monkeypatch.setattr(training, "_beginning", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(training.steps(unlabelled, COUNT))
    assert training.work == "the next expert" and len(training.losses) == 3 and training.adapters == []
    again = ExpertsTraining(small(), spec(), recipe())
    again.restore(training.tensors())
    assert len(list(again.steps(unlabelled, COUNT))) == 6
    assert_same(adapter_tensors(again.adapters), adapter_tensors(trained().adapters))
