"""`ganctl train` as a user has it: what it prints, writes, returns and refuses."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganctl.config import read_yaml
from ganctl.errors import DivergedError, UsageError, WeightsError
from ganctl.io.progress import Reporter
from ganctl.nn.precision import computes_in, products
from ganctl.workflows.train import run
from tests.cli.runs import arguments, kept, log, newest, pictures, request, train


def test_a_run_writes_its_folder_and_prints_its_last_snapshot(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    folder = tmp_path / "run"
    done = ganctl.ok(*arguments(request("gan", data, folder, "batch=10", "keep=2")))
    assert done.lines == [str(folder / "snapshots" / "000001")]
    # Without a terminal: one line per tick on stderr.
    ticks = [line for line in done.err.splitlines() if line.startswith("kimg ")]
    assert len(ticks) == 25 and "\x1b" not in done.err
    assert re.fullmatch(
        r"kimg 0.04  s/kimg \S+  eta 0m \d\ds  D_loss 1\.\d+  G_loss 0\.\d+  D_auc \S+  D_sign \S+  memory_gib 0\.\d+",
        ticks[0],
    ), ticks[0]
    assert sorted(p.name for p in folder.iterdir()) == [
        *("log.jsonl", "reals.png", "recipe.yaml", "report.html", "run.json", "samples", "snapshots"),
    ]
    steps = ("000000", "000000.200", "000000.400", "000000.600", "000000.800", "000001")
    assert sorted(p.name for p in (folder / "samples").iterdir()) == sorted(f"{s}.png" for s in steps)
    assert [p.name for p in kept(folder)] == ["000000.800", "000001"]
    files = {p.relative_to(newest(folder)).as_posix() for p in newest(folder).rglob("*") if p.is_file()}
    assert files == {
        *("model.json", "G.safetensors", "D.safetensors", "G_ema.safetensors"),
        *("resume/optim.safetensors", "resume/rng.safetensors", "resume/state.json"),
    }
    # 64 samples and all 24 real images, eight a row.
    with Image.open(folder / "samples" / "000001.png") as grid, Image.open(folder / "reals.png") as reals:
        assert grid.width == reals.width and grid.height > 2 * reals.height > 2 * 3 * 16 - 1
    lines = log(folder)
    assert [line["nimg"] for line in lines if "step" in line] == list(range(40, 1001, 40))
    seen = [line for line in lines if "step" not in line]
    assert [line["nimg"] for line in seen] == list(range(200, 1001, 200))
    assert set(seen[0]) == {"nimg", "kimg", "variety", "missing"}, "repeats and copies need a hundred real images"
    assert set(lines[0]) == {"nimg", "kimg", "step", "D_loss", "G_loss", "D_auc", "D_sign", "D_grad", "G_grad"}
    recipe = read_yaml(folder / "recipe.yaml", where="recipe").value
    assert recipe["model"] == "gan" and recipe["config"]["g_hidden"] == [16] and recipe["data"]["path"] == str(data)
    assert recipe["train"]["batch"] == 10 and recipe["train"]["seed"] == 0
    facts = json.loads((folder / "run.json").read_text())
    assert facts["argv"][:2] == ["train", "gan"] and facts["seed"] == 0 and facts["gpus"] == 1
    assert facts["data"]["images"] == 24 and re.fullmatch("[0-9a-f]{64}", facts["data"]["sha256"])
    card = json.loads((newest(folder) / "model.json").read_text())["card"]
    assert card["recipe"] == "gan" and card["kimg"] == 1
    # The run is a model for the other commands; its recipe makes the same run elsewhere.
    sampled = ganctl.ok("sample", folder, "-n", "2", "-o", tmp_path / "out")
    assert len(sampled.lines) == 2
    again = ganctl.ok("train", folder, "-o", tmp_path / "again", "--json", "-q")
    report = json.loads(again.out)
    assert set(report) == {"run", "snapshot", "nimg", "metrics", "seconds"} and again.err == ""
    assert (report["run"], report["nimg"], report["metrics"]) == (str(tmp_path / "again"), 1000, {})
    assert (newest(folder) / "G.safetensors").read_bytes() == (Path(report["snapshot"]) / "G.safetensors").read_bytes()


def test_on_a_terminal_a_live_table(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    command = arguments(request("gan", data, tmp_path / "run", "tick=0.05"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", *command],
        cwd=ganctl.folder,
        env={**ganctl.env, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 0 and process.stdout
    with process.stdout as results:
        assert results.read().decode().strip() == str(tmp_path / "run" / "snapshots" / "000001")
    screen = rendered(seen.decode())
    # A warning of what goes wrong stands below the table so far, and a new table below it.
    tables = [i for i, line in enumerate(screen) if line.split()[:3] == ["kimg", "s/kimg", "eta"]]
    head, screen = screen[tables[-1]], screen[tables[-1] :]
    assert head.split() == ["kimg", "s/kimg", "eta", "D_loss", "G_loss", "D_auc", "D_sign", "memory_gib"]
    rows = [line.split() for line in screen if re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+m \d\ds", line)]
    # The last twelve ticks, the newest below; once, not once for every redraw.
    assert [float(row[0]) for row in rows][-1] == 1 and len(rows) == 12, screen
    assert "Traceback" not in seen.decode()


def rendered(text: str) -> list[str]:
    """What stands on a terminal after these characters: cursor up, erase line, carriage return and newline."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
        elif token.startswith("\x1b["):
            amount, what = token[2:-1], token[-1]
            if what == "A":
                row = max(0, row - int(amount or 1))
            elif what == "K":
                lines[row] = "" if amount == "2" else lines[row][:column]
            continue
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
        lines += [""] * (row + 1 - len(lines))
    return lines


