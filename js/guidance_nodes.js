/**
 * How our nodes look: widgets that do nothing under the present choices are not shown (their values stay where they are
 * saved), and a new node is as large as what it will show.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Unknown, socketOf, valueOf } from "./curves/graph.js";

const SHOWN_FOR = "guidance_shown_for"; // host/schema/visibility.py
const UNFINISHED = "guidance-components.unfinished"; // host/common/unfinished.py
const WIDTH = 270;
const PICTURE = [400, 290]; // the least width of nodes with a picture, and the room that one gets under the widgets
const WITH_PICTURE = [
  "GuidanceCompare", "GuidanceInspection", "GuidanceLoadPictures", "GuidanceMakePictures", "GuidanceReport",
  "GuidanceScore", "GuidanceTrainExperts",
];
const rules = new Map(); // a kind of node -> [{ name, choice, values, or_filled }]
const shown = new WeakMap(); // a node -> which of its widgets are in sight, as text
const fresh = new WeakSet(); // nodes that were just made: a loaded one keeps the size that it was saved with

/** A kind's conditional widgets. */
function rulesOf({ input }) {
  const inputs = Object.entries({ ...input?.required, ...input?.optional });
  return inputs.flatMap(([name, [, options]]) => (options?.[SHOWN_FOR] ? [{ name, ...options[SHOWN_FOR] }] : []));
}

/** Whether a widget can do something, or holds what its owner should see. */
function acts(node, { name, choice, values, or_filled }) {
  if (socketOf(node, name)?.link != null) return true;
  if (or_filled && node.widgets.find((widget) => widget.name === name)?.value) return true;
  try {
    return values.includes(valueOf(node, choice));
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    return true; // the choice comes by a wire
  }
}

/** The size of a new node: its widgets' own, and room for the picture that it will show. */
function sizeOf(node) {
  const [width, height] = node.computeSize();
  const [least, room] = WITH_PICTURE.includes(node.comfyClass) ? PICTURE : [WIDTH, 0];
  return [Math.max(width, least), height + room];
}

/** Show of a node's widgets those that act. The two renderers each have a word for the others. */
function look(node) {
  if (!rules.get(node.comfyClass).length) return;
  const wanted = new Map(rules.get(node.comfyClass).map((rule) => [rule.name, acts(node, rule)]));
  const seen = [...wanted.values()].join();
  if (shown.get(node) === seen) return;
  const before = node.computeSize()[1];
  for (const widget of node.widgets.filter(({ name }) => wanted.has(name))) {
    widget.hidden = !wanted.get(widget.name);
    widget.options.canvasOnly = widget.hidden;
  }
  node.widgets.push(...node.widgets.splice(0)); // the Vue renderer looks again where this list changes
  shown.set(node, seen);
  const after = node.computeSize()[1];
  const height = fresh.has(node) ? node.size[1] : node.size[1] + after - before;
  node.setSize([node.size[0], Math.max(height, after)]);
  node.setDirtyCanvas(true, true);
}

/** Before every frame: values also change by undo, by other nodes and by extensions, of which no widget tells. */
function lookAll() {
  requestAnimationFrame(lookAll);
  for (const node of app.canvas?.graph?.nodes ?? []) {
    if (!rules.has(node.comfyClass)) continue;
    look(node);
    fresh.delete(node);
  }
}

app.registerExtension({
  name: "guidancecomponents.Nodes",
  beforeRegisterNodeDef(_type, nodeData) {
    if (nodeData.name.startsWith("Guidance")) rules.set(nodeData.name, rulesOf(nodeData));
  },
  nodeCreated(node) {
    if (!rules.has(node.comfyClass)) return;
    fresh.add(node);
    look(node);
    let saved = false;
    const configured = node.onConfigure;
    node.onConfigure = function (...args) {
      saved = true;
      look(node); // before the page draws it, which would make it as high as all of its widgets
      return configured?.apply(this, args);
    };
    queueMicrotask(() => saved || node.setSize(sizeOf(node))); // once it has its curve
  },
  setup() {
    // As if it were the result so far: it stands in its place, and the result will replace it.
    api.addEventListener(UNFINISHED, ({ detail }) => api.dispatchCustomEvent("executed", detail));
    requestAnimationFrame(lookAll);
  },
});
