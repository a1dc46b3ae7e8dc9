/** The server's API. Keys are kept here, in memory, until the page is closed. */

const READ_TIMEOUT_MS = 20000;
const keys = { score: "", admin: "" };

/** A refusal or failure: the server's code and message; `status` is 0 if it did not answer. */
export class ApiError extends Error {
  constructor(status, code, message, details) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }

  /** Whether another key might help. */
  get isAboutKeys() {
    return this.status === 401 || this.status === 403;
  }
}

/** Use a key from now on; `kind` is score or admin. Without a score key, the admin key reads, too. */
export function useKey(kind, key) {
  keys[kind] = key;
}

export const hasKey = (kind) => keys[kind] !== "";

/** A cheap call with this key, to find out whether the server accepts it. */
export const tryKey = (key) => call("GET", "overview?since=9999999999", key, undefined, READ_TIMEOUT_MS);

export const read = (path) => call("GET", path, keys.score || keys.admin, undefined, READ_TIMEOUT_MS);

/** A call with the same rights as reading, such as scoring. */
export const post = (path, body) => call("POST", path, keys.score || keys.admin, body);

/** A call that changes what is served. */
export const change = (method, path, body) => call(method, path, keys.admin || keys.score, body);

async function call(method, path, key, body, timeoutMs) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: timeoutMs ? AbortSignal.timeout(timeoutMs) : undefined,
    });
  } catch (error) {
    const slow = error.name === "TimeoutError";
    throw new ApiError(0, "unreachable", slow ? "the server is slow to answer" : "the server does not answer");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const said = answer && answer.error;
  const message = said ? said.message : `status ${response.status}, and no JSON`;
  throw new ApiError(response.status, said ? said.code : "unreadable", message, said && said.details);
}
