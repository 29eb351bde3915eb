"use strict";
// Curves and stacked shares, drawn at the width their frame has.

const MARKS = [
  "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z", "M-3.2 -3.2H3.2V3.2H-3.2Z", "M0 -4.2L4 3H-4Z", "M0 -4.5L4.5 0L0 4.5L-4.5 0Z",
  "M-4 -1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4Z", "M0 4.2L4 -3H-4Z", "M-4 -1.6H4V1.6H-4Z", "M-1.6 -4H1.6V4H-1.6Z",
];

// From the ninth curve on colors come again, with other strokes.
const style = (index) => (index + 3 * Math.floor(index / 8)) % 8;

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.frame = figure.querySelector(".chart");
    this.data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    this.hidden = new Set();
    this.options = { log: this.data.log, smooth: Boolean(this.data.smooth) };
    this.cursor = null;
    figure.chart = this;
    this.controls();
    this.draw();
    new ResizeObserver(() => { if (this.frame.clientWidth !== this.width) this.draw(); }).observe(this.frame);
  }

  controls() {
    for (const button of this.figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const index = Number(button.dataset.series);
        if (!this.hidden.delete(index)) this.hidden.add(index);
        button.setAttribute("aria-pressed", String(!this.hidden.has(index)));
        this.draw();
      });
    }
    for (const box of this.figure.querySelectorAll("[data-option]")) {
      box.addEventListener("change", () => {
        this.options[box.dataset.option] = box.checked;
        this.draw();
      });
    }
  }

  update(data) { // new rows of the same curves; whether it could take them
    if (data.title !== this.data.title || data.names.join() !== this.data.names.join()) return false;
    if (Boolean(data.smooth) !== Boolean(this.data.smooth) || data.log !== this.data.log) return false; // its controls differ
    const cursor = this.cursor;
    this.data = data;
    this.draw();
    if (this.svg && cursor !== null && cursor < data.steps.length) this.read(cursor);
    return true;
  }

  get shown() {
    return this.data.names.map((_, index) => index).filter((index) => !this.hidden.has(index));
  }

  column(index) {
    return this.options.smooth && this.data.smooth ? this.data.smooth[index] : this.data.values[index];
  }

  draw() {
    this.width = this.frame.clientWidth;
    if (!this.width) return; // not shown yet: the observer draws it when it is
    this.height = Math.round(Math.min(340, Math.max(240, this.width * 0.52)));
    const longest = Math.max(0, ...this.data.names.map((name) => name.length));
    const room = 16 + 8.2 * longest;
    // Names stand at the curves' ends where all of them fit whole; the legend has them anyway.
    this.labeled = room < this.width * 0.36 && this.data.names.length * 15 < this.height - 60;
    const labels = this.labeled ? room : 16;
    this.box = { left: 52, right: this.width - labels, top: 26, bottom: this.height - 34 };
    this.svg = svg("svg", { width: this.width, height: this.height, tabindex: 0, role: "img",
      "aria-label": this.data.title + ". Left and right arrow keys read the numbers." });
    this.frame.replaceChildren(this.svg);
    if (!this.data.steps.length) return;
    this.scales();
    this.grid();
    this.plot = svg("g", {}, this.svg);
    if (this.data.stacked) this.areas();
    else this.lines();
    this.listen();
  }

  scales() {
    const { steps, bounds, stacked } = this.data;
    const log = this.options.log && !stacked;
    let [low, high] = stacked ? [Math.min(0, ...this.bands().map(({ down }) => down)), 1] : bounds || this.extent(log);
    if (!bounds && !stacked) {
      const room = log ? (high / low) ** 0.04 : (high - low) * 0.04;
      if (log) [low, high] = [low / room, high * room];
      else [low, high] = [low >= 0 && low < 0.35 * high ? 0 : low - room, high + room];
    }
    this.x = axis(steps[0], steps.at(-1), this.box.left, this.box.right, false);
    this.y = axis(low, high, this.box.bottom, this.box.top, log);
  }

  extent(log) { // one wild value must not flatten every curve: beside a moving mean, 98 % of the logged values set the range
    let [low, high] = [Infinity, -Infinity];
    const include = (value) => { [low, high] = [Math.min(low, value), Math.max(high, value)]; };
    for (const index of this.shown) {
      const usable = (column) => column.filter((value) => isNumber(value) && !(log && value <= 0));
      const logged = usable(this.data.values[index]).sort((a, b) => a - b);
      const cut = this.options.smooth && !log ? Math.floor(logged.length / 100) : 0;
      for (const value of [logged[cut], logged.at(-1 - cut)]) if (value !== undefined) include(value);
      if (this.options.smooth) usable(this.column(index)).forEach(include);
    }
    return low <= high ? [low, high] : log ? [0.1, 1] : [0, 1];
  }

  grid() {
    const { left, right, top, bottom } = this.box;
    for (const tick of this.y.ticks) {
      const y = this.y.place(tick);
      svg("line", { x1: left, x2: right, y1: y, y2: y, class: tick === 0 && !this.y.log ? "base" : "rule" }, this.svg);
      svg("text", { x: left - 8, y: y + 4, class: "tick", "text-anchor": "end" }, this.svg,
        this.data.stacked ? Math.round(100 * tick) + " %" : shortly(tick));
    }
    for (const tick of this.x.ticks.filter(Number.isInteger)) {
      const x = this.x.place(tick);
      svg("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "base" }, this.svg);
      const past = x + 3.6 * String(tick).length > this.width; // half of it would be cut off
      svg("text", { x: past ? this.width : x, y: bottom + 18, class: "tick", "text-anchor": past ? "end" : "middle" },
        this.svg, String(tick));
    }
    svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "base" }, this.svg);
    svg("text", { x: 2, y: 13, class: "axis" }, this.svg, this.data.unit + (this.y.log ? " (log axis)" : ""));
    svg("text", { x: left - 12, y: bottom + 18, class: "axis", "text-anchor": "end" }, this.svg, "step");
  }

  lines() {
    const clip = "clip" + this.figure.id;
    const shape = svg("clipPath", { id: clip }, this.plot);
    svg("rect", { x: this.box.left - 4, y: this.box.top - 4, width: this.box.right - this.box.left + 8,
      height: this.box.bottom - this.box.top + 8 }, shape);
    const layer = svg("g", { "clip-path": `url(#${clip})` }, this.plot);
    const labels = [];
    for (const index of this.shown) {
      const color = "c" + (index % 8);
      if (this.options.smooth && this.data.smooth) this.path(this.data.values[index], `line pale ${color}`, "", layer);
      const points = this.path(this.column(index), `line ${color}`, this.data.dashes[index], layer);
      this.marks(points, index, layer);
      this.broken(index, layer);
      const name = this.data.names[index];
      if (points.length) labels.push({ y: points.at(-1)[1] + 4, name, color });
      else if (this.data.values[index].includes(0)) labels.push({ y: this.box.bottom, name: `0: ${name}`, color });
    }
    this.labels(labels);
  }

  path(column, style, dash, parent) {
    const points = [];
    let [d, pen] = ["", "M"];
    column.forEach((value, row) => {
      if (!isNumber(value) || (this.y.log && value <= 0)) {
        if (value !== null) pen = "M"; // a value that is not finite breaks the line, one that was not logged does not
        return;
      }
      const point = [this.x.place(this.data.steps[row]), this.y.place(value)];
      points.push(point);
      d += pen + point[0].toFixed(1) + " " + point[1].toFixed(1);
      pen = "L";
    });
    svg("path", { d, class: style, "stroke-dasharray": dash }, parent);
    return points;
  }

  marks(points, index, parent) {
    const apart = (this.box.right - this.box.left) / 6;
    let next = this.box.left + (apart * (1 + (index % 5))) / 6;
    points.forEach(([x, y], place) => {
      if (x < next && !(points.length < 3 || place === points.length - 1)) return;
      svg("path", { d: MARKS[style(index)], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
        class: `mark c${index % 8}` }, parent);
      while (next <= x) next += apart;
    });
  }

  broken(index, parent) { // a cross at the top for each value that is not finite
    this.data.values[index].forEach((value, row) => {
      if (typeof value !== "string") return;
      const x = this.x.place(this.data.steps[row]).toFixed(1);
      svg("path", { d: `M${x} ${this.box.top}m-4 -4l8 8m0 -8l-8 8`, class: `broken c${index % 8}` }, parent);
    });
  }

  bands() { // per row how far the shown parts above 0 reach up, and those below 0 down
    return this.data.steps.map((_, row) => {
      const parts = this.shown.map((index) => this.column(index)[row]).filter(isNumber);
      const sum = (sign) => parts.filter((part) => part * sign > 0).reduce((all, part) => all + part, 0);
      return { up: sum(1), down: sum(-1) };
    });
  }

  areas() {
    const labels = [];
    const [up, down] = [this.data.steps.map(() => 0), this.data.steps.map(() => 0)];
    const alone = this.data.steps.length === 1; // a lone step has a bar
    const asides = alone ? [-20, 20] : [0];
    for (const index of this.shown) {
      const column = this.column(index).map((value) => (isNumber(value) ? value : 0));
      let middle = this.y.place(0);
      for (const [level, sign] of [[up, 1], [down, -1]]) { // one that changes sides ends on one and begins on the other
        const part = column.map((value) => (value * sign > 0 ? value : 0));
        if (!part.some(Boolean)) continue;
        const from = level.slice();
        part.forEach((value, row) => { level[row] += value; });
        const point = (at, row, aside) =>
          `${(this.x.place(this.data.steps[row]) + aside).toFixed(1)} ${this.y.place(at).toFixed(1)}`;
        const side = (levels) => levels.flatMap((at, row) => asides.map((aside) => point(at, row, aside)));
        const d = "M" + [...side(level), ...side(from).reverse()].join("L") + "Z";
        svg("path", { d, class: `fill c${index % 8}` }, this.plot);
        svg("path", { d, class: `hatch h${style(index)}` }, this.plot);
        if (part.at(-1)) middle = this.y.place((level.at(-1) + from.at(-1)) / 2);
      }
      if (!isNumber(this.column(index).at(-1))) continue;
      labels.push({ y: middle + 4, name: this.data.names[index], color: "c" + (index % 8) });
    }
    this.labels(labels);
  }

  labels(labels) {
    if (!this.labeled) return;
    const room = this.width - this.box.right - 10;
    for (const label of spread(labels, 15, this.box.top + 4, this.box.bottom + 2)) {
      const text = svg("text", { x: this.box.right + 8, y: label.y, class: `end ${label.color}` }, this.plot, label.name);
      for (let kept = label.name.length - 1; kept > 0 && text.getComputedTextLength() > room; kept--) {
        text.textContent = label.name.slice(0, kept) + "…";
      }
    }
  }

  listen() {
    this.overlay = svg("g", { class: "overlay" }, this.svg);
    this.svg.addEventListener("pointermove", (event) => {
      const x = event.clientX - this.svg.getBoundingClientRect().left;
      const part = (x - this.box.left) / (this.box.right - this.box.left);
      if (part < -0.02 || part > 1.02) this.leave();
      else this.read(nearest(this.data.steps, this.x.low + part * (this.x.high - this.x.low)));
    });
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => {
      const last = this.data.steps.length - 1;
      const stride = event.shiftKey ? Math.max(1, Math.round(last / 20)) : 1;
      const row = { ArrowLeft: (this.cursor ?? last + stride) - stride, ArrowRight: (this.cursor ?? -stride) + stride,
        Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.leave();
      if (row === undefined) return;
      event.preventDefault();
      this.read(Math.min(last, Math.max(0, row)));
    });
  }

  read(row) {
    this.cursor = row;
    const x = this.x.place(this.data.steps[row]);
    this.overlay.replaceChildren();
    svg("line", { x1: x, x2: x, y1: this.box.top, y2: this.box.bottom, class: "cursor" }, this.overlay);
    const lines = this.shown.map((index) => {
      const value = this.data.values[index][row];
      if (!this.data.stacked && isNumber(value) && !(this.y.log && value <= 0)) {
        const y = Math.min(this.box.bottom, Math.max(this.box.top, this.y.place(value)));
        svg("circle", { cx: x, cy: y, r: 4, class: `dot c${index % 8}` }, this.overlay);
      }
      return [this.data.names[index], show(value, this.data.stacked), index];
    });
    const frame = this.svg.getBoundingClientRect();
    Tip.table(`step ${this.data.steps[row]}`, lines, frame.left + x, frame.top + this.box.top);
  }

  leave() {
    this.cursor = null;
    this.overlay.replaceChildren();
    Tip.hide();
  }
}
