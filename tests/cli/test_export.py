"""`ganctl export`: files that other programs run, whose outputs are the network's; and what is refused."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganctl.errors import GanctlError, UsageError
from ganctl.io.outputs import request_in
from ganctl.io.progress import Reporter
from ganctl.load import load
from ganctl.workflows import export
from ganctl.workflows.export import ExportRequest, run
from tests.conftest import Shell, Tiny

CLOSE = 1e-4


def opened(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """The file as another program has it: ONNX Runtime, or torch alone."""
    if path.suffix == ".pt2":
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()
        return lambda values: module(**values)
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda values: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in values.items()})[0])


@torch.inference_mode()
def same(path: Path, values: dict[str, Tensor], expected: Tensor) -> None:
    got = opened(path)(values)
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= CLOSE * max(1.0, float(expected.abs().max()))


def exported(model: Path | str, out: Path) -> dict:
    notes: list[str] = []
    result = run(ExportRequest(model=str(model), out=str(out)), Reporter(note=notes.append))
    assert result["status"] == "written" and result["path"] == str(out) and result["bytes"] == out.stat().st_size
    assert f"largest difference {result['max_difference']:.1e}" in notes[0] and result["max_difference"] < 1e-4
    return result


def test_a_generator_with_any_number_of_images_is_not_written_twice(tiny: Tiny, tmp_path: Path) -> None:
    bundle, out = tiny("dcgan", resolution=16, channels=1, z_dim=8, ngf=4, ndf=4), tmp_path / "x.pt2"
    result = exported(bundle, out)
    assert result["inputs"] == {"z": ["n", 8]} and result["outputs"] == {"x": ["n", 1, 16, 16]}
    G = load(str(bundle), device="cpu").net
    for seeds in ([3], [4, 5, 6, 7, 8]):
        same(out, {"z": G.prior(seeds)}, G.sample(G.prior(seeds)))
    found = request_in(out)
    assert found and found["verb"] == "export" and found["revision"] == result["revision"]
    before = out.stat()
    assert run(ExportRequest(model=str(bundle), out=str(out)))["status"] == "exists"
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(UsageError, match="refused to overwrite"):
        run(ExportRequest(model="lenet-mnist", out=str(out)))


def test_a_style_based_generator_takes_psi(styled: Tiny, tmp_path: Path) -> None:
    bundle, out = styled(classes=3), tmp_path / "style.onnx"
    result = exported(bundle, out)
    assert result["inputs"] == {"z": ["n", 16], "psi": [], "c": ["n"]}
    G = load(str(bundle), device="cpu").net
    z, c = G.prior([3, 4, 5]), torch.tensor([2, 0, 1])
    pictures = [G.sample(z, c, psi=psi) for psi in (0.4, 1.0)]
    assert float((pictures[0] - pictures[1]).abs().max()) > 0.01
    for psi, picture in zip((0.4, 1.0), pictures, strict=True):
        same(out, {"z": z, "psi": torch.tensor(psi), "c": c}, picture)
    found = request_in(out)
    assert found and found["revision"] == result["revision"]


def test_a_class_conditional_generator(lively: Tiny, tmp_path: Path) -> None:
    small = {"resolution": 32, "channels": 1, "classes": 4, "z_dim": 8, "shared_dim": 4, "ngf": 2, "ndf": 2}
    bundle, out = lively("biggan", **small), tmp_path / "big.onnx"
    assert exported(bundle, out)["inputs"] == {"z": ["n", 8], "c": ["n"]}
    G = load(str(bundle), device="cpu").net
    z, c = G.prior([1, 2, 3]), torch.tensor([3, 0, 3])
    same(out, {"z": z, "c": c}, G.sample(z, c))
    # Truncation is the caller's: of z.
    same(out, {"z": G.truncated(z, 0.5), "c": c}, G.sample(z, c, psi=0.5))


def test_a_translator_takes_pictures_of_any_size_and_computes_plain_convolutions(tiny: Tiny, tmp_path: Path) -> None:
    bundle = tiny("cyclegan", resolution=64, ngf=32, ndf=2, res_blocks=1, n_layers=1)
    result = exported(bundle, tmp_path / "x.pt2")
    assert result["inputs"] == {"x": ["n", 3, "h", "w"]} and result["outputs"] == {"y": ["n", 3, "h", "w"]}
    graph = torch.export.load(io.BytesIO((tmp_path / "x.pt2").read_bytes())).graph
    G = load(str(bundle), device="cpu").net
    layers = [m for m in G.AtoB.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert sum("aten.conv" in str(node.target) for node in graph.nodes) == len(layers)
    exported(bundle, tmp_path / "x.onnx")
    x = torch.linspace(-1, 1, 3 * 48 * 132).reshape(1, 3, 48, 132)
    for suffix in ("pt2", "onnx"):
        same(tmp_path / f"x.{suffix}", {"x": x}, G.translate(x))


def test_what_cannot_be_exported_is_refused_in_a_sentence(tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    bundle = str(tiny("pix2pix", resolution=64, num_downs=6, ngf=2, ndf=2, n_layers=1))
    with pytest.raises(UsageError, match="its pictures depend on a seed"):
        run(ExportRequest(model=bundle, out=str(tmp_path / "x.pt2")))
    with pytest.raises(UsageError, match=r"it ends in neither \.onnx nor \.pt2"):
        export.check(ExportRequest(model=bundle, out="x.pth"))
    # Outputs that differ: nothing appears.
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(GanctlError, match="its output differs from the network's by"):
        run(ExportRequest(model="lenet-mnist", out=str(tmp_path / "x.pt2")))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="onnx, onnxscript, onnxruntime is not installed") as refused:
        export.check(ExportRequest(model=bundle, out="x.onnx"))
    assert "pip install 'ganctl[export]'" in refused.value.hint


def test_on_the_command_line(ganctl: Shell) -> None:
    dry = ganctl.ok("export", "lenet-mnist", "--dry-run")
    assert "out: out/lenet-mnist/export/lenet-mnist.onnx" in dry.out and not list(ganctl.folder.iterdir())
    done = ganctl.ok("export", "lenet-mnist", "-o", "l.pt2", "--json")
    result = json.loads(done.out)
    assert result["outputs"] == {"features": ["n", 84], "logits": ["n", 10]} and result["license"] == "Apache-2.0"
    assert [p.name for p in ganctl.folder.iterdir()] == ["l.pt2"]
    assert ganctl.ok("export", "lenet-mnist", "-o", "l.pt2").out == "l.pt2\n"
    absent = ganctl("export", "vgg16-imagenet", "--offline", "-o", "v.pt2")
    assert absent.code == 4 and "vgg16-imagenet not cached and offline" in absent.err
