/* Keeps the dashboard live: asks for what has changed while somebody looks at the page. */
"use strict";

(function (tools) {
  const STATE_SECONDS = 2;
  const TROUBLE_SECONDS = 10;
  const HISTORY_SECONDS = 10;
  const LONGEST_PAUSE = 30;
  const ANSWER_SECONDS = 20;

  class LoggedOut extends Error {}

  /** Asks one URL again and again; what has not changed is not sent again. */
  class Poll {
    constructor(seconds, urlOf, use, failed) {
      Object.assign(this, { seconds, urlOf, use, failed });
      this.etag = "";
      this.failures = 0;
      this.timer = 0;
      this.turn = 0;
    }

    /** Ask now, and then again for as long as nobody stops it. */
    async start() {
      this.stop();
      const turn = this.turn;
      const pause = await this.ask(turn);
      if (turn === this.turn) this.timer = setTimeout(() => this.start(), pause * 1000);
    }

    stop() {
      this.turn += 1;
      clearTimeout(this.timer);
    }

    /** Forget what was asked for before. */
    renew() {
      this.etag = "";
      this.start();
    }

    async ask(turn) {
      try {
        const headers = { Accept: "application/json", ...(this.etag && { "If-None-Match": this.etag }) };
        const signal = AbortSignal.timeout(ANSWER_SECONDS * 1000);
        const answer = await fetch(this.urlOf(), { headers, signal, cache: "no-store", credentials: "same-origin" });
        if (answer.redirected || answer.status === 403) throw new LoggedOut("you are not logged in any more; reload the page");
        if (answer.status !== 304 && !answer.ok) throw new Error(`the server answered ${answer.status}`);
        const value = answer.status === 304 ? null : await answer.json();
        if (turn !== this.turn) return 0;
        if (value !== null) this.etag = answer.headers.get("ETag") || "";
        this.failures = 0;
        this.use(value, Number(answer.headers.get("X-Broadcaster-Now")));
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
      this.trouble = null;
      this.skew = 0; // seconds that the server's clock is ahead of ours
      this.hours = "1";
      this.held = false;
      this.statuses = new Map();
      this.draw = tools.plots(root);
      const { alias } = root.dataset;
      const query = (more) => `?${new URLSearchParams({ ...(alias && { backend: alias }), ...more })}`;
      const failed = (error) => this.lost(error);
      this.history = new Poll(HISTORY_SECONDS, () => root.dataset.history + query({ hours: this.hours }), (value) => value && this.draw(value), failed);
      this.polls = [
        new Poll(STATE_SECONDS, () => root.dataset.state + query({}), (value, now) => this.arrived(value, now), failed),
        this.history,
      ];
      if (root.dataset.trouble) {
        this.polls.push(new Poll(TROUBLE_SECONDS, () => root.dataset.trouble, (value) => this.stuck(value), failed));
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
      const hold = this.root.querySelector("[data-hold]");
      hold.addEventListener("click", () => {
        this.held = !this.held;
        hold.setAttribute("aria-pressed", String(this.held));
        this.resume();
      });
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.addEventListener("click", () => this.look(button));
      }
    }

    look(chosen) {
      this.hours = chosen.dataset.hours;
      for (const button of this.root.querySelectorAll("[data-hours]")) {
        button.setAttribute("aria-pressed", String(button === chosen));
      }
      this.history.renew();
    }

    resume() {
      const on = !document.hidden && !this.held;
      this.polls.forEach((poll) => (on ? poll.start() : poll.stop()));
      if (this.held) this.freshness("held", "Held still");
    }

    arrived(value, now) {
      this.skew = now - Date.now() / 1000;
      if (value) this.state = value;
      if (this.polls.every((poll) => poll.failures === 0)) this.freshness("live", "Live");
      this.render();
      this.announce();
    }

    stuck(value) {
      if (value) this.trouble = value;
      this.render();
    }

    lost(error) {
      if (error instanceof LoggedOut) this.polls.forEach((poll) => poll.stop());
      const text = error.name === "TimeoutError" ? "the server does not answer" : error.message;
      this.freshness("lost", `Not live: ${text}`);
      this.say(`The dashboard is not live: ${text}`);
    }

    freshness(name, text) {
      const dot = this.root.querySelector("[data-dot]");
      dot.className = `broadcaster-dot broadcaster-dot-${name}`;
      tools.setText(this.root.querySelector("[data-freshness]"), text);
    }

    /** Tell a screen reader what a sighted reader would notice: a backend that fares differently. */
    announce() {
      const changes = [];
      for (const { alias, status } of this.state.backends) {
        const before = this.statuses.get(alias);
        if (before !== undefined && before !== status.text) changes.push(`${alias}: ${status.text}`);
        this.statuses.set(alias, status.text);
      }
      if (changes.length) this.say(changes.join(", "));
    }

    say(text) {
      tools.setText(this.root.querySelector("[data-announce]"), text);
    }

    render() {
      if (!this.state || this.held) return;
      const { root, now } = this;
      for (const backend of this.state.backends) {
        const card = [...root.querySelectorAll("[data-card]")].find((each) => each.dataset.card === backend.alias);
        if (card) tools.card(card, backend, now);
      }
      tools.relays(root, this.state.relays, now, !root.dataset.alias);
      if (this.trouble) {
        tools.keys(root, this.trouble.keys, now, root.dataset.events);
        tools.errors(root, this.trouble.errors, root.dataset.events);
      }
    }
  }

  for (const root of document.querySelectorAll("[data-broadcaster]")) new Dashboard(root);
})(window.broadcaster);
