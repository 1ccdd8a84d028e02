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
    // What Kafka Connect takes from a replication slot does not wait in the table.
    if (backend.slot_lag !== null) setText(field("backlog-title"), "Slot lag");
    setText(field("backlog"), backend.slot_lag ?? count(backend.backlog));
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

  /** Show above the cards, and in the tab's title, how many backends and consumers need attention. */
  function attention(root, backends, consumers) {
    const bad = strip(root, "[data-attention]", backends, "backends") + strip(root, "[data-consumers-attention]", consumers, "consumers");
    mark(bad ? `${bad}!` : "");
  }

  function strip(root, place, items, what) {
    const bad = items.filter((each) => each.needs_attention);
    const node = root.querySelector(place);
    const verb = bad.length === 1 ? "needs" : "need";
    const names = bad.map(({ alias, status }) => `${alias} (${status.text})`);
    setText(node, `${bad.length} of ${items.length} ${what} ${verb} attention: ${names.join(", ")}`);
    show(node, bad.length > 0);
    if (node) node.classList.toggle("broadcaster-attention-red", bad.some(({ status }) => status.level === "red"));
    return bad.length;
  }

  /** Put a mark before the tab's title; "" removes it. */
  function mark(text) {
    const title = document.title.replace(/^\((?:\d+!|\?)\) /, "");
    document.title = text ? `(${text}) ${title}` : title;
  }

  /** Show in a bar that the server does not answer, and mark the figures as old; "" ends this. */
  function dead(root, text) {
    const bar = root.querySelector("[data-dead]");
    setText(bar, text);
    show(bar, Boolean(text));
    root.classList.toggle("broadcaster-dead", Boolean(text));
    if (text) mark("?");
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

  function fill(row, index, { text, href = "", title = "", kind = "", links = null }) {
    let cell = row.cells[index];
    if (!cell) {
      cell = document.createElement(index === 0 ? "th" : "td");
      if (index === 0) cell.scope = "row";
      row.append(cell);
    }
    cell.className = kind;
    if (title) cell.title = title;
    if (links) {
      linksOf(cell, links);
      return;
    }
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

  /** Write several links into a cell, and keep those that are there. */
  function linksOf(cell, links) {
    while (cell.children.length > links.length) cell.lastElementChild.remove();
    links.forEach(({ text, href }, place) => {
      const link = cell.children[place] || cell.appendChild(document.createElement("a"));
      link.className = "broadcaster-button";
      link.href = href;
      setText(link, text);
    });
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

  function consumers(root, items, now) {
    table(root, "consumers", items, (each) => each.alias, (each) => {
      const reason = reasonOf(each.status, now);
      return [
        { text: each.alias },
        {
          text: reason ? `${each.status.text}: ${reason}` : each.status.text,
          kind: `broadcaster-reason broadcaster-why broadcaster-why-${each.status.level}`,
        },
        { text: each.lag === null ? "–" : number(each.lag), kind: "broadcaster-number" },
        { text: number(each.per_second), kind: "broadcaster-number" },
        { text: number(each.received), kind: "broadcaster-number" },
        {
          text: number(each.malformed),
          href: each.malformed && root.dataset.events ? `${root.dataset.events}?status__exact=failed&q=django_broadcaster.malformed` : "",
          kind: "broadcaster-number",
        },
        { text: each.last_received === null ? "–" : `${duration(Math.max(0, now - each.last_received))} ago` },
      ];
    });
  }

  /** Show how many keys wait, what waits behind them, and for what most of them wait. */
  function blocked(root, { keys, events, is_all, reason, with_reason, compared }) {
    const node = root.querySelector("[data-blocked]");
    const more = is_all ? "" : "+";
    const sum = `${number(keys)}${more} ${keys === 1 && is_all ? "key waits" : "keys wait"}, ${number(events)}${more} ${events === 1 && is_all ? "event" : "events"} behind ${keys === 1 && is_all ? "it" : "them"}`;
    const which = is_all && compared >= keys ? "of the keys" : `of ${number(compared)} compared keys`;
    setText(node, with_reason ? `${sum}; ${number(with_reason)} ${which} because of: ${reason}` : sum);
    show(node, keys > 0);
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

  function errors(root, items, more, now, events) {
    const actions = [["retry", "Retry all"], ["cancel", "Cancel all"]].filter(([kind]) => root.dataset[kind]);
    const rest = root.querySelector('[data-more="errors"]');
    setText(rest, `and ${number(more.errors)} more ${more.errors === 1 ? "error" : "errors"} (${number(more.events)} ${more.events === 1 ? "event" : "events"})`);
    show(rest, more.errors > 0);
    table(root, "errors", items, (item) => item.error, (item) => {
      const query = new URLSearchParams({ status__exact: "failed", backend: root.dataset.alias });
      if (item.prefix) query.set("last_error__startswith", item.prefix);
      return [
        { text: number(item.count), href: events && `${events}?${query}`, kind: "broadcaster-number" },
        { text: item.text ? `${item.error}, such as: ${item.text}` : item.error, title: item.example, kind: "broadcaster-error" },
        age(item.first_seen, now),
        age(item.last_seen, now),
        { text: String(item.newest), href: events && `${events}${item.newest}/change/` },
        ...(actions.length ? [{ text: "", kind: "broadcaster-actions", links: actions.map(([kind, text]) => ({ text: `${text} ${number(item.count)}`, href: operation(root, kind, item) })) }] : []),
      ];
    });
  }

  function age(at, now) {
    return at === null ? { text: "–" } : { text: `${duration(Math.max(0, now - at))} ago`, title: moment(at) };
  }

  /** Return the URL of the form of an operation, filled in for a group of errors. */
  function operation(root, kind, { error, prefix, is_whole }) {
    const query = new URLSearchParams({ kind, backend: root.dataset.alias, status: "failed" });
    if (prefix) query.set("error", prefix);
    if (!is_whole || !prefix) query.set("lost", `error=${error}`.slice(0, 100));
    return `${root.dataset[kind]}?${query}`;
  }

  window.broadcaster = {
    ...rest, number, count, duration, moment, setText, show, card, cardOf, sort, attention, dead, relays, consumers, blocked, keys, errors,
  };
})(window.broadcaster);
