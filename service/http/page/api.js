/** The server's API. The key is kept here, in memory, until it is forgotten or the page is closed. */

const READ_TIMEOUT_MS = 20000;
let keyInUse = "";

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

/** Use a key from now on; "" forgets it. */
export function useKey(key) {
  keyInUse = key;
}

export const hasKey = () => keyInUse !== "";

/** A cheap call with this key. Resolves to its rights, score or admin. */
export async function rightsOf(key) {
  const { rights } = await call("GET", "overview?since=9999999999", key, undefined, READ_TIMEOUT_MS);
  return rights;
}

export const read = (path) => call("GET", path, keyInUse, undefined, READ_TIMEOUT_MS);

/** A call that may take long: scoring, or a change of what is served. */
export const send = (method, path, body) => call(method, path, keyInUse, body);

async function call(method, path, key, body, timeoutMs) {
  const headers = new Headers();
  try {
    if (key) headers.set("Authorization", `Bearer ${key}`);
  } catch {
    throw keyRefused(401, key); // no server can be sent such characters
  }
  if (body !== undefined) headers.set("Content-Type", "application/json");
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
  if (response.status === 401 || response.status === 403) throw keyRefused(response.status, key);
  const said = answer && answer.error;
  const message = said ? said.message : `status ${response.status}, and no JSON`;
  throw new ApiError(response.status, said ? said.code : "unreadable", message, said && said.details);
}

/** The API's own message is about headers, which the page's users do not write. */
function keyRefused(status, key) {
  const known = status === 403 ? "this key may not do that" : "this key is wrong";
  return new ApiError(status, status === 403 ? "forbidden" : "unauthorized", key ? known : "a key is needed");
}
