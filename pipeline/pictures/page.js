"use strict";
// The page's own script: draws the maps that the page holds as bytes, and sorts its tables. It loads and sends nothing.
(() => {
const LABEL = 104, HEAD = 36, NARROWEST = 70, WIDEST = 130, GAP = 8, MISSING = -128, MOST_BESIDE = 60;

const bytes = (text) => {
  const letters = atob(text), found = new Uint8Array(letters.length);
  for (let k = 0; k < found.length; k++) found[k] = letters.charCodeAt(k);
  return found;
};
const floats = (text) => new Float32Array(bytes(text).buffer);
const figures = (x) => !isFinite(x) ? "none" : Math.abs(x) >= 1000 && Math.abs(x) < 1e6 ? x.toFixed(0) : String(+x.toPrecision(3));
const hertz = (f) => f >= 1000 ? `${+(f / 1000).toPrecision(3)} kHz` : `${+f.toPrecision(3)} Hz`;
const short = (text, most) => text.length > most ? `${text.slice(0, most >> 1)}…${text.slice(1 - (most >> 1))}` : text;
const make = (tag, parent, given = {}) => parent.appendChild(Object.assign(document.createElement(tag), given));
const labelled = (parent, words, tag, given) => make(tag, make("label", parent, { textContent: words + " " }), given);

// Rows as a file that is made in the page and goes nowhere but to the reader's disk.
const saved = (parent, name, rows) => {
  const quoted = (x) => typeof x === "number" ? (isFinite(x) ? String(x) : "") : `"${x.replace(/"/g, '""')}"`;
  const text = rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  make("a", parent, { textContent: "Numbers (CSV)", className: "numbers", download: name, href: "data:text/csv;charset=utf-8," + encodeURIComponent(text) });
};

const choose = (parent, words, names, act) => {
  const select = labelled(parent, words, "select");
  names.forEach((name, k) => make("option", select, { textContent: name, value: k }));
  select.onchange = act;
  return select;
};

const fitted = (canvas, width, height) => {
  const dense = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: width * dense, height: height * dense });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const ink = canvas.getContext("2d");
  ink.scale(dense, dense);
  ink.font = "11px system-ui, sans-serif";
  ink.imageSmoothingEnabled = false;
  return ink;
};

const decoded = (held) => {
  const data = JSON.parse(held);
  for (const name of ["tops", "rows", "columns"]) data[name] = floats(data[name]);
  data.codes = new Int8Array(bytes(data.codes).buffer);
  data.standing = bytes(data.standing);
  data.health = new Uint16Array(bytes(data.health).buffer);
  data.palette = bytes(data.palette);
  data.samples = data.sound ? new Int8Array(bytes(data.sound.samples).buffer) : null;
  for (const number of data.numbers) {
    number.neurons = floats(number.neurons);
    number.maps = number.maps ? floats(number.maps) : null;
  }
  for (const [name, kept, all] of [["ofCheckpoint", "keptCheckpoints", "checkpoints"], ["ofNeuron", "keptNeurons", "neurons"]]) {
    data[name] = new Int32Array(data[all].length).fill(-1);
    data[kept].forEach((at, k) => { data[name][at] = k; });
  }
  return data;
};

