"""Which ADM network a state dict is, read from the names and shapes of its tensors.

Shapes do not tell the number of attention heads, the order of q, k and v, or the noise schedule. For the released
networks these are known; of another one a safetensors header may say them ("heads", "order", "schedule"), and where it
does not, they are what most released networks have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...checkpoints.state_dicts import CheckpointError
from ...checkpoints.weights import misfit, shapes_of
from ...checkpoints.words import shown
from .blocks import Stem
from .classifier import AdmClassifier
from .config import CLASSIFIERS, DENOISERS, HEAD_CHANNELS, AdmConfig, ClassifierConfig, Encoder, Schedule
from .glide import ENLARGING, GLIDE, GlideConfig, GlideUNet
from .unet import AdmUNet

Shapes = Mapping[str, tuple[int, ...]]
C = TypeVar("C", bound=Encoder)
HEADER = ("heads", "order", "schedule")
NUMBERS = ("heads", "diffusion_steps")  # in a header; 1000 steps go without saying
# What else a file may be, by a part of the names of its tensors; the first one that is found is named.
_OTHERS = (
    ("lora", "a LoRA, a change to a network's weights (Load LoRA)"),
    ("unet.enc.", "an EDM2 network, perhaps not all of it"),
    ("encoder_kv", "a GLIDE network, perhaps not all of it"),
    ("model.diffusion_model.", "a whole checkpoint of a latent diffusion model (Load Checkpoint)"),
    ("transformer_blocks.", "the network of a latent diffusion model (Load Diffusion Model)"),
    ("double_blocks.", "a Flux network (Load Diffusion Model)"),
    ("first_stage_model.", "a VAE (Load VAE)"),
    ("decoder.conv_in.weight", "a VAE (Load VAE)"),
    ("text_model.", "a text encoder (Load CLIP)"),
    ("layer1.0.conv1.weight", "a ResNet classifier (Load Guide)"),
)


_AGAIN = "Download it again, or choose another file."


@dataclass(frozen=True)
class Recognised(Generic[C]):
    """A network: what it is made of, the released one that is shaped like it ("" = none), and what is but assumed."""

    config: C
    like: str
    assumed: tuple[str, ...] = ()

    def words(self) -> str:
        """For people: what it was taken for."""
        shape = f"shaped as {self.like}" if self.like else "of a shape that was never released"
        if not self.assumed:
            return shape
        c = self.config
        heads = f"{c.heads} attention heads" if c.heads else f"{HEAD_CHANNELS} channels per attention head"
        taken = {"heads": heads, "order": f"the {c.order} order of q, k, v", "schedule": f"the {c.schedule} schedule"}
        return f"{shape}, with {', '.join(taken[word] for word in self.assumed)} assumed"


def is_classifier(shapes: Shapes) -> bool:
    """Whether these are the tensors of an ADM classifier."""
    return _has_stem(shapes) and not any(key.startswith("output_blocks.") for key in shapes)


def is_denoiser(shapes: Shapes) -> bool:
    """Whether these are the tensors of an ADM U-Net."""
    return _has_stem(shapes) and not is_classifier(shapes)


def is_glide(shapes: Shapes) -> bool:
    """Whether these are the tensors of a GLIDE U-Net, perhaps not all of them."""
    return any("encoder_kv" in key for key in shapes) and "token_embedding.weight" in shapes


def looks_like(shapes: Shapes) -> str:
    """What a file that cannot be used seems to be, in a few words."""
    if is_classifier(shapes):
        return "one of ADM's noisy classifiers, which are guides (models/guides, Load Guide)"
    if is_denoiser(shapes):
        return "an ADM denoiser (models/diffusion_models, Load Denoiser)"
    if is_glide(shapes):
        return "a GLIDE denoiser (models/diffusion_models, Load Denoiser)"
    for part, words in _OTHERS:
        if any(part in key for key in shapes):
            return words
    return f"a file with {len(shapes)} tensors such as {', '.join(map(shown, list(shapes)[:3]))}"


def denoiser(name: str, shapes: Shapes, header: Mapping[str, str] | None = None) -> Recognised[AdmConfig]:
    """The U-Net of a state dict, every name and shape checked.

    Raises:
        CheckpointError: another network, or one with tensors missing, added or of another shape, in words.
    """
    if not is_denoiser(shapes):
        raise CheckpointError(f"{name} is {looks_like(shapes)}; what is needed here is an ADM or P2 denoiser.")
    facts = _unet_facts(name, shapes) | {"classes": _rows(shapes, "label_emb.weight")}
    found = _completed(name, AdmConfig, facts, DENOISERS, header or {})
    check(name, AdmUNet(device="meta", **found.config.as_dict()), shapes)
    return found


def glide(name: str, shapes: Shapes, header: Mapping[str, str] | None = None) -> Recognised[GlideConfig]:
    """The U-Net of GLIDE of a state dict, every name and shape checked. Raises CheckpointError as `denoiser` does."""
    if not is_glide(shapes):
        raise CheckpointError(f"{name} is {looks_like(shapes)}; what is needed here is a GLIDE denoiser.")
    vocabulary, width = _of(name, shapes, "token_embedding.weight")
    blocks = {key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")}
    facts = _unet_facts(name, shapes) | {
        "classes": 0, "text_width": width, "text_layers": len(blocks), "vocabulary": vocabulary,
        "context": _of(name, shapes, "positional_embedding")[0],
    }
    schedule: Schedule = "linear" if facts["in_channels"] in ENLARGING else "cosine"
    found = _completed(name, GlideConfig, facts, GLIDE, header or {}, schedule)
    check(name, GlideUNet(device="meta", **found.config.as_dict()), shapes)
    return found


def _unet_facts(name: str, shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a U-Net tell of its config. Raises CheckpointError for what makes none, in words."""
    _check_kind(name, shapes)
    count = _count(name, shapes, "output_blocks")
    ends = [n for n in range(count) if sum(_is_block(shapes, f"output_blocks.{n}.{i}") for i in range(3)) == 2]
    res_blocks = ends[0] if ends else count - 1
    levels, rest = divmod(count, res_blocks + 1)
    if res_blocks < 1 or rest:
        raise CheckpointError(f"{name} has {count} blocks on the way up, which make no whole levels. {_AGAIN}")
    outputs = {"out_channels": _of(name, shapes, "out.2.weight")[0]}
    return _encoder(name, shapes, levels, res_blocks) | outputs


