"""The sentences with which components refuse a family, a guider or a latent: read by a person, and found clear.

A refusal that `tools/matrix.py` meets and that none of these finds is a fault until somebody has read it.
"""

import re

SENTENCES = (
    # What the guider has not.
    r"(Autoguidance\)|Learned Weight) needs a negative prompt, and \w+ takes none\. Use KSampler or CFGGuider",
    r"\w+ mixes two prompts with two weights of its own, so .+ cannot set one weight\. (Choose weight_from|Use)",
    r"works on the difference between one positive and one negative prompt, and \w+ (combines|takes|has|evaluates) ",
    # What the network offers no place for.
    r"kind = [a-z ]+ cannot be used with this model \(\w+\); it supports [a-z, ]+\. .* works with ",
    r"Negative in Attention cannot be used with this model \(\w+\): ComfyUI offers no place in it where the attention",
    r"Negative in Attention cannot be used here: this model's prompts come with a mask over their tokens, which ",
    r"This model's input is not a picture with noise, so kind = input noise cannot be used\.",
    r"feedback judges a run by the noise in it, and this model's input is not a picture with noise\.",
    r"works on latents, and latents have no range as pictures do: Clamp would flatten them\. It is for models of",
    r"Hunyuan3D 2\.1 in this ComfyUI mixes the shapes of a batch up where it is asked for one prompt alone",
    # What a guide of pictures cannot see.
    r"This model turns one picture into another instead of removing noise, and a gradient is weighed by the noise\.",
    r"makes no pictures: its latents are a row of numbers, as of sound or of shapes\. A guide looks at pictures; use a",
    r"noisy input is not a picture plus noise, so a signal-to-noise ratio means nothing for it\. Train it without Loss",
    r"latents have no linear RGB factors in ComfyUI\. Choose decoder = vae and connect a VAE",
    r"makes several things at once \(such as a video and its sound\), which a guide that looks at pictures cannot",
    # What a rule cannot see.
    r"has a mask that cannot be used: several latents \(such as a video and its sound\) lie in one row\. Disconnect",
    r"has a mask that cannot be used: a mask lies over pictures or video, and this model's latents are 2-dimensional\.",
    r"\(such as a video and its sound\), which lie in one row, so [\w ]+ finds no channels and places in it\. Choose",
    r"at = noisy input: the guide looks at pictures, and .* works on latents, .* Choose at = denoised",
)


def is_read(words: str) -> bool:
    """Whether a person has read this sentence."""
    return any(re.search(sentence, words, re.DOTALL) for sentence in SENTENCES)
