/* How the dashboard writes numbers, durations and moments. */
"use strict";

window.broadcaster = (function () {
  const language = document.documentElement.lang || undefined;
  const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 });
  const exact = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });

  /** A number of events or of events per second. */
  function number(value) {
    return value >= 1000 || Number.isInteger(value) ? whole.format(value) : exact.format(value);
  }

  /** A count as the server gives it: a number, and how far it is known. */
  function count([value, kind]) {
    if (kind === "exact") return whole.format(value);
    return kind === "estimate" ? `≈ ${short.format(value)}` : `${whole.format(value)}+`;
  }

  /** Seconds in the two largest units that say something. */
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

  /** Seconds in one unit, for an axis. */
  function brief(seconds) {
    if (seconds === 0) return "0";
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1], ["ms", 0.001]];
    const [name, size] = units.find(([, each]) => seconds >= each) || units[4];
    return `${exact.format(seconds / size)} ${name}`;
  }

  /** Seconds since 1970 as a mark on the axis of time: a day where one begins. */
  function mark(seconds, span) {
    const date = new Date(seconds * 1000);
    if (span > 86400 * 2 || (date.getHours() === 0 && date.getMinutes() === 0)) {
      return date.toLocaleDateString(language, { day: "numeric", month: "short" });
    }
    return date.toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit" });
  }

  /** Seconds since 1970 as the time of the day, with the day if it is not today. */
  function moment(seconds) {
    const date = new Date(seconds * 1000);
    const time = date.toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    const today = date.toDateString() === new Date().toDateString();
    return today ? time : `${date.toLocaleDateString(language)} ${time}`;
  }

  return { number, count, duration, brief, mark, moment, short: (value) => short.format(value) };
})();
