/** Periodic work while the page is visible, never twice at once. */

const LONGEST_PAUSE_MS = 30000;

/**
 * Run `work` now and then every `everyMs` while the page is visible and `element`, if given, is on the
 * screen. The pause doubles with each failure. Returns a function that runs `work` at once.
 */
export function poll(work, everyMs, element) {
  let timer = 0;
  let running = false;
  let again = false;
  let failures = 0;
  let onScreen = !element;

  const wanted = () => !document.hidden && onScreen;

  async function run() {
    clearTimeout(timer);
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await work();
      failures = 0;
    } catch {
      failures += 1; // `work` shows its errors itself
    }
    running = false;
    const pause = again ? 0 : Math.min(everyMs * 2 ** failures, Math.max(everyMs, LONGEST_PAUSE_MS));
    again = false;
    timer = setTimeout(() => wanted() && run(), pause);
  }

  document.addEventListener("visibilitychange", () => wanted() && run());
  if (element) {
    const watcher = new IntersectionObserver((entries) => {
      const was = onScreen;
      onScreen = entries.some((entry) => entry.isIntersecting);
      if (onScreen && !was && wanted()) run();
    });
    watcher.observe(element);
  } else {
    run();
  }
  return run;
}
