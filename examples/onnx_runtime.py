"""Classify a photograph with ONNX Runtime: raw pixels in, names and probabilities out.

python onnx_runtime.py RUN PHOTOGRAPH

Only onnxruntime, NumPy and Pillow read the file; alexnet writes it, and says at the end what it should have answered.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

import alexnet

run, photograph = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    file = alexnet.export(run, Path(folder, "network.onnx"), to="onnx")
    session = onnxruntime.InferenceSession(file.path)

with Image.open(photograph) as image:
    upright = ImageOps.exif_transpose(image).convert("RGB")
pixels = np.asarray(upright)[np.newaxis]  # uint8 (1, H, W, 3); resizing, cropping and the mean are in the file
(probabilities,), names = session.run(None, {"images": pixels})

for index in np.argsort(-probabilities)[:5]:
    print(f"{100 * probabilities[index]:5.1f} %  {names[index]!r}")

expected = alexnet.predict(run, photograph, views=1, precision="float32")
assert abs(probabilities - expected.probabilities[0]).max() < 1e-3
assert names[probabilities.argmax()] == expected[0].top[0].name
