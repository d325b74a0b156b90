/** A cell's settings, put back into the nodes that they are of. */

import { app } from "../../../scripts/app.js";
import { allNodes, socketOf } from "../curves/graph.js";
import { lastOf } from "../curves/runs.js";
import { say } from "../curves/words.js";

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
  return problems.length ? problems.join(" ") : say("The nodes are set: {words}.", { words });
}

/** The widgets of a change with their new values, or why it cannot be made. */
function place(compare, { key, values, words }) {
  const names = Object.keys(values);
  if (!names.length) return { problem: say("{words}: no widget alone sets it. Set it yourself.", { words }) };
  const node = key ? allNodes(app.rootGraph).find((one) => hasLine(one, key)) : compare;
  if (!node) return { problem: say("{words}: its node has gone or changed since the run. Run again.", { words }) };
  const widgets = names.map((name) => [widgetOf(node, name), values[name]]);
  const missing = names.find((_, index) => !widgets[index][0]);
  const title = { words, node: node.title };
  if (missing) return { problem: say("{words}: {node} has no {name} of its own.", { ...title, name: missing }) };
  const wired = names.find((name) => socketOf(node, widgetOf(node, name).name)?.link != null);
  if (wired) return { problem: say("{words}: {name} of {node} comes by a wire.", { ...title, name: wired }) };
  return { widgets };
}

function hasLine(node, key) {
  return lastOf(node)?.lines?.some((line) => line.key === key);
}

/** A widget by its name, also where a choice brought it: "rule.alpha". */
function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name || widget.name.endsWith(`.${name}`));
}
