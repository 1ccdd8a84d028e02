/* The plots: four canvases with a common cursor, drawn by uPlot in the colours of the admin's theme. */
"use strict";

(function (tools) {
  const { number, duration, brief, mark, moment, short, setText } = tools;
  const HEIGHT = 170;

  /** Seconds between two marks of an axis of durations. */
  const STEPS = [
    ...[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30],
    ...[60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 172800, 604800],
  ];

  /** The lines of each plot, with names in the JSON and labels, and its formats. */
  const PLOTS = {
    rate: {
      format: number,
      axis: short,
      unit: "/s",
      all: [["published", "delivered"]],
      one: [["published", "delivered"], ["retried", "retrying"], ["failed", "dead"]],
      failures: true,
    },
    latency: {
      format: duration,
      axis: brief,
      steps: STEPS,
      unit: "",
      all: [["p50", "p50"]],
      one: [["p50", "p50"], ["p99", "p99"]],
    },
    backlog: { format: number, axis: short, unit: "", all: [["backlog", ""]], one: [["backlog", "backlog"]] },
    oldest: { format: duration, axis: brief, steps: STEPS, unit: "", all: [["oldest_age", ""]], one: [["oldest_age", "oldest"]] },
  };
  /** The dashes of lines; the stylesheet has the same for the keys. */
  const DASHES = [[], [6, 3], [2, 3], [10, 4, 2, 4]];

  /** The shades behind the lines, each with the name of its series in the JSON. */
  const SHADES = { away: "circuit_open", paused: "paused" };

  function styleOf(place) {
    return { colour: (place % 8) + 1, dash: place % DASHES.length };
  }

  /** Return one line with the failed attempts of all backends. */
  function failuresOf(series, times) {
    const sum = (place) => series.reduce((total, { retried, failed }) => {
      const here = retried[place] === null ? null : retried[place] + failed[place];
      return here === null ? total : (total ?? 0) + here;
    }, null);
    return { label: "failed attempts", colour: "failed", dash: 0, values: times.map((_, place) => sum(place)) };
  }

  class Plot {
    constructor(figure, root) {
      this.kind = PLOTS[figure.dataset.plot];
      this.root = root;
      this.canvas = figure.querySelector("[data-canvas]");
      this.caption = figure.querySelector("figcaption").textContent;
      this.summary = figure.querySelector("[data-summary]");
      this.time = figure.querySelector("[data-at]");
      this.probe = document.createElement("span");
      this.probe.hidden = true;
      figure.append(this.probe);
      this.chart = null;
      this.shape = "";
      this.shades = [];
      this.hidden = new Set(); // the labels of the lines that are switched off
      new ResizeObserver(() => this.resize()).observe(this.canvas);
    }

    /** Draw the series from the server. */
    draw(history) {
      const aliases = Object.keys(history.series);
      const isOne = Boolean(this.root.dataset.alias);
      const lines = aliases.flatMap((alias, place) => (isOne ? this.kind.one : this.kind.all).map(([name, label], index) => ({
        label: isOne ? label : alias,
        ...styleOf(isOne ? index : place),
        values: history.series[alias][name],
      })));
      if (!isOne && this.kind.failures) lines.push(failuresOf(Object.values(history.series), history.times));
      const only = aliases.length === 1 ? history.series[aliases[0]] : {};
      this.shades = ["away", "paused"].map((name) => [name, only[SHADES[name]] || []]);
      const data = [history.times, ...lines.map((line) => line.values)];
      this.lines = lines;
      const shape = lines.map((line) => line.label).join("\n");
      if (this.chart && shape === this.shape) {
        this.chart.setData(data);
      } else {
        if (this.chart) this.chart.destroy();
        this.shape = shape;
        this.chart = new uPlot(this.options(lines), data, this.canvas);
        lines.forEach((line, index) => this.chart.setSeries(index + 1, { show: !this.hidden.has(line.label) }));
      }
      this.summarize(this.chart.cursor.idx);
    }

    /** Write the value of each line under the cursor, or else the latest, and its maximum, as text. */
    summarize(cursor) {
      const place = cursor ?? null;
      setText(this.time, place === null ? "" : moment(this.chart.data[0][place]));
      const texts = (this.lines || []).map((line) => this.words(line, place));
      while (this.summary.children.length > texts.length) this.summary.lastChild.remove();
      texts.forEach((text, index) => {
        let item = this.summary.children[index];
        if (!item) {
          item = this.key(index);
          this.summary.append(item);
        }
        const { colour, dash, label } = this.lines[index];
        const button = item.firstChild;
        button.setAttribute("aria-pressed", String(!this.hidden.has(label)));
        button.firstChild.className = `broadcaster-key broadcaster-key-${colour} broadcaster-dash-${dash}`;
        setText(button.lastChild, text);
      });
      this.canvas.setAttribute("aria-label", `${this.caption}. ${texts.join("; ")}`);
    }

    /** Return the key of a line: a button that hides and shows the line. */
    key(index) {
      const item = document.createElement("li");
      const button = item.appendChild(document.createElement("button"));
      button.type = "button";
      button.title = "Hide or show this line";
      button.append(document.createElement("span"), document.createElement("span"));
      button.addEventListener("click", () => this.toggle(index));
      return item;
    }

    toggle(index) {
      const { label } = this.lines[index];
      if (!this.hidden.delete(label)) this.hidden.add(label);
      this.chart.setSeries(index + 1, { show: !this.hidden.has(label) });
      this.summarize(this.chart.cursor.idx);
    }

    words({ label, values }, place) {
      const { format, unit } = this.kind;
      const known = values.filter((value) => value !== null);
      if (!known.length) return `${label}: no data`;
      const at = place === null ? known[known.length - 1] : values[place];
      const text = at === null ? "no data" : `${format(at)}${unit}`;
      return `${label} ${text}, max ${format(Math.max(...known))}${unit}`;
    }

    options(lines) {
      const style = (name) => () => this.colourOf(name);
      const axis = {
        stroke: style("quiet"),
        grid: { stroke: style("hairline"), width: 1 },
        ticks: { stroke: style("hairline"), width: 1, size: 4 },
        font: "11px system-ui, sans-serif",
      };
      return {
        width: this.canvas.clientWidth || 300,
        height: HEIGHT,
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), tools.zone()),
        legend: { show: false },
        cursor: { sync: { key: "broadcaster" }, y: false, drag: { x: false, y: false } },
        hooks: {
          drawClear: [(chart) => this.shade(chart)],
          setCursor: [(chart) => this.summarize(chart.cursor.idx)],
        },
        scales: { y: { range: (chart, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
        axes: [
          { ...axis, space: 64, size: 28, values: (chart, ticks) => ticks.map((tick) => mark(tick, this.span(chart))) },
          {
            ...axis,
            size: 58,
            ...(this.kind.steps && { incrs: this.kind.steps }),
            values: (chart, ticks) => ticks.map((tick) => (tick === null ? "" : this.kind.axis(tick))),
          },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: style(line.colour),
            dash: DASHES[line.dash],
            width: 2,
            spanGaps: false,
            points: { show: () => false, filter: (chart, index) => lonely(chart.data[index]), size: 5 },
          })),
        ],
      };
    }

    /** Return the colour of a key of the legend: a canvas knows neither variables nor themes. */
    colourOf(name) {
      this.probe.className = `broadcaster-key-${name}`;
      return getComputedStyle(this.probe).color;
    }

    /** Return the seconds between the first and the last point. */
    span(chart) {
      const times = chart.data[0];
      return times[times.length - 1] - times[0];
    }

    /** Shade the time in which the broker was unavailable, and that in which an operator had paused it. */
    shade(chart) {
      const times = chart.data[0];
      const step = times[1] - times[0];
      const { ctx } = chart;
      ctx.save();
      for (const [name, flags] of this.shades) {
        ctx.fillStyle = this.colourOf(name);
        flags.forEach((flag, place) => {
          if (!flag) return;
          const left = chart.valToPos(times[place] - step / 2, "x", true);
          const right = chart.valToPos(times[place] + step / 2, "x", true);
          ctx.fillRect(left, chart.bbox.top, right - left, chart.bbox.height);
        });
      }
      ctx.restore();
    }

    resize() {
      if (this.chart && this.canvas.clientWidth) {
        this.chart.setSize({ width: this.canvas.clientWidth, height: HEIGHT });
      }
    }

    /** Draw again in the colours of another theme. */
    recolour() {
      if (this.chart) this.chart.redraw(false, true);
    }
  }

  /** Return the places of the points without a neighbour, through which no line goes. */
  function lonely(values) {
    const isThere = (place) => (values[place] ?? null) !== null;
    return [...values.keys()].filter((place) => isThere(place) && !isThere(place - 1) && !isThere(place + 1));
  }

  tools.plots = function (root) {
    const plots = [...root.querySelectorAll("[data-plot]")].map((figure) => new Plot(figure, root));
    const recolour = () => plots.forEach((plot) => plot.recolour());
    new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme", "data-bs-theme", "class"] });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    return {
      draw: (history) => plots.forEach((plot) => plot.draw(history)),
      redraw: recolour,
    };
  };
})(window.broadcaster);