def classifier(name: str, shapes: Shapes, header: Mapping[str, str] | None = None) -> Recognised[ClassifierConfig]:
    """The noisy classifier of a state dict, every name and shape checked. Raises CheckpointError as `denoiser` does."""
    if not is_classifier(shapes):
        raise CheckpointError(f"{name} is {looks_like(shapes)}; what is needed here is an ADM noisy classifier.")
    _check_kind(name, shapes)
    positions = _of(name, shapes, "out.2.positional_embedding")[-1]
    facts = {"classes": _of(name, shapes, "out.2.c_proj.weight")[0], "positions": positions}
    fitting = []
    count, side = _count(name, shapes, "input_blocks"), math.isqrt(positions - 1)
    if side**2 + 1 != positions:
        raise CheckpointError(f"{name} has {positions} places of a picture, which make no square and a mean. {_AGAIN}")
    for levels, res_blocks in _whole_levels(shapes, count):
        size = {"size": side * 2 ** (levels - 1)}
        encoder = _encoder(name, shapes, levels, res_blocks)
        fitting.append(_completed(name, ClassifierConfig, encoder | facts | size, CLASSIFIERS, header or {}))
    if not fitting:
        raise CheckpointError(f"{name}: its {count} blocks make no whole levels. {_AGAIN}")
    found = next((one for one in fitting if one.like), fitting[0])
    check(name, AdmClassifier(device="meta", **found.config.as_dict()), shapes)
    return found


