"use strict";
// Mouse, fingers and keys: ends of lines are moved, a new line is put, the picture is zoomed and moved.

const REACH = 18; // px of the page within which an end is taken hold of

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
let moved = false; // whether the end that is held has left its place
let putting = false; // whether letting go adds a level

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  held = null;
  putting = Boolean(mark) && fingers.size === 1;
  if (putting) {
    mark = inside(view.toScan(at(event)));
    view.draw();
  } else if (fingers.size === 1) {
    held = part("lines").checked ? nearest(at(event)) : null;
    moved = false;
    if (held) pick(held);
  } else {
    spread = 0;
  }
});

canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  const now = at(event);
  if (mark && (putting || !before)) {
    mark = inside(view.toScan(now));
    view.draw();
  }
  if (!before || putting) return;
  fingers.set(event.pointerId, now);
  if (held) {
    if (!moved) remember();
    moved = true;
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
    if (putting && mark && kind === "pointerup") putLevel(false);
    putting = false;
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  view.zoom(Math.exp(-event.deltaY / 400), at(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (mark && moveMark(event)) {
    event.preventDefault();
    return;
  }
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
  } else if (!writes && event.key === "a" && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    if (mark) stopAdding();
    else startAdding();
  } else if (mark && event.key === "Escape") {
    stopAdding();
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
