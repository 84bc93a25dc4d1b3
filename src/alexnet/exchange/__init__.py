"""Weights in and out: files of Caffe, torchvision, PyTorch and cuda-convnet, ONNX, exported programs, model cards."""
