/** The section Drift: figures of the served scores by version (GET /drift and GET /drift/{version}). */

import { read } from "./api.js";
import { Chart, faint, versionColour, wholeNumbers } from "./charts.js";
import { byId, element, notice, say } from "./dom.js";
import { count, decimals, fixed, percent, significant } from "./format.js";
import { colour } from "./theme.js";

const MOST_VERSIONS = 6; // the versions that scored last, in chart and table
const WAITING = "Waiting for the first figures.";
const NOTHING = "No group of two or more responses has been scored yet. Scores of an RL run appear here by policy step.";

export class Drift {
  constructor() {
    this.spread = new Chart("chart-spread", WAITING);
    this.differences = new Chart("chart-differences", WAITING);
    this.lengths = new Chart("chart-lengths", WAITING);
    this.none = ""; // why nothing can be scored
    this.parents = {};
  }

  /** Take the parent of each version, for the comparison with the current one. */
  know(versions) {
    this.parents = Object.fromEntries(versions.map(({ name, parent }) => [name, parent]));
  }

  /** Take why no version is loaded; "" once one is. */
  waitFor(fault) {
    this.none = fault;
  }

  async load() {
    try {
      const report = await read("drift");
      const shown = report.versions.slice(0, MOST_VERSIONS);
      const version = report.serving || (shown[0] && shown[0].version);
      const parent = this.parents[version];
      const against = parent ? `?against=${parent}` : "";
      const recent = version ? await read(`drift/${version}${against}`) : null;
      notice("drift-error", "");
      this.#showSpread(shown, this.#nothing(report));
      this.#showTable(shown, report.serving, this.#nothing(report));
      if (recent) this.#showRecent(recent, shown);
      else for (const chart of [this.differences, this.lengths]) chart.empty(this.#nothing(report));
      const auto = report.auto_retrain;
      say("auto-retrain", auto.retrain === "auto" ? `Automatic retraining: ${auto.state}. ${auto.reason || ""}` : "");
      return report;
    } catch (error) {
      notice("drift-error", error.isAboutKeys ? "" : `The drift figures cannot be read: ${error.message}.`);
      throw error;
    }
  }

  /** Why there are no figures. */
  #nothing({ serving }) {
    return serving ? NOTHING : this.none || "No version is loaded yet.";
  }

  #showSpread(versions, nothing) {
    const lines = versions.flatMap(linesOf).sort((a, b) => a.label.localeCompare(b.label));
    if (!lines.length) {
      const scored = versions.some(({ total }) => total.compared_groups);
      const unstamped = "Groups were scored, but none with a policy step: send \"policy\": {\"name\", \"step\"} with /score.";
      this.spread.empty(scored ? unstamped : nothing);
      return;
    }
    const newest = versions.find(({ in_distribution: known }) => known);
    this.spread.draw(
      () => ({
        traces: [
          ...lines.map((line) => ({
            x: line.steps,
            y: line.spreads,
            name: line.label,
            mode: "lines+markers",
            line: { color: versionColour(line.version), width: 2, dash: line.dash },
            marker: { size: 6 },
            customdata: line.groups.map((groups, i) => `${significant(line.spreads[i])}, ${count(groups)} groups`),
            hovertemplate: `%{customdata}<extra>${line.label}</extra>`,
          })),
          ...(newest ? [bandKey(newest)] : []),
        ],
        layout: {
          xaxis: { title: { text: "policy step" }, ...wholeNumbers(lines.flatMap(({ steps }) => steps)) },
          yaxis: { title: { text: "spread of Δr" } },
          ...(newest ? band(newest) : {}),
        },
      }),
      `Spread of reward differences by policy step. ${lines.map(({ label, spreads, steps }) => `${label}: ${significant(spreads.at(-1))} at step ${steps.at(-1)}`).join("; ")}.`,
    );
  }

  #showRecent({ version, differences, against, lengths }, versions) {
    const sets = [[version, differences], ...(against ? [[against.version, against.differences]] : [])];
    const seen = sets.filter(([, { pairs }]) => pairs > 0);
    if (seen.length) {
      const of = seen.map(([name, { pairs }]) => `${name}: ${count(pairs)}`).join(", ");
      say("differences-of", `share of pairs by |Δr|, in score units; newest pairs of ${of}`);
      this.differences.draw(() => histogram(seen), `Histogram of reward differences; pairs of ${of}.`);
    } else {
      this.differences.empty(NOTHING);
    }
    if (!lengths.tokens.length) {
      this.lengths.empty(`${version} has scored nothing yet.`);
      return;
    }
    const window = versions.find((one) => one.version === version)?.window;
    const r = window ? fixed(window.length_correlation) : "–";
    say("lengths-of", `score by tokens, ${count(lengths.tokens.length)} newest of ${version}; r = ${r} within groups`);
    this.lengths.draw(() => scatter(version, lengths), `Scores of ${version} by tokens; correlation within groups ${r}.`);
  }

  #showTable(versions, serving, nothing) {
    const rows = versions.map(({ version, window, ratio_unavailable: why }) =>
      element(
        "tr",
        {},
        element(
          "th",
          { scope: "row" },
          element("span", { class: `dot series-${Number(version.slice(1)) % 6}`, "aria-hidden": "true" }),
          version,
          version === serving ? element("span", { class: "chip good", text: "serving" }) : null,
        ),
        cell(count(window.groups)),
        cell(significant(window.spread)),
        element("td", { text: significant(window.spread_to_reference), title: why || "" }),
        cell(fixed(window.length_correlation)),
        cell(percent(window.truncation_rate, 1)),
        cell(percent(window.saturated_share, 1)),
      ),
    );
    const none = element("tr", {}, element("td", { colSpan: 7, class: "none", text: nothing }));
    byId("figures").tBodies[0].replaceChildren(...(rows.length ? rows : [none]));
  }
}

