"""A training of guidance weights: an iterator of losses that can be stopped and taken up anywhere, and its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.weights import misfit, number_problem, shapes_of
from ..learned import EXAMPLES, KNOTS, NOISIEST, QUIETEST, LearnedWeights, WeightNetwork, gap_of
from ..networks.tiny.files import NetworkFileError, build, declare, read_network, write_network
from ..schedule import interpolate
from ..seeds import generator_of
from .checkpoint import STRETCHES, StoppedFiles, stretch_means
from .experts import MOMENTS
from .matching import Draw, Lessons, WeightRecipe, batch_loss, noisy

WEIGHTS = "guidance-components/guidance-weights/1"
declare(WEIGHTS, LearnedWeights, ("facts", "loss", "evaluations"))


class WeightsTraining:
    """What a training of weights must remember between two steps.

    Attributes:
        weights: the networks that learn, on the CPU.
        losses: of the steps so far.
        consistent: whether it can be saved; an error inside the optimiser leaves weights that belong to no step.
    """

    def __init__(self, recipe: WeightRecipe, lessons: Lessons) -> None:
        self.recipe, self.lessons = recipe, lessons
        shape = {"reach": recipe.reach, "width": recipe.width, **(lessons.reads if recipe.by_prompt else {})}
        of_guide = None if recipe.guide_constant is None else {"constant": recipe.guide_constant, **shape}
        self.weights = LearnedWeights(cfg={"constant": recipe.constant, **shape}, autoguidance=of_guide)
        self.parts = {"cfg": self.weights.cfg}
        if self.weights.autoguidance is not None:
            self.parts["autoguidance"] = self.weights.autoguidance
        for number, network in enumerate(self.parts.values()):
            network.initialise(generator_of(recipe.seed, number))
        self.optimizer = torch.optim.Adam(self.weights.parameters(), recipe.learning_rate)
        self.losses: list[float] = []
        self.seen = {part: torch.zeros(2, KNOTS, dtype=torch.float64) for part in self.parts}  # sums of ln gap, counts
        self.consistent = True

    @property
    def done(self) -> bool:
        return len(self.losses) >= self.recipe.iterations

    @property
    def evaluations(self) -> int:
        """Of networks for single pictures, so far."""
        return len(self.losses) * self.recipe.batch * self.recipe.particles * self.lessons.branches

    def steps(self) -> Iterator[float]:
        """Take one step each time a loss is asked for, until all are taken.

        Raises:
            FloatingPointError: the loss is no longer finite; nothing was changed by that step.
        """
        while not self.done:
            loss = self._gradients()
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * (1.0 - len(self.losses) / self.recipe.iterations)
            self.consistent = False
            self.optimizer.step()
            self.losses.append(loss)
            self.consistent = True
            yield loss

    def _gradients(self) -> float:
        generator = generator_of(self.recipe.seed, len(self.losses) + 1, 1)
        draw = Draw.of(self.recipe, self.lessons, generator)
        clean = self.lessons.pictures(draw.rows)
        first, second = (torch.randn(clean.shape, generator=generator).to(clean) for _ in range(2))
        found = self.lessons.predict(draw.rows, noisy(clean, first, draw.start), draw.start)
        gaps = {part: gap_of(moved, draw.start) for part, moved in self.lessons.differences(found).items()}
        self.optimizer.zero_grad(set_to_none=True)
        weights = {part: partial(own, vectors=self._asked(own, draw.rows)) for part, own in self.parts.items()}
        loss = batch_loss(weights, gaps, self.recipe, self.lessons, draw, clean, (first, second), found)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"The loss at step {len(self.losses) + 1} is {float(loss)}; lower learning_rate "
                f"({self.recipe.learning_rate:g}) or reward ({self.recipe.reward:g})."
            )
        loss.backward()
        self._note(draw, gaps)
        return float(loss.detach())

    def _asked(self, network: WeightNetwork, rows: Tensor) -> Tensor | None:
        """What a network reads of what these pictures are asked to be."""
        asked = self.lessons.asked
        return network.vectors(asked(rows) if network.reading and asked is not None else None)

    def _note(self, draw: Draw, gaps: Mapping[str, Tensor]) -> None:
        """Which gaps are usual where."""
        knots = draw.places * KNOTS // len(self.lessons.levels.b)
        for part, gap in gaps.items():
            self.seen[part][0].index_add_(0, knots, gap.clamp_min(1e-9).log())
            self.seen[part][1].index_add_(0, knots, torch.ones_like(gap))

    def settle(self) -> LearnedWeights:
        """The weights so far, with the gaps that were usual in the training, for a curve."""
        middles = ((torch.arange(KNOTS) + 0.5) * len(self.lessons.levels.b) / KNOTS).long()
        noise = self.lessons.levels[middles].sigma.clamp(QUIETEST, NOISIEST).log().flip(0)
        for part, network in self.parts.items():
            sums, counts = (row.flip(0) for row in self.seen[part])
            met = counts > 0  # a step never begins at the cleanest levels
            network.noise.copy_(noise)
            network.gaps.copy_(interpolate(noise, noise[met], sums[met] / counts[met]))
            if network.pooled:
                shown = self._asked(network, torch.arange(EXAMPLES) * self.lessons.count // EXAMPLES)
                assert shown is not None, "it reads prompts"
                network.examples.copy_(shown)
        return self.weights

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved and given back to `restore`. Raises RuntimeError if inconsistent."""
        if not self.consistent:
            raise RuntimeError("The last step broke off inside the optimiser, so there is nothing that could be saved.")
        saved = {f"weights.{name}": tensor.clone() for name, tensor in self.weights.state_dict().items()}
        saved |= {f"seen.{part}": tensor.clone() for part, tensor in self.seen.items()}
        saved["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        for name, parameter in self.weights.named_parameters():
            saved |= {f"{key}.{name}": value.clone() for key, value in self.optimizer.state[parameter].items()}
        return saved

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Continue where `tensors()` was taken; the next steps are the same as if it had never stopped.

        Raises:
            ValueError: it cannot be a state of this training, as the end of a sentence.
        """
        wanted = {f"weights.{name}": tensor for name, tensor in self.weights.state_dict().items()}
        wanted |= {f"seen.{part}": tensor for part, tensor in self.seen.items()}
        for name, parameter in self.weights.named_parameters():
            wanted |= {f"{key}.{name}": torch.zeros(()) if key == "step" else parameter for key in MOMENTS}
        losses = saved.get("losses")
        if losses is None or losses.ndim != 1 or not 0 < len(losses) <= self.recipe.iterations:
            raise ValueError(f"it has not the losses of 1 to {self.recipe.iterations} steps")
        wanted["losses"] = losses.double()
        if problem := misfit(shapes_of(wanted), shapes_of(saved)) or number_problem(saved, wanted):
            raise ValueError(problem)
        if any(bool((saved[name] < 0).any()) for name in wanted if name.startswith(("step.", "exp_avg_sq."))):
            raise ValueError("a moment of its optimiser is below 0")
        self._take(saved)

    def _take(self, saved: Mapping[str, Tensor]) -> None:
        self.weights.load_state_dict({name: saved[f"weights.{name}"] for name in self.weights.state_dict()})
        self.seen = {part: saved[f"seen.{part}"].clone() for part in self.seen}
        self.losses = saved["losses"].tolist()
        for name, parameter in self.weights.named_parameters():
            self.optimizer.state[parameter] = {key: saved[f"{key}.{name}"].clone() for key in MOMENTS}


class WeightsFiles(StoppedFiles):
    """Those of a training of guidance weights."""

    unfinished = "guidance-components/weights-training/1"

    def finished(self) -> LearnedWeights | None:
        """The weights, if they are there. Raises ValueError, in words, if they were trained otherwise."""
        if not self.final.exists():
            return None
        weights, facts = read_weights(str(self.final))
        self.check_same(facts["facts"])
        return weights

    def finish(self, training: WeightsTraining, workflow: Mapping[str, str]) -> LearnedWeights:
        """Write the weights, after which nothing waits. workflow: "workflow" and "prompt" of ComfyUI, or empty.

        Raises:
            ValueError: others came in between, in words.
            OSError: they cannot be written, in words.
        """
        weights = training.settle().requires_grad_(False)
        about = {
            "facts": dict(self.facts), "loss": stretch_means(training.losses, min(STRETCHES, len(training.losses))),
            "evaluations": training.evaluations,
            "torch": torch.__version__,
        }
        write = partial(
            write_network, self.final, WEIGHTS, weights.config, about, weights.state_dict(), torch.float64,
            workflow=workflow, overwrite=False,
        )
        return self.publish(write) or weights


def read_weights(path: str) -> tuple[LearnedWeights, dict[str, Any]]:
    """The weights in a file, and how they were made: facts, loss, evaluations.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: it is none of learned weights, of another version or damaged, in words.
    """
    file = read_network(path, WEIGHTS)
    kinds = {"facts": dict, "loss": list, "evaluations": int}
    wrong = next((fact for fact, kind in kinds.items() if type(file.metadata[fact]) is not kind), None)
    if wrong is not None:
        raise NetworkFileError(f"{file.name}: {wrong} in its metadata is not what it should be; get the file again.")
    if not all(type(loss) in (int, float) for loss in file.metadata["loss"]):
        raise NetworkFileError(f"{file.name}: loss in its metadata must be numbers; get the file again.")
    return build(file), file.metadata


def facts_of_weights(
    recipe: WeightRecipe, model: Mapping[str, Any], pictures_sha256: str, count: int, **more: Any
) -> dict[str, Any]:
    """What decides the outcome of a training of weights, as JSON gives it back."""
    pictures = {"fingerprint": pictures_sha256, "count": count}
    facts = {"model": dict(model), "recipe": recipe.as_dict(), "pictures": pictures, **more}
    return json.loads(json.dumps(facts))
