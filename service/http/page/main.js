/** The page: when it calls the API, and which section shows each answer. */

import { ApiError, hasKey, read } from "./api.js";
import { askForKey, refused, showRights, startAccess } from "./access.js";
import { byId } from "./dom.js";
import { Drift } from "./drift.js";
import { when } from "./format.js";
import { Job } from "./job.js";
import { Now, unreachable } from "./now.js";
import { poll } from "./polling.js";
import { startTheme } from "./theme.js";
import { TryIt } from "./try.js";
import { Versions } from "./versions.js";

const OVERVIEW_MS = 2000;
const DRIFT_MS = 5000;
const VERSIONS_MS = 60000; // and at once when the overview shows a change
const JOB_MS = 2000; // during a run

startTheme();
const now = new Now();
const drift = new Drift();
const tryIt = new TryIt();
const versions = new Versions(refresh, (list) => {
  drift.know(list.versions);
  tryIt.know(list);
});
const job = new Job(refresh);
let seen = ""; // a signature of the overview; the versions are read again when it changes
let lastAnswer = null;
let running = null;
let runningTimer = 0;
let declined = false; // after a cancelled key dialog only the button opens it again

startAccess((accepted) => {
  declined = !accepted;
  refresh();
});
const readOverview = poll(overview, OVERVIEW_MS);
const readDrift = poll(showDrift, DRIFT_MS, byId("drift"));
poll(showVersions, VERSIONS_MS);

async function overview() {
  try {
    const answer = await read(`overview?since=${now.since}`);
    lastAnswer = new Date();
    declined = false;
    unreachable("");
    showRights(answer.rights);
    const { serving, degraded } = answer;
    const fault = serving ? "" : sentence(degraded.find(({ part }) => part === "version")?.reason);
    drift.waitFor(fault);
    versions.waitFor(fault);
    now.show(answer);
    await follow(answer);
  } catch (error) {
    await failed(error);
    throw error;
  }
}

async function failed(error) {
  const since = lastAnswer ? ` The figures below are from ${when(lastAnswer)}.` : "";
  if (error instanceof ApiError && error.isAboutKeys) {
    const needed = "This server requires an API key for reading and scoring.";
    const refusal = hasKey() ? refused(error) : "";
    unreachable(`${refusal || needed}${since}`, hasKey() ? (error.status === 401 ? "wrong key" : "not allowed") : "key needed");
    if (declined) return;
    declined = !(await askForKey("score", needed, refusal));
    if (!declined) refresh();
    return;
  }
  unreachable(`No figures: ${error.message}. The page keeps trying.${since}`, "no answer");
}

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "");

/** Read the versions and the run again if the overview shows a change. */
async function follow({ serving, loaded, labels, job: active }) {
  const signature = JSON.stringify([serving, loaded, labels, active && [active.job, active.status]]);
  const changed = seen !== signature;
  seen = signature;
  running = active && active.job;
  if (changed) {
    await showVersions();
    if (running) followJob();
  }
}

async function showVersions() {
  await Promise.all([versions.load(), job.load()]);
}

/** Follow the curves of a run. The overview shows its end. */
async function followJob() {
  clearTimeout(runningTimer);
  if (!running) return;
  if (!document.hidden) await job.load().catch(() => null);
  runningTimer = setTimeout(followJob, JOB_MS);
}

async function showDrift() {
  const report = await drift.load();
  versions.showWatch(report.watch);
}

function refresh() {
  seen = "";
  readOverview();
  readDrift();
}
