"use strict";
// What is on the page: levels, chosen ends, the version they come from; steps back and forth; and the question that
// follows every change. Angles are asked of the server: one question at a time; the latest levels win.

const id = location.pathname.split("/").pop();
const api = `/api/scans/${id}`;
const part = (name) => document.getElementById(name);
const canvas = part("canvas");
const view = new View(canvas);
const MOST_LEVELS = 60;

let opened = 0; // the newest version that is known here
let measured = null; // what the library says of the levels as they are
let state = { levels: [], chosen: [], shown: 0 }; // shown: the version that the levels were; 0 = as measured
const bases = new Map(); // version -> its levels and ends, as text
let past = [];
let future = [];
let held = null; // { level, side } that is dragged
let picked = null; // the end that arrow keys move
let asking = false;
let again = false;
let sent = 0;
let answered = 0;
let dirty = false;

const copy = (value) => JSON.parse(JSON.stringify(value));
const asText = ({ levels, chosen }) => JSON.stringify({ levels, chosen });
const changed = () => asText(state) !== bases.get(state.shown);
const degrees = (value) => (value === null || value === undefined ? "" : `${value.toFixed(1)}°`);

function remember() {
  past.push(copy(state));
  if (past.length > 200) past.shift();
  future = [];
}

function step(from, to) {
  if (!from.length) return;
  to.push(copy(state));
  state = from.pop();
  picked = null;
  held = null;
  update();
}

function update() {
  dirty = changed();
  part("undo").disabled = !past.length;
  part("redo").disabled = !future.length;
  part("accept").disabled = dirty;
  part("correct").disabled = !dirty;
  part("add").disabled = state.levels.length >= MOST_LEVELS;
  showVersion();
  view.draw();
  ask();
  followMask();
}

async function ask() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  const number = ++sent;
  try {
    const answer = await send(`${api}/angles`, { levels: state.levels, chosen: state.chosen });
    answered = number;
    if (answer.status === 200) {
      measured = answer.content;
      show();
    } else {
      part("angle").textContent = answer.content.error || "The levels cannot be used.";
    }
  } catch (error) {
    part("angle").textContent = `The server does not answer: ${error.message}`;
  }
  asking = false;
  canvas.dataset.answered = String(answered);
  if (again) {
    again = false;
    ask();
  }
}

function post(address, content) {
  return fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
}

async function send(address, content) {
  const answer = await post(address, content);
  return { status: answer.status, content: await answer.json() };
}

function order() {
  return state.levels
    .map((level, index) => ({ level, index }))
    .sort((one, other) => one.level.middle[1] - other.level.middle[1]);
}

// Chosen ends are places in the row of levels; a change of the row must not make them other levels.
function keepingEnds(act) {
  const before = order().map(({ level }) => level);
  const ends = state.chosen.map(({ upper, lower }) => [before[upper], before[lower]]);
  act();
  const after = order().map(({ level }) => level);
  state.chosen = ends
    .map(([upper, lower]) => ({ upper: after.indexOf(upper), lower: after.indexOf(lower) }))
    .filter(({ upper, lower }) => upper >= 0 && upper < lower);
}

function inside([x, y]) {
  const [width, height] = view.size;
  return [Math.min(width - 1, Math.max(0, x)), Math.min(height - 1, Math.max(0, y))];
}

function place(end, point) {
  keepingEnds(() => {
    const level = state.levels[end.level];
    level[end.side] = inside(point);
    if (level.left && level.right) {
      level.middle = [0, 1].map((axis) => (level.left[axis] + level.right[axis]) / 2);
    }
  });
}
