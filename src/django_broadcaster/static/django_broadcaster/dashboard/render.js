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

  /** Return why a backend is in its state; the server leaves a place for the age, which grows. */
  function reasonOf({ reason, since }, now) {
    return since === null ? reason : reason.replace("{age}", () => duration(Math.max(0, now - since)));
  }

  function card(root, backend, now) {
    const field = (name) => root.querySelector(`[data-field="${name}"]`);
    const status = field("status");
    setText(status, backend.status.text);
    status.className = `broadcaster-status broadcaster-status-${backend.status.level}`;
    const reason = reasonOf(backend.status, now);
    setText(field("reason"), reason);
    field("reason").className = `broadcaster-why broadcaster-why-${backend.status.level}`;
    show(field("reason"), Boolean(reason));
    endpoints(field("endpoints"), backend.endpoints);
    setText(field("backlog"), count(backend.backlog));
    setText(field("oldest"), backend.oldest_waiting === null ? "–" : duration(Math.max(0, now - backend.oldest_waiting)));
    setText(field("rate"), backend.per_second === null ? "–" : number(backend.per_second));
    setText(field("latency"), backend.latency === null ? "–" : duration(backend.latency / 1000));
    for (const node of root.querySelectorAll("[data-count]")) {
      setText(node, count(backend.counts[node.dataset.count]));
    }
    const { owned, all } = backend.partitions;
    setText(field("relays"), `${backend.relays} ${backend.relays === 1 ? "relay" : "relays"}, ${owned} of ${all} partitions`);
    for (const node of root.querySelectorAll("[data-when]")) {
      show(node, (node.dataset.when === "paused") === backend.paused);
    }
  }

  /** Show how many webhook endpoints of a backend are disabled or failing. */
  function endpoints(node, { disabled, failing }) {
    setText(node, `endpoints: ${number(disabled)} disabled, ${number(failing)} failing`);
    show(node, disabled + failing > 0);
  }

  /** Put the cards into the order of the backends; a card that has the focus keeps it. */
  function sort(root, backends) {
    const list = root.querySelector("[data-cards]");
    const focused = document.activeElement;
    backends.forEach(({ alias }, place) => {
      const node = cardOf(root, alias);
      if (node && list.children[place] !== node) list.insertBefore(node, list.children[place]);
    });
    if (list.contains(focused)) focused.focus({ preventScroll: true });
  }

  function cardOf(root, alias) {
    return [...root.querySelectorAll("[data-card]")].find((each) => each.dataset.card === alias);
  }

  /** Show above the cards, and in the tab's title, how many backends need attention. */
  function attention(root, backends) {
    const bad = backends.filter((backend) => backend.needs_attention);
    const strip = root.querySelector("[data-attention]");
    const verb = bad.length === 1 ? "needs" : "need";
    const names = bad.map(({ alias, status }) => `${alias} (${status.text})`);
    setText(strip, `${bad.length} of ${backends.length} backends ${verb} attention: ${names.join(", ")}`);
    show(strip, bad.length > 0);
    if (strip) strip.classList.toggle("broadcaster-attention-red", bad.some(({ status }) => status.level === "red"));
    const title = document.title.replace(/^\(\d+!\) /, "");
    document.title = bad.length ? `(${bad.length}!) ${title}` : title;
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

  window.broadcaster = { ...rest, number, count, duration, moment, setText, show, card, cardOf, sort, attention, relays, keys, errors };
})(window.broadcaster);
