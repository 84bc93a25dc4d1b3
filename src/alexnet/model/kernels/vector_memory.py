"""How compiled kernels read and write float32 and bfloat16 arrays, written as LLVM instructions, which NumPy lacks.

A bfloat16 is the upper half of a float32; NumPy has no such type, so kernels hold its bits as a uint16.

A loop that reads several arrays and writes others is only vectorized if LLVM knows that they do not overlap: to ask
before every loop costs more than the loop over a few channels does. `load` and `store` say so: an array that a kernel
(with all functions that it calls) accesses by `load` it never writes by `store`, and vice versa. Plain indexing is
always right.
"""

from typing import Any

from alexnet.system import numba_jit

if not numba_jit.unavailable_reason:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic


def wide(value: Any) -> Any:
    """float32 of a float32 or of the bits of a bfloat16."""
    raise NotImplementedError


def narrow(value: Any, like: Any) -> Any:
    """A float32 in the type of `like`: unchanged, or the bits of the nearest bfloat16 (ties to even)."""
    raise NotImplementedError


def load(array: Any, index: Any) -> Any:
    """array[index] of a contiguous array that the kernel writes nowhere by `store`; of a bfloat16 its float32."""
    raise NotImplementedError


def store(array: Any, index: Any, value: Any) -> Any:
    """array[index] = value in a contiguous array that the kernel reads nowhere by `load`; rounded to bfloat16 there."""
    raise NotImplementedError


if not numba_jit.unavailable_reason:
    _number, _bits, _half_bits = ir.FloatType(), ir.IntType(32), ir.IntType(16)

    def _widened(builder: Any, half: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(half, _bits), _bits(16)), _number)

    def _rounded(builder: Any, number: Any) -> Any:
        bits = builder.bitcast(number, _bits)
        odd = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
        nearest = builder.lshr(builder.add(builder.add(bits, _bits(0x7FFF)), odd), _bits(16))
        # The addition could turn a NaN into an infinity or flip its sign.
        unordered = builder.fcmp_unordered("uno", number, number)
        return builder.trunc(builder.select(unordered, _bits(0x7FC0), nearest), _half_bits)

    @intrinsic
    def wide(_: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arguments[0] if isinstance(value, types.Float) else _widened(builder, arguments[0])

        return types.float32(value), generate

    @intrinsic
    def narrow(_: Any, value: Any, like: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arguments[0] if isinstance(like, types.Float) else _rounded(builder, arguments[0])

        return like(types.float32, like), generate

    def _element(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
        data = context.make_array(array)(context, builder, value).data
        return builder.gep(data, [index], inbounds=True)

    def _declare_disjoint(access: Any, own: str, other: str) -> None:
        add = access.module.add_metadata
        domain = add(["alexnet"])
        access.set_metadata("alias.scope", add([add([f"alexnet {own}", domain])]))
        access.set_metadata("noalias", add([add([f"alexnet {other}", domain])]))

    @intrinsic
    def load(_: Any, array: Any, index: Any) -> Any:
        is_half = array.dtype == types.uint16

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_element(context, builder, array, *arguments))
            _declare_disjoint(value, "loaded", "stored")
            return _widened(builder, value) if is_half else value

        return (types.float32 if is_half else array.dtype)(array, types.uintp), generate

    @intrinsic
    def store(_: Any, array: Any, index: Any, value: Any) -> Any:
        is_half = array.dtype == types.uint16
        given = types.float32 if is_half else array.dtype

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = _rounded(builder, arguments[2]) if is_half else arguments[2]
            written = builder.store(value, _element(context, builder, array, *arguments[:2]))
            _declare_disjoint(written, "stored", "loaded")
            return context.get_dummy_value()

        return types.none(array, types.uintp, given), generate
