/* Updates the dashboard: requests changes while the page is visible. */
"use strict";

(function (tools) {
  const STATE_SECONDS = 2;
  const STUCK_SECONDS = 10;
  const HISTORY_SECONDS = 10;
  const LONGEST_PAUSE = 30;
  const TIMEOUT_SECONDS = 20;

  class LoggedOut extends Error {}

  /** Polls one URL; the server does not send an unchanged response again. */
  class Poll {
    constructor(seconds, urlOf, use, failed) {
      Object.assign(this, { seconds, urlOf, use, failed });
      this.etag = "";
      this.failures = 0;
      this.timer = 0;
      this.turn = 0;
    }

    /** Request now, and then repeatedly until `stop` is called. */
    async start() {
      this.stop();
      const turn = this.turn;
      const pause = await this.request(turn);
      if (turn === this.turn) this.timer = setTimeout(() => this.start(), pause * 1000);
    }

    stop() {
      this.turn += 1;
      clearTimeout(this.timer);
    }

    /** Request again after the URL has changed. */
    renew() {
      this.etag = "";
      this.start();
    }

    async request(turn) {
      try {
        const headers = { Accept: "application/json", ...(this.etag && { "If-None-Match": this.etag }) };
        const signal = AbortSignal.timeout(TIMEOUT_SECONDS * 1000);
        const response = await fetch(this.urlOf(), { headers, signal, cache: "no-store", credentials: "same-origin" });
        if (response.redirected || response.status === 403) throw new LoggedOut("your session has ended; reload the page");
        if (response.status !== 304 && !response.ok) throw new Error(`the server responded with ${response.status}`);
        const value = response.status === 304 ? null : await response.json();
        if (turn !== this.turn) return 0;
        if (value !== null) this.etag = response.headers.get("ETag") || "";
        this.failures = 0;
        this.use(value, Number(response.headers.get("X-Broadcaster-Now")));
        return this.seconds;
      } catch (error) {
        this.failures += 1;
        if (turn === this.turn) this.failed(error);
        return Math.min(LONGEST_PAUSE, this.seconds * 2 ** this.failures);
      }
    }
  }

  class Dashboard {
    constructor(root) {
      this.root = root;
      this.state = null;
      this.stuck = null;
      this.skew = 0; // seconds by which the server's clock is ahead of the browser's
      this.hours = "1";
      this.paused = false;
      this.statuses = new Map();
      this.draw = tools.plots(root);
      const { alias } = root.dataset;
      const query = (more) => `?${new URLSearchParams({ ...(alias && { backend: alias }), ...more })}`;
      const failed = (error) => this.lost(error);
      this.history = new Poll(HISTORY_SECONDS, () => root.dataset.history + query({ hours: this.hours }), (value) => value && this.draw(value), failed);
      this.polls = [
        new Poll(STATE_SECONDS, () => root.dataset.state + query({}), (value, now) => this.useState(value, now), failed),
        this.history,
      ];
      if (root.dataset.stuck) {
        this.polls.push(new Poll(STUCK_SECONDS, () => root.dataset.stuck, (value) => this.useStuck(value), failed));
      }
      this.listen();
      this.resume();
      setInterval(() => this.render(), 1000);
    }

    get now() {
      return Date.now() / 1000 + this.skew;
    }

    listen() {
      document.addEventListener("visibilitychange", () => this.resume());
      const pause = this.root.querySelector("[data-pause-updates]");
      pause.addEventListener("click", () => {
        this.paused = !this.paused;
        pause.setAttribute("aria-pressed", String(this.paused));
        this.resume();
      });
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.addEventListener("click", () => this.select(button));
      }
    }

    select(chosen) {
      this.hours = chosen.dataset.hours;
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.setAttribute("aria-pressed", String(button === chosen));
      }
      this.history.renew();
    }

    resume() {
      const on = !document.hidden && !this.paused;
      this.polls.forEach((poll) => (on ? poll.start() : poll.stop()));
      if (this.paused) this.freshness("paused", "Updates paused");
    }

    useState(value, now) {
      this.skew = now - Date.now() / 1000;
      if (value) this.state = value;
      if (this.polls.every((poll) => poll.failures === 0)) this.freshness("live", "Live");
      this.render();
      this.announceChanges();
    }

    useStuck(value) {
      if (value) this.stuck = value;
      this.render();
    }

    lost(error) {
      if (error instanceof LoggedOut) this.polls.forEach((poll) => poll.stop());
      const text = error.name === "TimeoutError" ? "the server does not respond" : error.message;
      this.freshness("lost", `Not live: ${text}`);
      this.announce(`The dashboard is not live: ${text}`);
    }

    freshness(name, text) {
      const dot = this.root.querySelector("[data-dot]");
      dot.className = `broadcaster-dot broadcaster-dot-${name}`;
      tools.setText(this.root.querySelector("[data-freshness]"), text);
    }

    /** Announce changes of the backends' states to screen readers. */
    announceChanges() {
      const changes = [];
      for (const { alias, status } of this.state.backends) {
        const before = this.statuses.get(alias);
        if (before !== undefined && before !== status.text) changes.push(`${alias}: ${status.text}`);
        this.statuses.set(alias, status.text);
      }
      if (changes.length) this.announce(changes.join(", "));
    }

    announce(text) {
      tools.setText(this.root.querySelector("[data-announce]"), text);
    }

    render() {
      if (!this.state || this.paused) return;
      const { root, now } = this;
      for (const backend of this.state.backends) {
        const card = [...root.querySelectorAll("[data-card]")].find((each) => each.dataset.card === backend.alias);
        if (card) tools.card(card, backend, now);
      }
      tools.relays(root, this.state.relays, now, !root.dataset.alias);
      if (this.stuck) {
        tools.keys(root, this.stuck.keys, now, root.dataset.events);
        tools.errors(root, this.stuck.errors, root.dataset.events);
      }
    }
  }

  for (const root of document.querySelectorAll("[data-broadcaster]")) new Dashboard(root);
})(window.broadcaster);
