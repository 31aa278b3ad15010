"use strict";
// The picture: one transform from px of the scan to px of the canvas, drawn once a frame.

class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.pictures = [];
    this.size = [1, 1];
    this.scale = 1;
    this.origin = [0, 0];
    this.drawn = true;
    this.overlay = () => {};
    new ResizeObserver(() => this.resized()).observe(canvas);
  }

  resized() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.ratio = ratio;
    if (!this.moved) this.fit();
    this.draw();
  }

  fit() {
    const [width, height] = this.size;
    const { clientWidth, clientHeight } = this.canvas;
    this.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.origin = [(clientWidth - width * this.scale) / 2, (clientHeight - height * this.scale) / 2];
    this.moved = false;
    this.draw();
  }

  zoom(factor, at) {
    const { clientWidth, clientHeight } = this.canvas;
    const [x, y] = at || [clientWidth / 2, clientHeight / 2];
    const scale = Math.min(12, Math.max(0.05, this.scale * factor));
    const by = scale / this.scale;
    this.origin = [x - (x - this.origin[0]) * by, y - (y - this.origin[1]) * by];
    this.scale = scale;
    this.moved = true;
    this.draw();
  }

  pan(dx, dy) {
    this.origin = [this.origin[0] + dx, this.origin[1] + dy];
    this.moved = true;
    this.draw();
  }

  // Bring a row of the scan into sight.
  reveal(row) {
    const y = this.toCanvas([0, row])[1];
    const height = this.canvas.clientHeight;
    if (y < 12 || y > height - 12) this.pan(0, height / 2 - y);
  }

  toScan([x, y]) {
    return [(x - this.origin[0]) / this.scale - 0.5, (y - this.origin[1]) / this.scale - 0.5];
  }

  toCanvas([x, y]) {
    return [(x + 0.5) * this.scale + this.origin[0], (y + 0.5) * this.scale + this.origin[1]];
  }

  draw() {
    if (!this.drawn) return;
    this.drawn = false;
    requestAnimationFrame(() => {
      this.drawn = true;
      const { pen, canvas, ratio } = this;
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.imageSmoothingEnabled = this.scale < 2;
      const [width, height] = this.size.map((side) => side * this.scale);
      for (const { picture, opacity } of this.pictures) {
        if (opacity() > 0) {
          pen.globalAlpha = opacity();
          pen.drawImage(picture, this.origin[0], this.origin[1], width, height);
        }
      }
      pen.globalAlpha = 1;
      this.overlay(pen);
    });
  }
}
