// Draws the charts of a page with Observable Plot. Each stands in the page as its figures, in JSON,
// made by report/charts.py; colors are the page's CSS variables, so light, dark and print are its
// affair. The same figures are a table of the page, which needs no script.
"use strict";
(() => {
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
  const write = (value) => number.format(value).replace("-", "−");
  const day = (date) => date.toISOString().slice(0, 10);
  const color = (each) => `var(--${each.tone})`;
  const short = (name, letters) => (name.length > letters ? `${name.slice(0, letters - 1)}…` : name);
  const numbered = (rows) => rows.map((row, at) => ({ ...row, at }));

  const axis = (label) => ({ label, labelAnchor: "center", labelArrow: "none", tickSize: 0 });
  const named = (rows, letters) => ({
    type: "band",
    domain: rows.map((row) => row.at),
    label: null,
    tickSize: 0,
    tickFormat: (at) => short(rows[at].name, letters),
  });

  /** Two axes of numbers, and room for their labels. */
  const plane = ({ x, y, width, height }) => ({
    width,
    height,
    marginLeft: 76,
    marginBottom: 42,
    x: { ...axis(x.label), nice: true, ticks: width / 90, tickFormat: write },
    y: { ...axis(y.label), nice: true, grid: true, ticks: height / 55, tickFormat: write },
  });

  /** What is pointed at: a ring, and a box that says what it is. */
  const pointed = (points, x, y, pointer = Plot.pointer) => [
    Plot.dot(points, pointer({ x, y, r: 6, stroke: color, strokeWidth: 2, ariaHidden: "true" })),
    box(points, x, y, pointer),
  ];
  const box = (points, x, y, pointer) =>
    Plot.tip(points, pointer({ x, y, title: "says", fill: "var(--raised)", stroke: "var(--soft)", lineWidth: 32, lineHeight: 1.25, ariaHidden: "true" }));

  const kinds = {
    lines({ series, x, y, diagonal, width, height }) {
      const both = plane({ x, y, width, height });
      // An hour of logs is written 2026-01-05T03, which is no time of JavaScript's.
      const moment = (text) => new Date(/T\d\d$/.test(text) ? `${text}:00Z` : text);
      const when = (value) => (x.dates ? moment(value) : value);
      const points = series.flatMap((each) =>
        each.points.filter(([, b]) => b !== null).map(([a, b], at) => ({
          x: when(a),
          y: b,
          tone: each.tone,
          says: `${each.name}: ${write(b)}\n${each.notes[at] ?? (x.dates ? day(when(a)) : `${x.label}: ${write(a)}`)}`,
        })),
      );
      const whole = !x.dates && points.every((point) => Number.isInteger(point.x));
      const ends = [0, Math.max(0, ...points.flatMap((point) => [point.x, point.y]))];
      const square = diagonal ? { domain: ends } : {};
      return {
        points,
        plot: {
          ...both,
          x: {
            ...both.x,
            ...square,
            type: x.dates ? "utc" : "linear",
            nice: !x.dates,
            tickFormat: x.dates ? undefined : (value) => (!whole || Number.isInteger(value) ? write(value) : ""),
          },
          y: { ...both.y, ...square, zero: y.zero },
          marks: [
            diagonal ? Plot.line(ends.map((end) => [end, end]), { stroke: "var(--soft)", strokeDasharray: "4 4" }) : null,
            ...series.flatMap((each) => {
              const place = { x: ([a]) => when(a), y: "1" };
              return [
                each.line ? Plot.line(each.points, { ...place, stroke: color(each), strokeDasharray: each.dashed ? "6 4" : null }) : null,
                each.marks ? Plot.dot(each.points, { ...place, fill: color(each), r: 3 }) : null,
              ];
            }),
            ...pointed(points, "x", "y"),
          ],
        },
      };
    },

    dots({ dots, x, y, width, height }) {
      const both = plane({ x, y, width, height });
      const points = dots.map((each) => ({ ...each, says: `${each.name}\n${x.label}: ${write(each.x)}\n${y.label}: ${write(each.y)}` }));
      return {
        points,
        plot: {
          ...both,
          x: { ...both.x, zero: true },
          marks: [Plot.dot(points, { x: "x", y: "y", fill: color, r: 4.5 }), ...pointed(points, "x", "y")],
        },
      };
    },

    intervals({ spans, x, width }) {
      const rows = numbered(spans).map((row) => ({ ...row, says: `${row.name}\n${row.value > 0 ? "+" : ""}${row.value === null ? "–" : write(row.value)} ${row.note}` }));
      return {
        points: rows.map((row) => ({ ...row, x: row.value, y: row.at })),
        plot: {
          width,
          height: 58 + 24 * rows.length,
          marginTop: 14,
          marginLeft: 210,
          marginBottom: 44,
          x: { ...axis(x.label), zero: true, nice: true, grid: true, ticks: 5, tickFormat: write },
          y: named(rows, 30),
          marks: [
            Plot.ruleX([0], { stroke: "var(--soft)" }),
            Plot.ruleY(rows.filter((row) => row.low !== null), { y: "at", x1: "low", x2: "high", stroke: color, strokeWidth: 2 }),
            Plot.dot(rows, { y: "at", x: "value", fill: color, r: 4 }),
            ...pointed(rows, "value", "at", Plot.pointerY),
          ],
        },
      };
    },

    bars({ bars, names, width }) {
      const rows = numbered(bars).map((row) => ({ ...row, says: `${row.name}\n${row.label}` }));
      const longest = Math.max(...rows.map((row) => row.value)) || 1;
      // A limit far beyond every bar would make dots of them all.
      const limited = rows.filter((row) => row.limit !== null && row.limit <= 4 * longest);
      const top = Math.max(longest, ...limited.map((row) => row.limit));
      const end = (row) => Math.max(row.value, limited.includes(row) ? row.limit : 0);
      return {
        points: rows.map((row) => ({ ...row, x: row.value, y: row.at })),
        plot: {
          width,
          height: 8 + 24 * rows.length,
          marginTop: 4,
          marginLeft: names,
          marginRight: 170,
          marginBottom: 4,
          x: { axis: null, domain: [0, top] },
          y: { ...named(rows, Math.floor(names / 7)), padding: 0.3 },
          marks: [
            Plot.barX(rows, { x1: 0, x2: "value", y: "at", fill: color, rx: 2 }),
            Plot.tickX(limited, { x: "limit", y: "at", stroke: "var(--bad)", strokeWidth: 2 }),
            Plot.text(rows, { x: end, y: "at", text: "label", textAnchor: "start", dx: 6, fill: "var(--soft)" }),
            box(rows, "value", "at", Plot.pointerY),
          ],
        },
      };
    },

    trend({ values, names, tone, width, height }) {
      const rows = values.map((y, x) => ({ x, y, tone, says: `${names[x]}: ${y === null ? "–" : write(y)}` }));
      const points = rows.filter((row) => row.y !== null);
      return {
        points,
        plot: {
          width,
          height,
          margin: 5,
          axis: null,
          x: { domain: [0, Math.max(1, rows.length - 1)] },
          marks: [
            Plot.line(rows, { x: "x", y: "y", stroke: `var(--${tone})`, strokeWidth: 2, strokeLinecap: "round" }),
            Plot.dot(points.slice(-1), { x: "x", y: "y", fill: color, r: 3 }),
            ...pointed(points, "x", "y", Plot.pointerX),
          ],
        },
      };
    },
  };

  /** Arrow keys do what the mouse does, and say it aloud. */
  const keys = (svg, points, said) => {
    let at = -1;
    const place = (name, value) => {
      const scale = svg.scale(name);
      return scale.apply(value) + (scale.bandwidth ?? 0) / 2;
    };
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: points.length - 1 };
      if (event.key === "Escape") svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
      if (!(event.key in steps) || !points.length || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      at = Math.min(points.length - 1, Math.max(0, steps[event.key]));
      const spot = new DOMPoint(place("x", points[at].x), place("y", points[at].y)).matrixTransform(svg.getScreenCTM());
      svg.dispatchEvent(new PointerEvent("pointermove", { clientX: spot.x, clientY: spot.y, pointerType: "mouse" }));
      said.textContent = points[at].says;
    });
    svg.addEventListener("blur", () => svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" })));
  };

  for (const place of document.querySelectorAll(".chart")) {
    const chart = JSON.parse(place.querySelector("script").textContent);
    const { points: all, plot } = kinds[chart.kind](chart);
    const points = all.filter((point) => point.y !== null && point.x !== null);
    const svg = Plot.plot({ ...plot, ariaLabel: chart.title, ariaDescription: chart.description });
    svg.setAttribute("role", "img");
    svg.setAttribute("tabindex", "0");
    // One image with a name: its parts, which Plot names too, are not read one by one.
    for (const part of svg.children) part.setAttribute("aria-hidden", "true");
    svg.setAttribute("aria-details", chart.figures);
    const said = Object.assign(document.createElement("output"), { className: "hidden" });
    keys(svg, points, said);
    place.querySelector("p").replaceWith(svg, said);
  }
})();
