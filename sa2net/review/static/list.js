"use strict";
// The list of scans. Names come from files and may be anything: they are only ever text.

const body = document.querySelector("#scans tbody");
const find = document.querySelector("#find");
let scans = [];
let key = "name";
let rising = true;

const degrees = (value) => (value === null || value === undefined ? "" : `${value.toFixed(1)}°`);
const words = (scan) => `${scan.name} ${scan.status} ${scan.decision} ${scan.reader}`.toLowerCase();

function cell(row, text, kind) {
  const made = row.insertCell();
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function compare(one, other) {
  const [a, b] = [one[key], other[key]];
  if (a === b) return one.name < other.name ? -1 : 1;
  if (a === null || a === undefined || a === "") return 1; // what is not known comes last, either way
  if (b === null || b === undefined || b === "") return -1;
  return (a < b ? -1 : 1) * (rising ? 1 : -1);
}

function show() {
  const wanted = find.value.trim().toLowerCase();
  const shown = scans.filter((scan) => words(scan).includes(wanted)).sort(compare);
  body.replaceChildren();
  for (const scan of shown) {
    const row = body.insertRow();
    const picture = document.createElement("img");
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `/api/scans/${scan.id}/thumbnail.png`;
    row.insertCell().append(picture);
    const link = document.createElement("a");
    link.href = `/scan/${scan.id}`;
    link.textContent = scan.name;
    row.insertCell().append(link);
    cell(row, scan.status, scan.status === "measured" ? "" : "flag");
    const interval = scan.interval ? ` (${scan.interval.map((end) => end.toFixed(0)).join(" to ")})` : "";
    cell(row, degrees(scan.angle) + interval, "number");
    cell(row, scan.warnings || "", "number flag");
    cell(row, scan.problems.length ? scan.problems.join("; ") : [scan.decision, scan.reader].filter(Boolean).join(", "));
    cell(row, degrees(scan.reviewed), "number");
  }
  document.querySelector("#count").textContent = `${shown.length} of ${scans.length} scan${scans.length === 1 ? "" : "s"}`;
  for (const button of document.querySelectorAll("thead button")) {
    const sorted = button.dataset.key === key;
    button.closest("th").setAttribute("aria-sort", sorted ? (rising ? "ascending" : "descending") : "none");
  }
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    rising = button.dataset.key === key ? !rising : true;
    key = button.dataset.key;
    show();
  });
}
find.addEventListener("input", show);

document.querySelector("#data-set").addEventListener("click", async (event) => {
  const button = event.target;
  const problem = document.querySelector("#problem");
  button.disabled = true;
  problem.textContent = "";
  try {
    const answer = await fetch("/api/scoliosis3classes.zip");
    if (!answer.ok) throw new Error((await answer.json()).error);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = "scoliosis3classes.zip";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    problem.textContent = `No data set: ${error.message}`;
  }
  button.disabled = false;
});

fetch("/api/scans")
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`the server says ${answer.status}`))))
  .then((found) => {
    scans = found;
    show();
  })
  .catch((error) => {
    document.querySelector("#problem").textContent = `The scans cannot be listed: ${error.message}`;
  });
