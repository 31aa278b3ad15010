"use strict";
// Which version is on the page, how another one comes onto it, and how a decision becomes the next.

let versions = []; // what can be shown, newest first
let measuredLevels = [];

const when = (time) => `${time.slice(0, 16).replace("T", " ")} UTC`;
const named = (version) => (version ? `version ${version}` : "the measurement as it came");

function listVersions(found) {
  versions = found.versions;
  const options = versions.map(({ version, decision, reader }) => new Option(`version ${version}: ${decision}, ${reader}`, version));
  part("version").replaceChildren(...options, new Option("as measured", 0));
  part("version").value = String(state.shown);
}

function showVersion() {
  const said = versions.find(({ version }) => version === state.shown);
  const newest = versions.length ? versions[0].version : 0;
  let text = "The measurement as it came";
  if (said) {
    text = `Version ${said.version}${said.version === newest ? " (newest)" : ""}: ${said.decision} by ${said.reader}, ${when(said.saved_at)}`;
    if (said.decision === "accepted" && said.based_on !== null) text += `, as ${named(said.based_on)}`;
  } else if (!newest) text += ", not decided yet";
  if (said ? said.version !== newest : newest) text += `; the newest is version ${newest}`;
  if (dirty) text = `Changed, not saved. ${text}`;
  if (part("looking").textContent !== text) part("looking").textContent = part("looking").title = text;
  part("accept").textContent = state.shown ? `Accept version ${state.shown}` : "Accept as measured";
  part("version").value = String(state.shown);
}

function base(version, levels, chosen) {
  bases.set(version, asText({ levels, chosen }));
}

async function fetchBase(version) {
  if (bases.has(version)) return;
  const answer = await fetch(`${api}/reviews/${version}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  base(version, found.levels, found.chosen);
}

part("version").addEventListener("change", async (event) => {
  const version = Number(event.target.value);
  try {
    await fetchBase(version);
    remember();
    state = { ...JSON.parse(bases.get(version)), shown: version };
    picked = null;
    stopAdding();
    update();
  } catch (error) {
    part("saved").textContent = `This version cannot be shown: ${error.message}`;
    event.target.value = String(state.shown);
  }
});

async function refreshVersions() {
  const answer = await fetch(api);
  if (answer.ok) listVersions(await answer.json());
}

part("decision").addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = {
    levels: state.levels, chosen: state.chosen, opened, based_on: state.shown,
    decision: event.submitter.value, reader: part("reader").value, comment: part("comment").value,
  };
  const kept = copy(content);
  part("saved").textContent = "";
  try {
    sessionStorage.setItem("reader", content.reader);
  } catch {
    // a browser without storage asks again on the next scan
  }
  try {
    const answer = await send(`${api}/reviews`, content);
    if (answer.status === 201) {
      opened = answer.content.version;
      base(opened, kept.levels, kept.chosen);
      state.shown = opened;
      await refreshVersions();
      const taken = content.decision === "accepted" ? `accepted, as ${named(content.based_on)}` : content.decision;
      part("saved").textContent = `Saved as version ${opened}: ${taken}.`;
      update();
    } else if (answer.status === 409) {
      opened = answer.content.newest;
      await refreshVersions();
      showVersion();
      part("saved").textContent = `${answer.content.error} To save yours as the next version all the same, press again.`;
    } else {
      part("saved").textContent = answer.content.error || `Not saved: the server says ${answer.status}.`;
    }
  } catch (error) {
    part("saved").textContent = `Not saved, the server does not answer: ${error.message}`;
  }
});
