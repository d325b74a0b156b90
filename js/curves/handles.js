/** What a person can drag on a node's plot: the points of a schedule, the ends of a ramp and of an interval. */

import { socketOf, valueOf } from "./graph.js";
import { LARGEST_SIGMA, LARGEST_STRENGTH, pointsOf } from "./read.js";

const EDGE = 0.005; // of the axis: this near to its end is meant to be the end

/**
 * The handles of a node that can be drawn: [{ level, value, put, remove }].
 *
 * value: null where only the position can be moved. put(level, value) sets the node's widgets; remove() is there where
 * a handle may go.
 */
export function handlesOf(node, noise) {
  if (!["unit", "start", "end"].every((name) => node.widgets?.some((widget) => widget.name === name))) return [];
  const isSchedule = node.comfyClass === "GuidanceSchedule";
  if (isSchedule && socketOf(node, "schedule")?.link != null) return []; // the line is another's too
  const shape = isSchedule ? valueOf(node, "shape") : "interval";
  if (shape === "points") return isFree(node, "points") ? pointHandles(node, noise) : [];
  return ["start", "end"].filter((name) => isFree(node, name)).map((name) => endHandle(node, noise, name, shape));
}

/** Whether a click beside the handles adds one. */
export function takesPoints(node) {
  return node.comfyClass === "GuidanceSchedule" && valueOf(node, "shape") === "points" && isFree(node, "points");
}

/** Put a new point where none is; the index of its handle. */
export function addPoint(node, noise, level, value) {
  const unit = valueOf(node, "unit");
  const points = pointsOf(valueOf(node, "points"), unit);
  const position = positionOf(level, unit, noise);
  const index = points.filter(([other]) => (unit === "percent" ? other <= position : other >= position)).length;
  points.splice(index, 0, [position, strengthOf(value)]);
  setPoints(node, points);
  return index;
}

function pointHandles(node, noise) {
  const unit = valueOf(node, "unit");
  const points = pointsOf(valueOf(node, "points"), unit);
  return points.map(([position, value], i) => ({
    level: levelAt(position, unit, noise),
    value,
    put: (level, strength) => {
      const [before, after] = [points[i - 1]?.[0], points[i + 1]?.[0]];
      const [low, high] = unit === "percent" ? [before ?? 0, after ?? 1] : [after ?? 0, before ?? LARGEST_SIGMA];
      const moved = [within(positionOf(level, unit, noise), low, high), strengthOf(strength)];
      setPoints(node, points.with(i, moved));
    },
    remove: points.length > 2 ? () => setPoints(node, points.toSpliced(i, 1)) : undefined,
  }));
}

/** The start or the end; of a ramp it has a strength too. */
function endHandle(node, noise, name, shape) {
  const [unit, start, end] = ["unit", "start", "end"].map((one) => valueOf(node, one));
  const strength = `${name}_strength`;
  const hasStrength = shape !== "interval" && isFree(node, strength);
  const limits = unit === "percent"
    ? { start: [0, end], end: [start, 1] }
    : { start: [end, LARGEST_SIGMA], end: [0, start] };
  return {
    level: levelAt(name === "start" ? start : end, unit, noise),
    value: hasStrength ? valueOf(node, strength) : null,
    put: (level, value) => {
      set(node, name, within(positionOf(level, unit, noise), ...limits[name]));
      if (hasStrength) set(node, strength, strengthOf(value));
    },
  };
}

const within = (value, low, high) => Math.min(Math.max(value, low), high);
const strengthOf = (value) => Number(within(value, -LARGEST_STRENGTH, LARGEST_STRENGTH).toFixed(2));

function levelAt(position, unit, noise) {
  return unit === "percent" ? noise.level(position) : noise.levelAt(noise.toVe(position));
}

/** A place on the axis as people write it; its ends are all of the noise, however the steps fall. */
function positionOf(level, unit, noise) {
  if (level.percent <= EDGE) return unit === "percent" ? 0 : upwards(noise.toSigma(noise.knot(LARGEST_SIGMA)));
  if (level.percent >= 1 - EDGE) return unit === "percent" ? 1 : 0;
  return unit === "percent" ? Number(level.percent.toFixed(2)) : Number(level.sigma.toPrecision(3));
}

/** Three digits, not below the number: the highest sigma itself lies within. */
function upwards(number) {
  const power = 10 ** (Math.floor(Math.log10(number)) - 2);
  return Number((Math.ceil(number / power) * power).toPrecision(3));
}

/** Whether a widget holds its own value, and no wire does. */
function isFree(node, name) {
  return node.inputs?.find((socket) => socket.widget?.name === name)?.link == null;
}

function setPoints(node, points) {
  set(node, "points", points.map(([position, strength]) => `${position}: ${strength}`).join(", "));
}

function set(node, name, value) {
  const widget = node.widgets.find((one) => one.name === name);
  widget.value = value;
  widget.callback?.(value);
}
