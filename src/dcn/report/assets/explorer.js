"use strict";
// The explorer: what one unit of a deformable layer reads, traced through the layers below it.
// Geometry follows dcn.vis.sampling_points; coordinates are (y, x) inside, image pixels (continuous) outside.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const LEVEL_COLORS = ["#ffe946", "#ff8c00", "#e1192d"];
  const PIN_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const MARGIN = 0.12; // of the longer side, around the image: room for points outside of it

  // ---- geometry -------------------------------------------------------------------------------------------------

  /** The float32 array of a layer, decoded from base64 once. */
  function floats(layer, name) {
    const key = `_${name}`;
    if (layer[key] === undefined) {
      const text = layer[name];
      if (text === null) { layer[key] = null; return null; }
      const bytes = atob(text), buffer = new Uint8Array(bytes.length);
      for (let i = 0; i < bytes.length; i++) buffer[i] = bytes.charCodeAt(i);
      layer[key] = new Float32Array(buffer.buffer);
    }
    return layer[key];
  }

  const toImage = (grid, position) => [position[0] * grid.stride[0] + grid.origin[0], position[1] * grid.stride[1] + grid.origin[1]];
  const fromImage = (grid, position) => [(position[0] - grid.origin[0]) / grid.stride[0], (position[1] - grid.origin[1]) / grid.stride[1]];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** Bilinear value of plane `index` of maps [C, H, W] at (y, x), clamped to the map. */
  function lookup(values, index, size, y, x) {
    const [rows, columns] = size;
    const cy = clamp(y, 0, rows - 1), cx = clamp(x, 0, columns - 1);
    const y0 = Math.floor(cy), x0 = Math.floor(cx), y1 = Math.min(y0 + 1, rows - 1), x1 = Math.min(x0 + 1, columns - 1);
    const dy = cy - y0, dx = cx - x0, base = index * rows * columns;
    const top = values[base + y0 * columns + x0] * (1 - dx) + values[base + y0 * columns + x1] * dx;
    const bottom = values[base + y1 * columns + x0] * (1 - dx) + values[base + y1 * columns + x1] * dx;
    return top * (1 - dy) + bottom * dy;
  }

  /** The taps of one layer for a point of its output: image positions, weights, whether they read something. */
  function taps(layer, group, point, deformed) {
    const own = Math.min(group, layer.groups - 1), [rows, columns] = layer.kernel, count = rows * columns;
    const unit = fromImage(layer.output, point.position);
    const offsets = deformed ? floats(layer, "offset") : null, masks = deformed ? floats(layer, "mask") : null;
    const found = [];
    for (let tap = 0; tap < count; tap++) {
      let y = unit[0] * layer.stride[0] - layer.padding[0] + Math.floor(tap / columns) * layer.dilation[0];
      let x = unit[1] * layer.stride[1] - layer.padding[1] + (tap % columns) * layer.dilation[1];
      if (offsets) {
        y += lookup(offsets, (own * count + tap) * 2, layer.output.size, unit[0], unit[1]);
        x += lookup(offsets, (own * count + tap) * 2 + 1, layer.output.size, unit[0], unit[1]);
      }
      const weight = masks ? lookup(masks, own * count + tap, layer.output.size, unit[0], unit[1]) : 1;
      const low = layer.boundary === "v1" ? y >= 0 && x >= 0 : y > -1 && x > -1;
      const reads = low && y < layer.input.size[0] && x < layer.input.size[1];
      found.push({ position: toImage(layer.input, [y, x]), weight: point.weight * weight, inside: point.inside && reads });
    }
    return found;
  }

  /** The unit of a layer that is nearest to (x, y) in continuous image pixels, as [row, column]. */
  function nearestUnit(layer, x, y) {
    const unit = fromImage(layer.output, [y - 0.5, x - 0.5]);
    return [0, 1].map((axis) => clamp(Math.round(unit[axis]), 0, layer.output.size[axis] - 1));
  }

  const layersOf = (image) => data.images[image].layers;

  /** Points of `levels` stacked layers, from layer `last` back; x, y in continuous image pixels. */
  function trace(image, last, levels, group, unit, deformed) {
    const layers = layersOf(image);
    let points = [{ position: toImage(layers[last].output, unit), weight: 1, inside: true }];
    const center = [points[0].position[1] + 0.5, points[0].position[0] + 0.5];
    const found = [];
    for (let index = last; index >= 0 && found.length < levels; index--) {
      points = points.flatMap((point) => taps(layers[index], group, point, deformed));
      found.push({
        layer: layers[index].name,
        points: points.map((p) => ({ x: p.position[1] + 0.5, y: p.position[0] + 0.5, weight: p.weight, inside: p.inside })),
      });
    }
    return { center, levels: found };
  }

  /** Mean distance of neighbouring taps (Dai et al. 2017, section 3), in cells of the layer's input. */
  function dilationAt(layer, group, row, column) {
    const own = Math.min(group, layer.groups - 1), [rows, columns] = layer.kernel, count = rows * columns;
    const offsets = floats(layer, "offset"), plane = layer.output.size[0] * layer.output.size[1];
    const at = row * layer.output.size[1] + column;
    const shift = (tap, axis) => offsets[((own * count + tap) * 2 + axis) * plane + at];
    let total = 0, pairs = 0;
    for (let tap = 0; tap < count; tap++) {
      if (tap % columns < columns - 1) {
        total += Math.hypot(shift(tap + 1, 0) - shift(tap, 0), shift(tap + 1, 1) - shift(tap, 1) + layer.dilation[1]);
        pairs++;
      }
      if (tap + columns < count) {
        total += Math.hypot(shift(tap + columns, 0) - shift(tap, 0) + layer.dilation[0], shift(tap + columns, 1) - shift(tap, 1));
        pairs++;
      }
    }
    return pairs ? total / pairs : 0;
  }

  /** Mean length of the offsets of a unit, in image pixels. */
  function offsetAt(layer, group, row, column) {
    const own = Math.min(group, layer.groups - 1), count = layer.kernel[0] * layer.kernel[1];
    const offsets = floats(layer, "offset"), plane = layer.output.size[0] * layer.output.size[1];
    const at = row * layer.output.size[1] + column;
    let total = 0;
    for (let tap = 0; tap < count; tap++) {
      const first = (own * count + tap) * 2 * plane + at;
      total += Math.hypot(offsets[first] * layer.input.stride[0], offsets[first + plane] * layer.input.stride[1]);
    }
    return total / count;
  }

  /** The convex hull of points (Andrew's monotone chain). */
  function hull(points) {
    const sorted = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
    const turn = (o, a, b) => (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x);
    const half = (list) => {
      const chain = [];
      for (const point of list) {
        while (chain.length > 1 && turn(chain[chain.length - 2], chain[chain.length - 1], point) <= 0) chain.pop();
        chain.push(point);
      }
      chain.pop();
      return chain;
    };
    return sorted.length < 3 ? sorted : [...half(sorted), ...half(sorted.reverse())];
  }

  /** Width, height and number of the points of the deepest level that read something. */
  function extent(traced) {
    const points = traced.levels[traced.levels.length - 1].points, inside = points.filter((p) => p.inside);
    if (!inside.length) return { width: 0, height: 0, inside: 0, total: points.length };
    const xs = inside.map((p) => p.x), ys = inside.map((p) => p.y);
    const span = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity) - values.reduce((a, b) => Math.min(a, b), Infinity);
    return { width: span(xs), height: span(ys), inside: inside.length, total: points.length };
  }

  // ---- state ----------------------------------------------------------------------------------------------------

  const state = { image: 0, layer: 0, levels: 3, group: 0, overlay: "none", unit: [0, 0], pins: [], detection: null, boxes: true };
  const current = () => data.images[state.image];
  const layer = () => current().layers[state.layer];
  const detects = data.images.some((image) => image.detections !== null);
  const detections = () => current().detections ?? [];
  const pictures = data.images.map((image) => { const picture = new Image(); picture.src = image.src; return picture; });
  let overlayCanvas = null, overlayRange = null;

  function setUnit(unit) {
    state.unit = [0, 1].map((axis) => clamp(unit[axis], 0, layer().output.size[axis] - 1));
    draw();
  }

  /** Keep the place in the image when the layer changes. */
  function atPlace(change) {
    const place = toImage(layer().output, state.unit);
    change();
    state.unit = nearestUnit(layer(), place[1] + 0.5, place[0] + 0.5);
    overlayCanvas = null;
    fillControls();
    draw();
  }

  function selectImage(index) {
    state.image = index;
    state.layer = current().layers.length - 1;
    state.pins = [];
    state.detection = null;
    overlayCanvas = null;
    const size = layer().output.size;
    state.unit = [Math.floor(size[0] / 2), Math.floor(size[1] / 2)];
    fillControls();
    draw();
  }

  // ---- drawing --------------------------------------------------------------------------------------------------

  function makeOverlay() {
    const own = layer(), [rows, columns] = own.output.size, measure = state.overlay === "dilation" ? dilationAt : offsetAt;
    const values = new Float64Array(rows * columns);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < values.length; i++) {
      values[i] = measure(own, state.group, Math.floor(i / columns), i % columns);
      low = Math.min(low, values[i]); high = Math.max(high, values[i]);
    }
    const canvas = document.createElement("canvas");
    canvas.width = columns; canvas.height = rows;
    const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
    for (let i = 0; i < values.length; i++) {
      const [r, g, b] = cividis(high > low ? (values[i] - low) / (high - low) : 0);
      pixels.data.set([r, g, b, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
    overlayCanvas = canvas; overlayRange = [low, high];
  }

  function cividis(share) {
    const at = clamp(share, 0, 1) * (CIVIDIS.length - 1), first = Math.min(Math.floor(at), CIVIDIS.length - 2), rest = at - first;
    const rgb = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
    const a = rgb(CIVIDIS[first]), b = rgb(CIVIDIS[first + 1]);
    return a.map((value, i) => Math.round(value * (1 - rest) + b[i] * rest));
  }

  function geometry() {
    const image = current(), margin = Math.round(MARGIN * Math.max(image.width, image.height));
    return { margin, width: image.width + 2 * margin, height: image.height + 2 * margin };
  }

  function drawView(canvas, deformed) {
    const { margin, width, height } = geometry(), shown = canvas.clientWidth || width;
    const scale = (shown * (window.devicePixelRatio || 1)) / width;
    canvas.width = Math.max(1, Math.round(width * scale)); canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, margin * scale, margin * scale);
    const picture = pictures[state.image];
    if (picture.complete) context.drawImage(picture, 0, 0, current().width, current().height);
    if (deformed && state.overlay !== "none") drawOverlay(context);
    // In pixels of the image: at least 1.4 of them, but at most 3 of the screen, as an image of 20 pixels is shown large.
    const dot = Math.max(width / shown, Math.min(1.2, (2.6 * width) / shown)) * 1.15;
    if (state.boxes) drawDetections(context, dot);
    if (deformed && state.detection !== null) drawParts(context, dot);
    state.pins.forEach((pin, index) => drawTrace(context, pin, deformed, dot, PIN_COLORS[index]));
    drawTrace(context, state, deformed, dot, null);
  }

  function drawOverlay(context) {
    if (overlayCanvas === null) makeOverlay();
    const grid = layer().output, [rows, columns] = grid.size;
    context.save();
    context.beginPath(); context.rect(0, 0, current().width, current().height); context.clip();
    context.globalAlpha = 0.6;
    context.imageSmoothingEnabled = false;
    context.drawImage(overlayCanvas, grid.origin[1] + 0.5 - grid.stride[1] / 2, grid.origin[0] + 0.5 - grid.stride[0] / 2, columns * grid.stride[1], rows * grid.stride[0]);
    context.restore();
  }

  function drawDetections(context, dot) {
    detections().forEach((detection, index) => {
      const [x1, y1, x2, y2] = detection.box, chosen = index === state.detection;
      context.lineWidth = dot * (chosen ? 2.5 : 1.2);
      context.strokeStyle = "#000000"; context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      context.setLineDash([4 * dot, 3 * dot]); context.strokeStyle = chosen ? "#56b4e9" : "#ffffff";
      context.strokeRect(x1, y1, x2 - x1, y2 - y1); context.setLineDash([]);
    });
  }

  function drawParts(context, dot) {
    const parts = detections()[state.detection].parts;
    if (!parts) return;
    context.lineWidth = dot * 1.5; context.strokeStyle = "#56b4e9";
    const [x1, y1, x2, y2] = parts.region;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    parts.boxes.forEach((box, index) => {
      context.globalAlpha = parts.weights ? clamp(0.15 + 0.85 * parts.weights[index], 0, 1) : 1;
      context.lineWidth = dot; context.strokeStyle = "#e65000";
      context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    });
    context.globalAlpha = 1;
  }

  function drawTrace(context, unit, deformed, dot, pinColor) {
    const traced = trace(unit.image ?? state.image, unit.layer, unit.levels, unit.group, unit.unit, deformed);
    const deepest = traced.levels[traced.levels.length - 1].points, outline = hull(deepest.filter((p) => p.inside));
    if (outline.length > 2) {
      context.beginPath();
      outline.forEach((p, i) => (i ? context.lineTo(p.x, p.y) : context.moveTo(p.x, p.y)));
      context.closePath();
      context.lineWidth = dot * 1.6; context.strokeStyle = pinColor ?? "#ffffff"; context.stroke();
      if (pinColor === null) { context.lineWidth = dot * 0.7; context.strokeStyle = "#000000"; context.stroke(); }
    }
    for (let depth = traced.levels.length - 1; depth >= 0; depth--) {
      const radius = dot * (3.2 - 0.9 * Math.min(depth, 2));
      for (const point of traced.levels[depth].points) drawPoint(context, point, radius, pinColor ?? LEVEL_COLORS[depth], dot);
    }
    context.beginPath(); context.arc(traced.center[0], traced.center[1], 4.2 * dot, 0, 2 * Math.PI);
    context.fillStyle = "#00be78"; context.fill(); context.lineWidth = 1.4 * dot; context.strokeStyle = "#ffffff"; context.stroke();
  }

  /** A point that reads nothing is a cross; opacity is the product of the modulation on the way. */
  function drawPoint(context, point, radius, color, dot) {
    context.globalAlpha = point.inside ? clamp(0.15 + 0.85 * point.weight, 0.15, 1) : 0.7;
    context.beginPath();
    if (point.inside) {
      context.arc(point.x, point.y, radius, 0, 2 * Math.PI);
      context.fillStyle = color; context.fill();
      context.lineWidth = 0.4 * dot; context.strokeStyle = "#000000"; context.stroke();
    } else {
      context.moveTo(point.x - radius, point.y - radius); context.lineTo(point.x + radius, point.y + radius);
      context.moveTo(point.x - radius, point.y + radius); context.lineTo(point.x + radius, point.y - radius);
      context.lineWidth = 0.9 * dot; context.strokeStyle = "#8a8f98"; context.stroke();
    }
    context.globalAlpha = 1;
  }

  // ---- words ----------------------------------------------------------------------------------------------------

  const number = (value, digits = 1) => value.toFixed(digits);

  /** What lies at a place: the smallest detection around it, or background; null where the model detects nothing at all. */
  function contentAt(x, y) {
    if (!detects) return null;
    let best = null, least = Infinity;
    for (const d of detections()) {
      const area = (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]);
      if (x >= d.box[0] && x < d.box[2] && y >= d.box[1] && y < d.box[3] && area < least) { best = d; least = area; }
    }
    return best ? best.label : "background";
  }

  function facts(unit) {
    const own = current().layers[unit.layer];
    const deformed = trace(state.image, unit.layer, unit.levels, unit.group, unit.unit, true);
    const plain = trace(state.image, unit.layer, unit.levels, unit.group, unit.unit, false);
    return {
      center: deformed.center, content: contentAt(...deformed.center),
      dilation: dilationAt(own, unit.group, ...unit.unit), plainDilation: plainDilation(own),
      offset: offsetAt(own, unit.group, ...unit.unit), deformed: extent(deformed), plain: extent(plain),
    };
  }

  function plainDilation(own) {
    const [rows, columns] = own.kernel, across = rows * (columns - 1), down = columns * (rows - 1);
    return across + down ? (across * own.dilation[1] + down * own.dilation[0]) / (across + down) : 0;
  }

  const size = (e) => `${number(e.width, 0)} x ${number(e.height, 0)} px, ${e.inside} of ${e.total} points inside the map`;

  let spoken = 0;
  function describe() {
    const f = facts(state);
    byId("caption-deformable").textContent = `Unit at (${number(f.center[0], 0)}, ${number(f.center[1], 0)})${f.content === null ? "" : `, ${f.content}`}. ` +
      `Effective dilation ${number(f.dilation, 2)}, mean offset ${number(f.offset)} px. Receptive field of these taps: ${size(f.deformed)}.`;
    byId("caption-plain").textContent = `Dilation ${number(f.plainDilation, 2)}. Receptive field of these taps: ${size(f.plain)}.`;
    clearTimeout(spoken);
    spoken = setTimeout(() => { byId("status").textContent = byId("caption-deformable").textContent; }, 400);
  }

  function listPins() {
    byId("pins").hidden = !state.pins.length;
    const rows = state.pins.map((pin, index) => {
      const f = facts(pin), row = document.createElement("tr");
      const cells = [`(${number(f.center[0], 0)}, ${number(f.center[1], 0)})`, f.content ?? "", pin.name, number(f.dilation, 2), number(f.offset),
        `${number(f.deformed.width, 0)} x ${number(f.deformed.height, 0)}`, `${number(f.plain.width, 0)} x ${number(f.plain.height, 0)}`];
      const head = document.createElement("th");
      head.scope = "row";
      const dot = document.createElement("span");
      dot.className = "dot"; dot.style.background = PIN_COLORS[index];
      head.append(dot, `pin ${index + 1}`);
      row.append(head);
      cells.forEach((text, i) => { const cell = document.createElement("td"); cell.textContent = text; if (i > 2) cell.className = "number"; row.append(cell); });
      const cell = document.createElement("td"), button = document.createElement("button");
      button.type = "button"; button.textContent = "Remove";
      button.setAttribute("aria-label", `Remove pin ${index + 1}`);
      button.addEventListener("click", () => { state.pins.splice(index, 1); draw(); byId("view-deformable").focus(); });
      cell.append(button); row.append(cell);
      return row;
    });
    byId("pin-rows").replaceChildren(...rows);
  }

  // ---- controls -------------------------------------------------------------------------------------------------

  function options(select, texts, chosen) {
    select.replaceChildren(...texts.map((text, index) => {
      const option = document.createElement("option");
      option.value = index; option.textContent = text; option.selected = index === chosen;
      return option;
    }));
  }

  function fillControls() {
    options(byId("image"), data.images.map((image) => image.name), state.image);
    byId("image-control").hidden = data.images.length < 2;
    options(byId("layer"), current().layers.map((l) => l.name), state.layer);
    const groups = layer().groups;
    state.group = Math.min(state.group, groups - 1);
    options(byId("group"), Array.from({ length: groups }, (_, i) => `${i + 1} of ${groups}`), state.group);
    byId("group-control").hidden = groups < 2;
    for (const button of document.querySelectorAll("[data-levels]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.levels) === Math.min(state.levels, state.layer + 1)));
      button.disabled = Number(button.dataset.levels) > state.layer + 1;
    }
    listDetections();
  }

  function listDetections() {
    const buttons = detections().map((d, index) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = `${d.label} ${number(d.score, 2)}`;
      button.setAttribute("aria-pressed", String(index === state.detection));
      button.addEventListener("click", () => chooseDetection(index === state.detection ? null : index));
      item.append(button);
      return item;
    });
    byId("detection-list").replaceChildren(...buttons);
    byId("detections").hidden = !buttons.length;
    const parts = detections().some((d) => d.parts);
    byId("parts-text").hidden = !parts;
  }

  function chooseDetection(index) {
    state.detection = index;
    if (index !== null) {
      const [x1, y1, x2, y2] = detections()[index].box;
      state.unit = nearestUnit(layer(), (x1 + x2) / 2, (y1 + y2) / 2);
    }
    listDetections();
    draw();
  }

  function pin() {
    if (state.pins.length >= PIN_COLORS.length) state.pins.shift();
    const { layer: index, levels, group, unit } = state;
    state.pins.push({ layer: index, levels: Math.min(levels, index + 1), group, unit: [...unit], name: layer().name });
    draw();
  }

  /** The unit in the middle of the smallest or largest detection, or the one farthest from all of them. */
  function pinExample(kind) {
    const found = detections(), own = layer();
    if (kind !== "background") {
      if (!found.length) return;
      const area = (d) => (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]);
      const chosen = found.reduce((a, b) => ((kind === "small") === area(b) < area(a) ? b : a));
      state.unit = nearestUnit(own, (chosen.box[0] + chosen.box[2]) / 2, (chosen.box[1] + chosen.box[3]) / 2);
    } else {
      let best = -1;
      for (let row = 0; row < own.output.size[0]; row++) for (let column = 0; column < own.output.size[1]; column++) {
        const [y, x] = toImage(own.output, [row, column]);
        const gap = found.map((d) => Math.hypot(Math.max(d.box[0] - x, 0, x - d.box[2]), Math.max(d.box[1] - y, 0, y - d.box[3])));
        const edge = Math.min(x, y, current().width - x, current().height - y);
        const distance = Math.min(edge, ...gap);
        if (distance > best) { best = distance; state.unit = [row, column]; }
      }
    }
    pin();
  }

  function draw() {
    const wanted = state.levels;
    state.levels = Math.min(wanted, state.layer + 1);
    for (const [id, deformed] of [["view-deformable", true], ["view-plain", false]]) drawView(byId(id), deformed);
    describe();
    listPins();
    byId("scale").hidden = state.overlay === "none";
    if (overlayRange && state.overlay !== "none") {
      byId("scale-low").textContent = number(overlayRange[0], 2);
      byId("scale-high").textContent = number(overlayRange[1], 2) + (state.overlay === "offset" ? " px" : " cells");
    }
    state.levels = wanted;
  }

  /** The unit under the pointer. */
  function unitUnder(event) {
    const box = event.currentTarget.getBoundingClientRect(), { margin, width } = geometry(), scale = width / box.width;
    return nearestUnit(layer(), (event.clientX - box.left) * scale - margin, (event.clientY - box.top) * scale - margin);
  }

  let frame = 0;
  function follow(event) {
    const unit = unitUnder(event);
    if (unit[0] === state.unit[0] && unit[1] === state.unit[1]) return;
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => setUnit(unit));
  }

  const KEYS = {
    ArrowUp: () => setUnit([state.unit[0] - 1, state.unit[1]]), ArrowDown: () => setUnit([state.unit[0] + 1, state.unit[1]]),
    ArrowLeft: () => setUnit([state.unit[0], state.unit[1] - 1]), ArrowRight: () => setUnit([state.unit[0], state.unit[1] + 1]),
    Enter: pin, " ": pin, Backspace: () => { state.pins.pop(); draw(); }, Delete: () => { state.pins.pop(); draw(); },
    "[": () => atPlace(() => { state.layer = Math.max(0, state.layer - 1); }),
    "]": () => atPlace(() => { state.layer = Math.min(current().layers.length - 1, state.layer + 1); }),
    1: () => setLevels(1), 2: () => setLevels(2), 3: () => setLevels(3),
  };

  function setLevels(count) { state.levels = count; fillControls(); draw(); }

  function connect() {
    for (const button of [byId("boxes"), ...document.querySelectorAll("[data-pin]")]) button.hidden = !detects;
    for (const id of ["view-deformable", "view-plain"]) {
      const canvas = byId(id);
      canvas.addEventListener("pointermove", follow);
      canvas.addEventListener("pointerdown", follow);
      canvas.addEventListener("click", (event) => { cancelAnimationFrame(frame); state.unit = unitUnder(event); pin(); });
      canvas.addEventListener("keydown", (event) => {
        const act = KEYS[event.key];
        if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
      });
    }
    byId("image").addEventListener("change", (event) => selectImage(Number(event.target.value)));
    byId("layer").addEventListener("change", (event) => atPlace(() => { state.layer = Number(event.target.value); }));
    byId("group").addEventListener("change", (event) => { state.group = Number(event.target.value); overlayCanvas = null; draw(); });
    byId("overlay").addEventListener("change", (event) => { state.overlay = event.target.value; overlayCanvas = null; draw(); });
    byId("boxes").addEventListener("click", (event) => {
      state.boxes = !state.boxes; event.currentTarget.setAttribute("aria-pressed", String(state.boxes)); draw();
    });
    for (const button of document.querySelectorAll("[data-levels]")) button.addEventListener("click", () => setLevels(Number(button.dataset.levels)));
    for (const button of document.querySelectorAll("[data-pin]")) button.addEventListener("click", () => pinExample(button.dataset.pin));
    byId("clear").addEventListener("click", () => { state.pins = []; draw(); });
    window.addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  connect();
  selectImage(0);
  pictures.forEach((picture) => picture.decode().then(draw));
  window.dcnExplorer = { data, state, trace, facts, nearestUnit: (index, x, y) => nearestUnit(layersOf(state.image)[index], x, y), hull, extent };
})();
