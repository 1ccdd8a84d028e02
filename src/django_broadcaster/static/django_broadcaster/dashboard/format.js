/* The dashboard's formats for numbers, durations and moments. */
"use strict";

window.broadcaster = (function () {
  const language = document.documentElement.lang || undefined;
  const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 });
  const exact = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });

  const server = knownZone(document.querySelector("[data-zone]").dataset.zone);
  const local = new Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const CHOICE = "django_broadcaster.zone"; // in the browser's storage
  const digits = "2-digit";
  let zone;
  let clock;
  let day;
  use(localStorage.getItem(CHOICE) === "local" ? local : server);

  function use(name) {
    zone = name;
    clock = new Intl.DateTimeFormat("en-GB", {
      timeZone: zone, hourCycle: "h23", year: "numeric", month: digits, day: digits, hour: digits, minute: digits, second: digits,
    });
    day = new Intl.DateTimeFormat(language, { timeZone: zone, day: "numeric", month: "short" });
  }

  /** Return the time zone that the other button stands for; empty if there is only one. */
  function otherZone() {
    if (server === local) return "";
    return zone === local ? server : local;
  }

  /** Use the other time zone: the server's, or the browser's. The browser remembers it. */
  function switchZone() {
    use(otherZone() || zone);
    localStorage.setItem(CHOICE, zone === local ? "local" : "server");
  }

  /** Return the server's time zone, or UTC if the browser does not know it. */
  function knownZone(name) {
    try {
      new Intl.DateTimeFormat("en", { timeZone: name });
      return name;
    } catch {
      return "UTC";
    }
  }

  /** Format a number of events or of events per second. */
  function number(value) {
    return value >= 1000 || Number.isInteger(value) ? whole.format(value) : exact.format(value);
  }

  /** Format a count from the server: a number and its kind. */
  function count([value, kind]) {
    if (kind === "exact") return whole.format(value);
    return kind === "estimate" ? `≈ ${short.format(value)}` : `${whole.format(value)}+`;
  }

  /** Format seconds in the two largest units that are not zero. */
  function duration(seconds) {
    if (seconds < 0.0005) return "0 s";
    if (seconds < 1) return `${exact.format(seconds * 1000)} ms`;
    if (seconds < 10) return `${exact.format(Math.round(seconds * 10) / 10)} s`;
    if (seconds < 60) return `${Math.round(seconds)} s`;
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    const first = units.findIndex(([, size]) => seconds >= size);
    const [name, size] = units[first];
    const whole = Math.floor(seconds / size);
    const [restName, restSize] = units[first + 1];
    const rest = Math.floor((seconds - whole * size) / restSize);
    return rest ? `${whole} ${name} ${rest} ${restName}` : `${whole} ${name}`;
  }

  /** Format seconds in one unit, for an axis. */
  function brief(seconds) {
    if (seconds === 0) return "0";
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1], ["ms", 0.001]];
    const [name, size] = units.find(([, each]) => seconds >= each) || units[4];
    return `${exact.format(seconds / size)} ${name}`;
  }

  /** Return the parts of a moment in the chosen time zone: `year`, `month`, ... */
  function partsOf(seconds) {
    return Object.fromEntries(clock.formatToParts(seconds * 1000).map(({ type, value }) => [type, value]));
  }

  /** Format seconds since 1970 as a mark on the time axis: the day at midnight, else the time. */
  function mark(seconds, span) {
    const { hour, minute } = partsOf(seconds);
    return span > 86400 * 2 || `${hour}${minute}` === "0000" ? day.format(seconds * 1000) : `${hour}:${minute}`;
  }

  /** Format seconds since 1970 as a time of the day. */
  function time(seconds) {
    const { hour, minute, second } = partsOf(seconds);
    return `${hour}:${minute}:${second}`;
  }

  /** Format seconds since 1970 with the date and the time zone. */
  function moment(seconds) {
    const { year, month, day: date } = partsOf(seconds);
    return `${year}-${month}-${date} ${time(seconds)} ${zone}`;
  }

  return { number, count, duration, zone: () => zone, otherZone, switchZone, brief, mark, time, moment, short: (value) => short.format(value) };
})();
