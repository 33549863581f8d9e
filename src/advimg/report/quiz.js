"use strict";

const byId = (id) => document.getElementById(id);
const pairs = [...byId("pairs").children].map((item) => ({ ...item.dataset, name: item.textContent }));
const panes = byId("panes");
const figures = [...panes.children];
const images = figures.map((figure) => figure.querySelector("img"));
const scrolled = figures.map((figure) => figure.querySelector(".pane"));
const buttons = [...document.querySelectorAll("[data-answer]")];
let rounds = [];
let place = 0;
let front = 0;

function shuffled(items) {
  const left = [...items];
  const mixed = [];
  while (left.length) mixed.push(...left.splice(Math.floor(Math.random() * left.length), 1));
  return mixed;
}

function start() {
  /* file: which of the two is the file, 0 or 1. */
  rounds = shuffled(pairs).map((pair) => ({ pair, file: Math.floor(Math.random() * 2), answer: null }));
  place = 0;
  byId("end").hidden = true;
  byId("test").hidden = false;
  ask();
}

/* Shows the next pair; it can be answered once both pictures can be seen. */
async function ask() {
  const { pair, file } = rounds[place];
  byId("progress").textContent = `Pair ${place + 1} of ${rounds.length}`;
  buttons.forEach((button) => { button.disabled = true; });
  images.forEach((image, number) => {
    image.src = number === file ? pair.file : pair.photo;
    /* A pixel of the picture is one of the screen, not one of CSS. */
    image.style.width = `${pair.width / devicePixelRatio}px`;
    image.style.height = `${pair.height / devicePixelRatio}px`;
  });
  show(0);
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  scrolled.forEach((pane) => pane.scrollTo(0, 0));
  buttons.forEach((button) => { button.disabled = false; });
}

function show(number) {
  front = number;
  figures.forEach((figure, own) => figure.classList.toggle("front", own === front));
}

function answer(number) {
  if (buttons[0].disabled || byId("test").hidden) return;
  rounds[place].answer = number;
  place += 1;
  if (place < rounds.length) ask();
  else finish();
}

/* The chance that guessing gets so many right or more, of so many. */
function chance(right, count) {
  let ways = 1;
  let sum = 0;
  for (let number = count; number >= right; number -= 1) {
    sum += ways;
    ways *= number / (count - number + 1);
  }
  return sum / 2 ** count;
}

function inWords(share) {
  return share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "less than 0.1 %";
}

function finish() {
  const right = rounds.filter((round) => round.answer === round.file).length;
  const luck = chance(right, rounds.length);
  byId("score").textContent = `${right} of ${rounds.length} right`;
  byId("chance").textContent = `Who guesses gets ${right} or more right with a chance of ${inWords(luck)}. `
    + (luck < 0.05 ? "So this was hardly guessing: the files could be told from the photos." : "So this may well have been guessing.");
  byId("answers").replaceChildren(...rounds.map(({ pair, file, answer: given }) => {
    const item = document.createElement("li");
    item.className = given === file ? "right" : "wrong";
    item.textContent = `${pair.name}: the file was ${"AB"[file]}${pair.measures ? ` (${pair.measures})` : ""}`;
    return item;
  }));
  byId("test").hidden = true;
  byId("end").hidden = false;
  byId("score").focus();
}

/* The first press lays both on one spot, each further one shows the other. */
function flip() {
  if (panes.classList.contains("flipping")) show(1 - front);
  else {
    panes.classList.add("flipping");
    byId("flip").setAttribute("aria-pressed", "true");
    show(0);
  }
}

function beside() {
  panes.classList.remove("flipping");
  byId("flip").setAttribute("aria-pressed", "false");
}

buttons.forEach((button) => button.addEventListener("click", () => answer(Number(button.dataset.answer))));
byId("flip").addEventListener("click", () => (panes.classList.contains("flipping") ? beside() : flip()));
byId("again").addEventListener("click", start);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("test").hidden) return;
  const does = { 1: () => answer(0), 2: () => answer(1), f: flip, s: beside }[event.key.toLowerCase()];
  if (does) {
    event.preventDefault();
    does();
  }
});
/* Both show the same part of a picture that is larger than its pane. */
scrolled.forEach((pane, number) => pane.addEventListener("scroll", () => {
  scrolled[1 - number].scrollTo(pane.scrollLeft, pane.scrollTop);
}));
start();
