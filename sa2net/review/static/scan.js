"use strict";
// One scan: levels are dragged here, angles are asked of the server. One question at a time; the latest levels win.

const id = location.pathname.split("/").pop();
const api = `/api/scans/${id}`;
const part = (name) => document.getElementById(name);
const canvas = part("canvas");
const view = new View(canvas);
const REACH = 18; // px of the page within which an end is taken hold of
const COLOURS = ["#e69f00", "#56b4e9", "#9be36b", "#f0a3ff", "#ffe14d", "#ff8c69"];

let opened = 0;
let measured = null; // what the library says of the levels as they are
let state = { levels: [], chosen: [] };
let start = "";
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
const changed = () => JSON.stringify(state) !== start;
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
  update();
}

function update() {
  dirty = changed();
  part("undo").disabled = !past.length;
  part("redo").disabled = !future.length;
  part("accept").disabled = dirty;
  part("correct").disabled = !dirty;
  view.draw();
  ask();
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

async function send(address, content) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  return { status: answer.status, content: await answer.json() };
}

function order() {
  return state.levels
    .map((level, index) => ({ level, index }))
    .sort((one, other) => one.level.middle[1] - other.level.middle[1]);
}

function shownCurves() {
  const levels = measured.measurement.levels;
  if (measured.chosen.length) {
    return measured.chosen.map((item) => ({
      angle: item.angle, interval: item.interval_90, convex: item.convex,
      upper: item.curve.upper, lower: item.curve.lower,
      rows: [levels[item.curve.upper].middle[1], levels[item.curve.lower].middle[1]],
    }));
  }
  const place = (label) => levels.findIndex((level) => level.label === label);
  return measured.measurement.curves.map((curve) => ({
    angle: curve.angle_deg, interval: curve.interval_90_deg, convex: curve.convex,
    upper: place(curve.upper_end), lower: place(curve.lower_end), rows: [curve.upper_row, curve.lower_row],
  }));
}

function show() {
  const said = measured.measurement;
  const curves = shownCurves();
  const largest = curves.reduce((best, curve) => (best && best.angle >= curve.angle ? best : curve), null);
  part("angle").textContent = largest
    ? `${degrees(largest.angle)} largest curve, 90 % interval ${largest.interval.map((end) => end.toFixed(1)).join(" to ")}`
    : "No angle";
  const reasons = [...said.refusals.map((refusal) => `refused: ${refusal.reason}`), ...said.warnings];
  part("reasons").replaceChildren(...reasons.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  showCurves(curves, said.levels);
  showLevels(said.levels);
  part("automatic").hidden = !state.chosen.length;
  view.draw();
}

function showCurves(curves, levels) {
  const rows = curves.map((curve, number) => {
    const row = document.createElement("tr");
    for (const end of ["upper", "lower"]) {
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `${end} end of curve ${number + 1}`);
      levels.forEach((level, index) => choice.add(new Option(level.label, index, false, index === curve[end])));
      choice.addEventListener("change", () => {
        const chosen = curves.map((item) => ({ upper: item.upper, lower: item.lower }));
        chosen[number][end] = Number(choice.value);
        if (chosen[number].upper >= chosen[number].lower) {
          choice.value = String(curve[end]);
          return;
        }
        remember();
        state.chosen = chosen;
        update();
      });
      row.insertCell().append(choice);
    }
    const angle = row.insertCell();
    angle.textContent = degrees(curve.angle);
    angle.className = "number";
    angle.style.borderLeft = `4px solid ${COLOURS[number % COLOURS.length]}`;
    row.insertCell().textContent = curve.interval.map((value) => value.toFixed(1)).join(" to ");
    row.insertCell().textContent = curve.convex;
    return row;
  });
  if (!part("curves").contains(document.activeElement) || document.activeElement.tagName !== "SELECT") {
    part("curves").tBodies[0].replaceChildren(...rows);
  } else {
    const focused = document.activeElement.getAttribute("aria-label");
    part("curves").tBodies[0].replaceChildren(...rows);
    const same = [...part("curves").querySelectorAll("select")].find((item) => item.getAttribute("aria-label") === focused);
    if (same) same.focus();
  }
}

