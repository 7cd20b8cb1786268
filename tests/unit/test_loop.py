"""The loop against its definition: order of phases, gradients, averages, schedules, divergence."""

import math
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ganctl.errors import DivergedError, UsageError
from ganctl.phase import SGD, Adam, Batch, Phase, Progress
from ganctl.train import ema, optim
from ganctl.train.loop import State, TrainConfig, crossed, drain, fit, half_life, networks, train_step


@dataclass
class Nets:
    G: nn.Linear
    D: nn.Linear


def state(lr: float = 0.1) -> State:
    torch.manual_seed(0)
    nets = Nets(nn.Linear(3, 1), nn.Linear(3, 1))
    average = nn.Linear(3, 1)
    average.load_state_dict(nets.G.state_dict())
    optimizers = {name: optim.make(SGD(lr), net) for name, net in networks(nets).items()}
    progress = Progress(0, 0, torch.Generator().manual_seed(0), torch.device("cpu"))
    return State(nets, average, optimizers, progress)


def batches(n: int = 8):
    rng = torch.Generator().manual_seed(1)
    while True:
        yield Batch(torch.randn(n, 3, generator=rng))


def d_loss(n: Nets, b: Batch, p: Progress) -> dict:
    return {"D_loss": (n.D(b.x) - 1).square().mean()}


def g_loss(n: Nets, b: Batch, p: Progress) -> dict:
    return {"G_loss": (n.G(b.x) + n.D(b.x)).square().mean()}


def config(**values) -> TrainConfig:
    return TrainConfig(**{"batch": 8, "kimg": 0.08, "tick": 0.04, "snap": 0.04, **values})


def test_a_step_runs_each_phase_in_order_and_moves_only_its_networks():
    seen: list[tuple] = []

    def spy(name):
        def loss(n: Nets, b: Batch, p: Progress) -> dict:
            free = [k for k, net in networks(n).items() if next(net.parameters()).requires_grad]
            seen.append((name, p.step, p.nimg, free, round(float(b.x.sum()), 4)))
            return d_loss(n, b, p) if name[0] == "D" else g_loss(n, b, p)

        return loss

    phases = [
        Phase("D", ("D",), spy("D"), repeat=2),
        Phase("D_r1", ("D",), spy("D_r1"), every=2),
        Phase("G", ("G",), spy("G")),
    ]
    s = state()
    before = {k: net.weight.clone() for k, net in networks(s.nets).items()}
    stream = batches()
    for _ in range(2):
        train_step(s, phases, stream, config())
    assert [(x[0], x[1]) for x in seen] == [("D", 0), ("D", 0), ("D_r1", 0), ("G", 0), ("D", 1), ("D", 1), ("G", 1)]
    assert [x[3] for x in seen] == [["D"], ["D"], ["D"], ["G"], ["D"], ["D"], ["G"]]
    # Two fresh batches a step, for the repeats; the later phases see the last of them.
    assert [x[2] for x in seen] == [8, 16, 16, 16, 24, 32, 32]
    assert seen[0][4] != seen[1][4] == seen[2][4] == seen[3][4] and s.progress.nimg == 32
    assert all(not torch.equal(before[k], net.weight) for k, net in networks(s.nets).items())


def test_a_phase_may_begin_later_than_others():
    s, ran = state(), []

    def spy(name: str):
        def loss(n: Nets, b: Batch, p: Progress) -> dict:
            ran.append((name, p.nimg))
            return d_loss(n, b, p) if name == "D" else g_loss(n, b, p)

        return loss

    phases, stream = [Phase("D", ("D",), spy("D"), start=16), Phase("G", ("G",), spy("G"))], batches()
    for _ in range(3):
        train_step(s, phases, stream, config())
    # Two steps of eight images before it, and the third with it.
    assert ran == [("G", 8), ("G", 16), ("D", 24), ("G", 24)]


def test_lazy_regularisation_multiplies_the_gradient_by_its_interval():
    steps = []
    for every in (1, 4):
        s = state()
        start = s.nets.D.weight.detach().clone()
        train_step(s, [Phase("D_r1", ("D",), d_loss, every=every)], batches(), config())
        steps.append(start - s.nets.D.weight.detach())
    assert torch.allclose(steps[1], 4 * steps[0], rtol=1e-5)


