"""Caffe's files, written and read with Google's library: its messages are described here from the published numbers.

Nothing here uses the product. Field numbers: BVLC/caffe, src/caffe/proto/caffe.proto.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}
_MESSAGES: dict[str, str] = {
    "BlobShape": "repeated packed int64 dim 1",
    "BlobProto": (
        "BlobShape shape 7, repeated packed float data 5, repeated packed float diff 6, repeated packed double "
        "double_data 8, int32 num 1, int32 channels 2, int32 height 3, int32 width 4"
    ),
    "FillerParameter": "string type 1, float value 2, float std 6",
    "ConvolutionParameter": (
        "uint32 num_output 1, bool bias_term 2, repeated uint32 pad 3, repeated uint32 kernel_size 4, repeated uint32 "
        "stride 6, repeated uint32 dilation 18, uint32 pad_h 9, uint32 pad_w 10, uint32 kernel_h 11, uint32 kernel_w "
        "12, uint32 stride_h 13, uint32 stride_w 14, uint32 group 5, FillerParameter weight_filler 7"
    ),
    "InnerProductParameter": (
        "uint32 num_output 1, bool bias_term 2, FillerParameter weight_filler 3, int32 axis 5, bool transpose 6"
    ),
    "LRNParameter": "uint32 local_size 1, float alpha 2, float beta 3, int32 norm_region 4, float k 5",
    "PoolingParameter": (
        "PoolMethod pool 1, uint32 pad 4, uint32 kernel_size 2, uint32 kernel_h 5, uint32 kernel_w 6, uint32 stride 3, "
        "uint32 stride_h 7, uint32 stride_w 8, uint32 pad_h 9, uint32 pad_w 10, bool global_pooling 12"
    ),
    "ReLUParameter": "float negative_slope 1",
    "DropoutParameter": "float dropout_ratio 1",
    "TransformationParameter": (
        "float scale 1, bool mirror 2, uint32 crop_size 3, string mean_file 4, repeated float mean_value 5"
    ),
    "DataParameter": "string source 1, float scale 2, string mean_file 3, uint32 batch_size 4, uint32 crop_size 5",
    "InputParameter": "repeated BlobShape shape 1",
    "ParamSpec": "float lr_mult 3, float decay_mult 4",
    "LayerParameter": (
        "string name 1, string type 2, repeated string bottom 3, repeated string top 4, repeated ParamSpec param 6, "
        "repeated BlobProto blobs 7, int32 phase 10, TransformationParameter transform_param 100, "
        "ConvolutionParameter convolution_param 106, DataParameter data_param 107, DropoutParameter dropout_param "
        "108, InnerProductParameter inner_product_param 117, LRNParameter lrn_param 118, PoolingParameter "
        "pooling_param 121, ReLUParameter relu_param 123, InputParameter input_param 143"
    ),
    "V0LayerParameter": (
        "string name 1, string type 2, uint32 num_output 3, bool biasterm 4, uint32 pad 7, uint32 kernelsize 8, "
        "uint32 group 9, uint32 stride 10, PoolMethod pool 11, float dropout_ratio 12, uint32 local_size 13, float "
        "alpha 14, float beta 15, string source 16, float scale 17, string meanfile 18, uint32 cropsize 20, float k "
        "22, repeated BlobProto blobs 50, repeated float blobs_lr 51"
    ),
    "V1LayerParameter": (
        "repeated string bottom 2, repeated string top 3, string name 4, int32 type 5, repeated BlobProto blobs 6, "
        "repeated float blobs_lr 7, repeated float weight_decay 8, ConvolutionParameter convolution_param 10, "
        "DataParameter data_param 11, DropoutParameter dropout_param 12, InnerProductParameter inner_product_param "
        "17, LRNParameter lrn_param 18, PoolingParameter pooling_param 19, ReLUParameter relu_param 30, "
        "TransformationParameter transform_param 36, V0LayerParameter layer 1"
    ),
    "NetParameter": (
        "string name 1, repeated string input 3, repeated BlobShape input_shape 8, repeated int32 input_dim 4, bool "
        "force_backward 5, repeated LayerParameter layer 100, repeated V1LayerParameter layers 2"
    ),
    "SolverState": "int32 iter 1, string learned_net 2, repeated BlobProto history 3, int32 current_step 4",
}


def classes(messages: Mapping[str, str], *, packed: bool = True) -> dict[str, Any]:
    """Classes of Google's library for messages, whose repeated numbers are packed where they say so, or never."""
    file = descriptor_pb2.FileDescriptorProto(name="messages.proto", package="caffe", syntax="proto2")
    methods = file.enum_type.add(name="PoolMethod")
    for number, name in enumerate(("MAX", "AVE", "STOCHASTIC")):
        methods.value.add(name=name, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            *labels, kind, field_name, number = field.split()
            added = message.field.add(name=field_name, number=int(number))
            added.label = added.LABEL_REPEATED if "repeated" in labels else added.LABEL_OPTIONAL
            if kind == "PoolMethod":
                added.type, added.type_name = added.TYPE_ENUM, ".caffe.PoolMethod"
            elif kind in _TYPES:
                added.type = _TYPES[kind]
                if "packed" in labels:
                    added.options.packed = packed
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".caffe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in messages}


MESSAGES = classes(_MESSAGES)
"""By the names of Caffe's messages."""
UNPACKED = classes(_MESSAGES, packed=False)
"""The same, with a tag before every number."""

V1_TYPES = {"Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18,
            "SoftmaxWithLoss": 21, "Split": 22, "Accuracy": 1, "Softmax": 20}  # fmt: skip
V0_TYPES = {"Convolution": "conv", "Data": "data", "Dropout": "dropout", "InnerProduct": "innerproduct", "LRN": "lrn",
            "Pooling": "pool", "ReLU": "relu", "SoftmaxWithLoss": "softmax_loss", "Padding": "padding"}  # fmt: skip
PARAMETERS = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param", "LRN": "lrn_param",
              "Pooling": "pooling_param", "ReLU": "relu_param", "Dropout": "dropout_param",
              "Data": "transform_param"}  # fmt: skip

