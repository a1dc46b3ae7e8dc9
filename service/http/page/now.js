/** The section Now: the state of the server and its last ten minutes. */

import { Chart, faint } from "./charts.js";
import { byId, element, notice, say } from "./dom.js";
import { chartTime, count, figure, milliseconds, percent } from "./format.js";
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
    byId("degraded").replaceChildren(
      ...overview.degraded.map(({ part, reason }) =>
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
    const xaxis = { type: "date", range, tickformat: "%H:%M", hoverformat: "%H:%M:%S", nticks: 6 };
    this.throughput.draw(
      () => {
        const line = colour("series-1");
        const trace = { x: at, y: history.responses_per_s, name: "scores/s", mode: "lines", fill: "tozeroy" };
        const hovertemplate = "%{y:.3s} scores/s<extra></extra>";
        const yaxis = { title: { text: "scores/s" } };
        const layout = { xaxis, yaxis, margin, showlegend: false, ...swaps(history, at) };
        const style = { line: { color: line, width: 1.8 }, fillcolor: faint(line, 0.12) };
        return { traces: [{ ...trace, ...style, hovertemplate }], layout };
      },
      `Scores per second over ten minutes; now ${figure(history.responses_per_s.at(-1))}.`,
    );
    if (history.p50_ms.every((value) => value === null)) {
      this.latency.empty("No request to /score was answered in the last ten minutes.");
      return;
    }
    this.latency.draw(
      () => ({
        traces: LATENCIES.map(([column, name, series]) => ({
          x: at,
          y: history[column],
          name,
          mode: "lines",
          line: { color: colour(series), width: 1.8 },
          hovertemplate: `%{y:.3s} ms<extra>${name}</extra>`,
        })),
        layout: { xaxis, yaxis: { title: { text: "ms" }, tickformat: "," }, margin, ...swaps(history, at) },
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

/** A line at each change of version, with the name of the new one if there is room. */
function swaps({ serving, at: seconds }, at) {
  const begin = seconds.at(-1) - KEEP_S;
  const places = serving.map((name, i) => i).filter((i) => i && serving[i] && serving[i] !== serving[i - 1]);
  const line = { color: colour("muted"), width: 1, dash: "dot" };
  const font = { size: 11, color: colour("muted") };
  return {
    shapes: places.map((i) => ({ type: "line", x0: at[i], x1: at[i], y0: 0, y1: 1, yref: "paper", line })),
    annotations: places.map((i) => {
      const early = seconds[i] - begin < KEEP_S / 5;
      return {
        x: at[i],
        y: 1,
        yref: "paper",
        text: serving[i],
        showarrow: false,
        xanchor: early ? "left" : "right",
        yanchor: "top",
        xshift: early ? 3 : -3,
        font,
      };
    }),
  };
}

/** Show why the server cannot be read; "" once it can. */
export function unreachable(message) {
  notice("unreachable", message);
  document.body.classList.toggle("stale", Boolean(message));
  const link = byId("link");
  link.dataset.state = message ? "lost" : "live";
  say("link", message ? "no answer" : "live");
}
