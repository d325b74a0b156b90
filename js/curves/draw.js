/** A plot as SVG text: stages, experts, lines, the steps of the last run. Colours come from style.js by class. */

import { inCharge } from "./maths.js";
import { say } from "./words.js";

const LEFT = 32;
const RIGHT = 6;
const TOP = 15;
const BOTTOM = 17;
const STRIP = 4; // height of the experts' strip under a line
// From and to which noise to signal: P2's SNR of 0.01 and 1 (2204.00227).
const stageNames = () => [[say("coarse"), Infinity, 10], [say("content"), 10, 1], [say("clean-up"), 1, 0]];
const LETTER = 6.2; // width of a small letter
const SIGN = 11; // width of a Korean or Chinese one

/**
 * Where everything of a drawing of width by height pixels is: x(level), y(value) and back, at(x, y).
 *
 * shown: read.js's description. axis: noise.js's and its name. dots: per line, [{ level, value }] of the last run.
 * handles: handles.js's. held: the values [low, high] to keep, while one of the handles is dragged.
 */
export function layout(shown, axis, dots, handles, [width, height], held) {
  const frame = { left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM };
  const { left, right, top, bottom } = frame;
  const columns = range(left, right).map((px) => [px, axis.level((px - left) / (right - left))]);
  const lines = shown.lines.map((line) => columns.map(([px, level]) => [px, line.strength(level)]));
  const values = [...lines.flat().map(([, value]) => value), ...[...dots.flat(), ...handles].map(({ value }) => value)];
  const [low, high] = held ?? rangeOf(values, shown.off);
  return {
    frame, columns, lines, values: [low, high],
    x: (level) => left + Math.min(Math.max(axis.x(level), 0), 1) * (right - left),
    y: (value) => bottom - ((value - low) / (high - low)) * (bottom - top),
    at: (px, py) => ({
      level: axis.level(Math.min(Math.max((px - left) / (right - left), 0), 1)),
      value: low + ((bottom - py) / (bottom - top)) * (high - low),
    }),
  };
}

/** The drawing by its layout. */
export function draw(shown, axis, noise, dots, handles, { frame, columns, lines, values, x, y }) {
  return [
    stages(noise, x, frame),
    experts(shown.experts, columns, shown.lines.length ? { ...frame, top: frame.bottom - STRIP } : frame),
    shown.lines.length ? scale(...values, y, shown.off, frame) : "",
    ticks(axis.name, noise, x, frame),
    ...lines.map((points, i) => path(points, y, `line line-${i}${shown.lines[i].quiet ? " quiet" : ""}`)).reverse(),
    ...dots.map((line, i) => line.map(({ level, value }) => dot(x(level), y(value), i)).join("")),
    ...handles.map(({ level, value }) => (value === null ? grip(x(level), frame) : handle(x(level), y(value)))),
  ].join("");
}

const range = (first, last) => Array.from({ length: Math.max(2, Math.round(last - first) + 1) }, (_, i) => first + i);
const fixed = (number) => Number(number.toFixed(1));
const widthOf = (word) => [...word].reduce((sum, letter) => sum + (letter > "\u2e80" ? SIGN : LETTER), 0);
const text = (x, y, words, kind) => `<text class="${kind}" x="${fixed(x)}" y="${fixed(y)}">${words}</text>`;
const box = (x0, y0, x1, y1, kind) => {
  const [width, height] = [fixed(Math.max(x1 - x0, 0)), fixed(y1 - y0)];
  return `<rect class="${kind}" x="${fixed(x0)}" y="${fixed(y0)}" width="${width}" height="${height}"/>`;
};
const dot = (x, y, i) => `<circle class="dot line-${i}" cx="${fixed(x)}" cy="${fixed(y)}" r="2.2"/>`;

/** A bar to take an end by, and the strip in which the pointer takes it. */
function grip(x, { top, bottom }) {
  const middle = (top + bottom) / 2;
  const parts = [box(x - 5, top, x + 5, bottom, "reach"), box(x - 1.5, middle - 9, x + 1.5, middle + 9, "bar")];
  return `<g class="grip">${parts.join("")}</g>`;
}

const handle = (x, y) => `<circle class="handle" cx="${fixed(x)}" cy="${fixed(y)}" r="4.5"/>`;

/** Lowest and highest value of the plot; `off` and some air are always in it. */
function rangeOf(values, off) {
  const finite = values.filter(Number.isFinite);
  const low = Math.min(0, ...finite);
  const high = Math.max(off === 1 ? 1.5 : 1, ...finite);
  return [low, high + 0.06 * (high - low)];
}

