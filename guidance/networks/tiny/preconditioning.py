"""From a network to a denoiser, exactly as the host's `comfy/model_sampling.py` does it.

"edm" is the host's ModelType.EDM (classes EDM and ModelSamplingContinuousEDM): Karras et al. 2022, Table 1.
"flow" is the host's ModelType.FLOW (classes CONST and ModelSamplingDiscreteFlow with shift 1): the noise level sigma is
the time t in (0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
Prediction = Literal["edm", "flow"]

SIGMA_DATA = 0.5
SIGMA_RANGE: dict[str, tuple[float, float]] = {"edm": (0.002, 80.0), "flow": (0.001, 1.0)}
_FLOW_MULTIPLIER = 1000.0


def check_prediction(prediction: str) -> None:
    """Raises ValueError for anything but "edm" or "flow"."""
    if prediction not in get_args(Prediction):
        raise ValueError(f'prediction is "{prediction}"; it must be one of {", ".join(get_args(Prediction))}.')


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """One value per sample [B] in the shape that meets x [B, ...]: [B, 1, ...]."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def precondition(network: Network, prediction: Prediction, sigma_data: float = SIGMA_DATA) -> Denoiser:
    """The denoiser D(x, sigma, y) that the host makes of network(input, timesteps, y).

    With F the network:
        edm   D = sd^2 / (s^2 + sd^2) x + s sd / sqrt(s^2 + sd^2) F(x / sqrt(s^2 + sd^2), 0.25 ln s, y)
        flow  D = x - t F(x, 1000 t, y)

    Args:
        sigma_data: standard deviation of the data, sd; "flow" has none and ignores it.

    Returns:
        A function of x [B, C, H, W], sigma [B] (t for "flow") and y int64 [B] that gives the denoised [B, C, H, W].

    Raises:
        ValueError: an unknown prediction.
    """
    check_prediction(prediction)

    def edm(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        s = per_sample(sigma, x)
        total = s**2 + sigma_data**2
        output = network(x / total**0.5, 0.25 * sigma.log(), y)
        return x * sigma_data**2 / total + output * s * sigma_data / total**0.5

    def flow(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return x - network(x, sigma * _FLOW_MULTIPLIER, y) * per_sample(sigma, x)

    return edm if prediction == "edm" else flow


def add_noise(prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The noisy picture at each sample's noise level: x0 + sigma n ("edm"), (1 - t) x0 + t n ("flow").

    Args:
        clean, noise: [B, C, H, W]; noise is standard normal.
        sigma: [B].

    Raises:
        ValueError: an unknown prediction.
    """
    check_prediction(prediction)
    s = per_sample(sigma, clean)
    return clean + s * noise if prediction == "edm" else (1 - s) * clean + s * noise