def settings_header(name: str, shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a header must say so that a network of these shapes is built with these settings; None = as it is known.

    settings: of "heads", "order", "schedule", "diffusion_steps".

    Raises:
        CheckpointError: no ADM network, or one that cannot have them, in words.
    """
    header = {key: str(value) for key, value in settings.items() if value is not None}
    reader = next((read for known, read in _READERS if known(shapes)), None)
    if header and reader is None:
        raise CheckpointError(
            f"{name} is {looks_like(shapes)}; {', '.join(header)} can be set for a network of ADM's kind alone. Leave "
            f"them as they are known."
        )
    if header and reader is not None:
        reader(name, shapes, header)
    return header


_READERS = ((is_glide, glide), (is_denoiser, denoiser), (is_classifier, classifier))


def check(name: str, network: Stem, found: Shapes) -> None:
    """Raises CheckpointError unless names and shapes are exactly those of the network's own tensors."""
    if problem := misfit(shapes_of(network.state_dict()), found):
        raise CheckpointError(f"{name} is no complete {network.title} network: {problem}. {_AGAIN}")


def _completed(
    name: str, kind: type[C], facts: dict[str, Any], released: Mapping[str, C], header: Mapping[str, str],
    schedule: Schedule = "linear",
) -> Recognised[C]:
    """The configuration with what the shapes do not tell: from the header, the released network, or assumed.

    schedule: what is assumed of a network that is shaped like none of the released ones.
    """
    shape = {key: value for key, value in facts.items() if key not in ("classes", "size")}
    alike = [key for key, known in released.items() if shape.items() <= known.as_dict().items()]
    exact = [key for key in alike if released[key].classes == facts["classes"]]
    like = (exact or alike or [""])[0]
    inner = [facts["widths"][-1], *(facts["widths"][level] for level in facts["attention"])]
    heads = 0 if all(width % HEAD_CHANNELS == 0 for width in inner) else 4
    untold: dict[str, Any] = {"heads": heads, "schedule": schedule}
    if like:
        untold = {key: getattr(released[like], key) for key in (*HEADER, "size")}
    try:
        said: dict[str, Any] = {key: header[key] for key in HEADER if key in header}
        said |= {key: int(header[key]) for key in NUMBERS if key in header}
        whole: dict[str, Any] = facts | untold | said
        config = kind(**whole)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be built as an ADM network: {shown(str(error), 200)}") from None
    return Recognised(config, like, () if exact else tuple(key for key in HEADER if key not in said))


def _encoder(name: str, shapes: Shapes, levels: int, res_blocks: int) -> dict[str, Any]:
    firsts = [1 + level * (res_blocks + 1) for level in range(levels)]
    return {
        "channels": _of(name, shapes, "time_embed.0.weight")[1],
        "widths": tuple(_of(name, shapes, f"input_blocks.{n}.0.in_layers.2.weight")[0] for n in firsts),
        "res_blocks": res_blocks,
        "attention": tuple(level for level, n in enumerate(firsts) if f"input_blocks.{n}.1.qkv.weight" in shapes),
        "in_channels": _of(name, shapes, "input_blocks.0.0.weight")[1],
    }


def _whole_levels(shapes: Shapes, count: int) -> list[tuple[int, int]]:
    """Every (levels, blocks of a level) that these blocks on the way down may be.

    A block that halves the size has no attention and as many channels as before.
    """
    plain = {
        n
        for n in range(1, count)
        if f"input_blocks.{n}.1.qkv.weight" not in shapes
        and f"input_blocks.{n}.0.skip_connection.weight" not in shapes
    }
    found = []
    for levels in (levels for levels in range(1, count // 2 + 1) if count % levels == 0):
        each = count // levels
        same = all(
            len({f"input_blocks.{n}.1.qkv.weight" in shapes for n in range(end + 1, end + each)}) == 1
            for end in range(0, count, each)
        )
        if set(range(each, count, each)) <= plain and same:
            found.append((levels, each - 1))
    return found[::-1]


def _check_kind(name: str, shapes: Shapes) -> None:
    first = _rows(shapes, "input_blocks.1.0.emb_layers.1.weight")
    shift = first != 2 * _rows(shapes, "input_blocks.1.0.out_layers.0.weight")
    if shift or any(re.search(r"^(in|out)put_blocks\.\d+\.\d\.(op|conv)\.weight$", key) for key in shapes):
        raise CheckpointError(
            f"{name} is an older kind of U-Net than ADM's: this pack runs those that were trained with resblock_updown "
            f"and use_scale_shift_norm, as ADM's and P2's were."
        )


def _has_stem(shapes: Shapes) -> bool:
    stem = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight")
    return all(key in shapes for key in stem) and not any("encoder_kv" in key for key in shapes)


def _is_block(shapes: Shapes, prefix: str) -> bool:
    return f"{prefix}.in_layers.0.weight" in shapes


def _count(name: str, shapes: Shapes, blocks: str) -> int:
    """How many blocks there are, numbered from 0 without a gap."""
    found = {key.split(".")[1] for key in shapes if key.startswith(f"{blocks}.")}
    wanted = {str(number) for number in range(len(found))}
    if found != wanted:
        odd = min(found - wanted, key=len)
        raise CheckpointError(
            f"{name} is no complete ADM network: it has {blocks}.{shown(odd)} among {len(found)} {blocks}, which must "
            f"be numbered from 0. {_AGAIN}"
        )
    return len(found)


def _rows(shapes: Shapes, key: str) -> int:
    """The first number of a tensor's shape; 0 without such a tensor."""
    return next(iter(shapes.get(key, ())), 0)


def _of(name: str, shapes: Shapes, key: str) -> tuple[int, ...]:
    if len(shapes.get(key, ())) < 2:
        raise CheckpointError(f"{name} is no complete ADM network: it lacks {key}. {_AGAIN}")
    return shapes[key]
