"""The metrics by name, as data: which score, of which network's features, from how many images."""

from dataclasses import dataclass, replace

from ganctl.errors import UsageError, did_you_mean, quoted

INCEPTION = "inception-2015-12-05"
"""The zoo entry of FID's network."""
VGG16 = "vgg16-imagenet"
"""The zoo entry of the network behind improved precision and recall, and behind LPIPS."""
NETWORKS = {"": INCEPTION, "-vgg": VGG16, "-lenet": "lenet-mnist", "-lenet-fashion": "lenet-fashion-mnist"}
"""Suffix of a metric's name → the zoo entry of its network."""


@dataclass(frozen=True)
class Metric:
    """One or two numbers about images, by the features of one network."""

    id: str
    kind: str
    """fd, kid, is, pr, dc, c2st, ppl, or one of EQ."""
    features: str
    """The zoo entry of the network; '' where pixels are compared."""
    n: int = 50_000
    """Images a model draws when nothing else is asked for."""
    real: int | None = None
    """Real images compared with; None is all of them."""
    training: bool = False
    """Whether the id is one of those used while training, which fix every number."""
    k: int = 0
    """Neighbours of pr and dc."""

    @property
    def inception(self) -> bool:
        """Whether the three protocols of Inception apply; only a Fréchet distance over its features is called FID."""
        return self.features == INCEPTION

    @property
    def while_training(self) -> bool:
        """Over the large networks, only ids that fix every number; over the small ones, as many images as one likes."""
        return self.training or self.kind == "ppl" or self.features not in (INCEPTION, VGG16)

    @property
    def two_sided(self) -> bool:
        """Whether generated images are compared with real ones; the others look at the generated ones alone."""
        return self.kind != "is" and not self.sampler_only

    @property
    def keeps_features(self) -> bool:
        """Whether it needs every feature; for the others their moments do, in constant memory."""
        return self.kind in ("kid", "pr", "dc", "c2st")

    @property
    def higher_is_better(self) -> bool:
        """Of its first number."""
        return self.kind in ("is", "pr", "dc", "c2st") or self.moves

    @property
    def sampler_only(self) -> bool:
        """Whether it asks a generator, not images."""
        return self.kind == "ppl" or self.moves

    @property
    def moves(self) -> bool:
        """Whether it moves the plane that a generator's pictures are made of."""
        return self.kind in EQ.values()


PPL = [f"{kind}_{space}{ends}" for kind in ("ppl", "ppl2") for space in "zw" for ends in ("full", "end")]
"""Perceptual path length in Z or W, anywhere between two latents or at the first of them: ppl as StyleGAN took it, of a
crop around FFHQ's faces, ppl2 as StyleGAN2 did, of whole pictures."""
EQ = {"eqt": "eqt_int", "eqt_frac": "eqt_frac", "eqr": "eqr"}
"""Equivariance of StyleGAN3's generators, in dB: to whole translations (the paper's EQ-T), to any, to rotations."""


def _metrics() -> dict[str, Metric]:
    made = []
    for suffix, network in NETWORKS.items():
        n = 50_000 if suffix in ("", "-vgg") else 10_000
        base = Metric("", "", network, n)
        if suffix != "-vgg":  # its last features are no class evidence, and no one publishes its distances
            made.append(replace(base, id=f"fd{suffix}" if suffix else "fid", kind="fd"))
            made.append(replace(base, id=f"is{suffix}", kind="is"))
        made.append(replace(base, id=f"kid{suffix}", kind="kid"))
        made.append(replace(base, id=f"pr{suffix}", kind="pr", k=3))
        made.append(replace(base, id=f"dc{suffix}", kind="dc", k=5))
        made.append(replace(base, id=f"c2st{suffix}", kind="c2st"))
    made += [Metric(name, "ppl", VGG16) for name in PPL]
    made += [Metric(name, kind, "") for name, kind in EQ.items()]
    made += [
        Metric("fid5k", "fd", INCEPTION, 5_000, real=5_000, training=True),
        Metric("fid50k_full", "fd", INCEPTION, training=True),
        Metric("kid50k_full", "kid", INCEPTION, training=True),
        Metric("pr50k3_full", "pr", VGG16, real=200_000, training=True, k=3),
        Metric("is50k", "is", INCEPTION, training=True),
        *(Metric(f"{kind[:3]}50k{kind[3:]}", kind, "", training=True) for kind in EQ.values()),
    ]
    return {m.id: m for m in made}


METRICS = _metrics()
PAIRED = ("psnr", "ssim", "ms-ssim", "lpips", "lpips-alex", "lpips-vgg", "lpips-squeeze")
"""Metrics of image pairs, for `fid --pairs`."""


def known(*, training: bool = False) -> list[str]:
    """The ids of the command line, or those that may be followed while training."""
    return [m.id for m in METRICS.values() if (m.while_training if training else not m.training)]


def metric(name: str, *, training: bool = True) -> Metric:
    """The metric of that id. Raises UsageError with the nearest known one, of training too unless that is False."""
    if name not in METRICS:
        ids = [*METRICS] if training else known()
        if name in PAIRED and not training:
            raise UsageError(f"cannot use --metrics {name}", "it compares images pair by pair", "add --pairs")
        raise UsageError(f"unknown metric {quoted(name)}", f"known: {', '.join(ids)}", did_you_mean(name, ids))
    return METRICS[name]


def parse_metrics(names: str) -> list[Metric]:
    """`fid,kid` as metrics, in order, none twice. Raises UsageError."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("cannot use --metrics ''", "no metric is named", "pass --metrics fid")
    return [metric(name, training=False) for name in dict.fromkeys(wanted)]
