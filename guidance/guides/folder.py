"""What every family of transformers folders shares: strict loading without code, labels, preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..preprocessing import Filter, Preprocessing

_UNNAMED = "LABEL_"  # what transformers writes where nobody named the classes
_FILTERS: dict[Any, Filter] = {1: "bicubic", 3: "bicubic"}  # PIL's numbers; Lanczos comes nearest to bicubic
_SHOWN = 160  # characters of another library's message


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
        network, report = getattr(transformers, auto).from_pretrained(
            str(source.path), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )
    except _errors_of_transformers() as error:
        raise GuideFileError(
            f"{source.name}: transformers {transformers.__version__} cannot build the {source.architecture} that its "
            f"config.json describes ({_short(error)}). Get the folder again, or update transformers."
        ) from error
    missing = sorted(report["missing_keys"])
    other = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    for keys, words in ((missing, "lack"), (other, "have another shape of")):
        if keys:
            more = f" and {len(keys) - 1} more tensors" if len(keys) > 1 else ""
            raise GuideFileError(
                f"{source.name}: its weights {words} {keys[0]}{more}, as its config.json describes a "
                f"{source.architecture}. Weights and config.json must come from the same place."
            )
    return network.float().eval().requires_grad_(False)


def labels_of(source: GuideSource, count: int) -> tuple[str, ...]:
    """The names of `count` classes in config.json; their numbers where nobody named them."""
    named = source.config.get("id2label")
    numbers = tuple(str(index) for index in range(count))
    if not isinstance(named, dict) or all(str(label).startswith(_UNNAMED) for label in named.values()):
        return numbers
    if set(named) != set(numbers):
        raise GuideFileError(
            f"{source.name}: id2label in its config.json names {len(named)} classes; the network gives {count}, "
            f"0 to {count - 1}."
        )
    return tuple(str(named[index]) for index in numbers)


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
    return Preprocessing(
        size=_size(source, given), multiple=max(1, int(_number(source, step))), black=black, white=black + 255 * scale,
        mean=mean, std=std, filter=_FILTERS.get(given.get("resample"), "bilinear"),
    )


def _check_config(source: GuideSource) -> None:
    parts = [source.config, *(part for part in source.config.values() if isinstance(part, dict))]
    if any(part.get("quantization_config") for part in parts):
        raise GuideFileError(f"{source.name} is quantised, so it has no gradient; get the version that is not.")
    if any(isinstance(part.get("backbone"), str) and not part.get("backbone_config") for part in parts):
        raise GuideFileError(
            f"{source.name}: its config.json names a backbone that would be fetched from the internet; get a version "
            f"whose config.json has a backbone_config."
        )
    if (source.path / "adapter_config.json").is_file():
        raise GuideFileError(f"{source.name} is an adapter of another network; merge the two and save them as one.")


def _errors_of_transformers() -> tuple[type[Exception], ...]:
    """What transformers raises for a folder that it cannot build: it checks little itself, so Python's own errors."""
    from huggingface_hub import errors

    strict = getattr(errors, "StrictDataclassError", OSError)
    return (strict, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError,
            ArithmeticError, AssertionError)


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
    found = int(_number(source, high)), int(_number(source, wide))
    if min(found) < 1:
        raise GuideFileError(f"{source.name}: the size in its preprocessor_config.json is {given.get('size')}.")
    return found


def _colours(source: GuideSource, key: str) -> tuple[float, float, float]:
    values = (source.preprocessor or {}).get(key)
    values = values if isinstance(values, list) else [values] * 3
    if len(values) != 3 or (key == "image_std" and not all(values)):
        raise GuideFileError(f"{source.name}: {key} in its preprocessor_config.json must be 3 numbers; got {values}.")
    red, green, blue = (_number(source, value) for value in values)
    return red, green, blue


def _number(source: GuideSource, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GuideFileError(
            f"{source.name}: its preprocessor_config.json has {value!r} where a number is needed (size, crop_size, "
            f"image_mean, image_std, rescale_factor); get the file again."
        )
    return float(value)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines)[:_SHOWN] if lines else type(error).__name__
