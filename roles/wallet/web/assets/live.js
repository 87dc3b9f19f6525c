// Keeps the parts of a page that are marked data-live as the wallet has them. Without this script a page is
// as good, after a reload.
"use strict";
(() => {
  const { events: address, proof } = document.body.dataset;
  let version = document.body.dataset.version;
  let busy = false;
  let again = false;
  let stream = null;
  const shown = new WeakMap(); // as the wallet sent it

  const focus = () => {
    const step = document.querySelector("[data-step]");
    (step?.querySelector("[autofocus], [aria-invalid]") || step?.querySelector("h1"))?.focus();
  };

  const prepare = () => {
    for (const b of document.querySelectorAll("[data-print]")) {
      b.hidden = false;
      b.onclick = () => window.print();
    }
  };

  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
      if (answer.redirected) { location.replace(answer.url); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const now of document.querySelectorAll("[data-live]")) {
        const next = page.getElementById(now.id);
        if (!next || shown.get(now) === next.outerHTML) continue;
        const text = next.outerHTML;
        const fresh = document.adoptNode(next);
        shown.set(fresh, text);
        now.replaceWith(fresh);
        if (fresh.dataset.step) focus();
      }
      prepare();
    } catch {
      // The stream tells whether the wallet is gone.
    } finally {
      busy = false;
      if (again) { again = false; refresh(); }
    }
  };

  const gone = () => {
    stop();
    document.getElementById("gone").hidden = false;
    for (const e of document.querySelectorAll("button, input, select")) e.disabled = true;
  };

  const stop = () => { stream?.close(); stream = null; };

  // A browser has few connections to a server: a hidden page gives its own up. Whoever answers at this
  // address when the wallet is gone does not know the proof, and is asked nothing.
  const listen = () => {
    if (stream) return;
    stream = new EventSource(address);
    stream.onerror = gone;
    stream.onmessage = (e) => {
      const [known, now] = e.data.split(" ");
      if (known !== proof) { gone(); return; }
      if (now !== version) { version = now; refresh(); }
    };
  };

  for (const e of document.querySelectorAll("[data-live]")) shown.set(e, e.outerHTML);
  prepare();
  focus();
  listen();
  document.addEventListener("visibilitychange", () => document.hidden ? stop() : listen());
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
})();
