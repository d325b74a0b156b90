"""What every guide family must do, whatever its networks: checks of one loaded guide, in float64 where it is exact."""

import copy
from dataclasses import dataclass, field, replace

import torch

from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.features import read_by_the_head
from guidance_pack.guidance.guide import GuideSpec, families
from guidance_pack.guidance.noise_level import NoiseLevel

EPSILON = 1e-7


@dataclass(frozen=True)
class Conformance:
    """One guide, loaded by the family that recognises it."""

    source: GuideSource
    network: torch.nn.Module
    spec: GuideSpec
    family: str
    exact: torch.nn.Module = field(repr=False)


def load(path, name="a guide", backbone=None) -> Conformance:
    """Load a guide as the host does, a head over the folder `backbone`. Exactly one family must want it."""
    source = GuideSource(path, name, GuideSource(backbone) if backbone else None)
    able = [family() for family in families().values() if family().recognises(source)]
    assert len(able) == 1, f"{[family.name for family in able]} recognise {path}"
    network, spec = able[0].load(source)
    return Conformance(source, network, spec, able[0].name, copy.deepcopy(network).double())


def pictures(count: int, width: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 40, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def levels(*sigmas: float) -> NoiseLevel:
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    return NoiseLevel(torch.ones_like(sigma), sigma)


def output(found: Conformance, picture: torch.Tensor) -> torch.Tensor:
    return found.spec.output(found.exact, picture, levels(*(0.5 + i for i in range(len(picture)))))


def check_shape(found: Conformance, outputs: int, width: int, size: tuple[int, int]) -> None:
    """Vectors [B, outputs], maps [B, outputs, *size] as large as the network's input."""
    picture = pictures(2, width)
    assert tuple(found.spec.prepare(picture).shape[-2:]) == size
    maps = found.spec.task in ("depth", "segmentation")
    given = output(found, picture)
    assert tuple(given.shape) == ((2, outputs, *size) if maps else (2, outputs))
    assert given.dtype == torch.float64 and bool(torch.isfinite(given).all())
    assert float((given[0] - given[1]).norm()) > 1e-4, "two pictures look the same to it"


def check_features(found: Conformance, linear: bool) -> None:
    """Vectors that differ between pictures, none where the last layer is not linear; nothing stays on the network."""
    picture, logits = pictures(2), []

    def ask() -> torch.Tensor:
        logits.append(output(found, picture))
        return logits[0]

    features = read_by_the_head(found.exact, ask)
    assert (features is not None) == linear
    if features is not None:
        assert features.ndim == 2 and float((features[0] - features[1]).norm()) > 1e-6
        assert torch.equal(logits[0], output(found, picture))
    assert not any(layer._forward_hooks for layer in found.exact.modules())


def check_per_sample(found: Conformance) -> None:
    """A batch of three is three of one, also where the samples are at different noise levels."""
    batch, level = pictures(3), levels(0.3, 1.0, 4.0)
    together = found.spec.output(found.exact, batch, level)
    alone = [found.spec.output(found.exact, batch[i : i + 1], level[torch.tensor([i])]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def check_gradient(found: Conformance) -> None:
    """The gradient with respect to the picture is that of finite differences, and every colour has some."""
    generator = torch.Generator().manual_seed(3)
    picture = pictures(2).requires_grad_()
    given = output(found, picture)
    weights = torch.randn(given.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((given * weights).sum(), picture)
    assert bool((gradient.flatten(2).norm(dim=2) > 0).all())
    direction = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (output(found, picture + step * direction) for step in (EPSILON, -EPSILON))
    slope = ((ahead - behind) * weights).sum() / (2 * EPSILON)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-7)


def check_evaluation_mode(found: Conformance) -> None:
    """Every layer is in evaluation mode, in float32 and without gradients of its own; looking changes nothing."""
    assert not any(module.training for module in found.network.modules())
    parameters = list(found.network.parameters())
    assert parameters and all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)
    before = {key: value.clone() for key, value in found.exact.state_dict().items()}
    first, second = output(found, pictures(2)), output(found, pictures(2))
    assert torch.equal(first, second), "not deterministic"
    assert all(torch.equal(value, before[key]) for key, value in found.exact.state_dict().items())


def check_round_trip(found: Conformance) -> None:
    """The network holds the file's own numbers, every one of them."""
    stored = found.source.tensors()
    if found.source.backbone:  # what reads text is left out
        below = found.source.backbone.tensors()
        stored |= {f"clip.{key}": value for key, value in below.items() if not key.startswith("text_")}
    assert stored and signature(stored) == signature(found.network.state_dict())


def check_noise(found: Conformance) -> None:
    """A guide that sees a timestep depends on the level, one that does not sees none of it."""
    picture = pictures(1)
    low, high = (found.spec.output(found.exact, picture, levels(sigma)) for sigma in (0.1, 10.0))
    assert torch.equal(low, high) == (found.spec.sees != "timestep")
    assert replace(found.spec, name="again").sees == found.spec.sees


def signature(tensors) -> list:
    """Shapes and sums, whatever the names: libraries rename tensors between their versions."""
    floats = [tensor.double() for tensor in tensors.values() if tensor.is_floating_point()]
    return sorted((tuple(tensor.shape), float(tensor.sum())) for tensor in floats)
