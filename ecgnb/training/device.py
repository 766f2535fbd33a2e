"""Where a model runs and at which precision: the fastest that the machine has, or what is asked."""

import warnings
from typing import Any

import numpy.typing as npt
import torch

from ecgnb.errors import UserError, look_up
from ecgnb.models import MODELS, NO_NETWORK

PRECISIONS = ("auto", "float32", "tf32", "bf16")

# To be set for a training process before it starts: much of a training step goes into fresh memory,
# and with small pages a good part of that into page faults. Other C libraries take no notice.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
_AMPERE = 8  # compute capability from which an NVIDIA GPU has TF32 and bfloat16


def choose_device() -> torch.device:
    """Choose a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Name the device, with what decides the precision."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = [name for name, has in (("avx512_bf16", _bf16), ("AMX", _amx)) if has()]
    return f"CPU with {' and '.join(found)}" if found else "CPU"


def check_precision(wanted: str) -> None:
    """Raise a UserError if there is no such precision, or not on this machine."""
    look_up("precision", dict.fromkeys(PRECISIONS), wanted)
    if wanted == "tf32" and choose_device().type != "cuda":
        raise UserError(
            "tf32 is a precision of NVIDIA GPUs, and there is none here; choose auto, float32 or "
            "bf16"
        )


def choose_precision(model: str, wanted: str, device: torch.device) -> str:
    """Choose the fastest precision for a model on a device, unless one is asked for.

    It is ``float32``, ``tf32`` (float32 whose products are rounded, on NVIDIA GPUs) or ``bf16``
    (autocast; weights and optimiser stay float32). On CPUs with bfloat16 instructions, all but the
    GRU run in bfloat16; without them it would be emulated, and slower. On NVIDIA GPUs since Ampere,
    convolutions run in bfloat16 and recurrent layers in TF32, because cuDNN's have no bfloat16
    under autocast. UserError if `wanted` is not ``auto`` nor a precision that is to be had.
    """
    check_precision(wanted)
    entry = MODELS[model]
    if model == NO_NETWORK:
        return "float32"
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= _AMPERE
        return {"CNN": "bf16", "RNN": "tf32"}[entry.family] if fast else "float32"
    return "bf16" if entry.half_precision_on_cpu and (_bf16() or _amx()) else "float32"


def activate(precision: str, device: torch.device) -> None:
    """Set what PyTorch keeps per process: TF32, and repeatable kernels on a GPU."""
    if device.type != "cuda":
        return  # on one thread the kernels of a CPU repeat bit for bit
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model runs at a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def share(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Put an array where it is used: on a CPU nothing is copied, on a GPU it is sent once.

    Processes share the pages of one that is mapped, such as the signals of a prepared dataset.
    """
    with warnings.catch_warnings():
        # A mapping that is read only cannot be written through the tensor either.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values).to(device)


def _bf16() -> bool:
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
