"""What the training loop costs beside a plain script of the same networks, and what its optimisations gain.

    python -m tests.benchmarks.training [KIMG] [ROUNDS] [THREADS] [compile]

DCGAN and WGAN-GP at 32 px, images in memory, in alternated rounds of KIMG (0.5, if nothing else is said) each: the loop
of `ganctl train`, ticks and moving average included, and a script of twenty lines as a textbook has it, which keeps no
average. Then the loop with each of: maps in memory channel by channel instead of channels last, optimisers one tensor
at a time instead of all at once (foreach), bfloat16 where the processor has it, and, if asked for, DCGAN through
torch.compile, which cannot differentiate WGAN-GP's penalty. Seconds per kimg are medians, ratios medians of the rounds'
ratios; on one thread they are the process's own time, whatever else runs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganctl.data import Dataset
from ganctl.data.loader import batches
from ganctl.load import family
from ganctl.nn.precision import computes_in
from ganctl.train.loop import State, adapted, fit
from ganctl.workflows.recipe import Recipe, resolve
from ganctl.workflows.train import new_state

CPU = torch.device("cpu")
BATCH, SIDE, IMAGES = 64, 32, 2048
SETTINGS = {"dcgan": ("ngf=32", "ndf=32"), "wgan_gp": ("width=32",)}
Run = Callable[[], None]


def recipe_of(model: str, kimg: float, *more: str) -> Recipe:
    base = (f"resolution={SIDE}", "channels=3", f"batch={BATCH}", f"kimg={kimg}", f"tick={kimg / 4}", f"snap={kimg}")
    return resolve(model, {"data.path": "."}, (*base, *SETTINGS[model], *more))


def engine(data: Dataset, recipe: Recipe, change: Callable[[State], None] = lambda _: None) -> Run:
    """Some kimg of `ganctl train`, without its snapshots; the networks stay from round to round."""
    state, cfg = new_state(recipe, CPU), recipe.train
    change(state)
    phases = adapted(family(recipe.model).phases(recipe.config), cfg)
    options: dict[str, Any] = {"size": BATCH, "resolution": SIDE, "seed": 0}

    def run() -> None:
        state.progress.nimg = 0
        assert fit(state, phases, batches(data, recipe.data, **options), cfg)

    return run


def script(data: Dataset, recipe: Recipe, kimg: float) -> Run:
    """The same networks and numbers, written down as a textbook would."""
    cfg, module = recipe.config, family(recipe.model)
    torch.manual_seed(0)
    nets = module.build(cfg)
    G, D = nets.G.train(), nets.D.train()
    opt_G = torch.optim.Adam(G.parameters(), cfg.glr, (cfg.beta1, getattr(cfg, "beta2", 0.999)))
    opt_D = torch.optim.Adam(D.parameters(), cfg.dlr, (cfg.beta1, getattr(cfg, "beta2", 0.999)))
    pixels = torch.from_numpy(data.x).permute(0, 3, 1, 2).contiguous()
    wasserstein = recipe.model == "wgan_gp"

    def d_loss(x: Tensor, fake: Tensor) -> Tensor:
        real_logits, fake_logits = D(x), D(fake)
        if not wasserstein:
            return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        eps = torch.rand(len(x), 1, 1, 1)
        between = (eps * x + (1 - eps) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
        return fake_logits.mean() - real_logits.mean() + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def run() -> None:
        seen, losses = 0, 0.0
        while seen < kimg * 1000:
            for _ in range(cfg.n_critic):
                x = pixels[torch.randint(len(pixels), (BATCH,))].float() / 127.5 - 1
                with torch.no_grad():
                    fake = G(torch.randn(BATCH, cfg.z_dim))
                loss = d_loss(x, fake)
                opt_D.zero_grad()
                loss.backward()
                opt_D.step()
                seen += BATCH
            logits = D(G(torch.randn(BATCH, cfg.z_dim)))
            loss_G = -logits.mean() if wasserstein else F.softplus(-logits).mean()
            opt_G.zero_grad()
            loss_G.backward()
            opt_G.step()
            losses += float(loss.detach()) + float(loss_G.detach())  # every script prints its losses

    return run


def channels_first(state: State) -> None:
    for net in (state.nets.G, state.nets.D):
        net.to(memory_format=torch.contiguous_format)


def one_at_a_time(state: State) -> None:
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["foreach"] = False


def compiled(state: State) -> None:
    for net in (state.nets.G, state.nets.D):
        net.compile()


def seconds(run: Run) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    run()
    return clock() - begun


def compare(runs: dict[str, Run], kimg: float, rounds: int, base: str) -> None:
    """Prints for each run its seconds per kimg, and how many times as long as the base's its rounds take."""
    for run in runs.values():
        run()
    took = [{name: seconds(run) / kimg for name, run in runs.items()} for _ in range(rounds)]
    for name in runs:
        ratios = [r[name] / r[base] for r in took]
        middle, spread = statistics.median(ratios), f"({min(ratios):.2f} - {max(ratios):.2f})"
        print(f"  {name:<28} {statistics.median(r[name] for r in took):7.2f} s/kimg  {middle:.3f} {spread}", flush=True)


def main() -> None:
    given = [a for a in sys.argv[1:] if a != "compile"]
    kimg, rounds, threads = float((*given, "0.5")[0]), int((*given[1:], "5")[0]), int((*given[2:], "1")[0])
    torch.set_num_threads(threads)
    x = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    data = Dataset(x)
    for model in SETTINGS:
        recipe = recipe_of(model, kimg)
        print(f"{model}, {SIDE} px, batches of {BATCH}, {threads} thread(s)")
        pair = {"plain script": script(data, recipe, kimg), "ganctl": engine(data, recipe)}
        compare(pair, kimg, rounds, "plain script")
        changes = {"channels first": channels_first, "foreach off": one_at_a_time}
        if "compile" in sys.argv and model == "dcgan":
            changes["compile"] = compiled
        runs = {"ganctl": engine(data, recipe)}
        runs |= {name: engine(data, recipe, change) for name, change in changes.items()}
        if computes_in("bf16", CPU):
            runs["bf16"] = engine(data, recipe_of(model, kimg, "dtype=bf16"))
        compare(runs, kimg, rounds, "ganctl")


if __name__ == "__main__":
    main()
