/** Noise levels of a model: percent, its own sigma and noise to signal, and the three axes of a plot. */

import { between } from "./maths.js";

export const AXES = ["percent", "sigma", "log SNR"];
const MOST_NOISE = 1e4; // a flow's first step has no signal at all; curves see this much noise to signal there
const PIECES = 200;

/**
 * The noise of a model from its table, as host/engine/page_events.py sends it.
 *
 * sigmas: the model's own at the middles of equal pieces of percent, falling. flow: x = (1 - sigma) x0 + sigma scale n,
 * otherwise x = x0 + sigma n. low, high: the model's range of sigmas.
 */
export function noiseOf({ sigmas, flow, scale, low, high, known = true }) {
  const percents = sigmas.map((_, i) => (i + 0.5) / sigmas.length);
  const toVe = (sigma) => (flow ? (scale * sigma) / Math.max(1 - sigma, 0) : sigma);
  const toSigma = (ve) => (flow ? ve / (scale + ve) : ve);
  const clean = sigmas.map((sigma) => -Math.log(Math.min(toVe(sigma), MOST_NOISE)));
  const level = (percent) => {
    const ve = Math.exp(-between(percent, percents, clean));
    return { percent, sigma: toSigma(ve), ve };
  };
  const levelAt = (ve) => ({ percent: between(-Math.log(ve), clean, percents), sigma: toSigma(ve), ve });
  const knot = (sigma) => {
    const inside = toVe(Math.min(Math.max(sigma, low), high));
    return flow ? Math.min(inside, MOST_NOISE) : inside;
  };
  return { known, flow, toVe, toSigma, level, levelAt, knot, levels: percents.map(level) };
}

/** Stable Diffusion's noise, until a run tells the model's own. */
export function reference() {
  const schedule = timesteps("stable diffusion").map(Math.log);
  const steps = schedule.map((_, i) => i);
  const sigmas = Array.from({ length: PIECES }, (_, i) => {
    const timestep = (1 - (i + 0.5) / PIECES) * (schedule.length - 1);
    return Math.exp(between(timestep, steps, schedule));
  });
  const [low, high] = [Math.exp(schedule[0]), Math.exp(schedule.at(-1))];
  return noiseOf({ sigmas, flow: false, scale: 1, low, high, known: false });
}

/** An axis from noisy (x = 0) to clean (x = 1): the level at x, and the x of a level. */
export function axisOf(name, noise) {
  if (name === "percent") return { level: noise.level, x: ({ percent }) => percent };
  const linear = name === "sigma" && noise.flow;
  const along = ({ sigma, ve }) => (linear ? -sigma : -Math.log(name === "sigma" ? sigma : ve));
  const back = (value) => {
    if (linear) return noise.toVe(-value);
    return name === "sigma" ? noise.toVe(Math.exp(-value)) : Math.exp(-value);
  };
  const [first, last] = [along(noise.levels[0]), along(noise.levels.at(-1))];
  return {
    level: (x) => noise.levelAt(back(first + (last - first) * x)),
    x: (level) => (along(level) - first) / (last - first),
  };
}

const counted = {};

/** Noise to signal at the 1000 timesteps of a schedule, rising: guidance/noise_schedule.py. */
export function timesteps(name) {
  let kept = 1;
  counted[name] ??= BETAS[name]().map((beta) => {
    kept *= 1 - beta;
    return Math.sqrt((1 - kept) / kept);
  });
  return counted[name];
}

/** The edges that divide a schedule's timesteps equally among so many experts. */
export function equalEdges(count, name) {
  const schedule = timesteps(name);
  return Array.from({ length: count - 1 }, (_, i) => below(schedule, Math.floor(((i + 1) * schedule.length) / count)));
}

/** Half-way, in the log, between a timestep and the one below it. */
export function below(schedule, timestep) {
  return Math.sqrt(schedule[timestep] * schedule[timestep - 1]);
}

const COUNT = 1000;
const line = (first, last) => Array.from({ length: COUNT }, (_, i) => first + ((last - first) * i) / (COUNT - 1));
const BETAS = {
  "adm linear": () => line(1e-4, 0.02),
  "stable diffusion": () => line(Math.sqrt(0.00085), Math.sqrt(0.012)).map((root) => root ** 2),
  cosine: () => {
    const kept = (i) => Math.cos(((i / COUNT + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
    return Array.from({ length: COUNT }, (_, i) => Math.min(1 - kept(i + 1) / kept(i), 0.999));
  },
};
