// Runs network.onnx, as `alexnet export RUN --to onnx` writes it, on a photograph: pixels in, names and probabilities out.
// Beside it, the folder ort/ holds the folder dist of the npm package onnxruntime-web.
import * as ort from "./ort/ort.wasm.min.mjs";

const element = (id) => document.getElementById(id);
ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more threads need a page that is isolated from other origins
const loading = ort.InferenceSession.create("network.onnx");
let last = loading.then(
  () => { element("status").textContent = ""; },
  (error) => { element("status").textContent = `The network cannot be loaded: ${error.message}`; },
);

function pixelsOf(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height); // RGBA
  const pixels = new Uint8Array(data.length / 4 * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) pixels.set(data.subarray(from, from + 3), to);
  return pixels;
}

async function classify(file) {
  element("top").replaceChildren();
  element("photo").hidden = true;
  element("status").textContent = "Looking ...";
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    element("photo").src = URL.createObjectURL(file);
    element("photo").hidden = false;
    const images = new ort.Tensor("uint8", pixelsOf(bitmap), [1, bitmap.height, bitmap.width, 3]);
    const { probabilities, class_names: names } = await (await loading).run({ images });
    const order = [...probabilities.data.keys()].sort((a, b) => probabilities.data[b] - probabilities.data[a]);
    for (const index of order.slice(0, 5)) {
      const row = element("top").insertRow();
      const meter = document.createElement("meter");
      meter.value = probabilities.data[index];
      row.insertCell().textContent = names.data[index];
      row.insertCell().append(meter);
      row.insertCell().textContent = `${(100 * probabilities.data[index]).toFixed(1)} %`;
    }
    element("status").textContent = `Most likely ${names.data[order[0]]}`;
  } catch (error) {
    element("status").textContent = `This file cannot be classified: ${error.message}`;
  }
}

function queue(file) {
  if (file) last = last.then(() => classify(file)); // one after the other: a session runs once at a time
}

element("file").addEventListener("change", (event) => queue(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") queue(event.dataTransfer.files[0]);
  });
}
