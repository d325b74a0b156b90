/** The classes that a text can name: those of the network behind its node, as far as anybody has told of them. */

import { Unknown, socketOf, sourceOf, valueOf } from "../curves/graph.js";
import { lastOf } from "../curves/runs.js";

const CLASSES = "guidance_classes"; // host/common/labels.py
// The socket of the network that is asked.
const ASKED = { GuidanceClassLabel: "model", GuidanceClassifier: "guide", GuidanceScore: "guide" };
const LOADERS = ["GuidanceTinyModel", "GuidanceLoadDenoiser", "GuidanceLoadGuide"];
const embedded = new Map(); // a kind of loader -> { a network's name: { words, phrases } }

/** Keep what a kind of node says of the networks that come with the pack. */
export function learn({ name, input }) {
  const told = input?.required?.name?.[1]?.[CLASSES];
  if (told) embedded.set(name, told);
}

/** The name of the widget of a kind of node that may hold classes; undefined for other kinds. */
export function textOf(kind) {
  if (kind in ASKED) return "label";
  return kind === "PrimitiveString" ? "value" : undefined;
}

/** { words, phrases } for a node's text; no words where its network is not known, or has no names. */
export function classesOf(node) {
  const reader = node.comfyClass in ASKED ? node : fedBy(node);
  const socket = reader && socketOf(reader, ASKED[reader.comfyClass]);
  const loader = socket && loaderOf(reader, socket, socket.type);
  return (loader && toldBy(loader)) ?? { words: [], phrases: false };
}

/** The first of our nodes that takes its classes from a Primitive. */
function fedBy({ graph, outputs }) {
  const links = (outputs ?? []).flatMap((output) => output.links ?? []).map((id) => graph.getLink(id));
  return links.map(({ target_id }) => graph.getNodeById(target_id)).find((node) => node?.comfyClass in ASKED);
}

/** The node that loaded what comes in at a socket, past those that hand it on; undefined where it is none of ours. */
function loaderOf(node, socket, type) {
  const source = sourceOf(node, socket);
  if (!source || LOADERS.includes(source.comfyClass)) return source;
  const next = source.inputs?.find((one) => one.link != null && [type, "*"].includes(one.type));
  return next && loaderOf(source, next, type);
}

/** What the loader's last run said, if it still has the same network; otherwise what is known without a run. */
function toldBy(loader) {
  try {
    const name = valueOf(loader, "name");
    const said = lastOf(loader, CLASSES);
    return said?.name === name ? said : embedded.get(loader.comfyClass)?.[name];
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    return undefined; // the name comes by a wire
  }
}
