"use strict";
// One scan: what the server knows of it is fetched and put on the page.

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
  measuredLevels = said.levels.map(({ kind, middle, left, right }, origin) => ({ origin, kind, middle, left, right }));
  base(0, measuredLevels, []);
  const review = found.measured_again ? null : found.review;
  if (review) base(review.version, review.levels, review.chosen);
  const shown = review ? review.version : 0;
  state = { ...JSON.parse(bases.get(shown)), shown };
  listVersions(found);
  try {
    part("reader").value = sessionStorage.getItem("reader") || ""; // never the name of who decided before
  } catch {
    part("reader").value = "";
  }
  if (review) part("comment").value = review.comment;
  const notes = found.measured_again ? [`Version ${found.review.version} is about an earlier measurement of this scan: decide again.`] : [];
  if (found.problems.length) notes.push(`Not readable: ${found.problems.join("; ")}`);
  part("saved").textContent = notes.join(" ");
  view.size = [said.width, said.height];
  view.fit();
  update();
  const [scan, mask] = await Promise.all([load(`${api}/scan.png`), load(`${api}/mask.png`)]);
  view.pictures = [
    { picture: scan, opacity: () => 1 },
    { picture: mask, opacity: () => part("opacity").value / 100 },
  ];
  asMeasured = mask;
  maskOf = JSON.stringify(measuredLevels);
  followMask();
  view.resized();
  canvas.dataset.ready = "yes";
}

begin().catch((error) => {
  part("angle").textContent = `The scan cannot be shown: ${error.message}`;
});