Layer = tuple[str, str, dict[str, Any]]
"""Name, type and settings."""


def _conv(name: str, num: int, kernel: int, **more: Any) -> Layer:
    return name, "Convolution", {"num_output": num, "kernel_size": kernel, **more}


def alexnet_layers(order: str = "norm pool", width: float = 1.0, classes: int = 1000) -> list[Layer]:
    """bvlc_alexnet, train phase; `pool norm`: bvlc_reference_caffenet. From their train_val.prototxt."""
    units = [max(2, 2 * round(num * width / 2)) for num in (96, 256, 384, 384, 256, 4096, 4096)]
    lrn = {"local_size": 5, "alpha": 0.0001, "beta": 0.75}
    between = {"norm": ("norm", "LRN", lrn), "pool": ("pool", "Pooling", {"pool": 0, "kernel_size": 3, "stride": 2})}

    def after(number: int) -> list[Layer]:
        return [(f"{name}{number}", kind, given) for name, kind, given in map(between.__getitem__, order.split())]

    def dense(number: int, num: int) -> list[Layer]:
        return [
            (f"fc{number}", "InnerProduct", {"num_output": num}),
            (f"relu{number}", "ReLU", {}),
            (f"drop{number}", "Dropout", {"dropout_ratio": 0.5}),
        ]

    return [
        ("data", "Data", {"mirror": True, "crop_size": 227, "mean_file": "data/ilsvrc12/imagenet_mean.binaryproto"}),
        _conv("conv1", units[0], 11, stride=4), ("relu1", "ReLU", {}), *after(1),
        _conv("conv2", units[1], 5, pad=2, group=2), ("relu2", "ReLU", {}), *after(2),
        _conv("conv3", units[2], 3, pad=1), ("relu3", "ReLU", {}),
        _conv("conv4", units[3], 3, pad=1, group=2), ("relu4", "ReLU", {}),
        _conv("conv5", units[4], 3, pad=1, group=2), ("relu5", "ReLU", {}),
        ("pool5", "Pooling", {"pool": 0, "kernel_size": 3, "stride": 2}),
        *dense(6, units[5]), *dense(7, units[6]),
        ("fc8", "InnerProduct", {"num_output": classes}),
        ("loss", "SoftmaxWithLoss", {}),
    ]  # fmt: skip


Weights = Mapping[str, tuple[np.ndarray, np.ndarray]]


