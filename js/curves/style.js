/** The look of the plots, in the page's own colours: light and dark palettes need no redrawing. */

export const CSS = `
.guidance-curve { position: relative; display: flex; flex-direction: column; min-height: 128px; pointer-events: none;
  overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd);
  font: 11px/15px Inter, Arial, sans-serif; user-select: none; }
.lg-node .guidance-curve { margin-top: 4px; }
.guidance-curve svg { flex: 1 1 0; min-height: 0; width: 100%; display: block; }
.guidance-curve-foot { display: flex; align-items: baseline; gap: 8px; padding: 0 6px 3px 8px; white-space: nowrap; }
.guidance-curve-names { flex: 1; overflow: hidden; text-overflow: ellipsis; }
.guidance-curve-names span + span { margin-left: 8px; }
.guidance-curve-done { height: 16px; pointer-events: auto; padding: 0 8px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  color: var(--descrip-text, #999); }
.guidance-curve-axis { all: unset; pointer-events: auto; cursor: pointer; padding: 0 5px; border-radius: 4px;
  color: var(--descrip-text, #999); }
.guidance-curve-axis:hover, .guidance-curve-axis:focus-visible { color: var(--input-text, #ddd);
  background: color-mix(in srgb, currentColor 14%, transparent); }
.guidance-curve-words { position: absolute; inset: 8px 10px 36px; display: grid; place-items: center;
  text-align: center; white-space: normal; color: var(--descrip-text, #999); }
.guidance-curve-words.wrong { color: var(--error-text, #ff6b6b); }
.guidance-curve text { fill: var(--descrip-text, #999); font-size: 11px; }
.guidance-curve .stage { fill: currentColor; stroke: none; }
.guidance-curve .stage-0 { opacity: 0.1; }
.guidance-curve .stage-1 { opacity: 0.05; }
.guidance-curve .stage-2 { opacity: 0.015; }
.guidance-curve .stage-name, .guidance-curve .tick-name, .guidance-curve .expert { text-anchor: middle; }
.guidance-curve .value { text-anchor: end; }
.guidance-curve .expert { fill: var(--input-text, #ddd); font-weight: 600; font-size: 13px; }
.guidance-curve-words[hidden] { display: none; }
.guidance-curve .grid { stroke: currentColor; opacity: 0.14; }
.guidance-curve .off { opacity: 0.5; stroke-dasharray: 2 3; }
.guidance-curve .tick { stroke: currentColor; opacity: 0.35; }
.guidance-curve .line { fill: none; stroke: var(--own); stroke-width: 1.8; stroke-linejoin: round; }
.guidance-curve .quiet { stroke-width: 1.2; opacity: 0.75; }
.guidance-curve .dot { fill: var(--comfy-input-bg, #222); stroke: var(--own); stroke-width: 1.3; }
.guidance-curve svg.takes { pointer-events: auto; cursor: crosshair; }
.guidance-curve .handle { pointer-events: all; cursor: grab; fill: #4c8dff; stroke-width: 1.5;
  stroke: var(--comfy-input-bg, #222); }
.guidance-curve .handle:hover { stroke: var(--input-text, #ddd); }
.guidance-curve .reach { fill: none; pointer-events: all; cursor: ew-resize; }
.guidance-curve .bar { fill: var(--descrip-text, #999); opacity: 0.7; }
.guidance-curve .grip:hover .bar { fill: var(--input-text, #ddd); opacity: 1; }
.guidance-curve-names span { color: var(--own); }
.guidance-curve .line-0 { --own: #4c8dff; }
.guidance-curve .line-1 { --own: #e8833a; }
.guidance-curve .line-2 { --own: #2fa37c; }
.guidance-curve .band { opacity: 0.5; }
.guidance-curve .band-0 { fill: #4c8dff; }
.guidance-curve .band-1 { fill: #e8833a; }
.guidance-curve .band-2 { fill: #2fa37c; }
.guidance-curve .band-3 { fill: #a673e0; }
.guidance-curve .band-4 { fill: #c9a227; }
.guidance-curve .band-5 { fill: #d9588f; }
`;

/** Put a look on the page. */
export function addStyle(css) {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
}