const cell = (text) => element("td", { text });

/** The lines of a version, one for each policy. */
function linesOf({ version, steps }) {
  const policies = new Map();
  for (const { policy, step, spread, compared_groups: groups } of steps) {
    if (policy === null || spread === null) continue;
    if (!policies.has(policy)) policies.set(policy, []);
    policies.get(policy).push({ step, spread, groups });
  }
  return [...policies].map(([policy, points], place) => {
    points.sort((a, b) => a.step - b.step);
    return {
      version,
      label: `${version} · ${policy}`,
      dash: ["solid", "dash", "dot", "dashdot"][place % 4],
      steps: points.map(({ step }) => step),
      spreads: points.map(({ spread }) => spread),
      groups: points.map(({ groups }) => groups),
    };
  });
}

/** The spread in distribution ± 1.96 standard errors (of a normal distribution). */
function band({ in_distribution: { spread, pairs } }) {
  const error = pairs ? (1.96 * spread) / Math.sqrt(2 * pairs) : 0;
  const across = { xref: "paper", x0: 0, x1: 1, layer: "below" };
  const line = { color: colour("muted"), width: 1, dash: "dash" };
  return {
    shapes: [
      { ...across, type: "rect", y0: spread - error, y1: spread + error, line: { width: 0 }, fillcolor: faint(colour("muted"), 0.18) },
      { ...across, type: "line", y0: spread, y1: spread, line },
    ],
  };
}

/** The legend entry of the band: a trace without points. */
function bandKey({ version, in_distribution: { spread, pairs } }) {
  const of = pairs ? `, ${count(pairs)} pairs` : "";
  const name = `in distribution: ${significant(spread)} (${version}${of})`;
  return { x: [null], y: [null], name, mode: "lines", line: { color: colour("muted"), width: 1, dash: "dash" } };
}

/** The current version as bars, its parent as a step line. */
function histogram(sets) {
  const traces = sets.map(([version, { width, counts, pairs }], place) => {
    const of = {
      x: counts.map((_, i) => (i + 0.5) * width),
      y: counts.map((number) => (100 * number) / pairs),
      customdata: counts.map((_, i) => [i, i + 1].map((edge) => fixed(edge * width, decimals(width))).join(" to ")),
      hovertemplate: `%{y:.1f}% of pairs, |Δr| %{customdata}<extra>${version}</extra>`,
    };
    const line = versionColour(version);
    if (place) return { ...of, name: `${version} (parent)`, mode: "lines", line: { color: line, width: 2, shape: "hvh" } };
    const bars = { type: "bar", width: counts.map(() => width), marker: { color: faint(line, 0.55) } };
    return { ...of, ...bars, name: `${version} (current)` };
  });
  const beyond = sets.map(([version, { beyond, pairs }]) => (beyond ? `${percent(beyond / pairs, 1)} of ${version}` : ""));
  const past = beyond.filter(Boolean).join(", ");
  const layout = {
    bargap: 0,
    hovermode: "closest",
    xaxis: { title: { text: past ? `|Δr|; beyond: ${past}` : "|Δr|" } },
    yaxis: { title: { text: "% of pairs" } },
  };
  return { traces, layout };
}

function scatter(version, { tokens, scores }) {
  const trace = {
    x: tokens,
    y: scores,
    name: version,
    mode: "markers",
    marker: { size: 5, color: faint(versionColour(version), 0.5) },
    customdata: scores.map(significant),
    hovertemplate: "%{x} tokens, score %{customdata}<extra></extra>",
  };
  const layout = {
    hovermode: "closest",
    showlegend: false,
    xaxis: { title: { text: "tokens of prompt and response" } },
    yaxis: { title: { text: "score" }, rangemode: "normal" },
  };
  return { traces: [trace], layout };
}
