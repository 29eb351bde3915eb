"use strict";
// The tip, tables that sort, pictures whose layers switch, and a self-test for a browser without hands.

window.addEventListener("error", (event) => {
  document.body.dataset.errors = `${document.body.dataset.errors || ""}${event.message}; `;
});

const Tip = {
  box: document.querySelector(".tip"),

  table(title, lines, x, y) {
    const table = document.createElement("table");
    for (const [name, value, index] of lines) {
      const row = table.insertRow();
      const key = row.insertCell();
      key.className = `c${index % 8} dotted`;
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
    }
    const head = document.createElement("strong");
    head.textContent = title;
    this.place([head, table], x, y);
  },

  text(text, x, y) {
    this.place([document.createTextNode(text)], x, y);
  },

  place(content, x, y) {
    this.box.replaceChildren(...content);
    this.box.hidden = false;
    const width = this.box.offsetWidth, height = this.box.offsetHeight, room = document.documentElement.clientWidth;
    const left = x + 14 + width > room ? x - 14 - width : x + 14;
    this.box.style.left = `${Math.min(Math.max(4, left), Math.max(4, room - width - 4))}px`;
    this.box.style.top = `${Math.max(4, Math.min(y, window.innerHeight - height - 4))}px`;
  },

  hide() {
    this.box.hidden = true;
  },
};

function tips() {
  const over = (event) => {
    const node = event.target.closest("[data-tip]");
    if (!node) return;
    const frame = node.getBoundingClientRect();
    const x = event.type === "focusin" ? frame.left + frame.width / 2 : event.clientX;
    Tip.text(node.dataset.tip, x, (event.type === "focusin" ? frame.top : event.clientY) + 12);
  };
  const out = (event) => { if (event.target.closest("[data-tip]")) Tip.hide(); };
  for (const [type, act] of [["pointermove", over], ["focusin", over], ["pointerout", out], ["focusout", out]]) {
    document.addEventListener(type, act);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") Tip.hide(); });
  window.addEventListener("scroll", () => Tip.hide(), { passive: true });
}

// Arrow keys walk over the cells of a heat map; one cell at a time is in the tab order.
function heatMaps(root) {
  for (const table of root.querySelectorAll("table.heat")) {
    const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
    const cells = rows.flat();
    cells.forEach((cell, index) => { cell.tabIndex = index ? -1 : 0; });
    table.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const at = rows.findIndex((row) => row.includes(event.target));
      if (!move || at < 0) return;
      event.preventDefault();
      const next = rows[at + move[0]]?.[rows[at].indexOf(event.target) + move[1]];
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
}

function sortTable(table, column, button) {
  const up = button.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.querySelectorAll("button")) other.removeAttribute("aria-sort");
  button.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.cells[column];
    const text = cell.textContent;
    const found = cell.dataset.value === undefined ? parseFloat(text) : Number(cell.dataset.value);
    return { text, found, empty: text === "–" || text === "" };
  };
  const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
  const numeric = rows.every(([v]) => v.empty || !Number.isNaN(v.found));
  rows.sort(([a], [b]) => {
    if (a.empty !== b.empty) return a.empty ? 1 : -1; // nothing stands last, whichever way
    const order = numeric ? a.found - b.found || 0 : a.text.localeCompare(b.text, undefined, { numeric: true });
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function tables(root) {
  for (const table of root.querySelectorAll("table.data")) {
    [...table.tHead.querySelectorAll("button")].forEach((button, column) => {
      button.title = "Sort by this column";
      button.addEventListener("click", () => sortTable(table, column, button));
    });
  }
}

function layers(root) {
  for (const box of root.querySelectorAll("[data-layer]")) {
    const picture = box.closest("figure");
    box.addEventListener("change", () => picture.classList.toggle(`without-${box.dataset.layer}`, !box.checked));
  }
}

// #selftest: hover over every chart and heat map, switch a curve, sort a table; what came out goes into attributes.
function selfTest(charts) {
  for (const chart of charts) {
    if (!chart.data.steps.length) continue;
    const frame = chart.svg.getBoundingClientRect();
    const x = frame.left + (chart.box.left + chart.box.right) / 2;
    chart.svg.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: frame.top + 60, bubbles: true }));
    chart.figure.dataset.hover = Tip.box.innerText.replace(/\s+/g, " ");
    chart.svg.dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
    chart.figure.dataset.keyed = Tip.box.innerText.replace(/\s+/g, " ");
    chart.leave();
    const button = chart.figure.querySelector(".legend button");
    const before = chart.svg.querySelectorAll("path").length;
    button.click();
    chart.figure.dataset.toggled = String(chart.svg.querySelectorAll("path").length < before);
    button.click();
  }
  for (const node of document.querySelectorAll("table.heat tbody td:first-of-type, .ribbon")) {
    node.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }));
    node.dataset.hover = Tip.box.textContent;
  }
  Tip.hide();
  for (const table of document.querySelectorAll("table.data")) table.tHead.querySelector("button")?.click();
  document.body.dataset.blank = String([...document.images].filter((image) => !image.naturalWidth).length);
  document.body.dataset.overflow = String(document.documentElement.scrollWidth - document.documentElement.clientWidth);
  document.body.dataset.selftest = "done";
}

// What a part of the page needs to be used: its charts, which are returned, and what its tables and boxes do.
function dress(root) {
  const charts = [...root.querySelectorAll(".chart")].map((frame) => new Chart(frame.closest("figure")));
  heatMaps(root);
  tables(root);
  layers(root);
  return charts;
}

function start() {
  const charts = dress(document);
  tips();
  if (window.innerWidth < 700) for (const fold of document.querySelectorAll(".beside details")) fold.open = false;
  if (document.body.dataset.version) Live.begin();
  if (location.hash === "#selftest") selfTest(charts);
}

start();
