/* Updates the dashboard: requests changes while the page is visible. */
"use strict";

(function (tools) {
  const STATE_SECONDS = 2;
  const STUCK_SECONDS = 10;
  const HISTORY_SECONDS = 10;
  const LONGEST_PAUSE = 30;
  const TIMEOUT_SECONDS = 20;
  const DEAD_SECONDS = 10; // without an answer, after which the figures are marked as old

  class LoggedOut extends Error {}

  /** Return why a request failed, in the same words in every browser. */
  function reasonOf(error) {
    if (error.name === "TimeoutError") return "the server does not respond";
    if (error instanceof TypeError) return "the server can't be reached";
    if (error instanceof SyntaxError) return "the response is not valid";
    return error.message;
  }

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
      this.now = 0; // the server's time of the last answer: the page counts no further by itself
      this.stuckNow = 0;
      this.asked = Date.now(); // since then an answer is due, by the browser's clock
      this.answered = this.asked;
      this.dead = false;
      this.hours = "1";
      this.paused = false;
      this.statuses = new Map();
      this.plots = tools.plots(root);
      const { alias } = root.dataset;
      const query = (more) => `?${new URLSearchParams({ ...(alias && { backend: alias }), ...more })}`;
      const failed = (error) => this.lost(error);
      this.history = new Poll(HISTORY_SECONDS, () => root.dataset.history + query({ hours: this.hours }), (value) => value && this.plots.draw(value), failed);
      this.polls = [
        new Poll(STATE_SECONDS, () => root.dataset.state + query({}), (value, now) => this.useState(value, now), failed),
        this.history,
      ];
      if (root.dataset.stuck) {
        this.polls.push(new Poll(STUCK_SECONDS, () => root.dataset.stuck, (value, now) => this.useStuck(value, now), failed));
      }
      this.showZone();
      this.listen();
      this.resume();
      setInterval(() => this.watch(), 1000);
    }

    listen() {
      document.addEventListener("visibilitychange", () => this.resume());
      window.addEventListener("online", () => this.resume());
      const pause = this.root.querySelector("[data-pause-updates]");
      pause.addEventListener("click", () => {
        this.paused = !this.paused;
        pause.setAttribute("aria-pressed", String(this.paused));
        this.resume();
      });
      this.root.querySelector("[data-switch-zone]").addEventListener("click", () => {
        tools.switchZone();
        this.showZone();
        this.plots.redraw();
        this.render();
      });
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.addEventListener("click", () => this.select(button));
      }
    }

    /** Name the time zone, and offer the other one. */
    showZone() {
      tools.setText(this.root.querySelector("[data-zone-name]"), `(${tools.zone()})`);
      const button = this.root.querySelector("[data-switch-zone]");
      tools.setText(button, `Show times in ${tools.otherZone()}`);
      tools.show(button, Boolean(tools.otherZone()));
    }

    select(chosen) {
      this.hours = chosen.dataset.hours;
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.setAttribute("aria-pressed", String(button === chosen));
      }
      this.history.renew();
    }

    get isAsking() {
      return !document.hidden && !this.paused;
    }

    resume() {
      this.asked = Date.now();
      this.polls.forEach((poll) => (this.isAsking ? poll.start() : poll.stop()));
      if (this.paused) this.freshness("paused", "Updates paused");
    }

    useState(value, now) {
      this.now = now;
      this.answered = Date.now();
      this.revive();
      if (value) {
        this.state = value;
        if (!this.paused) tools.sort(this.root, value.backends);
      }
      if (this.polls.every((poll) => poll.failures === 0)) this.freshness("live", "Live");
      this.render();
      this.announceChanges();
    }

    useStuck(value, now) {
      this.stuckNow = now;
      if (value) this.stuck = value;
      this.render();
    }

    lost(error) {
      if (error instanceof LoggedOut) this.polls.forEach((poll) => poll.stop());
      const text = reasonOf(error);
      this.freshness("lost", `Not live: ${text}`);
      if (!this.dead) this.announce(`The dashboard is not live: ${text}`);
    }

    /** Mark the figures as old if the server has not answered for a while. */
    watch() {
      const silent = Date.now() - Math.max(this.answered, this.asked);
      const dies = !this.dead && this.isAsking && silent >= DEAD_SECONDS * 1000;
      if (dies) this.dead = true;
      if (!this.dead) return;
      const since = this.state ? `No answer since ${tools.time(this.now)}` : "No answer yet";
      const old = this.state ? " Figures are old." : "";
      const age = tools.duration(Math.floor((Date.now() - this.answered) / 1000));
      tools.dead(this.root, `${since} (${age}).${old}`);
      if (dies) this.announce(`${since}.${old}`);
    }

    revive() {
      if (this.dead) this.announce("The dashboard is live again");
      this.dead = false;
      tools.dead(this.root, "");
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
        const card = tools.cardOf(root, backend.alias);
        if (card) tools.card(card, backend, now);
      }
      tools.setText(root.querySelector("[data-as-of]"), `(as of ${tools.time(now)} ${tools.zone()})`);
      tools.attention(root, this.state.backends, this.state.consumers);
      tools.consumers(root, this.state.consumers, now);
      tools.relays(root, this.state.relays, now, !root.dataset.alias);
      if (this.stuck) {
        tools.blocked(root, this.stuck.blocked);
        tools.keys(root, this.stuck.keys, this.stuckNow, root.dataset.events);
        tools.errors(root, this.stuck.errors, this.stuck.more_errors, this.stuckNow, root.dataset.events);
      }
    }
  }

  for (const root of document.querySelectorAll("[data-broadcaster]")) new Dashboard(root);
})(window.broadcaster);
