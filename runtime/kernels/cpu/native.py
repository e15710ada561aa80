"""Loads the C++ library and wraps its handles. Knows no model and no operator's meaning."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Sequence

from runtime.errors import BackendError
from runtime.kernels.cpu.build import FOLDER, LIBRARY_NAME
from runtime.kernels.cpu.structs import Batch, Op

SHARED_OBJECT = FOLDER / LIBRARY_NAME
"""What is loaded: once, when it is first needed."""

_I32, _I64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "zonda_op_bytes": (_I32, ()),
    "zonda_batch_bytes": (_I32, ()),
    "zonda_variant_name": (ctypes.c_char_p, (_I32,)),
    "zonda_variant_is_supported": (_I32, (_I32,)),
    "zonda_pool_open": (_POINTER, (_I32,)),
    "zonda_pool_close": (None, (_POINTER,)),
    "zonda_program_open": (_POINTER, (_I32, _POINTER, _I64, _I64, _I64)),
    "zonda_program_close": (None, (_POINTER,)),
    "zonda_program_num_regions": (_I64, (_POINTER,)),
    "zonda_program_run": (_I64, (_POINTER, _POINTER, _POINTER, _POINTER)),
    "zonda_checksum": (ctypes.c_uint64, (_POINTER, _I64)),
    # matmul.cpp, pack.cpp: columns; format, rows, columns; format, source, packed, rows, columns,
    # first tile, last tile
    "zonda_quantized_row_bytes": (_I64, (_I64,)),
    "zonda_packed_bytes": (_I64, (_I32, _I64, _I64)),
    "zonda_pack": (None, (_I32, _POINTER, _POINTER, _I64, _I64, _I64, _I64)),
    # layout.cpp: KV type, G, D; then most tokens, sequences and context tokens of a step, and
    # H, G for plans, H, D for partial results
    "zonda_kv_page_bytes": (_I64, (_I32, _I64, _I64)),
    "zonda_attention_plan_bytes": (_I64, (_I64, _I64, _I64, _I64, _I64)),
    "zonda_attention_partial_bytes": (_I64, (_I64, _I64, _I64, _I64, _I64)),
}


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the library.

    Raises:
        BackendError: it is not there, or of another version than this module.
    """
    again = "compile it with `python -m runtime.kernels.cpu.build`, or install Zonda again"
    try:
        library = ctypes.CDLL(str(SHARED_OBJECT))
    except OSError as exc:
        raise BackendError(f"the CPU kernels cannot be loaded ({exc}); {again}") from exc
    wrong_version = BackendError(
        f"the CPU kernels in {SHARED_OBJECT} are of another version; {again}"
    )
    for name, (result, arguments) in _SIGNATURES.items():
        if not hasattr(library, name):
            raise wrong_version
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.zonda_op_bytes() != ctypes.sizeof(Op) or (
        library.zonda_batch_bytes() != ctypes.sizeof(Batch)
    ):
        raise wrong_version
    return library


def compiled_variants() -> list[str]:
    """Instruction sets the kernels were compiled for, best first."""
    library = load_library()
    names: list[str] = []
    while name := library.zonda_variant_name(len(names)):
        names.append(name.decode())
    return names


def supported_variants() -> list[str]:
    """Those of them that this machine can run."""
    library = load_library()
    names = enumerate(compiled_variants())
    return [name for index, name in names if library.zonda_variant_is_supported(index)]


class Pool:
    """Threads that run programs, one at a time; closed when nobody holds it any more."""

    def __init__(self, num_threads: int) -> None:
        """Start the threads; the caller of `Program.run` is one of them.

        Raises:
            BackendError: the system gives no more threads.
        """
        library = load_library()
        handle = library.zonda_pool_open(num_threads)
        if not handle:
            raise BackendError(f"{num_threads} threads could not be started; set fewer (--threads)")
        self.handle: int = handle
        self.num_threads = num_threads
        weakref.finalize(self, library.zonda_pool_close, handle)


class Program:
    """Recorded operators, ready to be replayed."""

    def __init__(
        self, ops: Sequence[Op], *, first_row_op: int, row_block: int, variant: str | None = None
    ) -> None:
        """Take the operators over; those from `first_row_op` on run once per `row_block` rows.

        Args:
            ops: as `kernels.h` describes them; what they point at must outlive the program.
            first_row_op: where logits rows begin; the number of operators where there are none.
            row_block: most logits rows that are computed at once.
            variant: instruction set; the best that this machine has where None.

        Raises:
            BackendError: memory ran out.
        """
        library = load_library()
        index = compiled_variants().index(variant or supported_variants()[0])
        array = (Op * len(ops))(*ops)
        handle = library.zonda_program_open(index, array, len(ops), first_row_op, row_block)
        if not handle:
            raise BackendError("the recorded program could not be made ready: no memory is left")
        self._handle: int = handle
        self._run = library.zonda_program_run
        self.num_regions: int = library.zonda_program_num_regions(handle)
        weakref.finalize(self, library.zonda_program_close, handle)

    def run(
        self, pool: Pool, batch: Batch, region_ns: ctypes.Array[ctypes.c_int64] | None = None
    ) -> int:
        """Run one step and wait for it; the interpreter is free meanwhile.

        `region_ns`, where given, has a number per region, to which the time it took is added.

        Returns:
            nanoseconds it took.

        Raises:
            BackendError: memory ran out.
        """
        took: int = self._run(self._handle, pool.handle, ctypes.byref(batch), region_ns)
        if took < 0:
            raise BackendError("no memory is left for a step; set fewer --threads")
        return took