def test_accumulated_micro_batches_equal_the_whole_batch():
    ends = []
    for size in (None, 2):
        s, stream = state(), batches()
        for _ in range(3):
            train_step(s, [Phase("D", ("D",), d_loss), Phase("G", ("G",), g_loss)], stream, config(batch_gpu=size))
        ends.append((s.nets.D.weight.detach(), s.nets.G.weight.detach(), drain(s)))
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-5) and torch.allclose(ends[0][1], ends[1][1], rtol=1e-5)
    assert ends[0][2] == pytest.approx(ends[1][2], rel=1e-5)


def test_what_runs_after_an_update_runs_after_each_one():
    counts = []
    phase = Phase("D", ("D",), d_loss, repeat=3, after=lambda n: counts.append(n.D.weight.clamp_(-0.01, 0.01).max()))
    s = state()
    train_step(s, [phase], batches(), config())
    assert len(counts) == 3 and s.nets.D.weight.abs().max() <= 0.01


def test_the_average_has_its_half_life_and_copies_buffers():
    assert ema.beta_of(10_000, 100) == pytest.approx(0.5 ** (100 / 10_000)) and ema.beta_of(0, 100) == 0
    # Early on it remembers a twentieth of what was seen.
    assert [half_life(config(ema_kimg=10), nimg) for nimg in (0, 1000, 10**9)] == [0, 50, 10_000]
    for values in ({"ema_rampup": None}, {"init_from": "a-model"}):
        assert half_life(config(ema_kimg=10, **values), 0) == 10_000
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    b.weight.data += 1
    b.running_mean += 3
    b.num_batches_tracked += 5
    ema.update(a, b, 0.75)
    assert torch.allclose(a.weight, torch.full((2,), 1.25))
    assert torch.equal(a.running_mean, b.running_mean) and int(a.num_batches_tracked) == 5
    s, stream = state(), batches()
    value, kimg = s.nets.G.weight.detach().clone(), 0.5
    for _ in range(5):
        train_step(s, [Phase("G", ("G",), g_loss)], stream, config(ema_kimg=kimg))
        beta = ema.beta_of(half_life(config(ema_kimg=kimg), s.progress.nimg - 8), 8)
        value = beta * value + (1 - beta) * s.nets.G.weight.detach()
    assert torch.allclose(s.ema.weight, value, atol=1e-6)


def test_ticks_and_snapshots_fall_on_fixed_counts_and_stops_end_no_tick():
    phases, cfg = [Phase("D", ("D",), d_loss)], config(kimg=0.1, tick=0.024, snap=0.05)

    def trained(stop_at: int | None, s: State, stream, told: list) -> bool:
        return fit(
            s,
            phases,
            stream,
            cfg,
            on_tick=lambda t: told.append(("tick", t.nimg, t.terms)),
            on_snapshot=lambda: told.append(("snap", s.progress.nimg)),
            on_stop=lambda: told.append(("stop", s.progress.nimg)),
            stop=lambda: s.progress.nimg == stop_at,
        )

    whole: list = []
    assert trained(None, state(), batches(), whole)
    # A snapshot is always a tick too; the end is both.
    assert [x[:2] for x in whole] == [
        *[("tick", 24), ("tick", 48), ("tick", 56), ("snap", 56), ("tick", 72), ("tick", 96), ("tick", 104)],
        ("snap", 104),
    ]
    for at in (32, 48, 56, 88):
        s, stream, told = state(), batches(), []
        assert not trained(at, s, stream, told)
        assert s.progress.nimg == at
        # On a snapshot of the schedule, that one is enough; elsewhere the stop saves for itself.
        assert told[-1] == (("snap", at) if at == 56 else ("stop", at))
        assert trained(None, s, stream, told)
        assert [x for x in told if x[0] != "stop"] == whole
    late: list = []
    s = state()
    assert trained(104, s, batches(), late) and late == whole, "asked at the very end, nothing is left to do"


def test_the_share_of_waiting_for_data_is_measured():
    def slow():
        for batch in batches():
            time.sleep(0.05)
            yield batch

    phases = [Phase("D", ("D",), d_loss)]
    shares = {}
    for name, source in (("fast", batches()), ("slow", slow())):
        ticks = []
        fit(state(), phases, source, config(), on_tick=ticks.append, on_snapshot=lambda: time.sleep(0.1))
        assert len(ticks) == 2 and all(0 <= tick.wait <= 1 for tick in ticks)
        # The time that a snapshot takes is neither waiting nor in the share.
        shares[name] = min(tick.wait for tick in ticks), max(tick.wait for tick in ticks)
    assert shares["fast"][0] < 0.5 < 0.6 < shares["slow"][0]


