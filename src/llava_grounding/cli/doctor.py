"""`llava-grounding doctor`: what is installed, what the machine has, and what runs here. Changes nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from llava_grounding.cli.common import print_json
from llava_grounding.cli.report import say
from llava_grounding.cli.terminal import one_line

_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']""")
_PYTHON = (3, 11)
_GIB = 2**30
# 7.3 billion weights of two bytes, and the working memory of one image at 1024 x 1024 and a 1,000 token dialogue.
_SEVEN_BILLION_BYTES = 17 * _GIB


@dataclass
class Device:
    """Something a model can run on; memory in bytes, None where it is unknown."""

    name: str
    description: str
    memory: int | None = None
    free: int | None = None


@dataclass
class Model:
    """How large a model is; memory in bytes."""

    name: str
    parameters: int
    parts: dict[str, int]
    """Parameters by part."""
    memory: dict[str, int]
    """Memory of the weights, by precision of the language side; the vision modules stay in float32."""
    cache_per_token: int
    """Bytes of the cache for one token, in bfloat16."""
    image_tokens: int


@dataclass
class MachineReport:
    """All that was found out."""

    llava_grounding: str
    python: str
    platform: str
    packages: dict[str, str | None]
    torch_problem: str | None
    cores: int
    threads: int | None
    devices: list[Device]
    embedded_model: str | None
    embedded_model_bytes: int
    extras: dict[str, list[str]]
    """Packages that are missing, by extra."""
    model: Model | None = None
    """The one asked about with `--model`."""
    problems: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)


def doctor(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Preset, folder or hub id whose size is reported as well."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what is installed, what this machine has and what runs on it; exit code 1 if chat does not."""
    report = inspect_machine()
    if model is not None:
        report.model = measure(model)
    if as_json:
        print_json(json.dumps(asdict(report), indent=2))
    else:
        for line in describe(report):
            say(f"{line}\n")
    if report.problems:
        raise typer.Exit(1)


def inspect_machine() -> MachineReport:
    """Look at everything once."""
    from llava_grounding import __version__

    needed, (devices, threads, torch_problem) = required_packages(), _devices()
    model = _embedded_model()
    report = MachineReport(
        llava_grounding=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in needed[None]},
        torch_problem=torch_problem,
        cores=_cores(),
        threads=threads,
        devices=devices,
        embedded_model=str(model) if model else None,
        embedded_model_bytes=sum(path.stat().st_size for path in model.rglob("*.safetensors")) if model else 0,
        extras={
            extra: [name for name in names if _version(name) is None]
            for extra, names in needed.items()
            if extra is not None
        },
    )
    report.problems = _problems(report)
    report.runs = _runs(report)
    return report


def describe(report: MachineReport) -> list[str]:
    """The report, one line each."""
    lines = [f"llava-grounding {report.llava_grounding}", f"python {report.python} on {report.platform}"]
    lines.append(", ".join(f"{name} {found or 'MISSING'}" for name, found in report.packages.items()))
    threads = f", {report.threads} threads" if report.threads else ""
    lines += [f"{device.name}: {device.description}{_memory(device)}" for device in report.devices]
    lines.append(f"processor: {report.cores} cores{threads}")
    size = f"{report.embedded_model_bytes / 1e6:.1f} MB in {report.embedded_model}"
    lines.append(f"embedded model nano: {size if report.embedded_model else 'MISSING'}")
    for extra, missing in report.extras.items():
        hint = f'missing {", ".join(missing)}; install with `pip install "llava-grounding[{extra}]"`'
        lines.append(f"extra {extra}: {hint if missing else 'installed'}")
    lines += [f"{what}: {verdict}" for what, verdict in report.runs.items()]
    if report.model is not None:
        lines += describe_model(report.model, report.devices)
    return [*lines, *(f"PROBLEM: {problem}" for problem in report.problems)]


def measure(source: str) -> Model:
    """Count a model by its configuration alone; no weight is read.

    Raises:
        ConfigError, CheckpointError: if there is none of that name, or its configuration is damaged.
    """
    from llava_grounding.checkpoints import find_config
    from llava_grounding.model.sizes import cache_bytes_per_token, memory_needed, meta_model, part_sizes

    name, config = find_config(source)
    sizes = part_sizes(meta_model(config))
    return Model(
        name=name,
        parameters=sum(size.parameters for size in sizes),
        parts={size.name: size.parameters for size in sizes},
        memory=memory_needed(sizes),
        cache_per_token=cache_bytes_per_token(config),
        image_tokens=config.image_sequence_length,
    )


