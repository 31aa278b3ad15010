"use strict";
// The label map as a data set of corrections would hold it: the server makes it once the lines lie still.

const STILL = 500; // ms without a change
let asMeasured = null; // picture of the label map that was measured
let maskOf = null; // the levels, as text, that the shown label map fits
let maskTimer = 0;

function followMask() {
  clearTimeout(maskTimer);
  if (!asMeasured) return;
  const wanted = JSON.stringify(state.levels);
  if (wanted === JSON.stringify(measuredLevels)) useMask(asMeasured, wanted);
  else if (wanted !== maskOf) {
    part("mask-note").textContent = "Mask: as it was, follows when the lines lie still";
    maskTimer = setTimeout(() => (held || grabbed ? followMask() : askMask()), STILL);
  } else useMask(view.pictures[1].picture, wanted);
}

async function askMask() {
  const wanted = JSON.stringify(state.levels);
  try {
    const answer = await post(`${api}/mask`, { levels: state.levels });
    if (!answer.ok) throw new Error((await answer.json()).error || `the server says ${answer.status}`);
    const picture = await createImageBitmap(await answer.blob());
    if (wanted === JSON.stringify(state.levels)) useMask(picture, wanted);
  } catch (error) {
    part("mask-note").textContent = `Mask: as it was (${error.message})`;
  }
}

function useMask(picture, levels) {
  maskOf = levels;
  view.pictures[1].picture = picture;
  part("mask-note").textContent = picture === asMeasured ? "Mask: as measured" : "Mask: as it will be exported; grey is ignored (255)";
  view.draw();
}
