// The page: it takes pictures, and shows what each network predicts.

const SHOWN_CLASSES = 12; // in their own order; of more, the ten most probable
const TOLERANCE = 1e-4;
const element = (id) => document.getElementById(id);

const networks = JSON.parse(element("networks").textContent).map((network, k) => ({
  ...network,
  weights: floats(network.weights),
  expected: floats(network.expected),
  section: document.querySelectorAll(".run")[k],
}));
const examples = [...document.querySelectorAll("#examples button")];
let newest = 0; // counts what was asked for: an answer that is overtaken is not shown

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, k) => view.getFloat32(4 * k, true));
}

// Takes a picture: a file, an <img> or a <video>.
async function take(source, name, button) {
  const number = ++newest;
  element("problem").textContent = "";
  let picture;
  try {
    picture = await decode(source);
  } catch {
    element("problem").textContent =
      `This browser cannot read ${name} as a picture: try a PNG or a JPEG.`;
    return;
  }
  if (number !== newest) return;
  stopCamera();
  for (const each of examples) each.setAttribute("aria-pressed", each === button);
  draw(picture, name);
  const seen = new Map(); // by shape: to convert a large photograph takes half a second
  for (const network of networks) {
    const shape = String(network.shape);
    if (!seen.has(shape)) seen.set(shape, toPixels(picture, network.shape));
    answer(network, picture, seen.get(shape));
  }
  picture.close();
  const runs = element("runs");
  if (runs.getBoundingClientRect().top > innerHeight / 2) runs.scrollIntoView();
}

function draw(picture, name) {
  const canvas = element("picture");
  const scale = Math.min(1, 640 / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", name);
  canvas.hidden = false;
  element("hint").hidden = true;
}

function answer(network, picture, pixels) {
  const start = performance.now();
  const shares = probabilities(network, pixels);
  const milliseconds = performance.now() - start;
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b);
  const best = order[0];
  const { section, classes } = network;
  section.querySelector(".answer").textContent = `${classes[best]}, ${percent(shares[best])}`;
  const shown = classes.length > SHOWN_CLASSES ? order.slice(0, 10) : [...shares.keys()];
  section.querySelector(".bars").replaceChildren(
    ...shown.map((k) => bar(classes[k], shares[k], k === best)));
  const seen = section.querySelector(".seen");
  seen.hidden = false;
  show(pixels, network.shape, seen.querySelector("canvas"));
  seen.querySelector("span").textContent =
    [...notes(picture, network.shape), `${milliseconds.toFixed(1)} ms`].join("; ");
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function bar(name, share, first) {
  const line = document.createElement("li");
  line.classList.toggle("first", first);
  const [label, value, track, filled] = ["span", "span", "span", "span"].map(
    (tag) => document.createElement(tag));
  label.textContent = name;
  value.textContent = percent(share);
  track.className = "track";
  filled.className = "bar";
  filled.style.width = percent(share);
  track.append(filled);
  line.append(label, value, track);
  return line;
}

function show(pixels, [channels, height, width], canvas) {
  const image = new ImageData(width, height);
  const count = height * width;
  for (let k = 0; k < count; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = pixels[(c % channels) * count + k];
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// How the picture differs from those that the network was trained on.
function notes({ width, height }, [, size]) {
  const found = [];
  if (Math.max(width, height) > 2 * Math.min(width, height))
    found.push(`only the square at the centre of ${width} × ${height} pixels`);
  if (Math.min(width, height) < size) found.push(`${width} × ${height} pixels are enlarged`);
  return found;
}

// Computes the pictures to try, and compares with what PyTorch computed when the page was made.
async function check() {
  let largest = 0;
  for (const [k, button] of examples.entries()) {
    const picture = await decode(button.querySelector("img"));
    for (const network of networks) {
      const shares = probabilities(network, toPixels(picture, network.shape));
      const expected = network.expected.subarray(k * shares.length, (k + 1) * shares.length);
      shares.forEach((share, j) => { largest = Math.max(largest, Math.abs(share - expected[j])); });
    }
  }
  const status = element("check");
  const equal = largest <= TOLERANCE; // false for NaN, too
  status.classList.toggle("problem", !equal);
  status.textContent = equal
    ? `Checked in this browser: on ${examples.length} pictures, all probabilities are within `
      + `${largest.toExponential(0)} of PyTorch's.`
    : `This browser's probabilities differ from PyTorch's by up to ${largest}.`;
  status.dataset.largest = largest;
}

// The camera

let stream = null;

async function startCamera() {
  stopCamera();
  element("problem").textContent = "";
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    element("problem").textContent = "There is no camera, or this page may not use it.";
    return;
  }
  element("video").srcObject = stream;
  await element("video").play();
  setCamera(true);
  element("shoot").focus();
}

function stopCamera() {
  if (stream === null) return;
  for (const track of stream.getTracks()) track.stop();
  stream = element("video").srcObject = null;
  setCamera(false);
}

function setCamera(on) {
  element("video").hidden = element("shoot").hidden = !on;
  element("picture").hidden = element("hint").hidden = element("camera").hidden = on;
}

// What the user does

function takeFirst(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) take(file, file.name);
}

for (const button of examples)
  button.addEventListener("click", () =>
    take(button.querySelector("img"), button.getAttribute("aria-label"), button));
element("file").addEventListener("change", ({ target }) => {
  takeFirst(target.files);
  target.value = ""; // so that the same file can be chosen again
});
element("camera").hidden = !navigator.mediaDevices?.getUserMedia;
element("camera").addEventListener("click", startCamera);
element("shoot").addEventListener("click", () => take(element("video"), "The camera's picture"));
document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") takeFirst(event.dataTransfer.files);
  });

// For the browser's console: what a network predicts for exact pixels, and what it sees of a file.
globalThis.normlab = {
  probabilities: (k, pixels) => probabilities(networks[k], pixels),
  pixels: async (k, file) => toPixels(await decode(file), networks[k].shape),
};

check().catch((error) => {
  element("check").classList.add("problem");
  element("check").textContent = `This browser could not compute the pictures to try: ${error}`;
});
