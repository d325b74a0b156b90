"""Guiders that do what those of other packs do, in a few lines each. Take the `comfy` fixture before calling `made`."""

from host_models import MODELS

SD15 = MODELS["sd15"]
OWN = 5.0  # the weight that they choose by themselves
CFG = 3.0  # the weight that they are told


def made(kind, model, cfg=CFG, negative=True):
    """A guider of this kind over a MODEL."""
    guider = classes()[kind](model)
    conds = {"positive": SD15.conditioning(1), "negative": SD15.conditioning(2)}
    guider.inner_set_conds(conds if negative else {"positive": conds["positive"]})
    guider.set_cfg(cfg)
    return guider


def classes():
    from comfy.samplers import CFGGuider, calc_cond_batch, cfg_function, sampling_function

    class Setting(CFGGuider):
        """Sets its weight in the step."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            self.cfg = OWN
            return super().predict_noise(x, timestep, model_options, seed)

    class Elsewhere(CFGGuider):
        """Keeps its weight elsewhere."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            prompts = self.conds.get("negative"), self.conds["positive"]
            return sampling_function(self.inner_model, x, timestep, *prompts, OWN, model_options, seed)

    class Telling(CFGGuider):
        """Combines by itself, through the host's `cfg_function`; off in the clean half."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            weight = self.cfg if float(timestep[0]) > 2.0 else 1.0
            conds = [self.conds["positive"], self.conds["negative"]]
            found = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            return cfg_function(self.inner_model, *found, weight, x, timestep, model_options, *conds)

    class Silent(CFGGuider):
        """Combines by itself and tells nobody."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            conds = [self.conds["positive"], self.conds["negative"]]
            positive, negative = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            return negative + OWN * (positive - negative)

    class PerStep(CFGGuider):
        """Keeps a number, or a list with a number per step."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            steps = model_options["transformer_options"]["sample_sigmas"]
            step = int((steps - timestep[0]).abs().argmin())
            weight = self.cfg[step] if isinstance(self.cfg, list) else self.cfg
            prompts = self.conds.get("negative"), self.conds["positive"]
            return sampling_function(self.inner_model, x, timestep, *prompts, weight, model_options, seed)

    class PastHooks(CFGGuider):
        """Its own step is called directly."""

        def __call__(self, *args, **kwargs):
            return self.predict_noise(*args, **kwargs)

    return {cls.__name__: cls for cls in (Setting, Elsewhere, Telling, Silent, PerStep, PastHooks)}


def skipping_sampler():
    """A sampler that asks the guider for its bare step."""
    from comfy.samplers import KSAMPLER

    def sample(model, noise, sigmas, extra_args, callback, disable):
        at = sigmas[0] * noise.new_ones(len(noise))
        return model.inner_model.predict_noise(noise, at, extra_args["model_options"], extra_args["seed"])

    return KSAMPLER(sample)
