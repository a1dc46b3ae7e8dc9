/** The page: what is asked for when, and who is handed the answers. */

import { ApiError, read } from "./api.js";
import { askForKey, startAccess } from "./access.js";
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
const VERSIONS_MS = 60000; // and at once when the overview shows that something changed
const JOB_MS = 2000; // while one is under way

startTheme();
const now = new Now();
const drift = new Drift();
const tryIt = new TryIt();
const versions = new Versions(refresh, (list) => {
  drift.know(list.versions);
  tryIt.know(list);
});
const job = new Job(refresh);
let seen = ""; // what, when it changes, makes the versions worth reading again
let lastAnswer = null;
let running = null;
let runningTimer = 0;
let declined = false; // whoever gave no key is not asked again and again: the button is there

startAccess(refresh);
const readOverview = poll(overview, OVERVIEW_MS);
const readDrift = poll(showDrift, DRIFT_MS, byId("drift"));
poll(showVersions, VERSIONS_MS);

async function overview() {
  try {
    const answer = await read(`overview?since=${now.since}`);
    lastAnswer = new Date();
    unreachable("");
    now.show(answer);
    await follow(answer);
  } catch (error) {
    await failed(error);
    throw error;
  }
}

async function failed(error) {
  if (error instanceof ApiError && error.status === 401) {
    unreachable("The server asks for an API key.");
    if (declined) return;
    declined = !(await askForKey("score", "This server asks for an API key to read and score.", ""));
    if (!declined) refresh();
    return;
  }
  const since = lastAnswer ? ` The figures below are of ${when(lastAnswer)}.` : "";
  unreachable(`No figures: ${error.message}. It is tried again.${since}`);
}

/** Read what the overview shows to have changed. */
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

/** The curves of a run, update by update; its end is seen in the overview. */
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
