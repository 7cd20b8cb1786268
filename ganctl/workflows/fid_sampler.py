"""Metrics in `ganctl fid` that ask a generator instead of looking at images: path lengths and equivariance."""

from typing import TYPE_CHECKING, Any

from ganctl.errors import UsageError, quoted
from ganctl.workflows.fid_measure import Work

if TYPE_CHECKING:
    from ganctl.metrics.catalog import Metric
    from ganctl.metrics.score import Score


def ask(work: Work, metric: "Metric") -> "tuple[Score, dict[str, Any]]":
    """The number, of the model on the generated side, and what it depends on. Raises UsageError (it has no W, NaN)."""
    assert work.plan.fake is not None
    try:
        return _equivariance(work, metric) if metric.moves else _path_length(work, metric)
    except ValueError as e:
        raise UsageError(f"cannot take {metric.id} of {quoted(work.plan.fake.ref)}", str(e)) from e


def how(work: Work, metric: "Metric") -> str:
    """One line: what was measured, by what, of how many."""
    if metric.kind == "ppl":
        return f"{metric.id}, lpips-vgg, {work.plan.n} pairs of images"
    from ganctl.metrics.equivariance import GROUP, ROTATE, TRANSLATE

    moved = f"turned by up to {ROTATE:g} degrees" if metric.kind == "eqr" else f"moved by up to {TRANSLATE:g}"
    return f"{metric.id}, {work.plan.n} images in groups of {GROUP}, {moved}, dB"


def _path_length(work: Work, metric: "Metric") -> "tuple[Score, dict[str, Any]]":
    from ganctl.metrics.path_length import named_path_length
    from ganctl.metrics.score import Score

    plan = work.plan
    assert plan.fake is not None and work.lpips is not None
    lpips, digest = work.lpips
    settings = {"n": plan.n, "seed": work.request.seed, "batch_size": work.request.batch_size, "device": work.device}
    mean, deviation = named_path_length(
        metric.id,
        work.models[plan.fake.ref].net,
        lpips.distance,
        **settings,
        done=lambda n: work.reporter.progress(metric.id, n, plan.n),
    )
    facts = {"features": "lpips-vgg", "weights_sha256": digest, "n_fake": plan.n, "fake": plan.fake.ref}
    return Score(metric.id, mean, deviation), facts


def _equivariance(work: Work, metric: "Metric") -> "tuple[Score, dict[str, Any]]":
    from ganctl.metrics.equivariance import sampler_equivariance
    from ganctl.metrics.score import Score

    plan = work.plan
    assert plan.fake is not None
    if not work.equivariance:
        # All kinds that are asked for at once: they share the pictures that do not move.
        moving = [m for m in plan.metrics if m.moves]
        work.equivariance = sampler_equivariance(
            work.models[plan.fake.ref].net,
            kinds=tuple(m.kind for m in moving),
            n=plan.n,
            seed=work.request.seed,
            device=work.device,
            done=lambda n: work.reporter.progress(",".join(m.id for m in moving), n, plan.n),
        )
    facts = {"unit": "dB", "n_fake": plan.n, "fake": plan.fake.ref}
    return Score(metric.id, work.equivariance[metric.kind]), facts
