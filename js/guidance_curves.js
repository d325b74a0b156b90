/** A small plot of strength over noise on every node that has one. */

import { app } from "../../scripts/app.js";
import { Plot } from "./curves/plot.js";
import { hasCurve } from "./curves/read.js";
import { listen } from "./curves/runs.js";
import { addStyle, CSS } from "./curves/style.js";
import { speak } from "./curves/words.js";

const HEIGHT = 148; // with the widget's margins
const kinds = new Set();
const plots = new Set();

/** Let every plot on the page look at its node; forget those of removed nodes. */
function lookAll() {
  requestAnimationFrame(lookAll);
  speak(app.extensionManager.setting.get("Comfy.Locale"));
  for (const plot of plots) {
    if (!plot.removed && plot.element.isConnected) lookAt(plot);
    else if (plot.removed && plot.element.isConnected) giveWay(plot);
    else if (plot.removed) plots.delete(plot);
  }
}

/** One node that cannot be read must not blank the others: it says so itself, and the console says why, once. */
function lookAt(plot) {
  try {
    plot.look();
  } catch (error) {
    plot.fail(error);
  }
}

/** Undo makes a node anew, and the Vue renderer leaves the old node's element in its place: put the new one there. */
function giveWay(old) {
  const heir = [...plots].find(({ node, removed, element }) => {
    return !removed && node.id === old.node.id && node.graph === app.canvas.graph && !element.isConnected;
  });
  if (heir) old.element.replaceWith(heir.element);
}

function addPlot(node) {
  const plot = new Plot(node);
  const widget = node.addDOMWidget("curve", "guidance_curve", plot.element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // not among the saved values
  plots.add(plot);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    plot.removed = true;
    return removed?.apply(this, args);
  };
}

app.registerExtension({
  name: "guidancecomponents.Curves",
  beforeRegisterNodeDef(_type, nodeData) {
    if (hasCurve(nodeData)) kinds.add(nodeData.name);
  },
  nodeCreated(node) {
    if (kinds.has(node.comfyClass)) addPlot(node);
  },
  setup() {
    speak(app.extensionManager.setting.get("Comfy.Locale"));
    addStyle(CSS);
    listen();
    requestAnimationFrame(lookAll);
  },
});
