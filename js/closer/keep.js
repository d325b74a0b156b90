/** A cell's settings, put back into the nodes that they are of. */

import { app } from "../../../scripts/app.js";
import { allNodes, socketOf } from "../curves/graph.js";
import { lastOf } from "../curves/runs.js";

/** Set the widgets that make the graph what a cell was drawn with; what was done, in words. */
export function keep(compare, { words, changes }) {
  const made = changes.map((change) => ({ ...change, ...place(compare, change) }));
  for (const { widgets = [] } of made) {
    for (const [widget, value] of widgets) {
      widget.value = value;
      widget.callback?.(value);
    }
  }
  app.rootGraph.change();
  const problems = made.flatMap(({ problem }) => problem ?? []);
  return problems.length ? problems.join(" ") : `The nodes are set: ${words || "nothing was varied"}.`;
}

/** The widgets of a change with their new values, or why it cannot be made. */
function place(compare, { key, values, words }) {
  const names = Object.keys(values);
  if (!names.length) return { problem: `${words} is a wire: draw it to the sampler yourself.` };
  const node = key ? allNodes(app.rootGraph).find((one) => hasLine(one, key)) : compare;
  if (!node) return { problem: `${words}: its node has gone or changed since the run. Run again.` };
  const widgets = names.map((name) => [widgetOf(node, name), values[name]]);
  const missing = names.find((_, index) => !widgets[index][0]);
  if (missing) return { problem: `${words}: ${node.title} has no ${missing} of its own.` };
  const wired = names.find((name) => socketOf(node, widgetOf(node, name).name)?.link != null);
  if (wired) return { problem: `${words}: ${wired} of ${node.title} comes by a wire.` };
  return { widgets };
}

function hasLine(node, key) {
  return lastOf(node)?.lines?.some((line) => line.key === key);
}

/** A widget by its name, also where a choice brought it: "rule.alpha". */
function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name || widget.name.endsWith(`.${name}`));
}