function path(points, y, kind) {
  const steps = points.map(([px, value], i) => `${i ? "L" : "M"}${fixed(px)} ${fixed(y(value))}`);
  return `<path class="${kind}" d="${steps.join("")}"/>`;
}

function stages(noise, x, { top, bottom }) {
  return stageNames().map(([word, noisy, clean], i) => {
    const x0 = x(noise.levelAt(Math.min(noisy, 1e9)));
    const x1 = x(noise.levelAt(Math.max(clean, 1e-9)));
    const name = x1 - x0 > widthOf(word) + 4 ? text((x0 + x1) / 2, top - 4, word, "stage-name") : "";
    return box(x0, top, x1, bottom, `stage stage-${i}`) + name;
  }).join("");
}

/** Each expert's share of the charge as a band, and its number where there is room. */
function experts(team, columns, { top, bottom }) {
  if (!team) return "";
  const charge = inCharge(team.edges, team.handover);
  const shares = columns.map(([px, level]) => [px, charge(level)]);
  const tall = bottom - top > 2 * STRIP;
  return [...team.edges, Infinity].map((_, i) => {
    const own = shares.filter(([, share]) => share[i] > 0);
    if (!own.length) return "";
    const [x0, x1] = [own[0][0], own.at(-1)[0] + 1];
    const rim = [...own, [x1, own.at(-1)[1]]].map(([px, share]) => {
      return `L${fixed(px)} ${fixed(bottom - share[i] * (bottom - top))}`;
    });
    const band = `<path class="band band-${i % 6}" d="M${x0} ${bottom}${rim.join("")}V${bottom}Z"/>`;
    return band + (tall && x1 - x0 > 9 ? text((x0 + x1) / 2, (top + bottom) / 2 + 4, `${i + 1}`, "expert") : "");
  }).join("");
}

/** Round values between two, at most five: multiples of 1, 2, 2.5 or 5 times a power of ten. */
export function marksBetween(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 5));
  const step = power * [1, 2, 2.5, 5, 10, 20].find((one) => (high - low) / (power * one) <= 3.6);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => step * (first + i));
}

/** Lines across at round values; the one at which nothing happens is drawn dashed. */
function scale(low, high, y, off, { left, right }) {
  const marks = marksBetween(low, high);
  if (off !== null && !marks.includes(off)) marks.push(off);
  return marks.map((value) => {
    const kind = value === off ? "grid off" : "grid";
    const across = horizontal(kind, left, right, fixed(y(value)));
    const crowded = value !== off && off !== null && Math.abs(y(value) - y(off)) < 11;
    return across + (crowded ? "" : text(left - 4, y(value) + 3, round(value), "value"));
  }).join("");
}

const horizontal = (kind, x0, x1, y) => `<path class="${kind}" d="M${x0} ${y}H${x1}"/>`;
const round = (value) => `${Number(value.toPrecision(3))}`;

/** Numbers under the axis, as many as fit. */
function ticks(name, noise, x, { left, right, bottom }) {
  let free = left - 8;
  return marksOf(name, noise).map(([level, word]) => {
    const at = x(level);
    const half = (word.length * LETTER) / 2;
    const middle = Math.min(Math.max(at, left + half - 4), right - half + 4);
    if (at < left || at > right || middle - half < free) return "";
    free = middle + half + 8;
    const mark = `<path class="tick" d="M${fixed(at)} ${bottom}v3"/>`;
    return mark + text(middle, bottom + 14, word, "tick-name");
  }).join("");
}

function marksOf(name, noise) {
  if (name === "percent") return [0, 0.25, 0.5, 0.75, 1].map((p) => [noise.level(p), `${p}`]);
  const [noisy, clean] = [noise.levels[0], noise.levels.at(-1)];
  if (name === "log SNR") {
    const [first, last] = [noisy, clean].map(({ ve }) => -2 * Math.log(ve));
    const step = [1, 2, 4, 5, 10].find((s) => (last - first) / s <= 8) ?? 20;
    const values = range(Math.ceil(first / step), Math.floor(last / step)).map((n) => n * step);
    return values.map((value) => [noise.levelAt(Math.exp(-value / 2)), `${value}`.replace("-", "−")]);
  }
  if (noise.flow) return [0.9, 0.75, 0.5, 0.25, 0.1].map((sigma) => [noise.levelAt(noise.toVe(sigma)), `${sigma}`]);
  const decades = range(-4, 4).reverse().map((n) => Number(`1e${n}`));
  const inside = decades.filter((sigma) => sigma <= noisy.sigma && sigma >= clean.sigma);
  return inside.map((sigma) => [noise.levelAt(sigma), `${sigma}`]);
}
