"use strict";
// What is drawn over the picture: the smooth spine, curves, lines of the levels, and the line that would be added.

view.overlay = (pen) => {
  const curves = shownCurves();
  const lanes = curves.map((_, number) => laneOf(number)); // all sizes are read before anything is moved
  const tall = stage.clientHeight;
  showHandles(curves, lanes);
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
  if (measured) stroke(measured.measurement.spine.map((point) => view.toCanvas(point)), "#fff", 1);
  curves.forEach((curve, number) => {
    const lane = lanes[number];
    const rows = curve.rows.map((row) => view.toCanvas([0, row])[1]);
    for (const y of rows) stroke([[view.toCanvas([0, 0])[0], y], [lane, y]], colourOf(number), 1);
    stroke(rows.map((y) => [lane, y]), colourOf(number), 2);
    const [top, bottom] = [Math.max(rows[0], 0), Math.min(rows[1], tall)];
    if (top >= bottom) return; // out of sight
    const aside = number % 2 || curves.length === 1 ? 8 : LANE + 8;
    write(degrees(curve.angle), [lane + aside, (top + bottom) / 2], colourOf(number), "left");
  });
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
  if (mark) {
    const level = newLevel(mark);
    pen.setLineDash([6, 4]);
    stroke([view.toCanvas(level.left), view.toCanvas(level.right)], "#ffe14d", 2);
    pen.setLineDash([]);
  }
};
