/** The current run, or the last one: progress, curves, verdict. */

import { read, send } from "./api.js";
import { perform } from "./asking.js";
import { Chart, wholeNumbers } from "./charts.js";
import { byId, element, focusKept, list, say } from "./dom.js";
import { about, significant, when } from "./format.js";
import { colour } from "./theme.js";

const FINISHED = new Set(["published", "rejected", "failed", "cancelled"]);
const NO_UPDATE = "No update has been made yet.";
// what a run measures on the samples: its axis, and the line under the chart's title
const DIFFERENCE = {
  axis: "reward differences",
  text: "J: how far apart the responses to a prompt score; by update",
};
const CONTRAST = {
  axis: "lead over samples",
  text: "C: how surely the preferred responses outscore the policy's samples; by update",
};
const UNKNOWN = { axis: "objective", text: "J, or C of the conservative update; by update" };

export class Job {
  constructor(changed) {
    this.changed = changed;
    this.id = null;
    this.loss = new Chart("chart-loss", NO_UPDATE);
    this.objective = new Chart("chart-objective", NO_UPDATE);
    byId("retrain").addEventListener("click", () => this.#retrain());
    byId("job-cancel").addEventListener("click", () => this.#cancel());
  }

  /** Load and show the newest job. */
  async load() {
    const [newest] = await read("retrain?count=1");
    byId("job").hidden = !newest;
    if (!newest) return;
    this.#show(await read(`retrain/${newest.job}`));
  }

  #show(job) {
    this.id = job.job;
    const { step, steps } = job.progress;
    const over = FINISHED.has(job.status);
    const refocus = focusKept();
    say("job-title", `Run ${job.job.replace("job-", "")}: ${job.status}${job.candidate ? ` ${job.candidate}` : ""}`);
    byId("job").dataset.status = job.status;
    byId("job-progress").value = steps ? step / steps : 0;
    byId("job-progress").hidden = over;
    byId("job-cancel").hidden = over;
    refocus();
    const asked = job.trigger ? "started by drift" : "requested";
    const parts = [
      steps ? `update ${step} of ${steps}` : "no update yet",
      job.progress.loss === undefined ? "" : `loss ${significant(job.progress.loss)}`,
      over ? "" : timeLeft(job.progress),
      `${asked} ${when(job.created)}`,
      job.finished ? `ended ${when(job.finished)}` : "",
    ];
    say("job-line", parts.filter(Boolean).join(" · "));
    const reasons = job.verdict?.reasons || [];
    const remedies = job.verdict?.remedies || [];
    list("job-reasons", [...reasons.map((text, i) => reason(text, remedies[i])), ...(job.error ? [reason(job.error.message)] : [])]);
    draw(this.loss, job, "loss", "series-1", "loss");
    const plotted = objective(job);
    say("objective-of", plotted.text);
    draw(this.objective, job, "difference", "series-2", plotted.axis);
  }

  async #retrain() {
    const ascent = element("select", { id: "retrain-ascent" });
    const ways = ["", "conservative", "sgd", "adam", "shared_adam", "joint", "second_order", "none"];
    ascent.append(...ways.map((way) => element("option", { value: way, text: way || "the trainer's setting" })));
    const steps = element("input", { id: "retrain-steps", type: "number", min: 1, max: 100000, placeholder: "the trainer's setting" });
    const fields = [
      element("label", { for: "retrain-ascent", text: "Ascent" }),
      ascent,
      element("label", { for: "retrain-steps", text: "Updates" }),
      steps,
    ];
    const work = () => {
      const body = {};
      if (ascent.value) body.ascent = ascent.value;
      if (steps.value) body.steps = Number(steps.value);
      return send("POST", "retrain", body);
    };
    const text = "Adapts the current version to the logged samples that no run has used. The gate decides whether the result is published.";
    await perform("Retrain", { text, go: "Start", fields, work, done: "The run is queued." }, this.changed);
  }

  async #cancel() {
    const job = this.id;
    const question = {
      text: "The run stops before its next update. Its samples stay for the next run.",
      go: "Cancel it",
      destructive: true,
      work: () => send("DELETE", `retrain/${job}`),
      done: "The run will stop.",
    };
    await perform("Cancel the run", question, this.changed);
  }
}

/** A reason of the gate, or an error, with what to do about it. */
function reason(text, remedy) {
  return element("li", { text }, remedy ? element("p", { class: "remedy", text: remedy }) : null);
}

function timeLeft({ step, steps, updates_left_s: seconds }) {
  if (steps && step === steps) return "the gate judges the result";
  return seconds === undefined || seconds === null ? "" : `${about(seconds)} left, then the gate`;
}

function objective({ progress, options }) {
  const ascent = progress.ascent || options.ascent;
  if (!ascent) return UNKNOWN;
  return ascent === "conservative" ? CONTRAST : DIFFERENCE;
}

function draw(chart, { curve, progress }, column, series, unit) {
  const values = curve ? curve[column] : [];
  const known = values.filter((value) => value !== null);
  if (!known.length) {
    chart.empty(curve && curve.steps.length ? "This run uses no samples." : NO_UPDATE);
    return;
  }
  const whole = progress.steps || curve.steps.at(-1);
  chart.draw(
    () => ({
      traces: [
        {
          x: curve.steps,
          y: values,
          mode: known.length > 1 ? "lines" : "markers",
          line: { color: colour(series), width: 1.8 },
          customdata: values.map(significant),
          hovertemplate: "%{customdata}<extra></extra>",
          connectgaps: true,
        },
      ],
      layout: {
        showlegend: false,
        xaxis: { title: { text: "update" }, range: [0, whole], ...wholeNumbers([0, whole]) },
        yaxis: { title: { text: unit }, rangemode: "normal" },
      },
    }),
    `${unit} by update; first ${significant(known[0])}, last ${significant(known.at(-1))}.`,
  );
}
