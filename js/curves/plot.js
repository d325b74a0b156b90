/** One node's plot: looks at the node before every frame, and draws when something has changed. */

import { app } from "../../../scripts/app.js";
import { draw, layout } from "./draw.js";
import { listenTo } from "./edit.js";
import { Unknown, downstream, noting } from "./graph.js";
import { handlesOf, takesPoints } from "./handles.js";
import { between } from "./maths.js";
import { AXES, axisOf, noiseOf, reference } from "./noise.js";
import { describe } from "./read.js";
import { doneOf, lastOf, runsHeard, stepsOf } from "./runs.js";
import { language, say } from "./words.js";

const PROPERTY = "curve axis";
const unseen = reference();
const tables = new WeakMap(); // a node's last message -> its noise

/** The noise of a node's model: from its last run, from that of a node it feeds, else Stable Diffusion's. */
function noiseFor(node) {
  const known = (one) => {
    const last = lastOf(one);
    if (!last?.noise) return null;
    if (!tables.has(last)) tables.set(last, noiseOf(last.noise));
    return tables.get(last);
  };
  return known(node) ?? downstream(node, known) ?? unseen;
}

/** What to draw, or the sentence to show instead: { shown } or { words, wrong }. */
function read(node, noise, last) {
  try {
    return { shown: describe(node, noise, last), handles: handlesOf(node, noise), takes: takesPoints(node) };
  } catch (error) {
    if (error instanceof Unknown && last?.lines?.length) return { shown: remembered(last, noise) };
    if (!(error instanceof Unknown) && error.constructor !== Error) throw error;
    return { words: error.message, wrong: !(error instanceof Unknown) };
  }
}

/** The lines of the last run, where the page cannot know today's. */
function remembered(last, noise) {
  const percents = noise.levels.map(({ percent }) => percent);
  const lines = last.lines.map(({ values }, i) => ({
    label: i === 0 ? say("last run") : "", strength: ({ percent }) => between(percent, percents, values),
  }));
  return { lines, off: null };
}

/** The steps of the last run on each line. */
function dotsOf(last, noise) {
  return (last?.lines ?? []).map(({ key }) => {
    const steps = stepsOf(key);
    return (steps?.values ?? []).map((value, i) => ({ level: noise.levelAt(noise.toVe(steps.sigmas[i])), value }));
  });
}

export class Plot {
  constructor(node) {
    this.node = node;
    this.removed = false;
    this.element = document.createElement("div");
    this.element.className = "guidance-curve";
    this.element.innerHTML =
      '<svg aria-hidden="true"></svg><div class="guidance-curve-words" hidden></div>' +
      '<div class="guidance-curve-foot"><div class="guidance-curve-names"></div>' +
      '<button type="button" class="guidance-curve-axis"></button></div><div class="guidance-curve-done"></div>';
    [this.svg, this.words, this.foot, this.done] = this.element.children;
    [this.names, this.button] = this.foot.children;
    this.button.onclick = () => this.turn();
    this.seen = [];
    this.handles = [];
    this.taken = null; // the index of the handle that the pointer drags
    this.plan = null; // the layout of what is drawn
    listenTo(this);
  }

  get axis() {
    const chosen = this.node.properties?.[PROPERTY];
    return AXES.includes(chosen) ? chosen : AXES[0];
  }

  /** Show the next axis; the choice is saved with the node, beside its values. */
  turn() {
    this.node.setProperty(PROPERTY, AXES[(AXES.indexOf(this.axis) + 1) % AXES.length]);
    app.graph.change();
  }

  /** Draw if what there is to see has changed. */
  look() {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    if (!width || !height) return;
    const last = lastOf(this.node);
    const noise = noiseFor(this.node);
    const [found, facts] = noting(() => read(this.node, noise, last));
    const seen = [width, height, this.axis, last, noise, runsHeard(), facts, found.words, language()];
    if (seen.every((one, i) => one === this.seen[i])) return;
    [this.seen, this.failed] = [seen, null];
    this.noise = noise;
    this.handles = found.handles ?? [];
    this.svg.classList.toggle("takes", Boolean(found.takes));
    if (!found.shown) this.plan = null;
    this.svg.innerHTML = found.shown ? this.drawing(found.shown, last, [width, height]) : "";
    this.caption(found, noise);
    this.done.textContent = (last?.lines ?? []).map(({ key }) => doneOf(key)).find(Boolean) ?? "";
    this.done.title = say("In the last run; cost: evaluations of all networks, as a multiple of an unguided run's.");
  }

  /** The drawing as SVG text; the scale stays while a handle is dragged. */
  drawing(shown, last, size) {
    const dots = dotsOf(last, this.noise).slice(0, shown.lines.length);
    const axis = { name: this.axis, ...axisOf(this.axis, this.noise) };
    this.plan = layout(shown, axis, dots, this.handles, size, this.taken === null ? null : this.plan?.values);
    return draw(shown, axis, this.noise, dots, this.handles, this.plan);
  }

  /** Say that this node cannot be drawn, and to the console why; once for each reason. */
  fail(error) {
    if (this.failed === error.message) return;
    this.failed = error.message;
    console.error("Guidance Components:", this.node.type, error);
    [this.seen, this.plan, this.handles] = [[], null, []];
    this.svg.innerHTML = "";
    this.words.hidden = false;
    this.words.textContent = say("cannot be drawn");
    this.words.classList.add("wrong");
  }

  /** Names of the lines or the sentence in their place, and the axis's name on its button. */
  caption({ shown, words, wrong }, noise) {
    this.words.hidden = !words;
    this.words.textContent = words ?? "";
    this.words.classList.toggle("wrong", Boolean(wrong));
    const spans = (shown?.lines ?? []).map(({ label }, i) => {
      const span = document.createElement("span");
      span.className = `line-${i}`;
      span.textContent = label;
      return span;
    });
    this.names.replaceChildren(...spans);
    const borrowed = noise.known ? "" : ", SD";
    this.button.textContent = `${this.axis}${borrowed} ⇄`;
    this.button.title = borrowed
      ? say("Stages and sigmas as for Stable Diffusion, until a run tells this model's. Click for the next axis.")
      : say("Noisy to clean. Click for the next axis: percent, sigma, log SNR.");
  }
}
