/** What the server said of the last runs: a node's own output, and where a sampler's steps fell. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { say } from "./words.js";

const EVENT = "guidance-components.run"; // host/engine/page_events.py
const DONE = "guidance-components.done";
const MOST = 500; // lines whose steps are kept
const steps = new Map(); // a line's key -> { sigmas, values }
const done = new Map(); // a line's key -> { acted, steps, cost } of the last run
const read = new Map(); // a message's text -> the message
let heard = 0;

/** Listen from now on. */
export function listen() {
  api.addEventListener(EVENT, ({ detail }) => {
    heard += 1;
    for (const [key, values] of Object.entries(detail.lines)) remember(steps, key, { sigmas: detail.sigmas, values });
  });
  api.addEventListener(DONE, ({ detail }) => {
    heard += 1;
    const cost = Number(detail.evaluations.toFixed(2));
    for (const [key, acted] of Object.entries(detail.acted)) {
      remember(done, key, { acted, steps: detail.steps, cost });
    }
  });
}

/** What the page keeps of a node's last run; undefined before it. */
export function outputOf(node) {
  const root = !node.graph || node.graph.isRootGraph;
  return app.nodeOutputs?.[root ? `${node.id}` : `${node.graph.id}:${node.id}`];
}

/** What a node's last run said of it: { noise, lines, edges, handover }, each where it has one; undefined before it.
 * said: in which of its messages. */
export function lastOf(node, said = "guidance_curve") {
  const message = outputOf(node)?.[said]?.[0];
  if (!message) return undefined;
  if (!read.has(message)) remember(read, message, JSON.parse(message));
  return read.get(message);
}

/** How many runs were heard of: another number means other steps. */
export function runsHeard() {
  return heard;
}

/** The steps of the last run on a line. */
export function stepsOf(key) {
  return steps.get(key);
}

/** What a line did in the last run, in words; undefined before one, and where only the run itself knew. */
export function doneOf(key) {
  return done.has(key) ? say("acted at {acted} of {steps} steps, cost × {cost}", done.get(key)) : undefined;
}

function remember(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > MOST) map.delete(map.keys().next().value);
}
