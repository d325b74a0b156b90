"""The training room: averages, noise samplers, weights, and the loop."""

import pytest
import torch
from torch import nn
from world.ema import PlainDecay, PowerDecay, average_of, power_exponent
from world.loop import Settings, State, denoising_loss, train
from world.muon import Muon, orthogonalise
from world.noise import LogitNormal, LogNormal, Uniform

from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.training.weighting import EDMWeight, UniformWeight, VelocityWeight


class Line(nn.Module):
    """A denoiser small enough to check by hand: class-dependent colour plus a gain."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))
        self.colour = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x, timesteps, y):
        return self.gain * x + self.colour[y][:, :, None, None]


def toy_data(step):
    """Two classes of plain pictures."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    return torch.where(labels == 0, 0.5, -0.5)[:, None, None, None].expand(8, 3, 4, 4).clone(), labels


@pytest.mark.parametrize("width, gamma", [(0.05, 16.972), (0.1, 6.937), (0.25, 0.720), (0.01, 96.995), (0.15, 3.558)])
def test_power_exponents_of_known_widths(width, gamma):
    assert power_exponent(width) == pytest.approx(gamma, abs=6e-4)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.3])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match="must lie in"):
        power_exponent(width)


def averaged(decay, values):
    module = nn.Linear(1, 1, bias=False)
    average = average_of(module, decay)
    for value in values:
        nn.init.constant_(module.weight, value)
        average.update_parameters(module)
    return average, module


@pytest.mark.slow
def test_power_average_has_the_profile_it_promises():
    """Weights w(t) = t and t^2 averaged with the profile t^gamma have known means; their spread is the width."""
    steps, width = 4000, 0.1
    gamma = power_exponent(width)
    first = averaged(PowerDecay(width), [t / steps for t in range(1, steps + 1)])[0].module.weight.item()
    second = averaged(PowerDecay(width), [(t / steps) ** 2 for t in range(1, steps + 1)])[0].module.weight.item()
    assert first == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    assert (second - first**2) ** 0.5 == pytest.approx(width, rel=2e-2)


def test_power_average_forgets_the_starting_weights():
    assert averaged(PowerDecay(0.1), [5.0])[0].module.weight.item() == 5.0


def test_plain_average_is_geometric():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = average_of(module, PlainDecay(0.9))
    nn.init.constant_(module.weight, 0.0)
    for _ in range(10):
        average.update_parameters(module)
    assert average.module.weight.item() == pytest.approx(0.9**10)


def test_average_is_copied_into_a_network():
    average, module = averaged(PlainDecay(0.5), [1.0, 2.0])
    other = nn.Linear(1, 1, bias=False)
    other.load_state_dict(average.module.state_dict())
    assert other.weight.item() == average.module.weight.item() != module.weight.item()


def test_noise_sampler_statistics():
    generator = torch.Generator().manual_seed(0)
    logs = LogNormal(-1.2, 1.2)(100_000, generator).log()
    assert logs.mean() == pytest.approx(-1.2, abs=0.02) and logs.std() == pytest.approx(1.2, abs=0.02)
    times = LogitNormal(0.3, 0.8)(100_000, generator)
    assert times.min() > 0 and times.max() < 1
    assert times.logit().mean() == pytest.approx(0.3, abs=0.02) and times.logit().std() == pytest.approx(0.8, abs=0.02)
    even = Uniform(0.2, 0.6)(100_000, generator)
    assert even.min() > 0.2 and even.max() <= 0.6
    assert even.mean() == pytest.approx(0.4, abs=0.01) and even.std() == pytest.approx(0.4 / 12**0.5, abs=0.01)


@pytest.mark.parametrize("sampler", [LogNormal(), LogitNormal(), Uniform()])
def test_noise_samplers_use_their_generator_alone(sampler):
    draws = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        draws.append(sampler(5, torch.Generator().manual_seed(7)))
    assert torch.equal(*draws)


def test_weights_in_closed_form():
    sigma = torch.tensor([0.1, 0.5, 2.0])
    # EDM: the weight undoes the network's output scale, s sd / sqrt(s^2 + sd^2).
    scale = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(EDMWeight(0.5)(sigma) * scale**2, torch.ones(3))
    torch.testing.assert_close(VelocityWeight()(sigma), 1 / sigma**2)
    torch.testing.assert_close(UniformWeight()(sigma), torch.ones(3))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_scales(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, shape[1])
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonalise(matrix) @ vh.T
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-3
    assert orthogonalise(torch.zeros(shape)).abs().max() == 0


