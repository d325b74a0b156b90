/** From a node's widgets and wires to what its plot shows. */

import { Unknown, downstream, note, socketOf, sourceOf, valueOf } from "./graph.js";
import * as maths from "./maths.js";
import { below, equalEdges, timesteps } from "./noise.js";
import { say } from "./words.js";

export const LARGEST_STRENGTH = 10; // host/schema/schedules.py
export const LARGEST_SIGMA = 100000; // host/schema/inputs.py
const HAS_CURVE = ["GuidanceSchedule", "GuidanceExpertSwitch", "GuidanceLossWeighting"];

/** Whether a kind of node has something to plot: any of ours with an interval, and the three above. */
export function hasCurve(nodeData) {
  if (!nodeData.name.startsWith("Guidance")) return false;
  const inputs = { ...nodeData.input?.required, ...nodeData.input?.optional };
  return HAS_CURVE.includes(nodeData.name) || ["unit", "start", "end"].every((name) => name in inputs);
}

/**
 * What to draw for a node: { lines: [{ label, strength }], off, experts }.
 *
 * off: the strength at which nothing happens. experts: { edges, handover }, where several take turns.
 * last: what the server said of the node's last run. Throws Unknown or Error with the sentence to show instead.
 */
export function describe(node, noise, last) {
  const kind = node.comfyClass;
  if (kind === "GuidanceExpertSwitch") return { lines: [], off: null, experts: expertsOf(node, last) };
  if (kind === "GuidanceLossWeighting") return { lines: weightings(node, noise), off: null };
  if (kind === "GuidanceSchedule") {
    return { lines: [{ label: say("strength"), strength: scheduleOf(node, noise) }], off: 0 };
  }
  return { ...strengths(node, within(node, noise)), experts: guidesOf(node, last) };
}

/** What weight (1 = off), scale or phi (0 = off) make of a schedule, in the pack's own words for them. */
function strengths(node, schedule) {
  const has = (name) => node.widgets?.some((widget) => widget.name === name);
  const weighted = (weight) => (level) => 1 + (weight - 1) * schedule(level);
  const scaled = (scale) => (level) => scale * schedule(level);
  if (has("total")) {
    const [cfg, auto] = maths.split(valueOf(node, "total"), valueOf(node, "mix"));
    const lines = [{ label: "CFG", strength: weighted(cfg) }, { label: say("autoguidance"), strength: weighted(auto) }];
    return { lines, off: 1 };
  }
  if (has("weight_from") && valueOf(node, "weight_from") === "sampler") {
    const cfg = samplersCfg(node);
    if (cfg === null) return { lines: [{ label: say("share of the sampler's cfg"), strength: schedule }], off: 0 };
    return { lines: [{ label: say("the sampler's cfg"), strength: weighted(cfg) }], off: 1 };
  }
  if (has("weight")) return { lines: [{ label: say("weight"), strength: weighted(valueOf(node, "weight")) }], off: 1 };
  if (has("scale")) return { lines: [{ label: say("scale"), strength: scaled(valueOf(node, "scale")) }], off: 0 };
  if (has("phi")) return { lines: [{ label: "phi", strength: scaled(valueOf(node, "phi")) }], off: 0 };
  const isOff = has("limit") && valueOf(node, "limit") === 0; // Clamp
  return { lines: [{ label: say("strength"), strength: isOff ? () => 0 : schedule }], off: 0 };
}

/** The cfg of the sampler that this node's MODEL goes to, or null. */
function samplersCfg(node) {
  const found = downstream(node, (one) => {
    const cfg = one.comfyClass?.startsWith("Guidance") ? null : one.widgets?.find(({ name }) => name === "cfg")?.value;
    return typeof cfg === "number" ? cfg : null;
  });
  return note(found);
}

/** A component's interval, times the schedule on its socket. */
function within(node, noise) {
  const [unit, start, end] = ["unit", "start", "end"].map((name) => valueOf(node, name));
  checkInterval(unit, start, end);
  return times(maths.interval(start, end, unit), node, noise);
}

/** A Guidance Schedule node's own curve, times the one on its socket. */
function scheduleOf(node, noise) {
  const [shape, unit, start, end] = ["shape", "unit", "start", "end"].map((name) => valueOf(node, name));
  if (shape === "points") return times(maths.curve(pointsOf(valueOf(node, "points"), unit), unit, noise), node, noise);
  checkInterval(unit, start, end);
  if (shape === "interval") return times(maths.interval(start, end, unit), node, noise);
  const [from, to] = ["start_strength", "end_strength"].map((name) => valueOf(node, name));
  return times(maths.ramp(from, to, start, end, unit, noise, shape === "cosine"), node, noise);
}

function times(own, node, noise) {
  const socket = socketOf(node, "schedule");
  if (socket?.link == null) return own;
  const other = sourceOf(node, socket);
  if (other?.comfyClass !== "GuidanceSchedule") throw new Unknown(say("schedule of another node: drawn after a run"));
  const linked = scheduleOf(other, noise);
  return (level) => own(level) * linked(level);
}

