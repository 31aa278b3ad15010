"use strict";
// A level is added: a line across the smooth spine where a person points, or where arrow keys bring it.

let mark = null; // [x, y] px where a new level would lie; null = none is being added
const CLOSEST = 6; // px of the scan between two levels
const USUAL_HALF = 0.09; // of the width of the scan: half a line where no other level tells

function slopesOf(points) {
  return points.map((_, index) => {
    const [above, below] = [points[Math.max(0, index - 1)], points[Math.min(points.length - 1, index + 1)]];
    return below[1] > above[1] ? (below[0] - above[0]) / (below[1] - above[1]) : 0;
  });
}

// Where the smooth spine is in a row, and how far it moves sideways from row to row; straight on beyond its ends.
function spineAt(row) {
  const smooth = measured ? measured.measurement.spine : [];
  const points = smooth.length > 1 ? smooth : order().map(({ level }) => level.middle);
  if (!points.length) return { x: view.size[0] / 2, slope: 0 };
  const slopes = slopesOf(points);
  const after = points.findIndex((point) => point[1] >= row);
  if (after <= 0) {
    const end = after === 0 ? 0 : points.length - 1;
    return { x: points[end][0] + slopes[end] * (row - points[end][1]), slope: slopes[end] };
  }
  const [above, below] = [points[after - 1], points[after]];
  const share = (row - above[1]) / (below[1] - above[1]);
  const between = (one, other) => one + share * (other - one);
  return { x: between(above[0], below[0]), slope: between(slopes[after - 1], slopes[after]) };
}

function neighbours(row) {
  const away = ({ level }) => Math.abs(level.middle[1] - row);
  const above = order().filter(({ level }) => level.middle[1] <= row).pop();
  const below = order().find(({ level }) => level.middle[1] > row);
  return [above, below].filter(Boolean).sort((one, other) => away(one) - away(other)).map(({ level }) => level);
}

function newLevel([x, y]) {
  const { x_mm, y_mm } = (measured && measured.measurement.spacing) || {};
  const shape = x_mm && y_mm ? (x_mm / y_mm) ** 2 : 1; // a right angle in mm is none in px that are not square
  const fall = (row) => -spineAt(row).slope * shape;
  const row = inside([0, y - fall(y) * (x - spineAt(y).x)])[1]; // the line passes through the point
  const near = neighbours(row);
  const kind = near.length ? near[0].kind : "process";
  const lengths = near.filter((level) => level.left && level.right && level.kind === kind)
    .map((level) => Math.hypot(level.right[0] - level.left[0], level.right[1] - level.left[1]) / 2);
  const half = lengths.length ? lengths.reduce((sum, length) => sum + length) / lengths.length : USUAL_HALF * view.size[0];
  const middle = [spineAt(row).x, row];
  const run = half / Math.hypot(1, fall(row));
  const at = (way) => inside([middle[0] + way * run, middle[1] + way * run * fall(row)]);
  const [left, right] = [at(-1), at(1)];
  return { origin: null, kind, middle: [0, 1].map((axis) => (left[axis] + right[axis]) / 2), left, right };
}

function widestGap() {
  const rows = order().map(({ level }) => level.middle[1]);
  let best = rows.length ? rows[rows.length - 1] : view.size[1] / 2;
  let widest = 0;
  for (let index = 1; index < rows.length; index += 1) {
    const gap = rows[index] - rows[index - 1];
    if (gap > widest) [widest, best] = [gap, (rows[index] + rows[index - 1]) / 2];
  }
  return [spineAt(best).x, best];
}

function startAdding() {
  if (state.levels.length >= MOST_LEVELS) return;
  part("lines").checked = true;
  mark = widestGap();
  view.reveal(mark[1]);
  canvas.focus();
  showAdding("Click where the level lies, or move the dashed line by arrow keys (shift: 50 px) and press Enter. Escape: none.");
}

function stopAdding(said = "") {
  mark = null;
  showAdding(said);
}

function showAdding(said) {
  part("add").setAttribute("aria-pressed", String(Boolean(mark)));
  part("adding").textContent = said;
  canvas.classList.toggle("adding", Boolean(mark));
  view.draw();
}

function putLevel(byKey) {
  const level = newLevel(mark);
  if (order().some((other) => Math.abs(other.level.middle[1] - level.middle[1]) < CLOSEST)) {
    showAdding("A level lies there already: point between two levels.");
    return;
  }
  remember();
  keepingEnds(() => state.levels.push(level));
  picked = { level: state.levels.length - 1, side: "left" };
  if (byKey) focusNext = `${picked.level}-left`;
  stopAdding("The level is added: drag its ends. In the data set its place is ignored (255).");
  update();
}

function moveMark(event) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Enter") putLevel(true);
  else if (event.key === "Escape") stopAdding();
  else if (by) {
    const reach = event.shiftKey ? 50 : 5;
    mark = inside([mark[0] + by[0] * reach, mark[1] + by[1] * reach]);
    if (by[1]) mark[0] = spineAt(mark[1]).x;
    view.reveal(mark[1]);
    view.draw();
  } else return false;
  return true;
}

part("add").addEventListener("click", () => (mark ? stopAdding() : startAdding()));
