/** Where a text names classes, those that the connected network knows are offered; the text stays free. */

import { app } from "../../scripts/app.js";
import { classesOf, learn, textOf } from "./classes/known.js";
import { CSS, offer } from "./classes/menu.js";
import { addStyle } from "./curves/style.js";

/** The node whose classes a field of the Vue renderer, or of an app, holds. */
function nodeOf(field) {
  if (!field.matches?.("[data-testid=node-widget] input[type=text]")) return null;
  const { nodeId, widgetsGridNodeId } = field.closest("[data-node-id], [data-widgets-grid-node-id]")?.dataset ?? {};
  const node = app.canvas.graph.getNodeById(nodeId ?? widgetsGridNodeId);
  return node && textOf(node.comfyClass) ? node : null;
}

/** The classic renderer asks for a text in a small dialog. */
function offerInDialog(node, widget) {
  const clicked = widget.onClick;
  widget.onClick = function (...args) {
    clicked.apply(this, args);
    const dialog = document.querySelector(".graphdialog");
    const field = dialog?.querySelector("input.value");
    if (!field) return;
    field.focus();
    offer(field, () => classesOf(node), () => dialog.querySelector("button").click());
  };
}

app.registerExtension({
  name: "guidancecomponents.Classes",
  beforeRegisterNodeDef(_type, nodeData) {
    learn(nodeData);
  },
  nodeCreated(node) {
    const widget = node.widgets?.find(({ name }) => name === textOf(node.comfyClass));
    if (widget?.onClick) offerInDialog(node, widget);
  },
  setup() {
    addStyle(CSS);
    document.addEventListener("focusin", ({ target }) => {
      const node = nodeOf(target);
      if (node) offer(target, () => classesOf(node));
    });
  },
});
