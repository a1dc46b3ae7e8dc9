/** The changes of version in a chart over time. */

import { chartTime } from "./format.js";
import { faint } from "./charts.js";
import { colour } from "./theme.js";

const ROWS = 4; // labels above one another
const ROW = 15; // pixels from one to the next
const FONT = 11;
const SPACE = 3; // pixels between a line and its label

/**
 * A line at each change of version, with the name of the new one. Names that would overlap are below one another,
 * and left out if there is no room. `from` and `to` are the ends of the axis in Unix seconds, `width` its pixels.
 */
export function swaps({ serving, at }, from, to, width) {
  const changes = serving.map((name, i) => i).filter((i) => i && serving[i] && serving[i] !== serving[i - 1]);
  const line = { color: colour("muted"), width: 1, dash: "dot" };
  const taken = Array.from({ length: ROWS }, () => []); // by row: [left, right] in pixels
  const shapes = changes.map((i) => {
    const x = chartTime(at[i]);
    return { type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line };
  });
  const annotations = changes.toReversed().flatMap((i) => {
    const pixel = ((at[i] - from) / (to - from)) * width;
    const long = 0.65 * FONT * serving[i].length + 2 * SPACE;
    const early = pixel < long;
    const [left, right] = early ? [pixel, pixel + long] : [pixel - long, pixel];
    const row = taken.findIndex((others) => others.every(([start, end]) => right <= start || left >= end));
    if (row < 0) return [];
    taken[row].push([left, right]);
    return {
      x: chartTime(at[i]),
      y: 1,
      yref: "paper",
      text: serving[i],
      showarrow: false,
      xanchor: early ? "left" : "right",
      yanchor: "top",
      xshift: early ? SPACE : -SPACE,
      yshift: -row * ROW,
      borderpad: 0,
      bgcolor: faint(colour("surface"), 0.8),
      font: { size: FONT, color: colour("muted") },
    };
  });
  return { shapes, annotations };
}
