"""`export`: a network as one file that runs without ganctl: ONNX, or PyTorch's own exported program (.pt2).

The graph is traced from the network, run by the program that will run it, and compared with the network on seeds that
it was not traced with; only then does the file get its name.
"""

import contextlib
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl import catalog
from ganctl.config import config
from ganctl.errors import GanctlError, UsageError, quoted
from ganctl.io.files import atomic_write
from ganctl.io.outputs import REQUEST_KEY, check_writable, default_folder, request_for, status_of
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from ganctl.nn.exported import Ports

    Runner = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]

TOLERANCE = 1e-3
"""Of the largest number in an output, or of 1: an eighth of a step between two values of a pixel."""
SEED = 7
"""Where the seeds begin that an exported network is compared on."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_LIMIT = 2_000_000_000
"""Bytes of one ONNX file: its format counts them in 31 bits."""


@config
class ExportRequest:
    model: str
    out: str | None = None
    """x.onnx or x.pt2."""
    overwrite: bool = False


def check(request: ExportRequest) -> ExportRequest:
    """What can be refused before torch is loaded; gives the request with its file's name filled in."""
    catalog.check_name(request.model)
    name = default_folder(request.model, "export")
    out = Path(request.out or name / f"{name.parent.name}.onnx").expanduser()
    if out.suffix.lower() not in (".onnx", ".pt2"):
        why = f"it ends in neither .onnx nor .pt2{', and a folder holds no one network' if not out.suffix else ''}"
        raise UsageError(f"cannot export to {quoted(out)}", why, "ganctl export MODEL -o x.onnx")
    check_writable(out)
    missing = [p for p in ONNX_PACKAGES if out.suffix.lower() == ".onnx" and not importlib.util.find_spec(p)]
    if missing:
        hint = "pip install 'ganctl[export]', or export to .pt2, which needs nothing more"
        raise UsageError(f"cannot export to {quoted(out)}", f"{', '.join(missing)} is not installed", hint)
    return ExportRequest(model=request.model, out=str(out), overwrite=request.overwrite)


