/* Updates the page of an operation while it is visible. */
"use strict";

(function () {
  const SECONDS = 1;
  const DELIVERING_SECONDS = 5; // between updates after the end, while events still wait
  const LONGEST_PAUSE = 30;
  const ANNOUNCE_SECONDS = 10; // minimum between two announcements to screen readers

  class Watch {
    constructor(root) {
      this.root = root;
      this.failures = 0;
      this.timer = 0;
      this.state = this.part("state").textContent;
      this.announcedAt = Date.now();
      document.addEventListener("visibilitychange", () => this.resume());
      this.resume();
    }

    part(name) {
      return this.root.querySelector(`[data-${name}]`);
    }

    resume() {
      clearTimeout(this.timer);
      const { active, delivering } = this.root.dataset;
      if (!document.hidden && (active === "yes" || delivering === "yes")) this.request();
    }

    async request() {
      let pause = SECONDS;
      try {
        const signal = AbortSignal.timeout(20000);
        const response = await fetch(this.root.dataset.operation, { signal, cache: "no-store", credentials: "same-origin" });
        if (!response.ok || response.redirected) throw new Error(`the server responded with ${response.status}`);
        this.show(await response.json());
        this.failures = 0;
        if (this.root.dataset.active === "no") pause = DELIVERING_SECONDS;
      } catch {
        this.failures += 1;
        pause = Math.min(LONGEST_PAUSE, 2 ** this.failures);
      }
      this.part("lost").hidden = this.failures === 0;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.resume(), pause * 1000);
    }

    show(now) {
      const wasActive = this.root.dataset.active === "yes";
      const bar = this.root.querySelector("progress");
      bar.value = now.value;
      bar.textContent = now.percent;
      this.text("percent", now.percent);
      this.text("summary", now.summary);
      this.text("outcome", now.outcome);
      this.part("outcome").hidden = !now.outcome;
      this.text("started", now.started);
      this.text("finished", now.finished);
      this.text("note", now.note);
      this.part("note").hidden = !now.note;
      this.text("state", now.state_text);
      this.part("state").className = `broadcaster-label broadcaster-label-${now.state}`;
      this.root.dataset.active = now.is_active ? "yes" : "no";
      this.root.dataset.delivering = now.is_delivering ? "yes" : "no";
      this.announce(now);
      if (!now.is_active && this.part("stop")) this.part("stop").hidden = true;
      if (wasActive && now.state === "failed") window.location.reload(); // the page has the error then
    }

    announce(now) {
      const isDue = Date.now() > this.announcedAt + ANNOUNCE_SECONDS * 1000;
      if (now.state_text === this.state && !isDue) return;
      this.state = now.state_text;
      this.announcedAt = Date.now();
      this.text("announce", `${now.state_text}, ${now.percent}, ${now.summary}`);
    }

    text(name, value) {
      const part = this.part(name);
      if (part.textContent !== value) part.textContent = value;
    }
  }

  for (const root of document.querySelectorAll("[data-operation]")) new Watch(root);
})();
