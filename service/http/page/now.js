/** The section Now: the state of the server and its last ten minutes. */

import { Chart, faint } from "./charts.js";
import { byId, element, list, notice, say } from "./dom.js";
import { chartTime, count, figure, milliseconds, percent } from "./format.js";
import { swaps } from "./swaps.js";
import { colour } from "./theme.js";

const KEEP_S = 600;
const LATENCIES = [
  ["p50_ms", "p50", "series-1"],
  ["p95_ms", "p95", "series-3"],
  ["p99_ms", "p99", "series-2"],
];
const PARTS = { redis: "Redis", trainer: "Trainer", version: "Version" };

export class Now {
  constructor() {
    this.history = null;
    this.throughput = new Chart("chart-throughput", "Waiting for the first figures.");
    this.latency = new Chart("chart-latency", "Waiting for the first figures.");
  }

  /** The time of the newest known point of the history. */
  get since() {
    return this.history ? this.history.at.at(-1) || 0 : 0;
  }

  /** Show an answer of GET /overview. */
  show(overview) {
    say("server-version", overview.server_version);
    say("serving", overview.serving || "none yet");
    byId("labels").replaceChildren(...chips(overview));
    this.#tiles(overview);
    list(
      "degraded",
      overview.degraded.map(({ part, reason }) =>
        element("li", { class: "notice warn" }, element("strong", { text: PARTS[part] || part }), ` ${reason}`),
      ),
    );
    this.#remember(overview.history);
    this.#draw();
  }

  #tiles({ now, queue, ...rest }) {
    say("responses", figure(now.responses_per_s));
    const failed = now.failed_per_s > 0 ? ` · ${figure(now.failed_per_s)} failed/s` : "";
    say("rates", `${figure(now.requests_per_s)} requests/s · ${figure(now.tokens_per_s)} tokens/s${failed}`);
    for (const share of ["p50", "p95", "p99"]) say(share, milliseconds(now.latency[`${share}_ms`]));
    const requests = now.latency.requests;
    say("latency-of", requests ? `of ${count(requests)} requests in the last minute` : "no request in the last minute");
    say("queue", count(queue.tokens));
    byId("queue-meter").value = queue.tokens / queue.limit;
    say("queue-limit", `tokens waiting, at most ${count(queue.limit)}`);
    say("fill", percent(now.batch_fill));
    byId("fill-meter").value = Math.min(1, now.batch_fill || 0);
    state("redis", { up: "up", down: "down" }[rest.redis] || "unknown", rest.redis === "up");
    say("buffered", rest.samples_buffered ? `${count(rest.samples_buffered)} sample groups waiting` : "no samples waiting");
    const job = rest.job;
    state("trainer", rest.trainer ? rest.trainer.state : "not running", Boolean(rest.trainer));
    const step = job && job.steps ? `, update ${job.step} of ${job.steps}` : "";
    say("trainer-job", job ? `run ${job.status}${step}` : "no run");
  }

  #remember(more) {
    const names = Object.keys(more);
    const before = this.history || Object.fromEntries(names.map((name) => [name, []]));
    const together = Object.fromEntries(names.map((name) => [name, [...before[name], ...more[name]]]));
    const from = together.at.findIndex((at) => at > Date.now() / 1000 - KEEP_S - 5);
    this.history = Object.fromEntries(names.map((name) => [name, from < 0 ? [] : together[name].slice(from)]));
  }

  #draw() {
    const { history } = this;
    if (history.at.length < 2) return;
    const at = history.at.map(chartTime);
    const last = history.at.at(-1);
    const range = [chartTime(last - KEEP_S), chartTime(last)];
    const margin = { b: 24 }; // the time axis has no title
    const changes = ({ plotWidth }) => swaps(history, last - KEEP_S, last, plotWidth);
    const xaxis = { type: "date", range, tickformat: "%H:%M", hoverformat: "%H:%M:%S", nticks: 6 };
    this.throughput.draw(
      (chart) => {
        const line = colour("series-1");
        const trace = { x: at, y: history.responses_per_s, name: "scores/s", mode: "lines", fill: "tozeroy" };
        const customdata = history.responses_per_s.map((value) => figure(value));
        const hovertemplate = "%{customdata} scores/s<extra></extra>";
        const yaxis = { title: { text: "scores/s" }, tickformat: "," };
        const layout = { xaxis, yaxis, margin, showlegend: false, ...changes(chart) };
        const style = { line: { color: line, width: 1.8 }, fillcolor: faint(line, 0.12) };
        return { traces: [{ ...trace, ...style, customdata, hovertemplate }], layout };
      },
      `Scores per second over ten minutes; now ${figure(history.responses_per_s.at(-1))}.`,
    );
    if (history.p50_ms.every((value) => value === null)) {
      this.latency.empty("No request to /score was answered in the last ten minutes.");
      return;
    }
    this.latency.draw(
      (chart) => ({
        traces: LATENCIES.map(([column, name, series]) => ({
          x: at,
          y: history[column],
          name,
          mode: "lines",
          line: { color: colour(series), width: 1.8 },
          customdata: history[column].map(milliseconds),
          hovertemplate: `%{customdata}<extra>${name}</extra>`,
        })),
        layout: { xaxis, yaxis: { title: { text: "ms" }, tickformat: "," }, margin, ...changes(chart) },
      }),
      `Latency over ten minutes; now p50 ${milliseconds(history.p50_ms.at(-1))}, p99 ${milliseconds(history.p99_ms.at(-1))}.`,
    );
  }
}

function chips({ labels }) {
  return labels.map(({ label, version, share, shadow }) => {
    const part = shadow ? `, shadow of ${percent(share)}` : share ? `, ${percent(share)} of prompts` : "";
    return element("span", { class: "chip", text: `${label} → ${version}${part}` });
  });
}

function state(id, text, good) {
  say(id, text);
  byId(id).dataset.state = good ? "good" : "bad";
}

/** Show why the server cannot be read, also in a word or two; "" once it can. */
export function unreachable(message, word) {
  notice("unreachable", message);
  document.body.classList.toggle("stale", Boolean(message));
  const link = byId("link");
  link.dataset.state = message ? "lost" : "live";
  say("link", message ? word : "live");
}
