/* Writes the server's data into the page. Only changed nodes are written, so that the focus, a
   selection and the position of a screen reader remain. */
"use strict";

(function ({ number, count, duration, moment, ...rest }) {
  function setText(node, text) {
    if (node && node.textContent !== text) node.textContent = text;
  }

  function show(node, visible) {
    if (node && node.hidden === visible) node.hidden = !visible;
  }

  /** Return the sentence about a backend's problem; empty if there is none. */
  function problemOf(backend, now) {
    if (!backend.configured) return "The backend is not in OUTBOX_PUBLISHERS, so no relay delivers its events.";
    if (backend.paused) {
      return `Paused for ${duration(now - backend.paused.since)} by ${backend.paused.by}`;
    }
    if (!backend.relays) return "No relay is running, so no events are delivered.";
    if (backend.circuit) {
      return `Broker unavailable for ${duration(now - backend.circuit.since)}: ${backend.circuit.error}`;
    }
    const { owned, all } = backend.partitions;
    if (owned < all) return `${all - owned} of ${all} partitions have no relay.`;
    if (backend.oldest_retry === null) return "";
    return `An event in retry was created ${duration(now - backend.oldest_retry)} ago.`;
  }

  function card(root, backend, now) {
    const field = (name) => root.querySelector(`[data-field="${name}"]`);
    const status = field("status");
    setText(status, backend.status.text);
    status.className = `broadcaster-status broadcaster-status-${backend.status.name}`;
    const problem = problemOf(backend, now);
    setText(field("problem"), problem);
    show(field("problem"), Boolean(problem));
    setText(field("backlog"), count(backend.backlog));
    setText(field("oldest"), backend.oldest_due === null ? "–" : duration(Math.max(0, now - backend.oldest_due)));
    setText(field("rate"), backend.per_second === null ? "–" : number(backend.per_second));
    setText(field("latency"), backend.latency === null ? "–" : duration(backend.latency / 1000));
    for (const node of root.querySelectorAll("[data-count]")) {
      setText(node, count(backend.counts[node.dataset.count]));
    }
    const { owned, all } = backend.partitions;
    setText(field("relays"), `${backend.relays} ${backend.relays === 1 ? "relay" : "relays"}, ${owned} of ${all} partitions`);
    for (const node of root.querySelectorAll("[data-when]")) {
      show(node, (node.dataset.when === "paused") === Boolean(backend.paused));
    }
  }

  /** Update the rows of a table by key; `cells` returns the cells of an item. */
  function table(root, name, items, keyOf, cells) {
    const body = root.querySelector(`[data-table="${name}"] tbody`);
    if (!body) return;
    const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    items.forEach((item, place) => {
      const key = String(keyOf(item));
      const row = before.get(key) || document.createElement("tr");
      before.delete(key);
      row.dataset.key = key;
      cells(item).forEach((cell, index) => fill(row, index, cell));
      if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] || null);
    });
    before.forEach((row) => row.remove());
    show(body.closest(".broadcaster-scroll"), items.length > 0);
    show(root.querySelector(`[data-none="${name}"]`), items.length === 0);
  }

  function fill(row, index, { text, href = "", title = "", kind = "" }) {
    let cell = row.cells[index];
    if (!cell) {
      cell = document.createElement(index === 0 ? "th" : "td");
      if (index === 0) cell.scope = "row";
      row.append(cell);
    }
    cell.className = kind;
    if (title) cell.title = title;
    let target = cell;
    if (href) {
      target = cell.querySelector("a");
      if (!target) {
        target = document.createElement("a");
        cell.replaceChildren(target);
      }
      target.href = href;
    }
    setText(target, text);
  }

  function relays(root, items, now, withBackend) {
    table(root, "relays", items, (relay) => relay.id, (relay) => [
      { text: relay.name },
      ...(withBackend ? [{ text: relay.backend }] : []),
      { text: relay.partitions.count ? `${relay.partitions.count} (${relay.partitions.ranges})` : "none" },
      {
        text: relay.stale
          ? `dead? no heartbeat for ${duration(Math.max(0, now - relay.heartbeat))}`
          : `${duration(Math.max(0, now - relay.heartbeat))} ago`,
        kind: relay.stale ? "broadcaster-bad" : "",
      },
      { text: duration(Math.max(0, now - relay.started)) },
      { text: relay.in_flight ? relay.in_flight.join("–") : "–" },
      relay.circuit
        ? { text: `open for ${duration(now - relay.circuit.since)}: ${relay.circuit.error}`, kind: "broadcaster-bad" }
        : { text: "closed" },
    ]);
  }

  // `events` is the URL of the event list, empty if this admin site has none: then there are no links.
  function keys(root, items, now, events) {
    table(root, "keys", items, (item) => item.key, (item) => [
      { text: item.key, href: events && `${events}?backend=${encodeURIComponent(root.dataset.alias)}&partition_key=${encodeURIComponent(item.key)}` },
      { text: `${item.head} ${item.type}`, href: events && `${events}${item.head}/change/` },
      { text: item.more ? `${number(item.behind)}+` : number(item.behind), kind: "broadcaster-number" },
      { text: `${duration(Math.max(0, now - item.since))} ago`, title: moment(item.since) },
      { text: `${item.due > now ? `in ${duration(item.due - now)}` : "now"} (${item.retries} retries spent)` },
      { text: item.error, kind: "broadcaster-error" },
    ]);
  }

  function errors(root, items, events) {
    table(root, "errors", items, (item) => item.error, (item) => {
      const query = new URLSearchParams({ status__exact: "failed", backend: root.dataset.alias });
      if (item.prefix) query.set("last_error__startswith", item.prefix);
      return [
        { text: number(item.count), href: events && `${events}?${query}`, kind: "broadcaster-number" },
        { text: item.error, title: item.example, kind: "broadcaster-error" },
        { text: String(item.newest), href: events && `${events}${item.newest}/change/` },
      ];
    });
  }

  window.broadcaster = { ...rest, number, count, duration, moment, setText, show, card, relays, keys, errors };
})(window.broadcaster);
