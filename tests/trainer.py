"""The host's own Train LoRA, run on the small random models and watched: noise levels, gradients, losses.

    weighted = Training("sd15").run(model)                          # the host's loss, on a MODEL with the node
    explicit = Training("sd15").run(model, loss=lambda level: ...)  # each sample's loss times a weight, written out

Take the `comfy` fixture before calling anything here.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
from host_models import MODELS
from torch.nn.functional import huber_loss, l1_loss, mse_loss

LOSSES = {"MSE": mse_loss, "L1": l1_loss, "Huber": huber_loss}


@dataclass
class Record:
    """What a training did: sigmas of each evaluation, gradients at each optimiser step, the host's losses, the LoRA."""

    sigmas: list[torch.Tensor] = field(default_factory=list)
    estimates: list[torch.Tensor] = field(default_factory=list)
    gradients: list[list[torch.Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lora: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Training:
    """One use of the Train LoRA node. `options` are its inputs, where they differ from these."""

    family: str
    pictures: int = 3
    sizes: tuple[int, ...] = ()  # sides of pictures of several sizes
    options: dict = field(default_factory=dict)

    def run(self, model, loss=None) -> Record:
        """Train for two steps. loss: level -> weights [B], to write the weighted loss out instead of the host's."""
        from comfy_extras.nodes_train import TrainLoraNode

        record = Record()
        with _watched(record, model, self.inputs()["loss_function"], loss) as watched:
            torch.manual_seed(7)  # the trainer draws noise levels and new adapters from the global generator
            inputs = {name: [value] for name, value in self.inputs().items()}
            result = TrainLoraNode.execute(model=[watched], latents=self.latents(), positive=self.positive(), **inputs)
        record.lora, losses, _ = result.result
        record.losses = losses["loss"]
        return record

    def inputs(self) -> dict:
        return {
            "batch_size": self.pictures, "steps": 2, "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": 2,
            "optimizer": "SGD", "loss_function": "MSE", "seed": 3, "training_dtype": "fp32", "lora_dtype": "fp32",
            "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": True, "checkpoint_depth": 1,
            "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False, **self.options,
        }  # fmt: skip

    def latents(self) -> list[dict]:
        spec = MODELS[self.family]
        if not self.sizes:
            return [spec.latent(self.pictures)]
        first = [spec.latent(1, seed)["samples"] for seed in range(len(self.sizes))]
        return [{"samples": s.repeat(1, 1, size // 8, 1)} for s, size in zip(first, self.sizes, strict=True)]

    def positive(self) -> list:
        return [MODELS[self.family].conditioning(seed) for seed in range(max(self.pictures, len(self.sizes)))]


@contextmanager
def _watched(record: Record, model, loss_function: str, weights):
    import comfy_extras.nodes_train as trainer
    from comfy.patcher_extension import WrappersMP

    from guidance_pack.host.common.noise_levels import level_of

    def watch(executor, x, timestep, *rest):
        estimate = executor(x, timestep, *rest)
        record.sigmas.append(timestep.detach().clone())
        record.estimates.append(estimate.detach().clone())
        return estimate

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            groups = [group["params"] for group in self.param_groups]
            record.gradients.append([p.grad.clone() for params in groups for p in params if p.grad is not None])
            return super().step(closure)

    def written_out(estimate, clean):
        level = level_of(model.get_model_object("model_sampling"), record.sigmas[-1])
        each = LOSSES[loss_function](estimate, clean, reduction="none").flatten(1).mean(1)
        return (each * weights(level).to(each)).mean()

    watched = model.clone()
    watched.wrappers[WrappersMP.PREDICT_NOISE] = {"probe": [watch], **model.wrappers.get(WrappersMP.PREDICT_NOISE, {})}
    with mock.patch.object(trainer, "_create_optimizer", lambda name, params, lr: Recorder(params, lr=lr)):
        if weights is None:
            yield watched
        else:
            with mock.patch.object(trainer, "_create_loss_function", lambda name: written_out):
                yield watched


def gradients_differ(first: Record, second: Record) -> float:
    """The largest difference of any gradient, relative to the largest gradient of its optimiser step."""
    assert len(first.gradients) == len(second.gradients) > 0
    worst = 0.0
    for ours, theirs in zip(first.gradients, second.gradients, strict=True):
        assert len(ours) == len(theirs) > 0
        size = max(float(g.abs().max()) for g in theirs)
        assert size > 0
        worst = max(worst, *(float((a - b).abs().max()) / size for a, b in zip(ours, theirs, strict=True)))
    return worst
