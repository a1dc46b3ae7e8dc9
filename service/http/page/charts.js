/** Charts by plotly.js, from the wheel of plotly, in the colours and fonts of the page. */

import { byId, element } from "./dom.js";
import { colour, onTheme } from "./theme.js";

const LIBRARY = "page/plotly.min.js";
// plotly.js writes inline rules for maps unless an element with this id exists; the policy forbids inline rules
const MAP_RULES = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";
const SERIES = 6; // series colours in theme.css
const CONFIG = { displayModeBar: false, responsive: true, showTips: false };
const MARGIN = { l: 52, r: 12, b: 40 };
let library;

function load() {
  library ||= new Promise((resolve, reject) => {
    const script = element("script", { src: LIBRARY, async: true });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("the charts could not be loaded")));
    document.head.append(element("meta", { id: MAP_RULES }), script);
  });
  return library;
}

/** The colour of a version, always the same. */
export const versionColour = (name) => colour(`series-${Number(name.slice(1)) % SERIES}`);

/** A colour of the theme with an alpha channel. */
export function faint(hex, alpha) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

/** Ticks at whole numbers, for steps and updates. */
export function wholeNumbers(values) {
  const span = Math.max(...values) - Math.min(...values);
  const power = 10 ** Math.floor(Math.log10(Math.max(1, span / 8)));
  const dtick = [1, 2, 5, 10].map((times) => times * power).find((step) => step >= span / 8);
  return { tickmode: "linear", tick0: 0, dtick, tickformat: ",d", hoverformat: ",d" };
}

/** The element of a chart. `draw` and `empty` can be called repeatedly. */
export class Chart {
  constructor(id, waiting) {
    this.place = byId(id);
    this.message = element("p", { class: "empty", text: waiting });
    this.plot = element("div", { class: "plot" });
    this.place.append(this.plot, this.message);
    this.make = null;
    this.place.setAttribute("aria-label", waiting);
    onTheme(() => this.make && this.#paint());
  }

  /** The width of a chart between its axes, in pixels. */
  get plotWidth() {
    return this.place.clientWidth - MARGIN.l - MARGIN.r;
  }

  /** `make(this)` returns {traces, layout} in the current colours; `summary` describes the chart in words. */
  draw(make, summary) {
    this.make = make;
    this.place.setAttribute("aria-label", summary);
    return this.#paint();
  }

  /** Show a message instead of a chart. */
  empty(message) {
    this.make = null;
    this.message.hidden = false;
    this.message.textContent = message;
    this.plot.hidden = true;
    this.place.setAttribute("aria-label", message);
  }

  async #paint() {
    try {
      const plotly = await load();
      if (!this.make) return;
      const { traces, layout } = this.make(this);
      this.message.hidden = true;
      this.plot.hidden = false;
      await plotly.react(this.plot, traces, merged(base(layout.showlegend !== false), layout), CONFIG);
    } catch (error) {
      this.empty(`This chart cannot be drawn: ${error.message}.`);
    }
  }
}

function base(showlegend) {
  const [text, muted, line, surface] = ["text", "muted", "grid", "surface"].map(colour);
  const axis = {
    gridcolor: line,
    linecolor: line,
    tickcolor: line,
    ticks: "",
    tickfont: { color: muted, size: 11 },
    title: { font: { color: muted, size: 12 }, standoff: 8 },
    fixedrange: true,
    zeroline: false,
    exponentformat: "e", // not 50μ; "power" writes inline style
  };
  return {
    autosize: true,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: text },
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    margin: { ...MARGIN, t: showlegend ? 30 : 12 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: surface, bordercolor: line, font: { color: text, size: 12 } },
    showlegend,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { color: muted } },
    xaxis: { ...axis, showgrid: false },
    yaxis: { ...axis, rangemode: "tozero", separatethousands: true, automargin: true },
    dragmode: false,
  };
}

function merged(under, over) {
  const result = { ...under };
  for (const [name, value] of Object.entries(over)) {
    const plain = value && typeof value === "object" && !Array.isArray(value);
    result[name] = plain ? merged(under[name] || {}, value) : value;
  }
  return result;
}