const browse = (box) => {
  const data = decoded(box.querySelector("script").textContent);
  const C = data.checkpoints.length, N = data.neurons.length, R = data.rows.length, K = data.columns.length;
  let order = [], shown = [], picked = null, layer = 0, label = LABEL, wide = NARROWEST, high = NARROWEST;
  const tile = Object.assign(document.createElement("canvas"), { width: K, height: R }), dots = tile.getContext("2d");
  const image = dots.createImageData(K, R);

  const controls = make("div", box, { className: "controls" });
  const who = labelled(controls, "neurons", "input", { type: "search", placeholder: "name, area, site", size: 14 });
  const which = labelled(controls, "checkpoints", "input", { type: "search", placeholder: "name, architecture", size: 14 });
  const present = Object.keys(data.words).map(Number).filter((code) => data.standing.includes(code));
  const only = choose(controls, "with a map that is", ["anything", ...present.map((code) => data.words[code])], () => arrange());
  const names = data.numbers.map((number) => number.label);
  const sort = choose(controls, "sort by", ["order of the cube", ...names], () => arrange());
  const down = labelled(controls, "largest first", "input", { type: "checkbox" });
  const measured = choose(controls, "keep", ["all", ...names], () => arrange());
  const least = labelled(controls, "from", "input", { type: "number", step: "any" });
  const most = labelled(controls, "to", "input", { type: "number", step: "any" });
  const layers = data.layers.length > 1 ? choose(controls, "shown", data.layers, () => { layer = layers.selectedIndex; arrange(); }) : null;
  const counts = make("p", box, { className: "counts note" }), file = make("span", box);
  const view = make("div", box, { className: "view" }), stage = make("div", view, { className: "stage" });
  const room = make("div", stage), canvas = make("canvas", room, { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "a row of maps per neuron, a column per checkpoint; arrow keys move, the words below say what is there");
  const side = make("div", view);
  const said = make("output", side, { className: "said", textContent: "Point at a map for Hz, ms and value; click it to keep it." });
  const detail = make("div", side, { className: "detail" });
  const plot = make("div", box, { className: "plot" });

  const place = (n, c) => (layer * C + c) * N + n;
  const kept = (n, c) => {
    const k = data.ofCheckpoint[c], m = data.ofNeuron[n];
    return k < 0 || m < 0 || layer >= data.keptLayers ? -1 : (layer * data.keptCheckpoints.length + k) * data.keptNeurons.length + m;
  };
  const there = (at) => at >= 0 && data.codes[at * R * K] !== MISSING;
  const flags = (n, c) => data.flags.filter((flag) => data.health[place(n, c)] & flag.bit);

  const picture = (ink, at, x, y, width, height) => {
    const start = at * R * K;
    if (data.trace) {
      ink.fillStyle = "#0b5394";
      for (let k = 0; k < K; k++) {
        const bottom = data.codes[start + k], top = data.codes[start + K + k];
        ink.fillRect(x + k * width / K, y + height * (127 - top) / 254, Math.max(1, width / K), Math.max(1, height * (top - bottom) / 254));
      }
      return;
    }
    for (let r = 0; r < R; r++) for (let k = 0; k < K; k++) {
      const colour = 3 * (data.codes[start + r * K + k] + 128), to = 4 * ((R - 1 - r) * K + k);
      for (let part = 0; part < 3; part++) image.data[to + part] = data.palette[colour + part];
      image.data[to + 3] = 255;
    }
    dots.putImageData(image, 0, 0);
    ink.drawImage(tile, x, y, width, height);
  };

  const cell = (ink, n, c, x, y, width, height) => {
    const code = data.standing[place(n, c)], at = kept(n, c);
    if (there(at)) picture(ink, at, x, y, width, height);
    else {
      ink.fillStyle = data.computed.includes(code) ? data.colours[code] : "#fff";
      ink.globalAlpha = 0.25;
      ink.fillRect(x, y, width, height);
      ink.globalAlpha = 1;
      ink.fillStyle = "#444";
      ink.fillText(data.computed.includes(code) ? "not drawn" : data.words[code], x + 4, y + height / 2 + 4, width - 8);
    }
    ink.lineWidth = data.framed.includes(code) ? 3 : 1;
    ink.strokeStyle = data.framed.includes(code) ? data.colours[code] : "#c4cad1";
    ink.strokeRect(x, y, width, height);
    if (picked && picked[0] === n && picked[1] === c) {
      ink.strokeStyle = "#000";
      ink.lineWidth = 2;
      ink.strokeRect(x - 3, y - 3, width + 6, height + 6);
    }
  };

  const draw = () => {
    const width = stage.clientWidth, height = stage.clientHeight, left = stage.scrollLeft, up = stage.scrollTop;
    const ink = fitted(canvas, width, height);
    for (let r = Math.max(0, Math.floor(up / high)); r < order.length && r * high - up < height; r++)
      for (let k = Math.max(0, Math.floor(left / wide)); k < shown.length && k * wide - left < width; k++)
        cell(ink, order[r], shown[k], label + k * wide - left, HEAD + r * high - up, wide - GAP, high - GAP);
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, label - 4, height);
    ink.fillRect(0, 0, width, HEAD - 5);
    ink.fillStyle = "#1b1f24";
    const number = data.numbers[sort.selectedIndex - 1];
    order.forEach((n, r) => {
      const y = HEAD + r * high - up + 18;
      if (y < HEAD || y > height + high) return;
      ink.fillText(short(data.neurons[n], 16), 2, y, label - 10);
      if (number) ink.fillText(figures(number.neurons[n]), 2, y + 15, label - 10);
    });
    ink.clearRect(0, 0, label - 4, HEAD - 5);
    shown.forEach((c, k) => {
      const x = label + k * wide - left;
      if (x < label - wide || x > width) return;
      const words = data.checkpoints[c], half = Math.ceil(words.length / 2);
      if (words.length <= 11) return ink.fillText(words, Math.max(x, label), 25, wide - GAP);
      ink.fillText(short(words.slice(0, half), 13), Math.max(x, label), 13, wide - GAP);
      ink.fillText(short(words.slice(half), 13), Math.max(x, label), 26, wide - GAP);
    });
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, label - 4, HEAD - 5);
  };

  const matches = (words, input) => input.value.toLowerCase().split(/\s+/).every((part) => words.toLowerCase().includes(part));

  const arrange = () => {
    shown = data.checkpoints.map((_, c) => c).filter((c) => matches(data.checkpoints[c] + " " + data.groups[c], which));
    const code = only.selectedIndex ? present[only.selectedIndex - 1] : null, bounds = data.numbers[measured.selectedIndex - 1];
    order = data.neurons.map((_, n) => n).filter((n) => matches(data.neurons[n] + " " + data.about[n], who));
    if (code !== null) order = order.filter((n) => shown.some((c) => data.standing[place(n, c)] === code));
    if (bounds) order = order.filter((n) => {
      const x = bounds.neurons[n];
      return isFinite(x) && (least.value === "" || x >= +least.value) && (most.value === "" || x <= +most.value);
    });
    const number = data.numbers[sort.selectedIndex - 1], turn = down.checked ? -1 : 1;
    // what has no number stands last, whichever way the others are sorted
    if (number) order.sort((a, b) => {
      const x = number.neurons[a], y = number.neurons[b];
      return isFinite(x) && isFinite(y) ? turn * (x - y) || a - b : isFinite(y) - isFinite(x) || a - b;
    });
    else if (down.checked) order.reverse();
    file.replaceChildren();
    saved(file, "neurons.csv", [["neuron", ...names], ...order.map((n) => [data.neurons[n], ...data.numbers.map((number) => number.neurons[n])])]);
    counts.textContent = `${order.length} of ${N} neurons, ${shown.length} of ${C} checkpoints`;
    // few checkpoints have larger pictures
    label = Math.min(LABEL, stage.clientWidth / 4);
    wide = Math.max(NARROWEST, Math.min(WIDEST, Math.floor((stage.clientWidth - label) / Math.max(1, shown.length))));
    high = Math.round(0.72 * wide) + GAP;
    Object.assign(canvas.dataset, { label, head: HEAD, wide, high, gap: GAP });
    room.style.width = `${label + shown.length * wide}px`;
    room.style.height = `${HEAD + order.length * high}px`;
    stage.scrollTop = 0;
    draw();
    scatter.draw();
  };

  const below = (x, y) => {
    const left = x - label + stage.scrollLeft, up = y - HEAD + stage.scrollTop;
    if (x < label || y < HEAD - 5) return null;
    const n = order[Math.floor(up / high)], c = shown[Math.floor(left / wide)];
    if (n === undefined || c === undefined) return null;
    return { n, c, across: (left % wide) / (wide - GAP), upwards: 1 - (up % high) / (high - GAP) };
  };

  const value = (n, c, across, upwards) => {
    const at = kept(n, c), k = Math.min(K - 1, Math.max(0, Math.floor(across * K))), start = at * R * K;
    if (!there(at)) return data.words[data.standing[place(n, c)]];
    const step = data.tops[at] / 127, lag = `${figures(data.columns[k])} ms`;
    if (data.trace) return `${lag}: ${figures(data.codes[start + k] * step)} to ${figures(data.codes[start + K + k] * step)}`;
    const r = Math.min(R - 1, Math.max(0, Math.floor(upwards * R))), code = data.codes[start + r * K + k];
    return `${hertz(data.rows[r])}, ${lag}: ${Math.abs(code) === 127 ? "at or beyond " : ""}${figures(code * step)}`;
  };

  const tell = (n, c, words) => {
    const raised = flags(n, c).map((flag) => flag.name).join(", ");
    said.textContent = `${data.neurons[n]} · ${data.checkpoints[c]} · ${words}${raised ? ` · ${raised}` : ""}`;
  };

  const sound = (at) => {
    const k = data.sound ? data.sound.places.indexOf(at) : -1;
    if (k < 0) return null;
    const length = data.sound.length, size = (x, width) => String.fromCharCode(...Array.from({ length: width }, (_, b) => (x >> (8 * b)) & 255));
    let wav = `RIFF${size(36 + length, 4)}WAVEfmt ${size(16, 4)}${size(1, 2)}${size(1, 2)}`;
    wav += `${size(data.sound.rate, 4)}${size(data.sound.rate, 4)}${size(1, 2)}${size(8, 2)}data${size(length, 4)}`;
    for (let s = 0; s < length; s++) wav += String.fromCharCode(data.samples[k * length + s] + 128);
    return `data:audio/wav;base64,${btoa(wav)}`;
  };

  const large = (n, c) => {
    const shell = make("canvas", detail), width = Math.min(420, detail.clientWidth || 420), height = 240;
    const ink = fitted(shell, width, height), at = kept(n, c), left = 52, wide = width - left - 8, tall = height - 40;
    picture(ink, at, left, 6, wide, tall);
    ink.strokeStyle = "#888";
    ink.strokeRect(left, 6, wide, tall);
    ink.fillStyle = "#1b1f24";
    for (let part = 0; part <= 4; part++) {
      const k = Math.round(part * (K - 1) / 4), r = Math.round(part * (R - 1) / 4);
      ink.textAlign = part === 4 ? "right" : "center";
      ink.fillText(`${figures(data.columns[k])}`, left + (k + 0.5) * wide / K, height - 20);
      ink.textAlign = "right";
      if (!data.trace) ink.fillText(hertz(data.rows[r]), left - 4, 6 + tall - (r + 0.5) * tall / R + 4);
      else if (part % 2 === 0) ink.fillText(figures((part / 2 - 1) * data.tops[at]), left - 4, 10 + tall - part * tall / 4);
    }
    ink.textAlign = "center";
    ink.fillText("lag (ms before the response)", left + wide / 2, height - 5);
    shell.onmousemove = (event) => tell(n, c, value(n, c, (event.offsetX - left) / wide, 1 - (event.offsetY - 6) / tall));
  };

  // The neuron in all checkpoints that are shown, in rows as wide as there is room.
  const beside = (n) => {
    const some = shown.slice(0, MOST_BESIDE), tall = Math.round(0.72 * NARROWEST) + GAP;
    const room = detail.clientWidth - 16 || 400, across = Math.max(1, Math.floor(room / NARROWEST));
    make("p", detail, { textContent: `${data.neurons[n]} in ${some.length === shown.length ? "the" : `the first ${some.length} of`} ${shown.length} checkpoints shown:` });
    const strip = make("canvas", detail, { className: "beside" });
    const ink = fitted(strip, Math.min(across, some.length) * NARROWEST, Math.ceil(some.length / across) * tall);
    some.forEach((c, k) => cell(ink, n, c, (k % across) * NARROWEST + 4, Math.floor(k / across) * tall + 4, NARROWEST - GAP, tall - GAP));
    const under = (event) => some[Math.floor(event.offsetY / tall) * across + Math.floor(event.offsetX / NARROWEST)];
    strip.onmousemove = (event) => { const c = under(event); if (c !== undefined) tell(n, c, data.words[data.standing[place(n, c)]]); };
    strip.onclick = (event) => { const c = under(event); if (c !== undefined) pick(n, c); };
  };

  const pick = (n, c) => {
    picked = [n, c];
    detail.replaceChildren();
    make("h5", detail, { textContent: `${data.neurons[n]} of ${data.checkpoints[c]}` });
    make("p", detail, { textContent: [data.about[n], data.groups[c], data.layers[layer]].filter(Boolean).join("; ") });
    const at = kept(n, c);
    if (there(at)) {
      large(n, c);
      const heads = data.trace ? ["smallest", "largest"] : Array.from(data.rows, (f) => `${f} Hz`);
      const lines = Array.from(data.columns, (lag, k) => [lag, ...heads.map((_, r) => data.codes[at * R * K + r * K + k] * data.tops[at] / 127)]);
      saved(detail, `${data.neurons[n]}-${data.checkpoints[c]}.csv`, [["lag (ms)", ...heads], ...lines]);
    }
    const state = make("p", detail, { textContent: `${data.words[data.standing[place(n, c)]]}. ` });
    for (const flag of flags(n, c)) make("span", state, { textContent: `${flag.name}: ${flag.meaning}; ${flag.remedy}. ` });
    const heard = sound(at);
    if (heard) make("audio", detail, { controls: true, src: heard });
    beside(n);
    const table = make("table", detail);
    for (const words of [["", "this map", "median of the neuron"], ...data.numbers.map((number) => [
      number.label, number.maps && at >= 0 && !layer ? figures(number.maps[at]) : "", figures(number.neurons[n])])]) {
      const row = make("tr", table);
      words.forEach((word) => make("td", row, { textContent: word }));
    }
    tell(n, c, data.words[data.standing[place(n, c)]]);
    draw();
    scatter.draw();
  };

  const open = (n) => {
    if (!order.includes(n)) { who.value = which.value = least.value = most.value = ""; only.selectedIndex = measured.selectedIndex = 0; arrange(); }
    stage.scrollTop = Math.max(0, order.indexOf(n) * high - high);
    pick(n, shown.find((c) => there(kept(n, c))) ?? shown[0]);
    stage.scrollIntoView({ block: "nearest" });
  };

  const scatter = scattered(plot, data, () => order, () => picked, open);

  canvas.onmousemove = (event) => {
    const at = below(event.offsetX, event.offsetY);
    if (at) tell(at.n, at.c, value(at.n, at.c, at.across, at.upwards));
  };
  canvas.onclick = (event) => {
    const at = below(event.offsetX, event.offsetY);
    if (at) pick(at.n, at.c);
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !order.length || !shown.length) return;
    event.preventDefault();
    const [n, c] = picked || [order[0], shown[0]];
    const to = order[Math.max(0, order.indexOf(n) + step[0])] ?? n;
    stage.scrollTop = Math.max(0, order.indexOf(to) * high - high);
    pick(to, shown[Math.max(0, shown.indexOf(c) + step[1])] ?? c);
  };
  for (const input of [who, which, least, most, down]) input.oninput = arrange;
  stage.onscroll = draw;
  new ResizeObserver(draw).observe(stage);
  arrange();
};