def test_crossing_a_multiple():
    assert [crossed(a, b, 0.5) for a, b in ((0, 499), (499, 500), (500, 501), (400, 1600))] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("where", ["loss", "infinite loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(where: str):
    def bad(n: Nets, b: Batch, p: Progress) -> dict:
        value = n.D(b.x).mean()
        if where == "loss":
            return {"D_loss": value * math.nan, "D_gp": value}
        if where == "infinite loss":
            # Infinite, with a gradient that is not.
            return {"D_loss": value + math.inf}
        return {"D_loss": (n.D.weight * 0).sqrt().sum()}

    s = state()
    before = s.nets.D.weight.detach().clone()
    name = "the gradient of D" if where == "gradient" else "D_loss"
    with pytest.raises(DivergedError, match=f"after 0.008 kimg. {name} is not finite"):
        train_step(s, [Phase("D", ("D",), bad)], batches(), config())
    assert torch.equal(before, s.nets.D.weight) and drain(s) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 0},
        {"kimg": -1.0},
        {"tick": 0.0},
        {"snap": math.inf},
        {"kimg": math.nan},
        {"keep": 0},
        {"seed": -1},
        {"ema_rampup": -0.1},
        {"burn_in_kimg": math.inf},
        {"batch_gpu": 3},
        {"metric_every": 0},
    ],
)
def test_numbers_of_training_are_checked(values: dict):
    with pytest.raises(ValueError, match=next(iter(values))):
        config(**values)


def test_what_overflows_in_fp16_is_cut_and_logged_and_a_loss_is_not():
    def bad(n: Nets, b: Batch, p: Progress) -> dict:
        n.D.weight.register_hook(lambda g: torch.tensor([[math.inf, math.nan, 1.0]]))
        return {"D_loss": n.D(b.x).float().mean() * (1.0 if p.nimg == 8 else math.nan)}

    s, phases, stream = state(lr=1.0), [Phase("D", ("D",), bad)], batches()
    before = s.nets.D.weight.detach().clone()
    train_step(s, phases, stream, config(dtype="fp16"))
    assert (before - s.nets.D.weight).tolist() == [[pytest.approx(1e5), 0.0, pytest.approx(1.0)]]
    assert drain(s)["overflow"] == 1.0
    with pytest.raises(DivergedError, match="D_loss is not finite"):
        train_step(s, phases, stream, config(dtype="fp16"))
    train_step(state(), [Phase("D", ("D",), d_loss)], stream, config(dtype="fp16"))


def test_learning_rates_may_follow_the_images_seen():
    """Constant, then falling to 0 at the end of the run: each step has the number of the images before it."""
    spec = SGD(lambda nimg, total: 0.1 * min(1.0, 2 - 2 * nimg / total))
    s, phases, stream, cfg = state(), [Phase("D", ("D",), d_loss)], batches(), config(kimg=0.08)
    s.specs = {"D": spec}
    rates = []
    while s.progress.nimg < 80:
        train_step(s, phases, stream, cfg)
        rates.append(s.optimizers["D"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1] * 6 + [0.08, 0.06, 0.04, 0.02])
    # Corrected for lazy regularisation, they still do.
    lazy, net = Adam(lambda nimg, _: 0.1 + nimg, 0.5, lambda nimg, _: 0.9).lazy(4), nn.Linear(2, 2)
    optimizer = optim.make(lazy, net)
    optim.adjust(optimizer, lazy, 1, 10)
    group = optimizer.param_groups[0]
    assert (group["lr"], *group["betas"]) == pytest.approx((1.1 * 0.8, 0.5**0.8, 0.9**0.8))


def test_an_optimiser_refuses_numbers_with_a_sentence():
    with pytest.raises(UsageError, match=r"cannot make the optimiser. Invalid learning rate: -1"):
        optim.make(Adam(-1.0), nn.Linear(2, 2))


def test_momentum_comes_back_too():
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.load_state_dict(net.state_dict())
    a, b = optim.make(SGD(0.1, 0.9), net), optim.make(SGD(0.1, 0.9), other)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    a.step()
    other.load_state_dict(net.state_dict())
    optim.restore({"D": b}, {k: v.clone() for k, v in optim.state_of({"D": a}).items()})
    for one, optimizer in ((net, a), (other, b)):
        for p in one.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(net.parameters(), other.parameters(), strict=True))
