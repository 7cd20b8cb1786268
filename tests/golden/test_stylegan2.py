"""StyleGAN2's networks and losses against the numbers of NVIDIA's two code bases."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.io.tensors import load_into
from ganctl.losses.adversarial import log_loss_d
from ganctl.models import stylegan2
from ganctl.phase import Batch, Progress
from tests.conftest import golden
from tests.golden.test_networks import close, read

ADA = {"conv_clamp": None, "w_avg_beta": 0.995}
STYLEGAN3 = {"conv_clamp": 256.0, "w_avg_beta": 0.998}


def configured(reference: dict[str, Any], defaults: dict[str, Any], **extra: Any) -> stylegan2.Config:
    """A reference's arguments in our words."""
    given = {**defaults, **reference, **reference.get("synthesis_kwargs", {})}
    values = {
        "resolution": given["img_resolution"],
        "channels": given["img_channels"],
        "classes": given["c_dim"] or None,
        "channel_base": given["channel_base"],
        "channel_max": given["channel_max"],
        "clamp": given["conv_clamp"],
        "w_beta": given["w_avg_beta"],
        "noise": given.get("use_noise", True),
        "mbstd_group": given.get("epilogue_kwargs", {}).get("mbstd_group_size", 4),
        "mapping_layers": given.get("mapping_kwargs", {}).get("num_layers", 8),
        **{k: given[k] for k in ("z_dim", "w_dim") if k in given},
    }
    return parse(stylegan2.Config, {**values, **extra}, where="golden")


def opened(name: str, net: str, defaults: dict[str, Any]) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    weights, inputs, outputs, reference = read(golden(f"{name}.safetensors"))
    module = getattr(stylegan2.build(configured(reference, defaults)), net).eval()
    load_into(module, weights, where="golden")
    return module, inputs, outputs


def classes(inputs: dict[str, Tensor], key: str = "c") -> Tensor | None:
    return inputs[key].argmax(1) if key in inputs else None


def blocks_of(net: nn.Module) -> dict[str, Tensor]:
    """Fills, at the next call, what every block gives."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, result: tuple[Tensor, Tensor | None]) -> None:
            seen.update({f"{name}.{k}": v for k, v in zip(("x", "img"), result, strict=True) if v is not None})

        return keep

    for name, block in net.named_children():
        if isinstance(block, stylegan2.SynthesisBlock | stylegan2.DiscriminatorBlock):
            block.register_forward_hook(hook(name))
    return seen


GENERATORS = {
    "stylegan2ada-g-uncond-r32": ADA,
    "stylegan2ada-g-cond-r16": ADA,
    "stylegan3-networks-stylegan2-g-r16": STYLEGAN3,
}


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_generator(name: str) -> None:
    G, inputs, outputs = opened(name, "G", GENERATORS[name])
    with_blocks = "psi07_const" if "psi07_const.b4.x" in outputs else "psi1_const"
    calls = sorted({k.split(".")[0] for k in outputs} - {"emas"})
    assert len(calls) >= 3
    seen = blocks_of(G.synthesis)
    for call in calls:
        psi, *rest = call.removesuffix("_unfused").split("_")
        cutoff = next((int(r.removeprefix("cut")) for r in rest if r.startswith("cut")), None)
        ws = G.map(
            inputs["z"], classes(inputs), psi=float(psi.replace("psi0", "0.").removeprefix("psi")), cutoff=cutoff
        )
        close(ws, outputs[f"{call}.ws"])
        image = G.synthesis(ws, rest[-1])
        close(image, outputs[f"{call}.img"])
        assert torch.equal(G.synthesize(ws, noise=rest[-1]), image.clamp(-1, 1))
        stored = [k for k in outputs if k.startswith(f"{call}.b")]
        assert bool(stored) == (call == with_blocks and "stylegan3" not in name)
        for key in stored:
            close(seen[key.removeprefix(f"{call}.")], outputs[key])
    if "emas.ws" in outputs:
        w = G.mapping(inputs["z"], classes(inputs), track=True)
        close(w[:, None].expand(outputs["emas.ws"].shape), outputs["emas.ws"])
        close(G.synthesis(outputs["emas.ws"], "none"), outputs["emas.img"])
        close(G.mapping.w_avg, outputs["emas.after.mapping.w_avg"])


DISCRIMINATORS = {
    "stylegan2ada-d-uncond-r32": ADA,
    "stylegan2ada-d-cond-r16": ADA,
    "stylegan3-networks-stylegan2-d-r32": STYLEGAN3,
}


@pytest.mark.parametrize("name", DISCRIMINATORS)
@torch.no_grad()
def test_discriminator(name: str) -> None:
    D, inputs, outputs = opened(name, "D", DISCRIMINATORS[name])
    seen = blocks_of(D)
    D.b4.conv.register_forward_hook(lambda _module, args, _result: seen.update({"b4.mbstd": args[0]}))
    logits = D(inputs["img"], classes(inputs))
    close(logits[:, None], outputs.pop("logits"))
    if "cmap" in outputs:
        close(D.mapping(None, classes(inputs)), outputs.pop("cmap"))
    for key, ref in outputs.items():
        close(seen[key], ref)


class Given(Progress):
    """Stands for Progress: the draws are a file's."""

    def __init__(self, inputs: dict[str, Tensor], layers: int) -> None:
        super().__init__(0, 0, torch.Generator(), torch.device("cpu"))
        mixing = torch.tensor(0.0 if "mix_z" in inputs else 1.0)
        cutoff = inputs.get("mix_cutoff", torch.tensor(1))
        self.mixing = torch.stack([mixing, (cutoff - 0.5) / (layers - 1)])
        self.normals = [inputs["gen_z"], inputs.get("mix_z", inputs["gen_z"]), inputs["pl_noise_randn"]]

    def normal(self, n: int, *shape: int) -> Tensor:
        drawn = self.normals.pop(0)
        assert drawn.shape[1:] == shape
        return drawn[:n]

    def uniform(self, n: int, *shape: int) -> Tensor:
        return self.mixing.expand(n, *shape)


