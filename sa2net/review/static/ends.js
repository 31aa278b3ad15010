"use strict";
// Where curves end: chosen in the table, by a handle beside the picture, or by arrow keys on the handle.

const COLOURS = ["#e69f00", "#56b4e9", "#9be36b", "#f0a3ff", "#ffe14d", "#ff8c69"];
const ENDS = ["upper", "lower"];
const LANE = 26; // px of the page between the brackets of two curves, which may share a level
const stage = part("stage");
const handles = [];
let grabbed = null; // { number, end, moved } of the handle that is dragged

const colourOf = (number) => COLOURS[number % COLOURS.length];

function placeOf(label, row) {
  const levels = measured.measurement.levels;
  const found = levels.findIndex((level) => level.label === label);
  return found >= 0 ? found : nearestPlace(levels, row);
}

function nearestPlace(levels, row) {
  const away = levels.map((level) => Math.abs(level.middle[1] - row));
  return away.indexOf(Math.min(...away));
}

function endsNow() {
  if (state.chosen.length) return copy(state.chosen);
  if (!measured) return [];
  return measured.measurement.curves.map((curve) => ({
    upper: placeOf(curve.upper_end, curve.upper_row),
    lower: placeOf(curve.lower_end, curve.lower_row),
  }));
}

// The curves as they are to be shown; an angle is null until the server has answered.
function shownCurves() {
  if (!measured) return [];
  const levels = order().map(({ level }) => level);
  return endsNow().map((ends, number) => {
    const chosen = measured.chosen[number];
    const found = measured.measurement.curves[number];
    if (state.chosen.length) {
      return {
        ...ends,
        angle: chosen ? chosen.angle : null,
        interval: chosen ? chosen.interval_90 : null,
        convex: chosen ? chosen.convex : "",
        rows: [levels[ends.upper].middle[1], levels[ends.lower].middle[1]],
      };
    }
    return {
      ...ends, angle: found.angle_deg, interval: found.interval_90_deg, convex: found.convex,
      rows: [found.upper_row, found.lower_row],
    };
  });
}

function choose(number, end, place, first = true) {
  const ends = endsNow();
  if (!ends[number] || place < 0 || place >= state.levels.length) return false;
  ends[number][end] = place;
  if (ends[number].upper >= ends[number].lower) return false;
  if (first) remember();
  state.chosen = ends;
  update();
  return true;
}

function makeHandle(number, end) {
  const handle = document.createElement("button");
  handle.type = "button";
  handle.className = "end";
  handle.dataset.curve = `${number}-${end}`;
  handle.setAttribute("role", "slider");
  handle.setAttribute("aria-orientation", "vertical");
  handle.setAttribute("aria-label", `${end} end of curve ${number + 1}; arrow keys move it from level to level`);
  handle.style.setProperty("--curve", colourOf(number));
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    grabbed = { number, end, moved: false };
  });
  handle.addEventListener("pointermove", (event) => {
    if (!grabbed || !handle.hasPointerCapture(event.pointerId)) return;
    const row = view.toScan([0, event.clientY - stage.getBoundingClientRect().top])[1];
    const to = within(number, end, nearestPlace(order().map(({ level }) => level), row));
    if (to !== endsNow()[number][end] && choose(number, end, to, !grabbed.moved)) grabbed.moved = true;
  });
  for (const kind of ["pointerup", "pointercancel"]) handle.addEventListener(kind, () => (grabbed = null));
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey) return;
    event.preventDefault();
    if (choose(number, end, endsNow()[number][end] + by)) {
      view.reveal(shownCurves()[number].rows[ENDS.indexOf(end)]);
    }
  });
  handle.addEventListener("focus", () => {
    const curve = shownCurves()[number];
    if (curve && handle.matches(":focus-visible")) view.reveal(curve.rows[ENDS.indexOf(end)]);
  });
  stage.append(handle);
  return handle;
}

// An upper end stays above its lower end.
function within(number, end, place) {
  const ends = endsNow()[number];
  return end === "upper" ? Math.min(place, ends.lower - 1) : Math.max(place, ends.upper + 1);
}

function laneOf(number) {
  const lanes = Math.min(2, endsNow().length);
  const beside = view.toCanvas([view.size[0], 0])[0] + 14;
  const last = stage.clientWidth - 52 - (lanes - 1) * LANE; // leaves room for the angle
  return Math.max(14, Math.min(beside, last)) + (number % 2) * LANE;
}

function showHandles(curves, lanes) {
  while (handles.length < 2 * curves.length) {
    handles.push(makeHandle(handles.length >> 1, ENDS[handles.length % 2]));
  }
  handles.forEach((handle, index) => {
    const number = index >> 1;
    const end = ENDS[index % 2];
    const curve = curves[number];
    handle.hidden = !curve || !part("lines").checked;
    if (handle.hidden) return;
    const said = measured.measurement.levels[curve[end]];
    handle.style.left = `${lanes[number]}px`;
    handle.style.top = `${view.toCanvas([0, curve.rows[index % 2]])[1]}px`;
    handle.setAttribute("aria-valuemin", "1");
    handle.setAttribute("aria-valuemax", String(state.levels.length));
    handle.setAttribute("aria-valuenow", String(curve[end] + 1));
    handle.setAttribute("aria-valuetext", `${said ? said.label : "?"}, angle ${degrees(curve.angle)}`);
    handle.title = `${end} end of curve ${number + 1}: ${said ? said.label : "?"}`;
  });
}
