/** The pointer on a plot: it drags handles, a click beside them adds a point, a right click takes one away. */

import { addPoint, takesPoints } from "./handles.js";

const REACH = 9; // pixels from the pointer to what it takes

/** Listen to a plot's drawing. */
export function listenTo(plot) {
  const { svg } = plot;
  svg.addEventListener("pointerdown", (event) => begin(plot, event));
  svg.addEventListener("pointermove", (event) => move(plot, event));
  for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, () => end(plot));
  svg.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    event.stopPropagation();
  });
}

function begin(plot, event) {
  if (!plot.plan) return;
  event.stopPropagation(); // the page would drag the node
  const place = placeOf(plot, event);
  const nearest = nearestTo(plot, place);
  if (event.button === 2) {
    plot.handles[nearest]?.remove?.();
    plot.node.graph?.change?.();
  }
  if (event.button !== 0) return;
  if (nearest === undefined && !takesPoints(plot.node)) return;
  const { level, value } = plot.plan.at(...place);
  plot.taken = nearest ?? addPoint(plot.node, plot.noise, level, value);
  if (nearest === undefined) plot.look(); // for its handle: the pointer may move before the next frame
  plot.svg.setPointerCapture(event.pointerId);
}

function move(plot, event) {
  if (plot.taken === null || !plot.plan) return;
  const { level, value } = plot.plan.at(...placeOf(plot, event));
  plot.handles[plot.taken]?.put(level, value);
}

function end(plot) {
  if (plot.taken === null) return;
  plot.taken = null;
  plot.node.graph?.change?.();
}

/** Where an event is on the drawing, in the drawing's own pixels whatever the zoom. */
function placeOf({ svg }, event) {
  const { left, top, width, height } = svg.getBoundingClientRect();
  return [((event.clientX - left) * svg.clientWidth) / width, ((event.clientY - top) * svg.clientHeight) / height];
}

/** The index of the handle within reach, undefined without one. */
function nearestTo({ handles, plan }, [x, y]) {
  const distances = handles.map(({ level, value }) => {
    return Math.hypot(plan.x(level) - x, value === null ? 0 : plan.y(value) - y);
  });
  const least = Math.min(...distances);
  return least <= REACH ? distances.indexOf(least) : undefined;
}
