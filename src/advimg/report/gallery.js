"use strict";

const gallery = document.getElementById("gallery");
const controls = document.getElementById("controls");
const cards = gallery ? [...gallery.children] : [];
const failed = document.getElementById("failed");
const failures = failed ? [...failed.querySelectorAll("li")] : [];
cards.forEach((card, place) => { card.dataset.place = place; });

/* Shows what the controls ask for. */
function filter() {
  const statuses = new Set([...controls.querySelectorAll("[name=status]:checked")].map((box) => box.value));
  const [where, index] = controls.elements.seen.value.split(" ");
  for (const item of [...cards, ...failures]) {
    item.hidden = !statuses.has(item.dataset.status) || (where !== "" && item.dataset[where] !== index);
  }
  const count = (items) => items.filter((item) => !item.hidden).length;
  document.getElementById("shown").value = `${count(cards) + count(failures)} of ${cards.length + failures.length} shown`;
  if (failed) failed.hidden = count(failures) === 0;
  if (gallery) document.getElementById("none").hidden = count(cards) > 0;
}

/* Cards that are equal stay in the order of their names. */
function sort() {
  if (!gallery) return;
  const [by, direction] = controls.elements.order.value.split(" ");
  const value = (card) => Number(card.dataset[by]);
  cards.sort((one, other) => direction * (value(one) - value(other)) || one.dataset.place - other.dataset.place);
  gallery.append(...cards);
}

function turn(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

function isPressed(button) {
  return button.getAttribute("aria-pressed") === "true";
}

/* Moves the focus from a card to the next one that is shown, or the last before it. */
function go(from, step) {
  let place = cards.indexOf(from.closest(".card")) + step;
  for (; place >= 0 && place < cards.length; place += step) {
    const button = cards[place].hidden ? null : cards[place].querySelector(".flip");
    if (button) {
      button.focus();
      return;
    }
  }
}

if (controls) {
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("change", (event) => {
    if (event.target.name === "order") sort();
    filter();
  });
  const all = document.getElementById("flip-all");
  all.addEventListener("click", () => {
    turn(all, !isPressed(all));
    document.querySelectorAll(".flip").forEach((button) => turn(button, isPressed(all)));
  });
  filter();
}

if (gallery) {
  gallery.addEventListener("click", (event) => {
    const button = event.target.closest(".flip");
    if (button) turn(button, !isPressed(button));
  });
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  gallery.addEventListener("keydown", (event) => {
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey && !event.shiftKey;
    if (plain && event.key in steps && event.target.matches(".flip")) {
      event.preventDefault();
      go(event.target, steps[event.key]);
    }
  });
}
