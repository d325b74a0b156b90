"""Training a bank of noise-aware experts from one clean network (PPAP, 2212.05973, Section 4): an iterator of reports.

The pictures come from the diffusion model, the teacher is the clean network itself, so no data are needed. Every expert
learns its own half-open range of timesteps, the one for the cleanest pictures first. All draws depend on the seed, the
expert and the step alone, so a training can be stopped anywhere, and shared by several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..experts.bank import Adapter, adapter_tensors, adapters_of
from ..guide import GuideSpec, with_noise
from ..noise_level import NoiseLevel
from ..noise_schedule import noise_schedule
from .distillation import distillation_loss
from .distributed import ProcessGroup, SingleProcess, mean_gradients, sync_batch_norm
from .recipe import ExpertRecipe, level_weights
from .saved_state import place_problem, student_problem
from .student import Student

Pictures = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # indices [B] -> [B, 3, H, W] in [-1, 1], classes [B]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
SCALER = "scaler."
Work = Literal["nothing", "a batch", "the weights", "the next expert"]


@dataclass(frozen=True)
class ExpertReport:
    """What one step did. expert counts from 0, step from 1 within the expert."""

    expert: int
    step: int
    loss: float
    learning_rate: float


class ExpertsTraining:
    """What a bank's training must remember between two steps.

    Args:
        base: the clean network in evaluation mode, the teacher; never changed.
        spec: what it says of itself. It must see clean pictures.
        recipe, device: how and where.
        process_group: the processes that train together; all must be given the same everything.
        taught: the teacher is another network, whose answers come with what is shown, in place of classes; what is
            shown may then be latents.

    Attributes:
        work: what it is at; after an error, what it was at. While it is at the weights they are half changed.

    Raises:
        ValueError: a base or a recipe that does not allow it, in words.
    """

    def __init__(
        self, base: nn.Module, spec: GuideSpec, recipe: ExpertRecipe, device: str | torch.device = "cpu",
        process_group: ProcessGroup | None = None, taught: bool = False,
    ) -> None:
        if spec.sees != "clean" or (spec.domain != "pixels" and not taught):
            raise ValueError(
                f"{spec.name} sees {spec.sees} {'latents' if spec.domain == 'latent' else 'pictures'}; experts are "
                f"made of a network that sees clean pictures."
            )
        self.base, self.spec, self.recipe, self.taught = base, spec, recipe, taught
        self.device, self.process_group = torch.device(device), process_group or SingleProcess()
        self.distillation_loss = distillation_loss(recipe.learn_from, spec.task, recipe.temperature)
        self.sigmas = noise_schedule(recipe.schedule).sigmas
        self.adapters: list[Adapter] = []
        self.losses: list[float] = []
        self.expert, self.step = 0, 0
        self.work: Work = "nothing"
        self._take(*self._beginning(0))

    @property
    def done(self) -> bool:
        return len(self.adapters) == self.recipe.experts

    @property
    def consistent(self) -> bool:
        """Whether it can be saved: an error inside the optimiser leaves weights that belong to no step."""
        return self.work != "the weights"

    def steps(self, pictures: Pictures, count: int) -> Iterator[ExpertReport]:
        """Take one step each time a report is asked for, until all experts are trained.

        Args:
            pictures: called with indices below `count`, on the CPU.

        Raises:
            ValueError: no pictures, or no labels where they are to be learnt from.
            FloatingPointError: the loss is no longer finite; nothing was changed by that step.
        """
        if count < 1:
            raise ValueError("There are no pictures to learn from; make some, or choose another folder.")
        if not self.consistent:
            raise RuntimeError("The last step broke off inside the optimiser; restore the training before the next.")
        while not self.done:
            if self.step >= self.recipe.steps:  # it was stopped before the next expert was there
                self._hand_over()
                continue
            rate = self.recipe.learning_rate * (1 - self.step / self.recipe.steps)
            loss = self._step(pictures, count, rate)
            self.losses.append(loss)
            self.step += 1
            self.work = "nothing"
            report = ExpertReport(self.expert, self.step, loss, rate)
            if self.step == self.recipe.steps:
                self._hand_over()
            yield report

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved and given back to `restore`. Raises RuntimeError if inconsistent."""
        if not self.consistent:
            raise RuntimeError("The last step broke off inside the optimiser, so there is nothing that could be saved.")
        saved = adapter_tensors(self.adapters)
        saved["at"] = torch.tensor([self.expert, self.step])
        saved["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        if self.done:
            return saved
        saved |= {f"student.{name}": tensor.detach().clone() for name, tensor in self.student.tensors().items()}
        for name, parameter in self.student.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                saved[f"optimizer.{key}.{name}"] = value.detach().clone()
        scaler = self.scaler.state_dict()
        return saved | {f"{SCALER}{key}": torch.tensor(value) for key, value in scaler.items()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Continue where `tensors()` was taken; the next steps are the same as if it had never stopped.

        Raises:
            ValueError: it cannot be a state of this training, as the end of a sentence.
        """
        if problem := place_problem(self.recipe, self.base, saved):
            raise ValueError(problem)
        self.work = "the weights"
        self.expert, self.step = (int(number) for number in saved["at"])
        self.losses = saved["losses"].tolist()
        self.adapters = adapters_of(saved, self.expert, self.recipe.adaptation.scale)
        if not self.done:
            self._take(*self._beginning(self.expert))
            if problem := student_problem(self.student, self._moments(saved), self.scaler.state_dict(), saved):
                raise ValueError(problem)
            self._restore_student(saved)
        self.work = "nothing"

    def _moments(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the optimiser holds, in shape, by its names in a state: all moments of a parameter or none, since one
        that has had no gradient yet, or only an infinite one in fp16, has none."""
        return {
            f"optimizer.{key}.{name}": parameter.new_zeros(()) if key == "step" else parameter
            for name, parameter in self.student.trained.items()
            if any(f"optimizer.{key}.{name}" in saved for key in MOMENTS)
            for key in MOMENTS
        }

    def _restore_student(self, saved: dict[str, Tensor]) -> None:
        self.student.restore({n[len("student."):]: t for n, t in saved.items() if n.startswith("student.")})
        for name, parameter in self.student.trained.items():
            of = {key: saved[f"optimizer.{key}.{name}"] for key in MOMENTS if f"optimizer.{key}.{name}" in saved}
            self.optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter, copy=True) for key, value in of.items()
            }
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(
                {n.removeprefix(SCALER): t.item() for n, t in saved.items() if n.startswith(SCALER)}
            )

    def _hand_over(self) -> None:
        """Keep the expert that has taken its steps, and begin the next; nothing changes before both are there."""
        self.work = "the next expert"
        adapters = [*self.adapters, self.student.adapter()]
        if len(adapters) < self.recipe.experts:
            self.optimizer.zero_grad(set_to_none=True)  # room for two students at once
            before = self.student.tensors() if self.recipe.warm_start else None
            self._take(*self._beginning(self.expert + 1, before))
        self.adapters, self.expert, self.step, self.work = adapters, self.expert + 1, 0, "nothing"

    def _beginning(
        self, expert: int, before: dict[str, Tensor] | None = None
    ) -> tuple[Student, torch.optim.Optimizer, torch.amp.GradScaler, Tensor]:
        """What an expert begins with, from the clean network or from the tensors of the expert before."""
        recipe = self.recipe
        student = Student(self.base, recipe.adaptation, _generator(recipe.seed, expert, 0))
        student.network.to(self.device)
        if before is not None:
            student.restore(before)
        sync_batch_norm(student.network, self.process_group)
        optimizer = torch.optim.AdamW(student.trained.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        levels = NoiseLevel.variance_exploding(self.sigmas[list(recipe.timesteps(expert))])
        weights = level_weights(recipe.weighting, levels)
        return student, optimizer, scaler, (weights / weights.mean()).float()

    def _take(
        self, student: Student, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, weights: Tensor
    ) -> None:
        self.student, self.optimizer, self.scaler, self.weights = student, optimizer, scaler, weights

    def _step(self, pictures: Pictures, count: int, rate: float) -> float:
        self.work = "a batch"
        with self.student.untouched_if_it_fails():
            found = self._gradients(pictures, count, rate)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.work = "the weights"
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return found

    def _gradients(self, pictures: Pictures, count: int, rate: float) -> float:
        """Take the gradients of one step; the mean loss."""
        recipe = self.recipe
        self.optimizer.zero_grad(set_to_none=True)
        generator = _generator(recipe.seed, self.expert, self.step + 1)
        mean = torch.zeros((), device=self.device)
        for _ in range(recipe.accumulate):
            loss = self._loss(pictures, count, generator) / recipe.accumulate
            mean += loss.detach()
            self.scaler.scale(loss).backward()
        found = float(self.process_group.mean(mean))
        if not found < float("inf"):
            raise FloatingPointError(
                f"The loss of expert {self.expert + 1} at step {self.step + 1} is {found}; lower learning_rate "
                f"({rate:g}), or choose precision fp32."
            )
        mean_gradients(self.student.trained.values(), self.process_group)
        return found

    def _loss(self, pictures: Pictures, count: int, generator: torch.Generator) -> Tensor:
        """The weighted mean loss of this process's share of one batch, at timesteps and with noise of the generator."""
        mine = slice(self.process_group.rank * self.recipe.batch, (self.process_group.rank + 1) * self.recipe.batch)
        total = self.recipe.batch * self.process_group.count
        timesteps = self.recipe.timesteps(self.expert)
        rows = torch.randint(len(timesteps), (total,), generator=generator)
        flipped = torch.rand(total, generator=generator) < (0.5 if self.recipe.flip else 0.0)
        chosen = torch.randint(count, (total,), generator=generator)
        shown, classes = pictures(chosen[mine])
        noise = torch.randn((total, *shown.shape[1:]), generator=generator)[mine].to(self.device)
        shown = torch.where(flipped[mine, None, None, None], shown.flip(3), shown).to(self.device)
        level = NoiseLevel.variance_exploding(self.sigmas[timesteps.start + rows[mine]])
        with self._autocast():
            teacher_output = self._teacher_output(shown, classes)
            output = self.student.network(self.spec.prepare(with_noise(shown, noise, level)), None)
        each = self.distillation_loss(output.float(), teacher_output)
        return (self.weights[rows[mine]].to(self.device) * each).mean()

    @torch.no_grad()
    def _teacher_output(self, shown: Tensor, classes: Tensor | None) -> Tensor:
        if self.recipe.learn_from != "labels" and not self.taught:
            return self.base(self.spec.prepare(shown), None).float()
        if classes is None:
            raise ValueError("The pictures have no labels: use one folder per class, or learn from the guide itself.")
        return classes.to(self.device)

    def _autocast(self) -> AbstractContextManager:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, kinds[self.recipe.precision])


def _generator(*numbers: int) -> torch.Generator:
    """Draws of its own for every tuple of numbers; not by `seeds`, since trainings that wait began with these."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(mixed)