def random_weights(layers: list[Layer], seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weights (O, I / groups, k, k) or (O, I) and biases (O,) by layer name, large enough for every layer to matter."""
    random = np.random.default_rng(seed)
    channels, positions, weights = 3, 36, {}
    for name, kind, given in layers:
        if kind not in ("Convolution", "InnerProduct"):
            continue
        num = given["num_output"]
        if kind == "Convolution":
            shape: tuple[int, ...] = (
                num,
                channels // given.get("group", 1),
                given["kernel_size"],
                given["kernel_size"],
            )
        else:
            shape, positions = (num, channels * positions), 1
        spread = (2 / np.prod(shape[1:])) ** 0.5
        weights[name] = (
            random.normal(0, spread, shape).astype(np.float32),
            random.normal(0, 0.5, num).astype(np.float32),
        )
        channels = num
    return weights


def fill_blob(blob: Any, array: np.ndarray, how: str) -> None:
    """`shape`: the newest form; `legacy`: four dimensions; `double`: the newest form, in double precision."""
    if how == "legacy":
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    else:
        blob.shape.dim.extend(array.shape)
    (blob.double_data if how == "double" else blob.data).extend(array.reshape(-1).tolist())


def _connected(layers: list[Layer]) -> list[tuple[Layer, list[str], list[str]]]:
    """Layers with their inputs and outputs: ReLU and dropout in place, as in the published networks."""
    found, current = [], "data"
    for layer in layers:
        name, kind, _ = layer
        if kind == "Data":
            found.append((layer, [], ["data", "label"]))
        elif kind == "SoftmaxWithLoss":
            found.append((layer, [current, "label"], ["loss"]))
        else:
            output = current if kind in ("ReLU", "Dropout") and current != "data" else name
            found.append((layer, [current], [output]))
            current = output
    return found


def network(
    layers: list[Layer], weights: Weights, form: str = "new", how: str = "", name: str = "AlexNet", packed: bool = True
) -> Any:
    """A NetParameter. `form`: new, v1 or v0. `how`: see `fill_blob`; by default as that generation wrote arrays."""
    net = (MESSAGES if packed else UNPACKED)["NetParameter"](name=name)
    how = how or ("shape" if form == "new" else "legacy")
    for (layer_name, kind, given), bottoms, tops in _connected(layers):
        arrays = weights.get(layer_name, ())
        if form == "v0":
            _add_v0(net, layer_name, kind, given, bottoms, tops, arrays, how)
            continue
        layer = net.layer.add() if form == "new" else net.layers.add()
        layer.name, layer.type = layer_name, kind if form == "new" else V1_TYPES[kind]
        layer.bottom.extend(bottoms)
        layer.top.extend(tops)
        if given:
            fill(getattr(layer, PARAMETERS[kind]), given)
        for array in arrays:
            fill_blob(layer.blobs.add(), array, how)
    return net


def fill(message: Any, given: Mapping[str, Any]) -> None:
    """Set fields of a message."""
    for name, value in given.items():
        if message.DESCRIPTOR.fields_by_name[name].is_repeated:
            getattr(message, name).extend(value if isinstance(value, list | tuple) else [value])
        else:
            setattr(message, name, value)


def _add_v0(
    net: Any, name: str, kind: str, given: dict[str, Any], bottoms: Any, tops: Any, arrays: Any, how: str
) -> None:
    """A layer of the oldest form: its padding is a layer before it."""
    given = dict(given)
    if pad := given.pop("pad", 0):
        before = net.layers.add()
        before.layer.name, before.layer.type, before.layer.pad = f"pad_{name}", "padding", pad
        before.bottom.extend(bottoms)
        before.top.extend([f"pad_{name}"])
        bottoms = [f"pad_{name}"]
    outer = net.layers.add()
    outer.bottom.extend(bottoms)
    outer.top.extend(tops)
    outer.layer.name, outer.layer.type = name, V0_TYPES[kind]
    renamed = {"kernel_size": "kernelsize", "crop_size": "cropsize", "mean_file": "meanfile"}
    for setting, value in given.items():
        if setting != "mirror":
            setattr(outer.layer, renamed.get(setting, setting), value)
    for array in arrays:
        fill_blob(outer.layer.blobs.add(), array, how)


def write(path: Path, message: Any) -> Path:
    path.write_bytes(message.SerializeToString())
    return path
