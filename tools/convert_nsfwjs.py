"""Converts the MobileNetV2 of the npm package nsfwjs (MIT) to a guide: a real classifier that never saw noise.

    npm pack nsfwjs && tar xzf nsfwjs-*.tgz
    python tools/convert_nsfwjs.py package/dist/models/mobilenet_v2 ComfyUI/models/guides/nsfwjs.safetensors

Takes a TensorFlow.js layers model: model.json and its shards, or the same as the package has them (model.min.js and
shards of base64). Nothing in the files is run. The labels are the package's five. Steering away from a class of it, or
scoring pictures by it, is what it is for.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

LABELS = ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")
FORMAT = "guidance-components/keras-mobilenet-v2/1"  # guidance/guides/mobilenet.py
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|![01]|[A-Za-z_$][\w$]*(?=:)|(?<![\w.])\.\d+')
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def literal(text: str) -> dict[str, Any]:
    """The object that a minified module exports, as JSON reads it."""
    found = re.search(r"exports=(\{.*?\})\}?,\{\}\]", text, re.S)
    if found is None:
        raise ValueError("model.min.js exports no object; get the package again.")

    def plain(token: re.Match[str]) -> str:
        word = token[0]
        if word.startswith('"'):
            return word
        return {"!0": "true", "!1": "false"}.get(word) or (f"0{word}" if word.startswith(".") else f'"{word}"')

    return json.loads(_TOKEN.sub(plain, found[1]))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The layers of a model, and its weights by name."""
    packed = folder / "model.min.js"
    model = literal(packed.read_text("utf-8")) if packed.is_file() else json.loads((folder / "model.json").read_text())
    weights: dict[str, np.ndarray] = {}
    for group in model["weightsManifest"]:
        data = b"".join(shard(folder, path) for path in group["paths"])
        for entry in group["weights"]:
            quantised = entry.get("quantization")
            kind = np.dtype(quantised["dtype"] if quantised else entry["dtype"])
            size = math.prod(entry["shape"]) * kind.itemsize
            values = np.frombuffer(data[:size], kind).reshape(entry["shape"]).astype(np.float32)
            data = data[size:]
            weights[entry["name"]] = values * quantised["scale"] + quantised["min"] if quantised else values
    return model["modelTopology"]["model_config"]["config"], weights


def shard(folder: Path, name: str) -> bytes:
    packed = folder / f"{name}.min.js"
    if not packed.is_file():
        return (folder / name).read_bytes()
    found = re.search(r'exports="([A-Za-z0-9+/=]+)"', packed.read_text("utf-8"))
    if found is None:
        raise ValueError(f"{packed.name} exports no text; get the package again.")
    return base64.b64decode(found[1])


def converted(model: dict[str, Any], weights: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The network's arguments and tensors.

    Raises:
        ValueError: no MobileNetV2 as Keras builds it.
    """
    layers = {layer["config"]["name"]: layer["config"] for layer in model["layers"]}
    tensors: dict[str, Tensor] = {}

    def put(name: str, layer: str, norm: str = "") -> None:
        kind = "depthwise_kernel" if f"{layer}/depthwise_kernel" in weights else "kernel"
        axes = (2, 3, 0, 1) if kind == "depthwise_kernel" else (3, 2, 0, 1)
        tensors[f"{name}.weight"] = torch.from_numpy(weights[f"{layer}/{kind}"].transpose(axes).copy()).float()
        for theirs, ours in _NORM.items():
            tensors[f"{norm}.{ours}"] = torch.from_numpy(weights[f"{norm_of(layer)}/{theirs}"].copy()).float()
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    def norm_of(layer: str) -> str:
        return f"{layer}_BN" if f"{layer}_BN" in layers else f"bn_{layer}" if f"bn_{layer}" in layers else f"{layer}_bn"

    if "Conv1" not in layers or "expanded_conv_depthwise" not in layers:
        raise ValueError("This is no MobileNetV2 as Keras builds it; nsfwjs' mobilenet_v2 is one.")
    put("stem", "Conv1", "stem_norm")
    prefixes = ["expanded_conv", *(f"block_{n}" for n in range(1, len(layers)) if f"block_{n}_project" in layers)]
    blocks = []
    for number, prefix in enumerate(prefixes):
        parts = [("conv_dw", "depthwise"), ("conv_pw" if number == 0 else "conv_pwl", "project")]
        parts = parts if number == 0 else [("conv_pw", "expand"), *parts]
        for place, (ours, theirs) in enumerate(parts, 1):
            put(f"blocks.{number}.{ours}", f"{prefix}_{theirs}", f"blocks.{number}.bn{place}")
        inner, out = (tensors[f"blocks.{number}.{parts[at][0]}.weight"].shape[0] for at in (-2, -1))
        blocks.append([inner, out, int(layers[f"{prefix}_depthwise"]["strides"][0])])
    put("last", "Conv_1", "last_norm")
    dense = [name for name in layers if f"{name}/bias" in weights and weights[f"{name}/kernel"].ndim == 2]
    for number, name in enumerate(dense):
        tensors[f"head.{number}.weight"] = torch.from_numpy(weights[f"{name}/kernel"].T.copy()).float()
        tensors[f"head.{number}.bias"] = torch.from_numpy(weights[f"{name}/bias"].copy()).float()
    config = {
        "stem": tensors["stem.weight"].shape[0], "blocks": blocks, "features": tensors["last.weight"].shape[0],
        "head": [tensors[f"head.{number}.bias"].shape[0] for number in range(len(dense))],
    }
    return config, tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder with model.json or model.min.js")
    parser.add_argument("out", type=Path, help="the guide, a .safetensors file in models/guides")
    options = parser.parse_args()
    try:
        config, tensors = converted(*read(options.model))
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.model}: {error}", file=sys.stderr)
        return 1
    labels = LABELS if config["head"][-1] == len(LABELS) else [str(n) for n in range(config["head"][-1])]
    header = {"format": FORMAT, "config": json.dumps(config), "labels": json.dumps(labels)}
    save_file(tensors, options.out, header)
    print(f"wrote {options.out}, {options.out.stat().st_size / 2**20:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
