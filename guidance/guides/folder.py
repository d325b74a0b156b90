"""What every family of transformers folders shares: strict loading without code, labels, preprocessing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.weights import number_problem
from ..checkpoints.words import quoted, shown
from ..preprocessing import Filter, Preprocessing

_UNNAMED = "LABEL_"  # what transformers writes where nobody named the classes
_FILTERS: dict[Any, Filter] = {1: "bicubic", 3: "bicubic"}  # PIL's numbers; Lanczos comes nearest to bicubic
_SHOWN = 160  # characters of another library's message
_MORE, _FEW, _LITTLE = 4, 1000, 10**7  # tied weights count twice, and some layers and buffers have no weights
_STRIDE, _TRIED = 32, 640  # pixels
_LARGEST = 10**6  # of a whole number in config.json; vocabularies have up to 256,000 words


def load_pretrained(source: GuideSource, auto: str) -> Any:
    """The network that one of transformers' Auto classes makes of a folder: float32, evaluation mode, no gradients of
    its own weights.

    Raises:
        GuideFileError: the folder asks for code, for another download or for quantised weights, or does not fit its own
            config.json.
    """
    import transformers

    _check_config(source)
    try:
        _check_size(source, auto)
        network, report = getattr(transformers, auto).from_pretrained(
            str(source.path), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )
    except GuideFileError:
        raise
    except _errors_of_transformers() as error:
        raise GuideFileError(
            f"{source.name}: transformers {transformers.__version__} cannot build the {source.architecture} that its "
            f"config.json describes ({_short(error)}). Get the folder again, or update transformers."
        ) from error
    _check_report(source, report)
    own = network.state_dict()
    stored = source.tensors()
    shared = {name: tensor for name, tensor in stored.items() if name in own and own[name].shape == tensor.shape}
    if problem := number_problem(shared, own) or number_problem(own, own):
        raise GuideFileError(f"{source.name} is no usable network: {problem}. Get it again, or choose another guide.")
    return network.float().eval().requires_grad_(False)


def _check_report(source: GuideSource, report: Mapping[str, Any]) -> None:
    """Raise GuideFileError for weights that the network lacks, or has in another shape."""
    missing = sorted(report["missing_keys"])
    other = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    for keys, words in ((missing, "lack"), (other, "have another shape of")):
        if keys:
            more = f" and {len(keys) - 1} more tensors" if len(keys) > 1 else ""
            raise GuideFileError(
                f"{source.name}: its weights {words} {shown(keys[0])}{more}, as its config.json describes a "
                f"{source.architecture}. Weights and config.json must come from the same place."
            )


def _check_size(source: GuideSource, auto: str) -> None:
    """Raise GuideFileError for a network that is much larger than the weights, before anything is allocated for it."""
    import transformers

    stored = sum(math.prod(shape) for shape in source.shapes.values())
    config = transformers.AutoConfig.from_pretrained(str(source.path), local_files_only=True, trust_remote_code=False)
    with _at_most(source, _MORE * len(source.shapes) + _FEW), torch.device("meta"):
        network = getattr(transformers, auto).from_config(config, trust_remote_code=False)
    numbers = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    if numbers > _MORE * stored + _LITTLE:
        raise GuideFileError(
            f"{source.name}: its config.json describes a network of {numbers} numbers, and its weights have {stored}. "
            f"Weights and config.json must come from the same place."
        )


@contextmanager
def _at_most(source: GuideSource, most: int) -> Generator[None]:
    """Stop the building of a network, inside this thread, at more parameters or more modules than its weights can fill.

    Layers are objects even where their numbers are not allocated, and a config.json may ask for millions of them.
    """
    from threading import get_ident

    from torch.nn.modules import module

    mine, made = get_ident(), Counter[str]()

    def count(kind: str) -> None:
        if get_ident() != mine:
            return
        made[kind] += 1
        if made[kind] > most:
            raise GuideFileError(
                f"{source.name}: its config.json describes a network of more than {most} {kind}, and its weights have "
                f"{len(source.shapes)} tensors. Weights and config.json must come from the same place."
            )

    hooks = (
        module.register_module_parameter_registration_hook(lambda *_: count("parameters")),
        module.register_module_module_registration_hook(lambda *_: count("layers")),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_run(source: GuideSource, network: nn.Module, preprocessing: Preprocessing) -> None:
    """Ask the network about one picture as its preprocessing gives it, since nothing in a config.json tells whether it
    takes that size. Pictures larger than any network's are left out.

    Raises:
        GuideFileError: it does not, in words.
    """
    size = preprocessing.size or (2 * _STRIDE, 2 * _STRIDE)
    if max(size) > _TRIED:
        return
    try:
        network(torch.zeros(1, 3, *size), None)
    except _errors_of_transformers() as error:
        raise GuideFileError(
            f"{source.name}: its {source.architecture} does not take what its preprocessor_config.json makes of a "
            f"picture ({_short(error)}). Both must come from the same place."
        ) from None


def labels_of(source: GuideSource, count: int) -> tuple[str, ...]:
    """The names of `count` classes in config.json; their numbers where nobody named them."""
    named = source.config.get("id2label")
    numbers = tuple(str(index) for index in range(count))
    if not isinstance(named, dict) or all(shown(label).startswith(_UNNAMED) for label in named.values()):
        return numbers
    if set(named) != set(numbers):
        raise GuideFileError(
            f"{source.name}: id2label in its config.json names {len(named)} classes; the network gives {count}, "
            f"0 to {count - 1}."
        )
    if not all(isinstance(label, str) for label in named.values()):
        raise GuideFileError(f"{source.name}: a label in its config.json is no text; get the file again.")
    return tuple(named[index] for index in numbers)


def preprocessing_of(source: GuideSource, multiple: int = 1) -> Preprocessing:
    """What preprocessor_config.json says. The size is what the network is given in the end: the crop, if one is made.

    multiple: of height and width, where the folder does not say another.

    Raises:
        GuideFileError: the folder has none, or it misses or garbles what the network cannot do without.
    """
    given = source.preprocessor
    if given is None:
        raise GuideFileError(
            f"{source.name} has no preprocessor_config.json, which says what size and colours its network takes; copy "
            f"it into {source.path} from where you got the network."
        )
    scale = _number(source, given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
    black = -1.0 if given.get("rescale_offset", False) else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if given.get("do_normalize", "image_mean" in given):
        mean, std = _colours(source, "image_mean"), _colours(source, "image_std")
    step = given.get("ensure_multiple_of") or given.get("size_divisor") or multiple
    resample = given.get("resample")
    try:
        return Preprocessing(
            size=_size(source, given), multiple=max(1, int(_number(source, step))), black=black,
            white=black + 255 * scale, mean=mean, std=std,
            filter=_FILTERS.get(resample if isinstance(resample, int) else None, "bilinear"),
        )
    except ValueError as error:
        raise GuideFileError(f"{source.name}: {error} (preprocessor_config.json); get the file again.") from None


def _check_config(source: GuideSource) -> None:
    parts = [source.config, *(part for part in source.config.values() if isinstance(part, dict))]
    large = [key for part in parts for key, value in part.items() if _too_large(value)]
    if large:
        raise GuideFileError(
            f"{source.name}: {shown(large[0])} in its config.json is larger than {_LARGEST}, which no network's is; "
            f"get the file again."
        )
    if any(part.get("quantization_config") for part in parts):
        raise GuideFileError(f"{source.name} is quantised, so it has no gradient; get the version that is not.")
    if any(isinstance(part.get("backbone"), str) and not part.get("backbone_config") for part in parts):
        raise GuideFileError(
            f"{source.name}: its config.json names a backbone that would be fetched from the internet; get a version "
            f"whose config.json has a backbone_config."
        )
    if (source.path / "adapter_config.json").is_file():
        raise GuideFileError(f"{source.name} is an adapter of another network; merge the two and save them as one.")


def _too_large(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(each, int) and abs(each) > _LARGEST for each in values)


def _errors_of_transformers() -> tuple[type[Exception], ...]:
    """What transformers raises for a folder that it cannot build.

    It checks little of a config itself and hands it to the network's code, so what comes is whatever that code meets:
    its own words (OSError, ValueError, StrictDataclassError, ImportError, AssertionError), a value of another kind
    (TypeError, AttributeError), a name or place that is not there (LookupError), sizes that do not go together
    (RuntimeError from torch, ArithmeticError). The folder is all that can be wrong here: nothing of ours runs inside.
    """
    from huggingface_hub import errors

    strict = getattr(errors, "StrictDataclassError", OSError)
    return (strict, OSError, ValueError, ImportError, AssertionError, TypeError, AttributeError, LookupError,
            RuntimeError, ArithmeticError)


def _size(source: GuideSource, given: Mapping[str, Any]) -> tuple[int, int] | None:
    size = given.get("size") if given.get("do_resize", True) else None
    if given.get("do_center_crop", False):
        size = given.get("crop_size") or size
    if size is None:
        return None
    if isinstance(size, Mapping):
        shorter = size.get("shortest_edge") or size.get("longest_edge")
        size = (size.get("height") or shorter, size.get("width") or shorter)
    high, wide = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    return int(_number(source, high)), int(_number(source, wide))


def _colours(source: GuideSource, key: str) -> tuple[float, float, float]:
    values = (source.preprocessor or {}).get(key)
    values = values if isinstance(values, list) else [values] * 3
    if len(values) != 3 or (key == "image_std" and not all(values)):
        raise GuideFileError(
            f"{source.name}: {key} in its preprocessor_config.json must be 3 numbers; there are {len(values)}, or a 0."
        )
    red, green, blue = (_number(source, value) for value in values)
    return red, green, blue


def _number(source: GuideSource, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GuideFileError(
            f"{source.name}: its preprocessor_config.json has {quoted(value)} where a number is needed (size, "
            f"crop_size, image_mean, image_std, rescale_factor); get the file again."
        )
    return float(value)


def _short(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__, _SHOWN)
