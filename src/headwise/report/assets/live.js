"use strict";
// Asks the server for a newer page, and takes over the blocks that have changed: no reload, nothing jumps.

const Live = {
  line: document.createElement("p"),
  taken: 0,
  newest: "live",

  begin() {
    this.line.className = "live";
    this.line.setAttribute("role", "status");
    document.querySelector("header").append(this.line);
    this.say(this.newest);
    setTimeout(() => this.ask(), PAUSE);
  },

  say(text, stopped = false) {
    this.line.textContent = text;
    this.line.classList.toggle("stopped", stopped);
  },

  async ask() {
    try {
      if (!document.hidden) {
        const answer = await fetch(`page?since=${document.body.dataset.version}`, { cache: "no-store" });
        if (answer.status === 200) {
          this.take(new DOMParser().parseFromString(await answer.text(), "text/html"));
          this.newest = `live, new points at ${new Date().toLocaleTimeString()}`;
        }
        this.say(this.newest);
      }
    } catch {
      this.say("the server has stopped: this is what it showed last", true);
    }
    setTimeout(() => this.ask(), PAUSE);
  },

  take(fresh) {
    const before = new Map([...document.querySelectorAll("main .grid > *")].map((block) => [block.id, block]));
    const blocks = [...fresh.querySelectorAll("main .grid > *")];
    if (blocks.length === before.size && blocks.every((block) => before.has(block.id))) {
      for (const block of blocks) this.renew(before.get(block.id), block);
    } else {
      document.querySelector("main").replaceWith(document.adoptNode(fresh.querySelector("main")));
      document.querySelector("nav").replaceWith(document.adoptNode(fresh.querySelector("nav")));
      dress(document.querySelector("main"));
    }
    for (const part of ["h1", ".subtitle"]) {
      document.querySelector(part).textContent = fresh.querySelector(part).textContent;
    }
    document.title = fresh.title;
    document.body.dataset.version = fresh.body.dataset.version;
    document.body.dataset.taken = String(++this.taken);
  },

  renew(old, fresh) {
    const data = fresh.querySelector('.controls ~ script[type="application/json"]');
    const chart = old.chart;
    if (data && chart && chart.update(JSON.parse(data.textContent))) {
      for (const part of ["figcaption", "tbody"]) {
        const [here, there] = [old.querySelector(part), fresh.querySelector(part)];
        if (here && there) here.replaceWith(document.adoptNode(there));
      }
      return;
    }
    const open = [...old.querySelectorAll("details")].map((fold) => fold.open);
    if (old.dataset.source === fresh.outerHTML) return;
    const source = fresh.outerHTML;
    const block = document.adoptNode(fresh);
    [...block.querySelectorAll("details")].forEach((fold, index) => { fold.open = open[index] ?? fold.open; });
    block.dataset.source = source;
    old.replaceWith(block);
    dress(block);
  },
};

const PAUSE = 1500;