PHASES = {"Gmain": "G", "Greg": "G_pl", "Dmain": "D", "Dreg": "D_r1"}


@pytest.mark.parametrize("name", ["stylegan2ada-loss-uncond-r16", "stylegan2ada-loss-cond-mix-r16"])
def test_losses_penalties_and_gradients(name: str) -> None:
    weights, inputs, outputs, reference = read(golden(f"{name}.safetensors"))
    cfg = configured(
        {**reference["D"], **reference["G"]},
        ADA,
        r1_gamma=reference["r1_gamma"],
        pl_weight=reference["pl_weight"],
        pl_shrink=reference["pl_batch_shrink"],
        pl_decay=reference["pl_decay"],
    )
    batch = Batch(inputs["real_img"], None, classes(inputs, "gen_c"))
    real = Batch(inputs["real_img"], None, classes(inputs, "real_c"))
    phases = {phase.name: phase for phase in stylegan2.phases(cfg)}
    for call in reference["phases"]:
        nets = stylegan2.build(cfg)
        for net in ("G", "D"):
            part = {k.removeprefix(f"{net}."): v for k, v in weights.items() if k.startswith(f"{net}.")}
            load_into(getattr(nets, net), part, where="golden")
        nets.path.mean.copy_(inputs["pl_mean"])
        for our in [PHASES[call]] if call in PHASES else [call[0], "G_pl" if call[0] == "G" else "D_r1"]:
            phase, other = phases[our], "D" if call[0] == "G" else "G"
            getattr(nets, other).requires_grad_(False)
            ref = {k.removeprefix(f"{call}."): v for k, v in outputs.items() if k.startswith(f"{call}.")}
            given = Given(inputs, nets.G.synthesis.layers)
            if our == "D" and batch.c is not None:
                # The file's generated images have classes of their own; ours have the real ones'.
                fake = stylegan2.generated(nets, batch, given, cfg)
                losses = {"D_loss": log_loss_d(nets.D(real.x, real.c), nets.D(fake, batch.c))}
            else:
                losses = phase.loss(nets, real if call == "Dreg" else batch, given)
            assert set(losses) == {our if our in ("D_r1", "G_pl") else f"{our}_loss"}
            expected = {"G": "G_loss", "D": "D_loss", "G_pl": "G_reg", "D_r1": "D_reg"}[our]
            total = sum(losses.values())
            close(total, ref[expected].mean())  # type: ignore[arg-type]
            (total * reference["gain"].get(call, 1)).backward()  # type: ignore[union-attr]
        moved = {"G": nets.G, "D": nets.D}[call[0]]
        gradients = {k: q.grad if q.grad is not None else torch.zeros_like(q) for k, q in moved.named_parameters()}
        assert {f"grad.{k}" for k in gradients} == {k for k in ref if k.startswith("grad.")}
        for key, gradient in gradients.items():
            close(gradient, ref[f"grad.{key}"])
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        close(norm, ref["grad_norm_total"])
        close(nets.G.mapping.w_avg, ref["w_avg_after"])
        if "pl_mean_after" in ref:
            close(nets.path.mean, ref["pl_mean_after"])
