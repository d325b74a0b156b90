/** A list of words at a text field: typing narrows it, and a click or Enter puts a word in the place of the caret's. */

export const CSS = `
.guidance-classes { position: fixed; z-index: 10001; display: flex; flex-direction: column; min-width: 120px;
  max-height: 264px; overflow-y: auto; padding: 4px; border-radius: 6px; border: 1px solid var(--border-color, #444);
  background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd); box-shadow: 0 4px 16px rgb(0 0 0 / 40%);
  font: 13px/18px Inter, Arial, sans-serif; }
.guidance-classes[hidden] { display: none; }
.guidance-classes [role=option] { flex: none; padding: 3px 10px; border-radius: 4px; cursor: pointer; white-space: nowrap; }
.guidance-classes [role=option]:hover, .guidance-classes .active {
  background: color-mix(in srgb, currentColor 16%, transparent); }
.guidance-classes [aria-selected=true] { color: #4c8dff; font-weight: 600; }
`;

/** The word of a text at the caret: { start, end, word }. Commas part words, a plus and the colon before a weight too,
 * and in phrases every space. */
export function wordAt(text, caret, phrases) {
  const signs = phrases ? /[,\s]/ : /[,+]/;
  let start = caret;
  while (start > 0 && !signs.test(text[start - 1])) start -= 1;
  let end = start;
  while (end < text.length && !signs.test(text[end]) && (phrases || text[end] !== ":")) end += 1;
  const word = text.slice(start, end);
  start += word.length - word.trimStart().length;
  return { start, end: start + word.trim().length, word: word.trim() };
}

/** The words that a typed one may become: all, if it is one of them or nothing; otherwise those that contain it. */
export function choices(words, typed) {
  const small = typed.toLowerCase();
  if (words.some((word) => word.toLowerCase() === small)) return words;
  const found = words.filter((word) => word.toLowerCase().includes(small));
  return found.sort((a, b) => b.toLowerCase().startsWith(small) - a.toLowerCase().startsWith(small));
}

/** Offer words at a field that has the focus, as long as it has it. known: gives { words, phrases }, asked whenever the
 * list opens; picked: called after each choice. */
export function offer(field, known, picked = () => {}) {
  const menu = new Menu(field, known, picked);
  menu.open(true);
  menu.follow();
}

class Menu {
  constructor(field, known, picked) {
    Object.assign(this, { field, known, picked, active: -1 });
    this.element = made("guidance-classes", "listbox");
    document.body.append(this.element);
    this.heard = { keydown: (event) => this.press(event), click: () => this.open(true) };
    this.heard.input = ({ isTrusted }) => isTrusted && this.open(false);
    for (const [kind, hear] of Object.entries(this.heard)) field.addEventListener(kind, hear, true);
    this.element.addEventListener("pointerdown", (event) => this.take(event));
    this.element.addEventListener("wheel", (event) => event.stopPropagation());
  }

  /** What of the field's text a choice replaces: what is selected, or the caret's word. */
  place() {
    const { value, selectionStart: start, selectionEnd: end } = this.field;
    return end > start ? { start, end } : wordAt(value, start, this.phrases);
  }

  /** Show all words, or those that fit to what is typed. */
  open(all) {
    const { words, phrases } = this.known();
    this.phrases = phrases;
    const { word } = wordAt(this.field.value, this.field.selectionStart, phrases);
    const options = (all ? words : choices(words, word)).map((text) => {
      const option = made("", "option", text);
      option.setAttribute("aria-selected", text.toLowerCase() === word.toLowerCase());
      return option;
    });
    this.active = -1;
    this.element.replaceChildren(...options);
    this.element.hidden = !options.length;
    this.element.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  pick(text) {
    const { start, end } = this.place();
    this.field.setRangeText(text, start, end, "end");
    this.field.dispatchEvent(new Event("input", { bubbles: true }));
    this.element.hidden = true;
    this.picked();
  }

  /** A press on the list; the field keeps the focus. */
  take(event) {
    event.preventDefault();
    event.stopPropagation();
    const option = event.target.closest("[role=option]");
    if (option && event.button === 0) this.pick(option.textContent);
  }

  press(event) {
    const { key } = event;
    if (this.element.hidden || !["ArrowDown", "ArrowUp", "Enter", "Escape"].includes(key)) return;
    if (key === "Escape" || (key === "Enter" && this.active < 0)) {
      this.element.hidden = true; // the field has its own use of these keys
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
    if (key === "Enter") this.pick(this.element.children[this.active].textContent);
    else this.step(key === "ArrowDown" ? 1 : -1);
  }

  step(by) {
    const options = [...this.element.children];
    this.active = this.active < 0 && by < 0 ? options.length - 1 : (this.active + by + options.length) % options.length;
    options.forEach((option, index) => option.classList.toggle("active", index === this.active));
    options[this.active].scrollIntoView({ block: "nearest" });
  }

  /** Stay at the field, wherever zoom and scrolling move it, until it loses the focus. */
  follow() {
    if (document.activeElement !== this.field) return this.leave();
    const { left, top, bottom, width } = this.field.getBoundingClientRect();
    const height = this.element.offsetHeight;
    const y = bottom + height + 4 <= innerHeight ? bottom + 2 : top - height - 2;
    Object.assign(this.element.style, { left: `${left}px`, top: `${y}px`, minWidth: `${width}px` });
    requestAnimationFrame(() => this.follow());
  }

  leave() {
    this.element.remove();
    for (const [kind, hear] of Object.entries(this.heard)) this.field.removeEventListener(kind, hear, true);
  }
}

function made(name, role, text = "") {
  const element = document.createElement("div");
  element.className = name;
  element.setAttribute("role", role);
  element.textContent = text;
  return element;
}