def describe_model(model: Model, devices: list[Device]) -> list[str]:
    """What `measure` found, one line each."""
    lines = [f"model {model.name}: {model.parameters:,} parameters, {model.image_tokens} positions per image"]
    lines += [f"  {part}: {count:,}" for part, count in model.parts.items()]
    for precision, needed in model.memory.items():
        free = [device.name for device in devices if (device.free or device.memory or 0) > needed]
        fits = f"fits {', '.join(free)}" if free else "fits no device here"
        lines.append(f"  weights in {precision}: {_amount(needed)}, {fits}")
    cache = 1000 * model.cache_per_token
    return [*lines, f"  and for every 1,000 positions of a dialogue, in bfloat16: {_amount(cache)}"]


def _amount(number: int) -> str:
    return f"{number / _GIB:.1f} GiB" if number >= _GIB / 10 else f"{number / 2**20:.1f} MiB"


def _problems(report: MachineReport) -> list[str]:
    """What keeps chat with the embedded model from running, with what to do."""
    problems = []
    if sys.version_info[:2] < _PYTHON:
        problems.append(f"Python must be {_PYTHON[0]}.{_PYTHON[1]} or newer, this is {report.python}")
    missing = [name for name, found in report.packages.items() if found is None]
    if missing:
        problems.append(f"missing packages: {', '.join(missing)}; install them with `pip install llava-grounding`")
    if report.torch_problem and "torch" not in missing:
        problems.append(f"torch cannot be used: {report.torch_problem}")
    if report.embedded_model is None:
        problems.append("the embedded model is not in this installation; install llava-grounding again")
    return problems


def _runs(report: MachineReport) -> dict[str, str]:
    best = report.devices[0].name if report.devices else "cpu"
    return {
        "chat, ground with the embedded model": "no, see below" if report.problems else f"yes, on {best}",
        "a 7B model in bfloat16": _seven_billion(report.devices),
    }


def _seven_billion(devices: list[Device]) -> str:
    """Whether a 7B model fits, by memory alone; an estimate."""
    for device in devices:
        if (device.free or device.memory or 0) >= _SEVEN_BILLION_BYTES:
            return f"yes, on {device.name}{', slowly' if device.name == 'cpu' else ''}"
    return f"no, it takes about {_SEVEN_BILLION_BYTES / _GIB:.0f} GiB of free memory"


def _devices() -> tuple[list[Device], int | None, str | None]:
    """Devices, the best first; how many threads torch uses; and why torch cannot be used, if it cannot."""
    processor = Device("cpu", platform.processor() or platform.machine(), *_main_memory())
    try:
        import torch
    except Exception as error:  # noqa: BLE001  a broken installation can fail in any way, and saying so is the job
        return [processor], None, one_line(f"{type(error).__name__}: {error}")[:200]
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, memory = torch.cuda.mem_get_info(index)
        devices.append(Device(f"cuda:{index}", torch.cuda.get_device_name(index), memory, free))
    if torch.backends.mps.is_available():
        devices.append(Device("mps", "Apple GPU, shares the main memory", *_main_memory()))
    return [*devices, processor], torch.get_num_threads(), None


def _main_memory() -> tuple[int | None, int | None]:
    """Main memory in all and what is free, within the limit of the container if there is one."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None, None
    free = _field(Path("/proc/meminfo"), "MemAvailable:")
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < memory:
        memory = limit
        free = min(free if free is not None else limit, max(0, limit - (used or 0)))
    return memory, free


def _field(path: Path, name: str) -> int | None:
    try:
        words = next(line.split() for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return None
    return int(words[1]) * 1024


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    from importlib import metadata  # slow to import, and `--help` needs none of it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def required_packages() -> dict[str | None, tuple[str, ...]]:
    """What the installed package says it needs: always (None), and for each of its extras but the developers'."""
    from importlib import metadata

    found: dict[str | None, list[str]] = {None: []}
    for line in metadata.requires("llava-grounding") or ():
        requirement, _, marker = line.partition(";")
        extra = _EXTRA.search(marker)
        name = re.split(r"[^\w.-]", requirement.strip())[0]
        if name != "llava-grounding":
            found.setdefault(extra[1] if extra else None, []).append(name)
    first = ("torch", "transformers")
    return {
        extra: tuple(sorted(names, key=lambda name: (name not in first, name)))
        for extra, names in found.items()
        if extra not in ("dev", "test")
    }


def _embedded_model() -> Path | None:
    """The folder of the embedded model, found without importing anything heavy."""
    package = importlib.util.find_spec("llava_grounding")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "weights" / "nano"
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def _memory(device: Device) -> str:
    if device.memory is None:
        return ""
    free = f", {device.free / _GIB:.1f} free" if device.free is not None else ""
    return f", {device.memory / _GIB:.1f} GiB{free}"