def test_the_first_step_has_the_promised_size():
    """A matrix moves by lr 0.2 sqrt(max) U V^T, a vector by lr sign(gradient), whatever the gradient's size."""
    matrix, vector = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(5))
    untouched = nn.Parameter(torch.ones(2))
    optimizer = Muon([matrix, vector, untouched], lr=0.1)
    matrix.grad, vector.grad = 1e-4 * torch.eye(8), torch.tensor([3.0, -1, 1e-3, -1e-3, 1])
    optimizer.step()
    torch.testing.assert_close(vector.data, -0.1 * vector.grad.sign(), rtol=1e-3, atol=0)
    expected = -0.1 * 0.2 * 8**0.5 * torch.eye(8)
    torch.testing.assert_close(matrix.data, expected, rtol=0.35, atol=1e-6)
    assert torch.equal(untouched.data, torch.ones(2))


def toy(**changes):
    options = {"steps": 60, "null_class": 2, "learning_rate": 0.05, "warmup": 5, "average": PowerDecay(0.2), "seed": 3}
    return Settings(**options | changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"prediction": "flow", "noise": LogitNormal(), "weight": VelocityWeight()}], ids=["edm", "flow"]
)
def test_the_loop_lowers_the_loss(changes):
    settings = toy(steps=150, **changes)
    losses = [report.loss for report in train(State(Line(), settings), toy_data, settings)]
    assert len(losses) == 150
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_equal_seeds_give_equal_trainings_whatever_the_global_generator():
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = State(Line(), toy())
        results.append([report.loss for report in train(state, toy_data, toy())])
    assert results[0] == results[1]
    other = toy(seed=4)
    assert [r.loss for r in train(State(Line(), other), toy_data, other)] != results[0]


def test_a_resumed_training_equals_an_unbroken_one():
    settings = toy()
    whole = State(Line(), settings)
    reports = list(train(whole, toy_data, settings))
    first = State(Line(), settings)
    for report in train(first, toy_data, settings):
        if report.step == 23:
            break
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = State(Line(), settings)
    second.restore(saved)
    rest = list(train(second, toy_data, settings))
    assert rest == reports[23:]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_the_report_tells_the_learning_rate():
    settings = toy(steps=40, steady=20)
    rates = [report.learning_rate for report in train(State(Line(), settings), toy_data, settings)]
    assert rates[0] == pytest.approx(0.01) and rates[4] == rates[19] == 0.05
    assert rates[39] == pytest.approx(0.05 / 2**0.5)


def test_label_dropout_shows_the_null_class():
    seen = []

    class Watch(Line):
        def forward(self, x, timesteps, y):
            seen.append(y)
            return super().forward(x, timesteps, y)

    settings = toy(steps=200, label_dropout=0.25)
    list(train(State(Watch(), settings), toy_data, settings))
    labels = torch.stack(seen)
    assert (labels == 2).float().mean() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(labels[labels != 2], toy_data(0)[1].expand(200, 8)[labels != 2])


def test_the_loss_is_the_weighted_mean_over_samples():
    settings = toy(noise=lambda count, generator: torch.full((count,), 2.0), label_dropout=0.0)
    clean, labels = toy_data(0)
    loss = denoising_loss(lambda x, s, y: torch.zeros_like(x), clean, labels, settings, torch.Generator())
    assert loss.item() == pytest.approx(0.25 * float(EDMWeight()(torch.tensor(2.0))))


def test_a_loss_that_is_not_finite_stops_the_training():
    settings = toy(noise=lambda count, generator: torch.full((count,), float("nan")))
    state = State(Line(), settings)
    with pytest.raises(FloatingPointError, match="step 1 is nan"):
        next(train(state, toy_data, settings))
    assert state.network.gain.item() == 0 and state.step == 0


def test_precondition_trains_through():
    """Gradients reach the network through the preconditioning."""
    network = Line()
    precondition(network, "edm")(torch.randn(1, 3, 4, 4), torch.ones(1), torch.zeros(1).long()).sum().backward()
    assert network.gain.grad.abs() > 0
