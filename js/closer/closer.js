/** The dialog of Compare Guidance: cell A and cell B over each other, divided where the pointer is. */

import { api } from "../../../scripts/api.js";
import { outputOf } from "../curves/runs.js";
import { say } from "../curves/words.js";
import { keep } from "./keep.js";

const SMALL = 128; // pixels up to which a picture is shown in whole pixels
export const CSS = `
.guidance-closer { width: min(1200px, 94vw); max-height: 94vh; padding: 16px; border-radius: 10px;
  border: 1px solid var(--border-color, #444); background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd);
  font: 14px/20px Inter, Arial, sans-serif; overflow: auto; }
.guidance-closer::backdrop { background: rgb(0 0 0 / 60%); }
.guidance-closer .body { display: flex; gap: 16px; align-items: flex-start; }
.guidance-closer .seen { flex: 3; min-width: 0; }
.guidance-closer .stage { position: relative; cursor: ew-resize; touch-action: none; }
.guidance-closer .stage canvas { display: block; width: 100%; max-height: 68vh; object-fit: contain; }
.guidance-closer .stage canvas.b { position: absolute; inset: 0; height: 100%;
  clip-path: inset(0 0 0 var(--at, 50%)); }
.guidance-closer .stage::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; }
.guidance-closer .whole { image-rendering: pixelated; }
.guidance-closer .cells { flex: 2; min-width: 0; display: grid; gap: 6px; }
.guidance-closer .cells button { all: unset; cursor: pointer; border-radius: 4px; outline: 2px solid transparent; }
.guidance-closer .cells button:focus-visible { outline-color: var(--input-text, #ddd); }
.guidance-closer .cells canvas { display: block; width: 100%; border-radius: 4px; }
.guidance-closer .cells .is-a { outline-color: #4c8dff; }
.guidance-closer .cells .is-b { outline-color: #e8833a; }
.guidance-closer .cells .is-a.is-b { outline-color: #a673e0; }
.guidance-closer .names { display: flex; justify-content: space-between; gap: 16px; margin: 8px 0; }
.guidance-closer .names .a { color: #4c8dff; }
.guidance-closer .names .b { color: #e8833a; text-align: right; }
.guidance-closer footer { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 12px; }
.guidance-closer footer output { flex: 1 1 100%; min-height: 20px; }
.guidance-closer footer button { padding: 6px 12px; border: 1px solid var(--border-color, #555); border-radius: 6px;
  background: var(--comfy-input-bg, #333); color: inherit; font: inherit; cursor: pointer; }
.guidance-closer .hint { color: var(--descrip-text, #999); }
.guidance-closer footer .close { margin-left: auto; }
`;

export class Closer {
  /** node: that of the comparison; cells: as host/compare/closer.py tells them. */
  constructor(node, cells) {
    this.node = node;
    this.cells = cells;
    this.chosen = { a: 0, b: cells.length - 1 };
    this.dialog = make("dialog", "guidance-closer");
    this.dialog.addEventListener("close", () => this.dialog.remove());
  }

  async show() {
    this.sheet = await loaded(this.node);
    this.stage = make("div", "stage");
    this.names = make("div", "names");
    this.list = make("div", "cells");
    const columns = new Set(this.cells.map(({ box }) => box[0])).size;
    this.list.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.list.append(...this.cells.map((cell, index) => this.choice(cell, index)));
    this.stage.addEventListener("pointermove", (event) => this.divide(event));
    const seen = make("div", "seen");
    seen.append(this.stage, this.names);
    const body = make("div", "body");
    body.append(seen, this.list);
    this.dialog.append(body, this.foot());
    this.draw();
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  /** A small picture of a cell, to choose it by. */
  choice(cell, index) {
    const button = make("button", "cell");
    button.title = cell.words;
    button.setAttribute("aria-label", cell.words);
    button.append(this.picture(cell));
    button.addEventListener("click", ({ shiftKey }) => {
      this.chosen[shiftKey ? "b" : "a"] = index;
      this.draw();
    });
    return button;
  }

  foot() {
    const foot = make("footer");
    this.said = make("output");
    for (const side of ["a", "b"]) {
      const words = say("Keep {side}: set the nodes to it", { side: side.toUpperCase() });
      const button = make("button", `keep-${side}`, words);
      button.addEventListener("click", () => {
        this.said.textContent = keep(this.node, this.cells[this.chosen[side]]);
      });
      foot.append(button);
    }
    const close = make("button", "close", say("Close"));
    close.addEventListener("click", () => this.dialog.close());
    const hint = say("Click a cell to see it as A; with Shift, as B. The pointer on the picture divides the two.");
    foot.append(make("span", "hint", hint), close, this.said);
    return foot;
  }

  /** Show the chosen cells. */
  draw() {
    const { a, b } = this.chosen;
    this.stage.replaceChildren(this.picture(this.cells[a], "a"), this.picture(this.cells[b], "b"));
    const words = Object.entries(this.chosen).map(([side, index]) => {
      return make("span", side, `${side.toUpperCase()}: ${this.cells[index].words}`);
    });
    this.names.replaceChildren(...words);
    [...this.list.children].forEach((button, index) => {
      button.classList.toggle("is-a", index === a);
      button.classList.toggle("is-b", index === b);
    });
  }

  divide({ clientX }) {
    const { left, width } = this.stage.getBoundingClientRect();
    const at = Math.min(Math.max((clientX - left) / width, 0), 1);
    this.stage.style.setProperty("--at", `${100 * at}%`);
  }

  /** A cell by itself, cut from the sheet. */
  picture({ box: [left, top, right, bottom] }, side = "") {
    const [width, height] = [right - left, bottom - top];
    const canvas = make("canvas", `${side} ${Math.max(width, height) <= SMALL ? "whole" : ""}`);
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(this.sheet, left, top, width, height, 0, 0, width, height);
    return canvas;
  }
}

/** The sheet of a node's last run. */
async function loaded(node) {
  const [file] = outputOf(node).images;
  const sheet = new Image();
  sheet.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
  await sheet.decode();
  return sheet;
}

function make(kind, name = "", text = "") {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  return element;
}