def test_metrics_score_snapshots_and_keep_the_best(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    data = pictures(tmp_path / "data", n=40, size=(28, 28))
    scored = ("resolution=28", "metrics=[fd-lenet]", "metric_images=40", "metric_every=2", "keep=2", "snap=0.1")
    notes: list[str] = []
    report = train(request("vae", data, tmp_path / "a", *scored, "kimg=0.7", "tick=0.1"), notes=notes)
    assert notes == ["measuring the training data for fd-lenet"]
    lines = [line for line in log(tmp_path / "a") if "fd-lenet" in line]
    # Every second snapshot, and the last one.
    assert [line["nimg"] for line in lines] == [200, 400, 600, 704]
    values = {line["nimg"]: line["fd-lenet"] for line in lines}
    assert report.metrics == {"fd-lenet": values[704]}
    state = json.loads((newest(tmp_path / "a") / "resume" / "state.json").read_text())
    least = min(values, key=lambda nimg: values[nimg])
    assert state["best"]["value"] == values[least] and state["metrics"] == report.metrics
    assert (tmp_path / "a" / "snapshots" / state["best"]["snapshot"]).is_dir()
    # The real side is measured once for these data, whoever asks.
    (kept_stats,) = (tmp_path / "cache" / "stats").iterdir()
    before = kept_stats.stat().st_mtime_ns
    train(request("vae", data, tmp_path / "a", *scored, "kimg=0.8", "tick=0.1"))
    assert kept_stats.stat().st_mtime_ns == before
    # A score added later decides from then on; one taken away leaves the best as it was.
    train(request("vae", data, tmp_path / "b", "resolution=28", "kimg=0.2", "keep=2"))
    train(request("vae", data, tmp_path / "b", *scored, "kimg=0.4"))
    state = json.loads((newest(tmp_path / "b") / "resume" / "state.json").read_text())
    assert state["best"]["metric"] == "fd-lenet"
    train(request("vae", data, tmp_path / "b", *scored, "metrics=[]", "kimg=0.6"))
    after = json.loads((newest(tmp_path / "b") / "resume" / "state.json").read_text())
    assert after["best"] == state["best"]
    # A network that is not at hand is missed before the first step.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="inception") as e:
        train(request("vae", data, tmp_path / "c", "resolution=28", "metrics=[fid5k]"))
    assert "ganctl zoo pull" in e.value.hint and not (tmp_path / "c" / "recipe.yaml").exists()


def test_divergence_is_6_with_the_last_good_snapshot(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    command = arguments(request("dcgan", data, tmp_path / "run"))
    done = ganctl(*command, "--dlr", "1e30", "--json")
    assert done.code == 6
    failure = json.loads(done.lines[-1])["error"]
    assert failure["kind"] == "diverged" and "is not finite" in failure["message"]
    good = tmp_path / "run" / "snapshots" / "000000"
    assert "error: training diverged after 0.00" in done.err and str(good) in failure["hint"]
    assert kept(tmp_path / "run") == [good]
    # The way out that the hint names.
    saved = train(request("dcgan", data, tmp_path / "new", "kimg=0.2", resume=str(good)))
    assert saved.nimg == 200
    # Weights that grow beyond all bounds between two losses are no snapshot either.
    with pytest.raises(DivergedError):
        train(request("lsgan", data, tmp_path / "ls", "glr=3e37", "dlr=3e37", "kimg=0.2", "snap=0.008"))
    whole = [torch.isfinite(t).all() for p in kept(tmp_path / "ls") for t in _weights(p)]
    assert whole and all(whole)


def _weights(snapshot: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return [t for file in snapshot.glob("*.safetensors") for t in load_file(file).values()]


def test_starting_from_another_models_weights(tmp_path: Path):
    data = pictures(tmp_path / "data")
    first = train(request("gan", data, tmp_path / "a", "kimg=0.2"))
    notes: list[str] = []
    train(request("gan", data, tmp_path / "b", "kimg=0.04", f"init_from={tmp_path / 'a'}"), notes=notes)
    assert notes == [f"started from '{tmp_path / 'a'}': loaded 4 tensors of G, 4 tensors of D; new: none"]
    # The run begins with exactly these weights, as its first snapshot shows, and says so in its recipe.
    begin = tmp_path / "b" / "snapshots" / "000000"
    for net in "GD":
        name = f"{net}.safetensors"
        assert (begin / name).read_bytes() == (Path(first.snapshot) / name).read_bytes()
    assert read_yaml(tmp_path / "b" / "recipe.yaml", where="r").value["train"]["init_from"] == str(tmp_path / "a")
    notes.clear()
    wider = request("gan", data, tmp_path / "c", "kimg=0.04", f"init_from={tmp_path / 'a'}", "d_hidden=[8]")
    warned: list[str] = []
    train(wider, warnings=warned, notes=notes)
    assert [w.splitlines()[1:] for w in warned] == [["3 tensors begin as new", "pass --set d_hidden=[16]"]]
    assert notes[0].endswith(
        "loaded 4 tensors of G, 1 tensors of D; new: D.main.0.weight, D.main.0.bias, D.main.2.weight"
    )
    with pytest.raises(UsageError, match=r"cannot start vae from .* it is a gan"):
        train(request("vae", data, tmp_path / "d", f"init_from={tmp_path / 'a'}"))


def test_a_run_begins_with_an_empty_pool_whatever_it_starts_from(tmp_path: Path):
    from safetensors.torch import load_file

    for side in ("trainA", "trainB"):
        pictures(tmp_path / "data" / side, n=3, mode="RGB")
    settings = ("kimg=0.004", "ngf=2", "ndf=2", "n_layers=1", "res_blocks=1")
    first = train(request("cyclegan", tmp_path / "data", tmp_path / "a", *settings))
    assert load_file(Path(first.snapshot) / "pools.safetensors")["A.count"] > 0
    notes: list[str] = []
    train(request("cyclegan", tmp_path / "data", tmp_path / "b", *settings, f"init_from={tmp_path / 'a'}"), notes=notes)
    assert load_file(tmp_path / "b" / "snapshots" / "000000" / "pools.safetensors")["A.count"] == 0
    assert "pools" not in notes[-1]


def test_dry_run_and_estimate_touch_nothing(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    command = arguments(request("gan", data, tmp_path / "run"))
    plan = ganctl.ok(*command, "--dry-run", "--glr", "0.5", "--json")
    plan = json.loads(plan.out)["plan"]
    assert plan["run"] == str(tmp_path / "run") and plan["begins"] == "anew"
    assert plan["config"]["glr"] == 0.5 and plan["config"]["dlr"] == 2e-4 and plan["train"]["kimg"] == 1
    done = ganctl.ok(*command, "--estimate", "--json")
    found = json.loads(done.out)
    assert found["sec_per_kimg"] > 0 and found["kimg"] == 1 and found["memory_gib"] > 0.05
    assert found["seconds"] > found["sec_per_kimg"] + 4 * found["snapshot_seconds"] and "not_timed" not in found
    assert not (tmp_path / "run").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["data", "home", "work"]


def test_common_mistakes_answer_without_torch(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data", n=2)
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "reals.png").write_text("mine")
    for arguments_, what, hint in (
        (("dcgan-mnsit", data), "unknown recipe 'dcgan-mnsit'", "did you mean dcgan-mnist?"),
        (("gan", tmp_path / "nothing"), f"cannot read '{tmp_path / 'nothing'}'", ""),
        (("gan", data, "-o", tmp_path / "file"), f"cannot train into '{tmp_path / 'file'}'", "choose another -o"),
        (("gan", data, "-o", tmp_path / "file" / "x"), f"cannot train into '{tmp_path / 'file' / 'x'}'", "-o"),
        (("gan", data, "-o", tmp_path / "foreign"), f"cannot train into '{tmp_path / 'foreign'}'", "-o"),
        (("gan", data, "--max-time", "soon"), "cannot use the duration 'soon'", ""),
        (("gan", data, "--data-pairs", data), "two sources of training data", ""),
        (("pix2pix", "--data-a", data), "cannot use these data options", ""),
        (("gan", data, "--resume", "nowhere"), "cannot resume from 'nowhere'", ""),
        (("gan", data, "--workers", "0"), "cannot use --workers 0", ""),
        (("gan", data, "--gpus", "0"), "cannot use --gpus 0", ""),
        (("gan", data, "--kmig", "1"), "unknown option '--kmig'", "did you mean --kimg?"),
    ):
        # An import of torch would be an error in itself.
        (tmp_path / "block").mkdir(exist_ok=True)
        (tmp_path / "block" / "torch.py").write_text("raise SystemError('torch was imported')")
        path = f"{tmp_path / 'block'}{os.pathsep}{ganctl.env['PYTHONPATH']}"
        done = ganctl("train", *arguments_, PYTHONPATH=path)
        assert done.code == 2 and done.out == "", done.err
        assert done.err.startswith(f"error: {what}") and "\n  why: " in done.err and hint in done.err, done.err
    assert (tmp_path / "foreign" / "reals.png").read_text() == "mine"


def test_options_reach_the_recipe(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    options = "--resolution 16 --channels 1 --subset 9 --mirror --batch 6 --batch-gpu 3 --glr 0.1 --dlr 0.2 --kimg 3"
    options += " --loss minimax --ema-kimg 4 --seed 5 --snap 7 --keep 8 --metrics none --metric-every 9 --dtype bf16"
    options += " --set k=2 --init-from x"
    plan = json.loads(ganctl.ok("train", "gan", data, *options.split(), "--dry-run", "--json").out)["plan"]
    wanted = {"resolution": 16, "channels": 1, "glr": 0.1, "dlr": 0.2, "loss": "minimax", "k": 2}
    assert wanted.items() <= plan["config"].items()
    assert {"path": str(data), "subset": 9, "mirror": True}.items() <= plan["data"].items()
    train_ = {"batch": 6, "batch_gpu": 3, "kimg": 3, "ema_kimg": 4, "seed": 5, "snap": 7, "keep": 8, "metrics": []}
    train_ |= {"metric_every": 9, "dtype": "bf16", "init_from": "x"}
    assert train_.items() <= plan["train"].items()
    assert plan["run"] == "runs/gan"


def test_tf32_is_for_training_alone():
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [p.fp32_precision for p in places]
    for tf32, name in ((True, "tf32"), (False, "ieee")):
        with products(tf32=tf32):
            assert [p.fp32_precision for p in places] == [name, name]
        assert [p.fp32_precision for p in places] == before


def test_ticks_reach_the_python_api_too(tmp_path: Path):
    ticks: list[dict] = []
    results: list[dict] = []
    req = request("gan", pictures(tmp_path / "data"), tmp_path / "run", "kimg=0.2", "tick=0.1")
    report = run(req, Reporter(result=lambda r: results.append(dict(r))), lambda t: ticks.append(dict(t)))
    assert [t["kimg"] for t in ticks] == [0.104, 0.2] and {"s/kimg", "eta", "D_loss", "G_loss"} <= set(ticks[0])
    assert report is not None and results == [vars(report)]


def test_bf16_is_warned_of_where_the_processor_has_none(tmp_path: Path):
    warnings: list[str] = []
    train(request("gan", pictures(tmp_path / "data"), tmp_path / "run", "kimg=0.04", "dtype=bf16"), warnings)
    has = computes_in("bf16", torch.device("cpu"))
    assert any("pass --dtype fp32" in said for said in warnings) == (not has)
