// Three cuts through a volume, moved by pointer or keyboard. Values come as int16, packed, in a JSON block of the page.
const PLANES = [
  { name: "sagittal", across: 0, h: 1, v: 2, ends: ["P", "A"] },
  { name: "coronal", across: 1, h: 0, v: 2, ends: ["L", "R"] },
  { name: "axial", across: 2, h: 0, v: 1, ends: ["L", "R"] },
];
for (const box of document.querySelectorAll("details.viewer")) {
  if (box.open) start(box);
  else box.addEventListener("toggle", () => start(box), { once: true });
}

async function start(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [nx, ny, nz] = data.shape;
  const find = (name) => box.querySelector(`[data-part=${name}]`);
  const [chooser, slider, peaks] = [find("layer"), find("cut"), find("peak")];
  const background = await unpacked(data.background, 1);
  const state = { at: data.shape.map((n) => n >> 1), layer: data.layers[0], values: null, cut: 0 };
  const index = ([x, y, z]) => (x * ny + y) * nz + z;

  const views = PLANES.map((plane) => {
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${plane.name} cut; arrow keys move in the cut, page up and down across it`);
    find("planes").append(canvas);
    const wide = data.shape[plane.h] * data.zooms[plane.h];
    const high = data.shape[plane.v] * data.zooms[plane.v];
    const scale = 330 / Math.max(...data.shape.map((n, axis) => n * data.zooms[axis]));
    [canvas.width, canvas.height] = [Math.max(24, Math.round(wide * scale)), Math.max(24, Math.round(high * scale))];
    canvas.addEventListener("pointerdown", (event) => {
      const frame = canvas.getBoundingClientRect();
      const across = (event.clientX - frame.left) / frame.width;
      const up = 1 - (event.clientY - frame.top) / frame.height;
      move(plane.h, Math.floor(across * data.shape[plane.h]));
      move(plane.v, Math.floor(up * data.shape[plane.v]));
      draw();
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = {
        ArrowLeft: [plane.h, -1], ArrowRight: [plane.h, 1], ArrowDown: [plane.v, -1], ArrowUp: [plane.v, 1],
        PageDown: [plane.across, -1], PageUp: [plane.across, 1],
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const [axis, step] = steps[event.key];
      move(axis, state.at[axis] + step);
      draw();
    });
    return { plane, canvas };
  });

  function move(axis, place) {
    state.at[axis] = Math.min(Math.max(place, 0), data.shape[axis] - 1);
  }

  function colour(value) {
    const { largest, signed } = state.layer;
    if (value === 0 || Math.abs(value) < state.cut * (1 - 1e-6) || (!signed && value < 0)) return null;
    const stops = value > 0 ? data.hot : data.cold;
    const share = Math.min(1, Math.max(0, (Math.abs(value) - state.cut) / Math.max(largest - state.cut, 1e-9)));
    const place = share * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((part, k) => part + (stops[low + 1][k] - part) * (place - low));
  }

  function draw() {
    for (const { plane, canvas } of views) drawPlane(plane, canvas);
    const mm = data.affine.slice(0, 3).map((row) => row[3] + row[0] * state.at[0] + row[1] * state.at[1] + row[2] * state.at[2]);
    const raw = state.values[index(state.at)];
    const value = raw === 0 ? "no value" : `${state.layer.what} ${((raw * state.layer.largest) / 32767).toFixed(2)}`;
    find("where").textContent = `x ${mm[0].toFixed(0)}, y ${mm[1].toFixed(0)}, z ${mm[2].toFixed(0)} mm: ${value}`;
  }

  function drawPlane(plane, canvas) {
    const [wide, high] = [data.shape[plane.h], data.shape[plane.v]];
    const pixels = new ImageData(wide, high);
    const place = [...state.at];
    for (let v = 0; v < high; v += 1) {
      for (let h = 0; h < wide; h += 1) {
        place[plane.h] = h;
        place[plane.v] = v;
        const k = index(place);
        const grey = background[k];
        const shown = colour((state.values[k] * state.layer.largest) / 32767) ?? [grey, grey, grey];
        pixels.data.set([...shown, 255], 4 * ((high - 1 - v) * wide + h));
      }
    }
    const small = document.createElement("canvas");
    [small.width, small.height] = [wide, high];
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const x = ((state.at[plane.h] + 0.5) / wide) * canvas.width;
    const y = (1 - (state.at[plane.v] + 0.5) / high) * canvas.height;
    context.strokeStyle = "rgba(120, 255, 160, .75)";
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, canvas.height);
    context.moveTo(0, y);
    context.lineTo(canvas.width, y);
    context.stroke();
    context.fillStyle = "white";
    context.font = "13px sans-serif";
    context.fillText(plane.ends[0], 3, canvas.height - 4);
    context.fillText(plane.ends[1], canvas.width - 13, canvas.height - 4);
  }

  function drawBar() {
    const bar = find("bar");
    const { largest, signed } = state.layer;
    const context = bar.getContext("2d");
    for (let x = 0; x < bar.width; x += 1) {
      const share = (x + 0.5) / bar.width;
      const shown = colour(signed ? largest * (2 * share - 1) : largest * share);
      context.fillStyle = shown ? `rgb(${shown.map(Math.round).join(",")})` : "rgb(115,115,115)";
      context.fillRect(x, 0, 1, bar.height);
    }
    find("low").textContent = signed ? (-largest).toFixed(2) : "0";
    find("high").textContent = largest.toFixed(2);
    const rule = signed ? `|${state.layer.what}|` : state.layer.what;
    find("shown").textContent = `${rule} \u2265 ${state.cut.toFixed(2)}${state.cut === state.layer.cut ? " (as in the pictures)" : ""}`;
  }

  async function choose(number) {
    state.layer = data.layers[number];
    state.values = await unpacked(state.layer.values, 2);
    state.cut = state.layer.cut;
    [slider.max, slider.step, slider.value] = [state.layer.largest, state.layer.largest / 500, state.cut];
    peaks.replaceChildren(...state.layer.peaks.map((peak, k) => new Option(peak.name, k)));
    peaks.closest("label").hidden = state.layer.peaks.length === 0;
    if (state.layer.peaks.length) state.at = [...state.layer.peaks[0].voxel];
    drawBar();
    draw();
  }

  chooser.addEventListener("change", () => choose(chooser.value));
  peaks.addEventListener("change", () => {
    state.at = [...state.layer.peaks[peaks.value].voxel];
    draw();
  });
  slider.addEventListener("input", () => {
    state.cut = Number(slider.value);
    drawBar();
    draw();
  });
  await choose(0);
  box.dataset.ready = "yes";
}

async function unpacked(text, width) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  if (width === 1) return raw;
  const n = raw.length / 2; // all high bytes come before all low ones: so they pack better
  return Int16Array.from({ length: n }, (_, k) => (raw[k] << 8) | raw[n + k]);
}
