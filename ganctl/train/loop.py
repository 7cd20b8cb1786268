"""The loop: for each step, every phase that is due; after it, the moving average; at times, a tick."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import DivergedError
from ganctl.losses.objective import PENALTIES, Loss
from ganctl.losses.perceptual import Perceptual
from ganctl.losses.regularizers import clip_weights
from ganctl.nn.augment import LAWS, SETS, augment, every, translated
from ganctl.nn.diffaugment import diffaugment
from ganctl.nn.minibatch_std import append_std
from ganctl.nn.norm import from_all_ranks
from ganctl.nn.precision import lowered
from ganctl.nn.spectral import divide
from ganctl.phase import Asked, Batch, Nets, Optimizer, Phase, Progress, area, as_they_are, half_cosine
from ganctl.train import distributed, ema, optim
from ganctl.train.ada import Ada, Pace, step

GRADIENT = "_grad"
"""Ends the name of what is logged of a phase's gradient: its norm."""


@config
class TrainConfig:
    """Numbers of a run that belong to no paper's network. Durations are in thousands of real images (kimg)."""

    batch: int = 64
    """Images a step, over all GPUs."""
    batch_gpu: int | None = None
    """Images a GPU takes at once; the rest of its share is accumulated. None: all at once."""
    kimg: float = 1000
    """Length of the run."""
    ema_kimg: float = 0.5
    """Half-life of the generator's moving average …"""
    ema_rampup: float | None = 0.05
    """… and at most this share of the images seen so far. None: no such bound; there is none after `init_from` either,
    whose weights are worth remembering."""
    burn_in_kimg: float = 0
    """For so long the half-life, and aug_p of fixed, rise from 0 along half a cosine (R3GAN)."""
    tick: float = 1.0
    """How often losses are logged."""
    snap: float = 50
    """How often a snapshot and a sample grid are kept."""
    keep: int = 3
    """Newest snapshots kept, beside the best."""
    seed: int = 0
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Format of convolutions where the networks allow it; weights, logits, penalties, losses and optimisers stay in
    float32. A gradient that overflows is cut in fp16, and ends the training elsewhere."""
    metrics: tuple[str, ...] = ()
    """Computed at snapshots; the first decides which is best."""
    metric_every: int = 1
    """Every how many snapshots; the last one always."""
    metric_images: int = 5000
    """Samples behind metrics whose name does not fix their number."""
    aug: Literal["none", "ada", "fixed", "diffaug", "bcr"] = "none"
    """What images pass before D sees them: adaptive (Karras et al. 2020), the same at a fixed strength, DiffAugment
    (Zhao et al. 2020); or bcr, nothing, while D is asked for the same logit of images that are moved a little."""
    aug_target: float = 0.6
    """r_t that ada aims at: the mean sign of D's logits of real images."""
    aug_p: float = 0.0
    """Strength of fixed; where ada begins."""
    aug_pipe: str | dict[str, float] = "bgc"
    """Transformations of ada and fixed: blit, geom, color, filter, noise, cutout, and bg, bgc … of their initials; or
    each by its name with its share of the strength, such as {xflip: 1, hue: 0.5}."""
    instance_noise: float = 0.0
    """Standard deviation of Gaussian noise on every image that D sees (Sønderby et al. 2017, arXiv:1610.04490), images
    being in [-1, 1]; it falls linearly to 0 at the end of the run."""
    real_labels: tuple[float, float] | None = None
    """Of a loss with labels: real images get one drawn from here, [0.9, 0.9] for one-sided smoothing, [0.7, 1.2] for
    noisy labels; None: the family's, 1 …"""
    fake_labels: tuple[float, float] | None = None
    """… generated ones one from here, such as [0, 0.3]; None: the family's, 0 …"""
    g_label: float | None = None
    """… and G, with least squares, wants D to say this (c)."""
    penalties: dict[str, float] = field(default_factory=dict)
    """Added to D's loss, each with its weight: r1, r2, gp, gp_one_sided, gp_zero; clip is the bound of D's weights."""
    penalty_every: int = 1
    """Lazily: the penalties every k-th step, k times as strong (StyleGAN2, sec. 3.1)."""
    n_critic: int | None = None
    """Steps of D for each of G (WGAN, alg. 1), of families without a number of their own for that."""
    spectral_norm: Literal["D", "both"] | None = None
    """Every convolution and linear map of D, or of G too, by W / σ(W) (Miyato et al. 2018)."""
    minibatch_std: int | None = None
    """D's last layer also sees how varied a batch is, in groups of so many (Karras et al. 2018, sec. 3)."""
    compare: tuple[Loss, ...] = ()
    """Losses by which G's gradient is measured at every tick, D being as it is; drawn in gradients.png."""
    freezed: int = 0
    """Layers of D, from the image on, that keep their weights (Mo et al. 2020): for training from another model."""
    init_from: str | None = None
    """A model whose weights the run starts from; tensors of other names or shapes start as new."""

    def __post_init__(self) -> None:
        for name in ("batch", "kimg", "tick", "snap", "keep", "metric_every", "metric_images"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be more than 0 and finite")
        if not 0 <= self.aug_p <= 1 or not -1 <= self.aug_target <= 1:
            raise ValueError("aug_p is 0 to 1 and aug_target -1 to 1")
        if isinstance(self.aug_pipe, dict):
            if not all(name in LAWS and 0 <= share <= 1 for name, share in self.aug_pipe.items()):
                raise ValueError(f"aug_pipe gives shares from 0 to 1 to some of {', '.join(LAWS)}")
        elif self.aug_pipe not in SETS:
            raise ValueError(f"aug_pipe is one of {', '.join(SETS)}")
        if min(self.ema_kimg, self.ema_rampup or 0, self.seed, self.freezed, self.instance_noise) < 0:
            raise ValueError("ema_kimg, ema_rampup, seed, freezed and instance_noise must not be negative")
        for labels in (self.real_labels, self.fake_labels):
            if labels and not -math.inf < labels[0] <= labels[1] < math.inf:
                raise ValueError("real_labels and fake_labels are two numbers, the lower first")
        for name, weight in self.penalties.items():
            if name not in PENALTIES or not 0 < weight < math.inf:
                raise ValueError(f"penalties gives weights above 0 to some of {', '.join(PENALTIES)}")
        if self.penalty_every < 1 or (self.n_critic is not None and self.n_critic < 1):
            raise ValueError("penalty_every and n_critic are 1 or more")
        if self.minibatch_std is not None and self.minibatch_std < 2:
            raise ValueError("minibatch_std is 2 or more: of one image nothing deviates")
        if not 0 <= self.burn_in_kimg < math.inf:
            raise ValueError("burn_in_kimg must be 0 or more, and finite")
        if self.batch_gpu is not None and (self.batch_gpu <= 0 or self.batch % self.batch_gpu):
            raise ValueError("batch_gpu must divide batch")


@dataclass
class Tick:
    """What happened since the last one."""

    nimg: int
    step: int
    seconds: float
    """Since this process began to train."""
    sec_per_kimg: float
    terms: dict[str, float]
    """Mean of every loss term."""
    wait: float = 0.0
    """Share of the time, 0 to 1, in which steps waited for their data."""


@dataclass
class State:
    """All that training moves: saved whole, so that a resumed run is the same run."""

    nets: Nets
    ema: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    progress: Progress
    ada: Ada = field(default_factory=Ada)
    """Of adaptive augmentation."""
    frozen: list[nn.Module] = field(default_factory=list)
    """Layers that keep their weights."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    specs: dict[str, Optimizer] = field(default_factory=dict)
    """The optimisers' numbers, constant or functions of the images seen: nothing to save."""


def networks(nets: Nets) -> dict[str, nn.Module]:
    """What is trained and saved: all but the VGG of a perceptual loss, which may also be None."""
    found = {f.name: getattr(nets, f.name) for f in fields(nets)}
    return {name: net for name, net in found.items() if net is not None and not isinstance(net, Perceptual)}


def fit(
    state: State,
    phases: list[Phase],
    batches: Iterator[Batch],
    cfg: TrainConfig,
    *,
    on_tick: Callable[[Tick], None] = lambda _: None,
    on_snapshot: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains until `cfg.kimg` images were seen; True if it got there, False if `stop()` asked for an end.

    Ticks and snapshots fall on fixed image counts, so that a resumed run keeps to them; a stop between them ends no
    tick, and `on_stop` saves the sums of the one begun. Raises DivergedError when a loss or gradient is not finite:
    before that update is made.
    """
    p = state.progress
    begun, last_time, last_nimg = time.monotonic(), time.monotonic(), p.nimg
    end, waited = round(cfg.kimg * 1000), [0.0]
    batches = clocked(batches, waited)
    while p.nimg < end:
        before = p.nimg
        train_step(state, phases, batches, cfg)
        stopping = distributed.any_rank(stop(), p.device)
        done = p.nimg >= end
        snap = crossed(before, p.nimg, cfg.snap) or done
        if snap or crossed(before, p.nimg, cfg.tick):
            now = time.monotonic()
            rate = (now - last_time) / max(p.nimg - last_nimg, 1) * 1000
            wait = waited[0] / max(now - last_time, 1e-9)
            on_tick(Tick(p.nimg, p.step, now - begun, rate, drain(state), wait))
            last_time, last_nimg, waited[0] = now, p.nimg, 0.0
        if snap:
            on_snapshot()
            last_time = time.monotonic()
        elif stopping:
            level(state)
            on_stop()
        if stopping and not done:
            return False
    return True


def clocked(batches: Iterator[Batch], waited: list[float]) -> Iterator[Batch]:
    """The same batches. The seconds that each was waited for are added to the one number of `waited`."""
    begun = time.monotonic()
    for batch in batches:
        waited[0] += time.monotonic() - begun
        yield batch
        begun = time.monotonic()


def augmentation(state: State, cfg: TrainConfig) -> Callable[[Tensor], Tensor]:
    """For `Progress.augment`: what `cfg.aug` names, at the strength of the moment, then the noise."""
    transform = transformation(state, cfg)
    if not cfg.instance_noise:
        return transform

    def noisy(x: Tensor) -> Tensor:
        p = state.progress
        sigma = cfg.instance_noise * max(0.0, 1 - p.nimg / (cfg.kimg * 1000))
        return transform(x) + sigma * p.normal(*x.shape)

    return noisy


def transformation(state: State, cfg: TrainConfig) -> Callable[[Tensor], Tensor]:
    """What `cfg.aug` names, at the strength of the moment."""
    if cfg.aug in ("none", "bcr"):
        return as_they_are
    if cfg.aug == "diffaug":
        return lambda x: diffaugment(x, state.progress)
    chances = every(cfg.aug_pipe) if isinstance(cfg.aug_pipe, str) else cfg.aug_pipe

    def transformed(x: Tensor) -> Tensor:
        p = state.ada.p if cfg.aug == "ada" else strength(cfg, state.progress.nimg)
        return augment(x, p, state.progress, chances) if p else x

    return transformed


def variation(progress: Progress, cfg: TrainConfig) -> Callable[[Tensor], Tensor] | None:
    """For `Progress.vary`: the transformation of bCR, moves within 8 px at 256 px (the code of 2006.06676)."""
    return (lambda x: translated(x, progress, 1 / 32)) if cfg.aug == "bcr" else None


def asked(cfg: TrainConfig) -> Asked:
    return Asked(cfg.real_labels, cfg.fake_labels, cfg.g_label, cfg.penalties, cfg.penalty_every)


def adapted(phases: list[Phase], cfg: TrainConfig) -> list[Phase]:
    """The phases as the run asks: so many steps of D, and its weights cut after each."""
    changes: dict[str, Any] = {}
    if cfg.n_critic is not None:
        changes["repeat"] = cfg.n_critic
    if (bound := cfg.penalties.get("clip")) is not None:
        changes["after"] = lambda n: clip_weights(n.D, bound)
    return [replace(f, **changes) if f.updates == ("D",) else f for f in phases]


def last_layer(D: nn.Module, name: str | None = None) -> nn.Linear | nn.Conv2d | None:
    """The plain layer that gives D's logit, which a family may name; None where it is of another kind."""
    inside = D.get_submodule(name) if name else D
    layers = [m for m in inside.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None


def equip(nets: Nets, cfg: TrainConfig, head: str | None = None) -> None:
    """Changes new networks as the run asks; `head` names D's last layer where it is not the last one there is."""
    if cfg.minibatch_std is not None:
        layer = last_layer(nets.D, head)
        assert layer is not None
        append_std(layer, cfg.minibatch_std)
    if cfg.spectral_norm is not None:
        for net in (nets.D, nets.G) if cfg.spectral_norm == "both" else (nets.D,):
            divide(net)


def risen(cfg: TrainConfig, nimg: int) -> float:
    """How far the burn-in is, 0 to 1."""
    return half_cosine(0.0, 1.0, nimg / (cfg.burn_in_kimg * 1000)) if cfg.burn_in_kimg else 1.0


def strength(cfg: TrainConfig, nimg: int) -> float:
    """p of fixed augmentation after so many images."""
    return cfg.aug_p * risen(cfg, nimg)


def crossed(before: int, after: int, kimg: float) -> bool:
    return math.floor(after / (kimg * 1000)) > math.floor(before / (kimg * 1000))


def train_step(state: State, phases: list[Phase], batches: Iterator[Batch], cfg: TrainConfig) -> None:
    """One step: each phase that is due, each repeat after a step's first on a fresh batch; then the average."""
    p = state.progress
    batch, first = None, p.nimg
    for name, spec in state.specs.items():
        optim.adjust(state.optimizers[name], spec, p.nimg, round(cfg.kimg * 1000))
    for phase in phases:
        if p.step % phase.every or first < phase.start:
            continue
        for repeat in range(phase.repeat):
            if batch is None or repeat:
                batch = next(batches)
                p.nimg += cfg.batch
            run_phase(state, phase, batch, cfg)
    p.step += 1
    public = next(iter(networks(state.nets).values()))
    beta = ema.beta_of(half_life(cfg, first), p.nimg - first)
    ema.update(state.ema, public, beta)


def half_life(cfg: TrainConfig, nimg: int) -> float:
    """Of the average, in images, in the step after so many."""
    whole = cfg.ema_kimg * 1000 * risen(cfg, nimg)
    return whole if cfg.ema_rampup is None or cfg.init_from else min(whole, nimg * cfg.ema_rampup)


def backward(state: State, phase: Phase, batch: Batch, cfg: TrainConfig) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Gradients of the phase's terms over all micro-batches and ranks; gives them, and the terms' means of this rank.

    Of no other parameters are there any.
    """
    p = state.progress
    for name, net in networks(state.nets).items():
        net.requires_grad_(name in phase.updates)
    for layer in state.frozen:
        layer.requires_grad_(False)
    parameters = [q for name in phase.updates for q in getattr(state.nets, name).parameters()]
    for q in parameters:
        q.grad = None
    parts = split(batch, cfg.batch_gpu, p.device)
    mean: dict[str, Tensor] = {}
    for part in parts:
        with lowered(p.device, cfg.dtype):
            terms = phase.loss(state.nets, part, p)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        (total * (phase.every / len(parts))).backward()
        for name, term in terms.items():
            mean[name] = mean.get(name, 0) + term.detach() / len(parts)
    distributed.average_gradients(parameters)
    return [q.grad for q in parameters if q.grad is not None], mean


def run_phase(state: State, phase: Phase, batch: Batch, cfg: TrainConfig) -> None:
    """The update of a phase, by the gradients of all ranks. Raises DivergedError where they are not finite."""
    p = state.progress
    grads, mean = backward(state, phase, batch, cfg)
    size = torch.nn.utils.get_total_norm(grads)
    whole = size.isfinite()
    if cfg.dtype == "fp16":
        mean["overflow"] = 1.0 - whole.float()
        cut(grads)
        size, whole = torch.nn.utils.get_total_norm(grads), torch.ones_like(whole)
    if not torch.stack([whole, *(term.isfinite() for term in mean.values())]).all():
        bad = [name for name, term in mean.items() if not torch.isfinite(term)]
        of = ", ".join(bad) if bad else f"the gradient of {', '.join(phase.updates)}"
        raise DivergedError(f"training diverged after {p.nimg / 1000:g} kimg", f"{of} is not finite")
    note(state, {**mean, f"{phase.name}{GRADIENT}": size})
    judge(state, cfg)
    for name in phase.updates:
        state.optimizers[name].step()
    if phase.after:
        with torch.no_grad():
            phase.after(state.nets)


def cut(grads: list[Tensor]) -> None:
    """What overflowed becomes ±1e5, and NaN 0, as in the StyleGAN line's code.

    There is no loss scaling: with equalised weights and clamped activations an overflow is rare, and one step's.
    """
    for grad in grads:
        torch.nan_to_num_(grad, nan=0.0, posinf=1e5, neginf=-1e5)


def pace(cfg: TrainConfig) -> Pace:
    """Five times as fast where a trained D goes on with other images (2006.06676, the authors' code)."""
    return Pace(target=cfg.aug_target, kimg=100 if cfg.init_from else 500)


def judge(state: State, cfg: TrainConfig) -> None:
    """Takes D's verdicts on the images of a phase: they are logged, and those on real ones move the strength of ada."""
    if state.progress.answers:
        real, fake = (from_all_ranks(torch.cat(side)) for side in zip(*state.progress.answers, strict=True))
        note(state, {"D_auc": area(real, fake)})
        state.progress.answers.clear()
    if not state.progress.verdicts:
        return
    r_t = torch.stack(state.progress.verdicts).mean()
    state.progress.verdicts.clear()
    if state.progress.world > 1:
        r_t = distributed.mean(r_t)
    note(state, {"D_sign": r_t})
    if cfg.aug == "ada":
        state.ada = step(state.ada, float(r_t), cfg.batch, pace(cfg))
        note(state, {"aug_p": torch.tensor(state.ada.p, device=r_t.device)})


def split(batch: Batch, size: int | None, device: torch.device) -> list[Batch]:
    """Micro-batches on the device, images as floats in [-1, 1]."""
    n = len(batch.x)
    size = min(size or n, n)

    def ready(t: Tensor | None, rows: slice) -> Any:
        if t is None:
            return None
        t = t[rows].to(device, non_blocking=True)
        return t.float() / 127.5 - 1 if t.dtype == torch.uint8 else t

    whole = (batch.x, batch.y, batch.c, batch.cy)
    return [Batch(*(ready(t, slice(i, i + size)) for t in whole)) for i in range(0, n, size)]


def note(state: State, terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        value = value.detach().double() if value.device.type != "mps" else value.detach()
        state.sums[name] = state.sums[name] + value if name in state.sums else value
        state.counts[name] = state.counts.get(name, 0) + 1


def level(state: State) -> None:
    """Makes the sums those of the whole batch: the mean over all ranks, which then all ranks hold."""
    if state.progress.world > 1 and state.sums:
        mean = distributed.mean(torch.stack(list(state.sums.values())))
        state.sums.update(zip(state.sums, mean.unbind(), strict=True))


def drain(state: State) -> dict[str, float]:
    """Mean terms since the last call, over all ranks."""
    level(state)
    means = {name: float(total) / state.counts[name] for name, total in state.sums.items()}
    state.sums.clear()
    state.counts.clear()
    return means
