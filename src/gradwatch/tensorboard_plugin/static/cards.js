// The cards of the runs that are ticked, side by side.

import { createCard } from "./card.js";
import { element } from "./dom.js";

/** Return the cards: `{element, draw, point}`. `app` is what all of them share. */
export function createCards(app) {
  const area = element("section.cards");
  const cards = new Map();

  /** Have one card a run, in the order of the runs; a card that stays keeps its state. */
  function keep(runs) {
    for (const name of cards.keys()) if (!runs.some((run) => run.name === name)) cards.delete(name);
    for (const run of runs) if (!cards.has(run.name)) cards.set(run.name, createCard(app, run));
    const wanted = runs.map((run) => cards.get(run.name).element);
    const isSame = wanted.length === area.children.length && wanted.every((card, at) => card === area.children[at]);
    if (!isSame) area.replaceChildren(...wanted);
    area.classList.toggle("several", wanted.length > 1);
  }

  return {
    element: area,
    draw(runs, shared) {
      keep(runs);
      for (const run of runs) cards.get(run.name).draw(shared, run);
    },
    point(step) {
      for (const card of cards.values()) card.point(step);
    },
  };
}
