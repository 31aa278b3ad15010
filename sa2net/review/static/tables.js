"use strict";
// What the server says of the levels, in words and tables.

let focusNext = ""; // the end to be focused once its row is there

function show() {
  const said = measured.measurement;
  const curves = shownCurves();
  const known = curves.filter((curve) => curve.interval);
  const largest = known.reduce((best, curve) => (best && best.angle >= curve.angle ? best : curve), null);
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
    for (const end of ENDS) {
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `${end} end of curve ${number + 1}`);
      levels.forEach((level, index) => choice.add(new Option(level.label, index, false, index === curve[end])));
      choice.addEventListener("change", () => {
        if (!choose(number, end, Number(choice.value))) choice.value = String(curve[end]);
      });
      row.insertCell().append(choice);
    }
    const angle = row.insertCell();
    angle.textContent = degrees(curve.angle);
    angle.className = "number";
    angle.style.borderLeft = `4px solid ${colourOf(number)}`;
    row.insertCell().textContent = curve.interval ? curve.interval.map((value) => value.toFixed(1)).join(" to ") : "";
    row.insertCell().textContent = curve.convex;
    return row;
  });
  const focused = document.activeElement;
  const label = focused && part("curves").contains(focused) ? focused.getAttribute("aria-label") : null;
  part("curves").tBodies[0].replaceChildren(...rows);
  if (!label) return;
  const same = [...part("curves").querySelectorAll("select")].find((item) => item.getAttribute("aria-label") === label);
  if (same) same.focus();
}

function showLevels(levels) {
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.end : "";
  const rows = order().map(({ level, index }, place) => {
    const said = levels[place] || { label: "?", tilt_deg: null };
    const row = document.createElement("tr");
    row.insertCell().textContent = said.label;
    for (const side of ["left", "right"]) {
      const cell = row.insertCell();
      if (level[side]) cell.append(endButton(level, index, side, said.label));
      else cell.textContent = "missing";
    }
    const tilt = row.insertCell();
    tilt.textContent = degrees(said.tilt_deg);
    tilt.className = "number";
    row.insertCell().append(removeButton(level, said.label));
    if (picked && picked.level === index) row.className = "chosen";
    return row;
  });
  part("levels").tBodies[0].replaceChildren(...rows);
  const wanted = focusNext || focused;
  const same = wanted && part("levels").querySelector(`[data-end="${wanted}"]`);
  if (same) same.focus({ preventScroll: !focusNext });
  focusNext = "";
}

function endButton(level, index, side, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.end = `${index}-${side}`;
  button.textContent = level[side].map((value) => Math.round(value)).join(", ");
  button.setAttribute("aria-label", `${side} end of ${label}, at ${button.textContent}; arrow keys move it`);
  button.addEventListener("focus", () => pick({ level: index, side }));
  button.addEventListener("keydown", moveByKey);
  return button;
}

function removeButton(level, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "×";
  button.setAttribute("aria-label", `Remove ${label}`);
  button.addEventListener("click", () => {
    const index = state.levels.indexOf(level);
    if (index < 0) return; // the table is about levels of a step before
    remember();
    keepingEnds(() => state.levels.splice(index, 1));
    picked = null;
    update();
  });
  return button;
}

function pick(end) {
  picked = end;
  for (const row of part("levels").tBodies[0].rows) {
    row.className = row.querySelector(`[data-end^="${end.level}-"]`) ? "chosen" : "";
  }
  view.draw();
}