function checkInterval(unit, start, end) {
  if (unit === "percent" && !(0 <= start && start <= end && end <= 1)) {
    if (end > 1) throw new Error(say("in percent, start and end go from 0 to 1"));
    throw new Error(say("start {start} lies after end {end}", { start, end }));
  }
  if (unit === "sigma" && !(start >= end)) {
    throw new Error(say("in sigma, start {start} must be larger than end {end}", { start, end }));
  }
}

/** "0: 1, 0.5: 0.2" -> [[0, 1], [0.5, 0.2]], as host/schema/schedules.py reads it. */
export function pointsOf(text, unit) {
  const parts = text.replaceAll("\n", ",").split(",").filter((part) => part.trim());
  const points = parts.map((part) => part.split(":").map((number) => (number.trim() ? Number(number) : NaN)));
  const wrong = points.findIndex((point) => point.length !== 2 || !point.every(Number.isFinite));
  if (wrong >= 0) {
    throw new Error(say('points: "{part}" is not position: strength', { part: parts[wrong].trim().slice(0, 40) }));
  }
  if (points.some(([, strength]) => Math.abs(strength) > LARGEST_STRENGTH)) {
    throw new Error(say("points: strengths go from -{most} to {most}", { most: LARGEST_STRENGTH }));
  }
  if (points.length < 2) throw new Error(say("points: two or more are needed"));
  const sign = unit === "percent" ? 1 : -1;
  const falls = points.some(([position], i) => i > 0 && sign * (position - points[i - 1][0]) < 0);
  if (falls) {
    if (sign > 0) throw new Error(say("points: in percent, positions rise from 0 to 1"));
    throw new Error(say("points: in sigma, positions fall"));
  }
  const highest = sign > 0 ? 1 : LARGEST_SIGMA;
  const outside = points.some(([position]) => position < 0 || position > highest);
  if (outside) throw new Error(say("points: in {unit}, positions go from 0 to {highest}", { unit, highest }));
  return points;
}

/** The experts behind a component's guide socket, if it leads to an Expert Switch or the last run told of some. */
function guidesOf(node, last) {
  const guide = sourceOf(node, socketOf(node, "guide"));
  if (guide?.comfyClass === "GuidanceExpertSwitch") {
    try {
      return expertsOf(guide, last);
    } catch {
      return null; // the switch shows what is wrong; this node's own line is right without it
    }
  }
  return last?.edges?.length ? last : null;
}

/** Where the guides of an Expert Switch hand over: host/models/expert_switch.py. */
function expertsOf(node, last) {
  const count = note(node.inputs.filter(({ name, link }) => name.startsWith("guides.") && link != null).length);
  if (count < 2) throw new Unknown(say("connect two or more guides"));
  const [from, text, schedule, handover] = ["edges_from", "edges", "schedule", "handover"].map((n) => valueOf(node, n));
  const counting = from === "timesteps" ? schedule : from;
  if (counting === "own schedule") {
    if (last?.edges?.length === count - 1) return last;
    throw new Unknown(say("the guide's own schedule: drawn after a run"));
  }
  if (!["timesteps", "sigma", "snr"].includes(from)) return { edges: equalEdges(count, from), handover };
  const numbers = text.split(/[,;]/).filter((part) => part.trim()).map(Number);
  const found = numbers.length;
  if (found !== count - 1) {
    throw new Error(say("{guides} guides need {edges} edges, not {found}", { guides: count, edges: count - 1, found }));
  }
  if (!numbers.every((number) => number > 0)) throw new Error(say("edges: numbers above 0 with commas"));
  return { edges: edgesOf(numbers, from, schedule), handover };
}

/** Numbers of timesteps, sigma or SNR as noise to signal, rising. */
export function edgesOf(numbers, from, schedule) {
  const counted = from === "timesteps" ? timesteps(schedule) : null;
  if (counted && !numbers.every((n) => Number.isInteger(n) && 0 < n && n < counted.length)) {
    throw new Error(say("edges: timesteps are whole numbers from 1 to {last}", { last: counted.length - 1 }));
  }
  const edges = numbers.map((n) => (counted ? below(counted, n) : from === "snr" ? n ** -0.5 : n));
  if (from === "snr") edges.sort((a, b) => a - b);
  if (edges.some((edge, i) => i > 0 && edge <= edges[i - 1])) {
    throw new Error(say("edges: from clean to noisy, each once"));
  }
  return edges;
}

/** Shares of the training: the chosen weighting, ComfyUI's own and the plain eps-loss. */
function weightings(node, noise) {
  const numbers = Object.fromEntries(["k", "gamma", "min_snr_gamma"].map((name) => [name, valueOf(node, name)]));
  const chosen = valueOf(node, "weighting");
  const others = { x0: "ComfyUI (x0)", eps: "eps" };
  const names = [chosen, ...Object.keys(others).filter((name) => name !== chosen)];
  return names.map((name, i) => {
    const strength = maths.withMeanOne(maths.onVelocity(name, numbers), noise.levels);
    return { label: i === 0 ? name : others[name], strength, quiet: i > 0 };
  });
}