def run(request: ExportRequest, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Writes the file after its outputs were compared with the network's.

    Raises UsageError (a network without a plain graph, refused overwrite), GanctlError where the outputs differ.
    """
    out = Path(check(request).out or "")
    net, revision, card = _open(request.model, reporter)
    record = request_for("export", request.model, revision)
    if status_of(out, record, request.overwrite) == "exists":
        result = {"path": str(out), "input": request.model, "revision": revision, "status": "exists"}
        reporter.result(result)
        return result
    from ganctl.nn.exported import ports, shapes_of

    p = ports(net)
    program = _traced(p, request.model)
    inputs, outputs = shapes_of(program, p)
    facts = {"inputs": inputs, "outputs": outputs, "told": p.told, "license": card.get("license") or "unknown"}
    to_bytes, runner = (_onnx, _onnx_runner) if out.suffix.lower() == ".onnx" else (_pt2, _pt2_runner)
    with _quiet():
        data = to_bytes(program, p, {REQUEST_KEY: json.dumps(record), "ganctl-ports": json.dumps(facts)})
        difference = _compared(p, runner(data), inputs, out.suffix)
    with atomic_write(out) as f:
        f.write(data)
    reporter.note(f"{request.model}: {_told(inputs)} → {_told(outputs)}; largest difference {difference:.1e}")
    result = {
        "path": str(out), "input": request.model, "revision": revision, "format": out.suffix[1:].lower(),
        **facts, "max_difference": difference, "bytes": len(data), "status": "written",
    }  # fmt: skip
    reporter.result(result)
    return result


def _open(ref: str, reporter: Reporter) -> tuple[Any, str, dict[str, Any]]:
    """The network on the CPU, its revision and its card. Feature networks of no family are opened as metrics do."""
    from ganctl.load import digest, load, open_bundle
    from ganctl.metrics.catalog import INCEPTION, VGG16

    if ref not in (INCEPTION, VGG16):
        model = load(ref, device="cpu", reporter=reporter)
        return model.net, model.revision, model.card
    import torch

    from ganctl.metrics.features import inception
    from ganctl.metrics.perceptual import open_vgg16

    bundle, _ = open_bundle(ref, reporter=reporter)
    opened = inception(reporter) if ref == INCEPTION else open_vgg16(device=torch.device("cpu"), reporter=reporter)
    return opened[0], digest(bundle), bundle.card


def _traced(p: "Ports", name: str) -> "ExportedProgram":
    from ganctl.nn.exported import trace

    try:
        with _quiet():
            return trace(p)
    except GanctlError:
        raise
    # The tracer raises whatever the network's code meets: a number where it has a symbol, a random generator.
    except Exception as e:
        why = f"PyTorch cannot trace it as one graph: {type(e).__name__}"
        raise UsageError(f"cannot export {quoted(name)}", why, "see what can be: docs/export.md") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own notes, which are for programmers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pt2(program: "ExportedProgram", _: "Ports", notes: Mapping[str, str]) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={f"{k}.json": v for k, v in notes.items()})
    return stream.getvalue()


def _pt2_runner(data: bytes) -> "Runner":
    import torch

    module = torch.export.load(io.BytesIO(data)).module()

    def run(values: "Mapping[str, Tensor]") -> "Sequence[Tensor]":
        got = module(**values)
        return got if isinstance(got, tuple | list) else [got]

    return run


def _onnx(program: "ExportedProgram", p: "Ports", notes: Mapping[str, str]) -> bytes:
    """The graph in ONNX, all in one file. Messages of protobuf join end to end, so that the notes come last."""
    import onnx
    import torch

    values = p.inputs(2, 0, p.sides)
    names: dict[str, Any] = {"input_names": list(values), "output_names": list(p.outputs)}
    made = torch.onnx.export(program, (), kwargs=values, dynamo=True, verbose=False, **names)
    assert made is not None
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > ONNX_LIMIT:
        raise UsageError("cannot export to ONNX", f"it has {size} bytes of weights, a file holds 2 GB", "-o x.pt2")
    pairs = [onnx.StringStringEntryProto(key=k, value=v) for k, v in notes.items()]
    return made.model_proto.SerializeToString() + onnx.ModelProto(metadata_props=pairs).SerializeToString()


def _onnx_runner(data: bytes) -> "Runner":
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(values: "Mapping[str, Tensor]") -> "Sequence[Tensor]":
        return [torch.from_numpy(y) for y in session.run(None, {k: v.numpy() for k, v in values.items()})]

    return run


def _compared(p: "Ports", exported: "Runner", shapes: Mapping[str, Sequence[Any]], suffix: str) -> float:
    """The largest difference of the outputs, on other seeds, and on other numbers and sizes where these are free."""
    import torch

    from ganctl.nn.exported import OTHER_ROWS, ROWS

    first = next(iter(shapes.values()))
    free = len(first) == 4 and not isinstance(first[2], int)
    (h, w), worst, pairs = p.sides, 0.0, []
    for rows in (ROWS,) if isinstance(first[0], int) else OTHER_ROWS:
        values = p.inputs(rows, SEED, (h + p.stride * rows, w + p.stride) if free else (h, w))
        with torch.inference_mode():
            pairs += zip(p.reference(values), exported(values), strict=True)
    for expected, got in pairs:
        if expected.shape != got.shape or not bool(got.isfinite().all()):
            why = f"its output has shape {tuple(got.shape)}, not {tuple(expected.shape)}, or numbers that are none"
            raise GanctlError(f"the exported {suffix} is wrong", why, "nothing was written; report this")
        difference = float((expected - got).abs().max())
        bound = TOLERANCE * max(1.0, float(expected.abs().max()))
        worst = max(worst, difference)
        if difference > bound:
            why = f"its output differs from the network's by {difference:.2g}, more than {bound:.2g}"
            raise GanctlError(f"the exported {suffix} is wrong", why, "nothing was written; report this")
    return worst


def _told(shapes: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
