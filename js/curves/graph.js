/** Reading a workflow: where a socket's link comes from, and what a widget's value really is. */

import { say } from "./words.js";

const FROM_OUTSIDE = "-10"; // the origin of a link that enters a subgraph

let answers = [];

/** What `read` gives, and as text everything it learned from the workflow on its way: what its result depends on. */
export function noting(read) {
  answers = [];
  const result = read();
  return [result, answers.join("|")];
}

/** Count a fact among those that a result depends on. */
export function note(fact) {
  answers.push(fact);
  return fact;
}

/** What the page cannot know before a run; its text says why. */
export class Unknown extends Error {}

/** The node whose output feeds this socket, through the walls of subgraphs; null where nothing is connected. */
export function sourceOf(node, socket) {
  const link = node.graph?.getLink(socket?.link);
  if (!link) return null;
  if (`${link.origin_id}` !== FROM_OUTSIDE) return inside(node.graph.getNodeById(link.origin_id), link.origin_slot);
  const host = hostOf(node.graph);
  const entry = node.graph.inputs?.[link.origin_slot];
  const outer = host?.inputs.find(({ name }) => name === entry?.name);
  return outer?.link == null ? null : sourceOf(host, outer);
}

/** A node, or if it is a subgraph the node within that feeds its output. */
function inside(node, slot) {
  const link = node?.subgraph?.outputs?.[slot]?.getLinks?.()[0];
  return link ? inside(node.subgraph.getNodeById(link.origin_id), link.origin_slot) : node;
}

/** The node that shows this subgraph; the first, if several do. */
function hostOf(graph) {
  return allNodes(graph.rootGraph).find(({ subgraph }) => subgraph === graph);
}

/** Every node of a workflow, those within subgraphs too. */
export function allNodes(root) {
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap(({ nodes }) => nodes);
}

export function socketOf(node, name) {
  return node.inputs?.find((socket) => socket.name === name);
}

/** A widget's value, also where a Primitive or the subgraph's own widget sets it. Throws Unknown for other links. */
export function valueOf(node, name) {
  return note(currentValue(node, name));
}

function currentValue(node, name) {
  const widget = node.widgets?.find((one) => one.name === name);
  const socket = node.inputs?.find((one) => one.widget?.name === name);
  const link = node.graph?.getLink(socket?.link);
  if (!link) return widget?.value;
  if (`${link.origin_id}` === FROM_OUTSIDE) {
    const entry = node.graph.inputs?.[link.origin_slot];
    const outer = hostOf(node.graph)?.widgets?.find((one) => one.name === entry?.name);
    if (outer) return outer.value;
  }
  const origin = sourceOf(node, socket);
  if (origin?.type?.startsWith("Primitive")) return origin.widgets?.[0]?.value;
  const input = socket.localized_name ?? name;
  throw new Unknown(say("{input} comes from another node: drawn after a run", { input }));
}

/** The nearest node downstream, this one left out, for which `wanted` gives something; what it gives. */
export function downstream(node, wanted, seen = new Set()) {
  const found = [];
  for (const output of node.outputs ?? []) {
    for (const id of output.links ?? []) {
      const target = node.graph.getNodeById(node.graph.getLink(id)?.target_id);
      if (!target || seen.has(target)) continue;
      seen.add(target);
      const value = wanted(target);
      if (value != null) return value;
      found.push(target);
    }
  }
  for (const target of found) {
    const value = downstream(target, wanted, seen);
    if (value != null) return value;
  }
  return null;
}