// Each point is a neuron, placed by two of its numbers; a click opens it.
const scattered = (plot, data, order, picked, open) => {
  if (data.numbers.length < 2) return { draw() {} };
  const controls = make("div", plot, { className: "controls" }), names = data.numbers.map((number) => number.label);
  const across = choose(controls, "neurons: across", names, () => draw()), up = choose(controls, "up", names, () => draw());
  up.selectedIndex = Math.max(1, data.numbers.findIndex((number) => number.name === "reliability"));
  const canvas = make("canvas", plot), height = 300, left = 60;
  canvas.className = "scatter";
  const scale = (number, from, to) => {
    const shape = number.log ? Math.log : (x) => x, known = [...number.neurons].filter((x) => isFinite(x) && (!number.log || x > 0)).map(shape);
    const low = known.reduce((a, b) => Math.min(a, b), Infinity), high = known.reduce((a, b) => Math.max(a, b), -Infinity), span = high - low || 1;
    const ends = number.log ? [Math.exp(low), Math.exp((low + high) / 2), Math.exp(high)] : [low, (low + high) / 2, high];
    return { at: (x) => from + (to - from) * (0.04 + 0.92 * (shape(x) - low) / span), ends: known.length ? ends : [] };
  };
  let points = [];
  const draw = () => {
    const width = Math.min(560, plot.clientWidth || 560), ink = fitted(canvas, width, height);
    const x = data.numbers[across.selectedIndex], y = data.numbers[up.selectedIndex];
    const sx = scale(x, left, width - 10), sy = scale(y, height - 40, 8), chosen = new Set(order());
    points = data.neurons.map((_, n) => [sx.at(x.neurons[n]), sy.at(y.neurons[n]), n]).filter(([a, b]) => isFinite(a) && isFinite(b));
    ink.strokeStyle = "#c4cad1";
    ink.strokeRect(left, 8, width - 10 - left, height - 48);
    for (const [a, b, n] of points) {
      const now = picked() && picked()[0] === n;
      ink.fillStyle = now ? "#d55e00" : chosen.has(n) ? "#0072b2" : "#d5dae0";
      ink.beginPath();
      ink.arc(a, b, now ? 6 : 3.5, 0, 7);
      ink.fill();
    }
    ink.fillStyle = "#1b1f24";
    ink.textAlign = "center";
    sx.ends.forEach((value) => ink.fillText(figures(value), sx.at(value), height - 26));
    ink.fillText(x.label, (left + width) / 2, height - 8);
    ink.textAlign = "right";
    sy.ends.forEach((value) => ink.fillText(figures(value), left - 4, sy.at(value) + 4));
  };
  const nearest = (event) => {
    let best = null, far = 12;
    for (const [a, b, n] of points) {
      const away = Math.hypot(a - event.offsetX, b - event.offsetY);
      if (away < far) [best, far] = [n, away];
    }
    return best;
  };
  canvas.onclick = (event) => { const n = nearest(event); if (n !== null) open(n); };
  canvas.onmousemove = (event) => { const n = nearest(event); canvas.title = n === null ? "" : data.neurons[n]; };
  return { draw };
};

const sortable = (table) => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, at) => {
    const words = row.cells[at].textContent.replace(/[\u2212]/g, "-").replace(/,/g, "").trim(), number = parseFloat(words);
    return /^-?[\d.]/.test(words) && isFinite(number) ? number : words;
  };
  heads.forEach((head, at) => {
    head.tabIndex = 0;
    const turn = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, at), row]);
      // numbers before words, what is empty last
      const rank = (x) => x === "" ? 2 : typeof x === "string" ? 1 : 0;
      const compare = (a, b) => rank(a) - rank(b) || (down ? -1 : 1) * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
      rows.sort((a, b) => compare(a[0], b[0])).forEach(([, row]) => body.append(row));
    };
    head.onclick = turn;
    head.onkeydown = (event) => { if (event.key === "Enter") turn(); };
  });
};

document.querySelectorAll("table.sortable").forEach(sortable);
// A browser of maps is made when it comes into view: a page may hold many.
const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
  seen.unobserve(target);
  browse(target);
}), { rootMargin: "400px" });
document.querySelectorAll(".browser").forEach((box) => seen.observe(box));
})();