function showLevels(levels) {
  const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.end : undefined;
  const rows = order().map(({ level, index }, place) => {
    const said = levels[place] || { label: "?", tilt_deg: null };
    const row = document.createElement("tr");
    row.insertCell().textContent = said.label;
    for (const side of ["left", "right"]) {
      const cell = row.insertCell();
      if (!level[side]) {
        cell.textContent = "missing";
        continue;
      }
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.end = `${index}-${side}`;
      button.textContent = level[side].map((value) => Math.round(value)).join(", ");
      button.setAttribute("aria-label", `${side} end of ${said.label}, at ${button.textContent}; arrow keys move it`);
      button.addEventListener("focus", () => pick({ level: index, side }));
      button.addEventListener("keydown", moveByKey);
      cell.append(button);
    }
    const tilt = row.insertCell();
    tilt.textContent = degrees(said.tilt_deg);
    tilt.className = "number";
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${said.label}`);
    remove.addEventListener("click", () => {
      remember();
      state.levels.splice(index, 1);
      state.chosen = [];
      picked = null;
      update();
    });
    row.insertCell().append(remove);
    if (picked && picked.level === index) row.className = "chosen";
    return row;
  });
  part("levels").tBodies[0].replaceChildren(...rows);
  const before = focus && part("levels").querySelector(`[data-end="${focus}"]`);
  if (before) before.focus({ preventScroll: true });
}

function pick(end) {
  picked = end;
  for (const row of part("levels").tBodies[0].rows) {
    row.className = row.querySelector(`[data-end^="${end.level}-"]`) ? "chosen" : "";
  }
  view.draw();
}

function place(end, point) {
  const level = state.levels[end.level];
  const [width, height] = view.size;
  level[end.side] = [Math.min(width - 1, Math.max(0, point[0])), Math.min(height - 1, Math.max(0, point[1]))];
  if (level.left && level.right) {
    level.middle = [0, 1].map((axis) => (level.left[axis] + level.right[axis]) / 2);
  }
}

function moveByKey(event) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!by || !picked) return;
  event.preventDefault();
  const reach = event.shiftKey ? 10 : 1;
  remember();
  const [x, y] = state.levels[picked.level][picked.side];
  place(picked, [x + by[0] * reach, y + by[1] * reach]);
  update();
}

function nearest(at) {
  let best = null;
  state.levels.forEach((level, index) => {
    for (const side of ["left", "right"]) {
      if (!level[side]) continue;
      const [x, y] = view.toCanvas(level[side]);
      const away = Math.hypot(x - at[0], y - at[1]);
      if (away <= REACH && (!best || away < best.away)) best = { level: index, side, away };
    }
  });
  return best && { level: best.level, side: best.side };
}

const at = (event) => [event.offsetX, event.offsetY];
const fingers = new Map();
let spread = 0;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  if (fingers.size === 1) {
    held = part("lines").checked ? nearest(at(event)) : null;
    if (held) {
      remember();
      pick(held);
    }
  } else {
    held = null;
    spread = 0;
  }
});

canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = at(event);
  fingers.set(event.pointerId, now);
  if (held) {
    place(held, view.toScan(now));
    update();
  } else if (fingers.size === 1) {
    view.pan(now[0] - before[0], now[1] - before[1]);
  } else {
    const [one, other] = [...fingers.values()];
    const wide = Math.hypot(one[0] - other[0], one[1] - other[1]);
    if (spread) view.zoom(wide / spread, [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2]);
    spread = wide;
  }
});

for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
    spread = 0;
    held = null;
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  view.zoom(Math.exp(-event.deltaY / 400), at(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const act = { "+": () => view.zoom(1.25), "-": () => view.zoom(0.8), 0: () => view.fit() }[event.key];
  const by = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (act) act();
  else if (by) view.pan(...by);
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const writes = ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !writes) {
    event.preventDefault();
    if (event.shiftKey) step(future, past);
    else step(past, future);
  } else if (!writes && event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const link = part(event.key === "ArrowLeft" ? "before" : "after");
    if (link.href) {
      event.preventDefault();
      link.click();
    }
  }
});
window.addEventListener("beforeunload", (event) => {
  if (dirty) event.preventDefault();
});

view.overlay = (pen) => {
  if (!part("lines").checked) return;
  const path = (points) => {
    pen.beginPath();
    points.forEach((point, index) => (index ? pen.lineTo(...point) : pen.moveTo(...point)));
    pen.stroke();
  };
  const stroke = (points, colour, width) => {
    pen.strokeStyle = "#000";
    pen.lineWidth = width + 2;
    path(points);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    path(points);
  };
  const write = (text, [x, y], colour, align) => {
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = align;
    pen.textBaseline = "middle";
    pen.strokeStyle = "#000";
    pen.lineWidth = 3;
    pen.strokeText(text, x, y);
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  };
  if (measured) {
    stroke(measured.measurement.spine.map((point) => view.toCanvas(point)), "#fff", 1);
    shownCurves().forEach((curve, number) => {
      for (const row of curve.rows) {
        stroke([view.toCanvas([0, row]), view.toCanvas([view.size[0] - 1, row])], COLOURS[number % COLOURS.length], 1);
      }
      const [x, y] = view.toCanvas([view.size[0], (curve.rows[0] + curve.rows[1]) / 2]);
      write(degrees(curve.angle), [x + 6, y], COLOURS[number % COLOURS.length], "left");
    });
  }
  order().forEach(({ level, index }, place) => {
    const ends = ["left", "right"].filter((side) => level[side]);
    const said = measured && measured.measurement.levels[place];
    const [x, y] = view.toCanvas(level.left || level.middle);
    if (said) write(said.label, [x - 12, y], "#fff", "right");
    if (ends.length === 2) stroke(ends.map((side) => view.toCanvas(level[side])), "#fff", 2);
    for (const side of ends) {
      const [x, y] = view.toCanvas(level[side]);
      const on = picked && picked.level === index && picked.side === side;
      pen.beginPath();
      pen.arc(x, y, on ? 7 : 5, 0, 2 * Math.PI);
      pen.fillStyle = on ? "#ffe14d" : "#fff";
      pen.fill();
      pen.strokeStyle = "#000";
      pen.lineWidth = 1.5;
      pen.stroke();
    }
  });
};

for (const name of ["opacity", "lines"]) part(name).addEventListener("input", () => view.draw());
part("in").addEventListener("click", () => view.zoom(1.25));
part("out").addEventListener("click", () => view.zoom(0.8));
part("fit").addEventListener("click", () => view.fit());
part("undo").addEventListener("click", () => step(past, future));
part("redo").addEventListener("click", () => step(future, past));
part("automatic").addEventListener("click", () => {
  remember();
  state.chosen = [];
  update();
});

part("decision").addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = {
    ...state, opened, decision: event.submitter.value, reader: part("reader").value, comment: part("comment").value,
  };
  try {
    sessionStorage.setItem("reader", content.reader);
  } catch {
    // a browser without storage asks again on the next scan
  }
  try {
    const answer = await send(`${api}/reviews`, content);
    if (answer.status === 201) {
      opened = answer.content.version;
      start = JSON.stringify(state);
      dirty = false;
      part("saved").textContent = `Saved as version ${opened}: ${content.decision}.`;
      update();
    } else if (answer.status === 409) {
      opened = answer.content.newest;
      part("saved").textContent = `${answer.content.error} To save yours as the next version all the same, press again.`;
    } else {
      part("saved").textContent = answer.content.error || `Not saved: the server says ${answer.status}.`;
    }
  } catch (error) {
    part("saved").textContent = `Not saved, the server does not answer: ${error.message}`;
  }
});

function load(address) {
  return new Promise((done, failed) => {
    const picture = new Image();
    picture.onload = () => done(picture);
    picture.onerror = () => failed(new Error("a picture cannot be loaded"));
    picture.src = address;
  });
}

async function begin() {
  const answer = await fetch(api);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  const said = found.measurement;
  document.title = found.name;
  part("name").textContent = found.name;
  for (const way of ["before", "after"]) if (found[way]) part(way).href = `/scan/${found[way]}`;
  part("kind").textContent = `${said.angle_kind}. ${said.orientation}. Mask: ${said.mask_source}. Research use only.`;
  opened = found.opened;
  const own = said.levels.map(({ kind, middle, left, right }, origin) => ({ origin, kind, middle, left, right }));
  state = found.review ? { levels: found.review.levels, chosen: found.review.chosen } : { levels: own, chosen: [] };
  start = JSON.stringify(state);
  try {
    part("reader").value = (found.review && found.review.reader) || sessionStorage.getItem("reader") || "";
  } catch {
    part("reader").value = (found.review && found.review.reader) || "";
  }
  if (found.review) {
    part("comment").value = found.review.comment;
    part("saved").textContent = `Version ${found.review.version}: ${found.review.decision} by ${found.review.reader}, ${found.review.saved_at.slice(0, 16).replace("T", " ")} UTC.`;
  }
  if (found.problems.length) part("saved").textContent += ` Not readable: ${found.problems.join("; ")}`;
  view.size = [said.width, said.height];
  view.fit();
  update();
  const [scan, mask] = await Promise.all([load(`${api}/scan.png`), load(`${api}/mask.png`)]);
  view.pictures = [
    { picture: scan, opacity: () => 1 },
    { picture: mask, opacity: () => part("opacity").value / 100 },
  ];
  view.resized();
  canvas.dataset.ready = "yes";
}

begin().catch((error) => {
  part("angle").textContent = `The scan cannot be shown: ${error.message}`;
});
