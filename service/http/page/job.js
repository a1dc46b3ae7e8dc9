/** The current run, or the last one: progress, curves, verdict. */

import { change, read } from "./api.js";
import { withAdmin } from "./access.js";
import { agreed } from "./asking.js";
import { Chart, wholeNumbers } from "./charts.js";
import { byId, element, notice, say, toast } from "./dom.js";
import { fixed, when } from "./format.js";
import { colour } from "./theme.js";

const FINISHED = new Set(["published", "rejected", "failed", "cancelled"]);

export class Job {
  constructor(changed) {
    this.changed = changed;
    this.id = null;
    this.loss = new Chart("chart-loss", "No update has been made yet.");
    this.objective = new Chart("chart-objective", "No update has been made yet.");
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
    say("job-title", `Run ${job.job.replace("job-", "")}: ${job.status}${job.candidate ? ` ${job.candidate}` : ""}`);
    byId("job").dataset.status = job.status;
    byId("job-progress").value = steps ? step / steps : 0;
    byId("job-progress").hidden = over;
    byId("job-cancel").hidden = over;
    const figures = job.progress.loss === undefined ? "" : ` · loss ${fixed(job.progress.loss, 3)}`;
    const asked = job.trigger ? "started by drift" : "requested";
    const ended = job.finished ? ` · ended ${when(job.finished)}` : "";
    const done = steps ? `update ${step} of ${steps}` : "no update yet";
    say("job-line", `${done}${figures} · ${asked} ${when(job.created)}${ended}`);
    const reasons = [...(job.verdict?.reasons || []), ...(job.error ? [job.error.message] : [])];
    byId("job-reasons").replaceChildren(...reasons.map((text) => element("li", { text })));
    draw(this.loss, job, "loss", "series-1", "loss");
    draw(this.objective, job, "difference", "series-2", "J or C");
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
    const text = "Adapts the current version to the logged samples that no run has used. The gate decides whether the result is published.";
    if (!(await agreed({ title: "Retrain", text, go: "Start", fields }))) return;
    const body = {};
    if (ascent.value) body.ascent = ascent.value;
    if (steps.value) body.steps = Number(steps.value);
    await this.#do("Retrain", () => change("POST", "retrain", body), "The run is queued.");
  }

  async #cancel() {
    const job = this.id;
    const text = "The run stops before its next update. Its samples stay for the next run.";
    if (!(await agreed({ title: "Cancel the run", text, go: "Cancel it" }))) return;
    await this.#do("Cancel", () => change("DELETE", `retrain/${job}`), "The run will stop.");
  }

  async #do(what, work, done) {
    notice("versions-error", "");
    try {
      const answer = await withAdmin(what, work);
      if (answer !== null) toast(done);
    } catch (error) {
      notice("versions-error", `${what}: ${error.message}`);
    }
    this.changed();
  }
}

function draw(chart, { curve, progress }, column, series, unit) {
  const values = curve ? curve[column] : [];
  const known = values.filter((value) => value !== null);
  if (!known.length) {
    chart.empty(curve && curve.steps.length ? "This run uses no samples." : "No update has been made yet.");
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
          hovertemplate: `%{y:.4f}<extra></extra>`,
          connectgaps: true,
        },
      ],
      layout: {
        showlegend: false,
        xaxis: { title: { text: "update" }, range: [0, whole], ...wholeNumbers([0, whole]) },
        yaxis: { title: { text: unit }, rangemode: "normal" },
      },
    }),
    `${unit} by update; first ${fixed(known[0], 3)}, last ${fixed(known.at(-1), 3)}.`,
  );
}
