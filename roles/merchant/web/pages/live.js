// Keeps a page true: one that waits for an outcome, one that the person comes back to, and one that the back
// button brings. Without this script a page is as good, after a reload.
"use strict";
(() => {
  let next = 0;

  const look = async () => {
    clearTimeout(next);
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.redirected) { location.replace(answer.url); return; }
      if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      // The shop cannot be reached just now.
    }
    wait();
  };

  const show = (page) => {
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = page.getElementById(old.id);
      if (!now) continue;
      old.className = now.className;
      if (now.dataset.refresh) old.dataset.refresh = now.dataset.refresh; else delete old.dataset.refresh;
      if (old.innerHTML !== now.innerHTML) old.replaceChildren(...now.childNodes);
    }
  };

  const wait = () => {
    const seconds = document.querySelector("[data-refresh]")?.dataset.refresh;
    if (seconds) next = setTimeout(look, seconds * 1000);
  };

  wait();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && document.querySelector("[data-live]")) look();
  });
  window.addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
})();
