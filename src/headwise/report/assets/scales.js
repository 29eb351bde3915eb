"use strict";
// Axes: numbers to pixels, ticks, and numbers to text.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function show(value, share) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value; // NaN and infinities come as their names
  if (share) return (100 * value).toFixed(1) + " %";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// At an axis there is room for six characters.
function shortly(value) {
  return value !== 0 && Math.abs(value) < 1e-3 ? String(Number(value.toPrecision(2)).toExponential()) : show(value);
}

const isNumber = (value) => typeof value === "number";

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
  return ticks.map((tick) => Number(tick.toPrecision(12)));
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const digits = decades > 4 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 3, 5, 7];
  const every = Math.max(1, Math.ceil(decades / 7));
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    if (e % every) continue;
    for (const digit of digits) {
      const tick = Number((digit * 10 ** e).toPrecision(6));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks.length > 1 ? ticks : linearTicks(low, high, 4);
}

function axis(low, high, from, to, log) {
  if (!(high > low)) {
    const room = log ? 2 : Math.abs(low) * 0.1 || 1;
    [low, high] = log ? [low / room, high * room] : [low - room, high + room];
  }
  const warp = log ? Math.log : (v) => v;
  const [first, last] = [warp(low), warp(high)];
  const place = (v) => from + ((warp(v) - first) / (last - first)) * (to - from);
  const length = Math.abs(to - from);
  const apart = from > to ? 52 : length > 400 ? 90 : 54; // upright axes run from the bottom up
  return { low, high, log, place, ticks: log ? logTicks(low, high) : linearTicks(low, high, length / apart) };
}

// Labels at the line ends: pushed apart until none overlaps, kept inside the frame.
function spread(labels, gap, top, bottom) {
  labels.sort((a, b) => a.y - b.y);
  let floor = top;
  for (const label of labels) floor = (label.y = Math.max(label.y, floor)) + gap;
  let ceiling = bottom;
  for (const label of [...labels].reverse()) ceiling = (label.y = Math.min(label.y, ceiling)) - gap;
  return labels;
}

function nearest(sorted, wanted) {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle;
    else high = middle;
  }
  return wanted - sorted[low] <= sorted[high] - wanted ? low : high;
}
