"""Every family gives the numbers of its reference implementation.

A family is known by `from_reference` and by one table here: which call of ours makes the tensor of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from einops import rearrange
from golden import ROOT, Case, Manifest, assert_equal, cases, manifests
from golden_tables.alit import alit
from golden_tables.dac import dac
from golden_tables.direct3d import direct3d
from golden_tables.encodec import encodec
from golden_tables.flextok import table as flextok
from golden_tables.karl import karl
from golden_tables.maskgit_gen import maskgit_gen
from golden_tables.michelangelo import michelangelo
from golden_tables.mimi import mimi
from golden_tables.rar import rar
from golden_tables.restok import restok
from golden_tables.retok import retok
from golden_tables.s3tokenizer import s3tokenizer
from golden_tables.snac import snac
from golden_tables.speechtokenizer import speechtokenizer
from golden_tables.sylber import sylber
from golden_tables.ta_titok import ta_titok
from golden_tables.trellis import Halves, trellis
from golden_tables.vecset import vecset
from golden_tables.vocos import count as count_vocos
from golden_tables.vocos import vocos
from golden_tables.wavtokenizer import count as count_wavtokenizer
from golden_tables.wavtokenizer import wavtokenizer
from torch import Tensor

from zoo.families import (
    ALIT,
    DAC,
    KARL,
    SNAC,
    AutoencoderKL,
    Direct3D,
    EnCodec,
    FlexTok,
    MaskGITVQGAN,
    Michelangelo,
    Mimi,
    OneDPiece,
    ResTok,
    ReTok,
    S3Tokenizer,
    SpeechTokenizer,
    Sylber,
    TATiTok,
    TiTok,
    Trellis,
    VecSet,
    Vocos,
    WavTokenizer,
)
from zoo.families.weight_norm import folded_gains
from zoo.generators import RAR, MaskGIT
from zoo.generators.pipeline import build as build_generator
from zoo.generators.shared_ids import SharedIds
from zoo.objectives.discriminators import PatchCritic
from zoo.objectives.gan import LeCAM, hinge_discriminator_loss, hinge_generator_loss
from zoo.store.build import build
from zoo.tokenizer import Tokenizer

pytestmark = pytest.mark.golden

# Pattern of a tensor's name -> a call that gets the pattern's match and gives the tensor; None marks an input.
Table = Mapping[str, Callable[[re.Match[str]], Tensor] | None]


def one_dimensional(case: Case, family: type[TiTok]) -> Table:
    io = case.io
    tokenizer = family.from_reference(case.config, case.state)
    decoder = tokenizer.decoder
    x = io["images"] * 2 - 1
    z = tokenizer.encoder(x)
    shown = tokenizer(x)
    tokens = tokenizer.encode(x)
    proxy_only = shown.output.shape != x.shape

    def layout(latents: Tensor) -> Tensor:
        return rearrange(latents, "b n d -> b d 1 n")

    def pixels(output: Tensor) -> Tensor:
        return output if proxy_only else (output + 1) / 2

    def logits(latents: Tensor) -> Tensor:
        return getattr(decoder, "logits", decoder)(latents)

    def decoder_out() -> Tensor:
        return shown.extras.get("proxy_logits", pixels(shown.output))

    def recorded(name: str = "quantized") -> Tensor:
        """Latents as the reference gave them to its decoder: z + (q - z) in floating point, not quite the code."""
        return rearrange(io[name], "b d 1 n -> b n d")

    def cut_in_training() -> Tensor:
        """What reaches the decoder in training, once the random cut falls on the recorded length."""
        for seed in range(10_000):
            torch.manual_seed(seed)
            latents, lengths = tokenizer.regularize(recorded())
            if latents.shape[1] == io["train_keep"]:
                assert lengths is not None
                assert lengths.tolist() == [latents.shape[1]] * len(x)
                return latents
        raise AssertionError(f"no draw keeps {io['train_keep'].item()} tokens")

    def gaussian() -> Tensor:
        """A draw of the bottleneck, with the recorded noise in place of its own."""
        mean, logvar = tokenizer.quantizer.posterior(z)
        return mean + (0.5 * logvar).exp() * recorded("noise")

    return {
        "images|noise|train_keep": None,
        "latents_pre_quant|posterior_parameters": lambda _: layout(z),
        "indices": lambda _: rearrange(tokens.indices, "b n 1 -> b 1 n"),
        "quantized|posterior_mean": lambda _: layout(shown.quantized.latents),
        "posterior_logvar": lambda _: layout(tokenizer.quantizer.posterior(z)[1]),
        "latents_sample": lambda _: layout(gaussian()),
        "kl": lambda _: tokenizer.quantizer.divergence(*tokenizer.quantizer.posterior(z)),
        "decoder_out": lambda _: decoder_out(),
        "reconstruction": lambda _: pixels(decoder(recorded("latents_sample" if "noise" in io else "quantized"))),
        "reconstruction_from_(indices|mean)": lambda _: pixels(tokenizer.decode(tokens)),
        "commitment_loss": lambda _: commitment(case) * shown.quantized.parts["commitment"][None],
        "codebook_loss": lambda _: shown.quantized.parts["codebook"][None],
        "quantizer_loss": lambda _: shown.quantized.loss[None],
        r"decoder_logits_len(\d+)": lambda found: logits(recorded()[:, : int(found[1])]),
        r"reconstruction_len(\d+)": lambda found: pixels(decoder(recorded()[:, : int(found[1])])),
        r"reconstruction_from_indices_len(\d+)": lambda found: pixels(tokenizer.decode(tokens.keep(int(found[1])))),
        "train_mode_decode": lambda _: pixels(decoder(cut_in_training())),
    }


def commitment(case: Case) -> float:
    return case.config["model"]["vq_model"]["commitment_cost"]


def maskgit_vqgan(case: Case) -> Table:
    tokenizer = MaskGITVQGAN.from_reference(case.config, case.state)
    x = case.io["images"] * 2 - 1
    side = x.shape[2] // tokenizer.encoder.downsample
    tokens = tokenizer.encode(x)

    def layout(latents: Tensor) -> Tensor:
        return rearrange(latents, "b (h w) d -> b d h w", h=side)

    return {
        "images": None,
        "latents_pre_quant": lambda _: layout(tokenizer.encoder(x)),
        "indices": lambda _: tokens.indices[..., 0],
        "quantized": lambda _: layout(tokenizer(x).quantized.latents),
        "reconstruction": lambda _: (tokenizer.decode(tokens) + 1) / 2,
        "reconstruction_clamped": lambda _: (tokenizer.decode(tokens).clamp(-1, 1) + 1) / 2,
    }


def critic(case: Case) -> Table:
    io = case.io
    model = PatchCritic.from_reference(case.config, case.state).eval()
    lecam = LeCAM().eval()
    lecam.ema_real, lecam.ema_fake = io["ema_real"][0], io["ema_fake"][0]
    real, fake = model(io["real"]), model(io["fake"])
    return {
        "real|fake|ema_real|ema_fake": None,
        "logits_real": lambda _: real,
        "logits_fake": lambda _: fake,
        "hinge_d_loss": lambda _: hinge_discriminator_loss(real, fake)[None],
        "generator_loss": lambda _: hinge_generator_loss(fake)[None],
        "lecam": lambda _: lecam(real, fake)[None],
    }


FAMILIES: dict[str, type[Tokenizer]] = {
    "alit": ALIT,
    "karl": KARL,
    "dac": DAC,
    "direct3d": Direct3D,
    "encodec": EnCodec,
    "flextok": FlexTok,
    "maskgit_vqgan": MaskGITVQGAN,
    "michelangelo": Michelangelo,
    "mimi": Mimi,
    "one_d_piece": OneDPiece,
    "restok": ResTok,
    "retok": ReTok,
    "s3tokenizer": S3Tokenizer,
    "sylber": Sylber,
    "snac": SNAC,
    "speechtokenizer": SpeechTokenizer,
    "ta_titok": TATiTok,
    "titok": TiTok,
    "trellis_ss": Trellis,
    "vecset": VecSet,
    "vocos": Vocos,
    "wavtokenizer": WavTokenizer,
}

GENERATORS: dict[str, type[SharedIds]] = {"maskgit_gen": MaskGIT, "rar": RAR}

# Families whose published files hold or count parameters that ours do not have, and the other way round.
COUNTED: dict[str, Callable[[Manifest], int]] = {"vocos": count_vocos, "wavtokenizer": count_wavtokenizer}


def table(case: Case) -> Table:
    """The table of a case's family.

    Skips the test, by name, where we have no such family.
    """
    if case.family in ("one_d_piece", "titok") and case.reference.endswith("NLayerDiscriminator"):
        return critic(case)
    if case.family == "maskgit_gen":
        return maskgit_gen(case)
    if case.family == "rar":
        return rar(case)
    family = FAMILIES.get(case.family)
    if family is MaskGITVQGAN:
        return maskgit_vqgan(case)
    if family is ALIT:
        return alit(case)
    if family is KARL:
        return karl(case)
    if family is EnCodec:
        return encodec(case)
    if family is DAC:
        return dac(case)
    if family is Direct3D:
        return direct3d(case)
    if family is SNAC:
        return snac(case)
    if family is FlexTok:
        return flextok(case)
    if family is Michelangelo:
        return michelangelo(case)
    if family is Mimi:
        return mimi(case)
    if family is ResTok:
        return restok(case)
    if family is ReTok:
        return retok(case)
    if family is S3Tokenizer:
        return s3tokenizer(case)
    if family is Sylber:
        return sylber(case)
    if family is SpeechTokenizer:
        return speechtokenizer(case)
    if family is TATiTok:
        return ta_titok(case)
    if family is Trellis:
        return trellis(case)
    if family is VecSet:
        return vecset(case)
    if family is Vocos:
        return vocos(case)
    if family is WavTokenizer:
        return wavtokenizer(case)
    if family is not None and issubclass(family, TiTok):
        return one_dimensional(case, family)
    pytest.skip(f"no port yet: {case.id}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the numbers were made: several threads add up in another order, which some cases magnify beyond 1e-5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", [case for case in cases() if case.family != "quantizer"], ids=lambda case: case.id)
def test_case(case: Case) -> None:
    with torch.no_grad():
        calls = table(case)
        unknown = [name for name in case.io if not any(re.fullmatch(pattern, name) for pattern in calls)]
        assert not unknown, f"no call of ours for {', '.join(unknown)}"
        for pattern, call in calls.items():
            for found in filter(None, (re.fullmatch(pattern, name) for name in case.io)):
                if call is not None:
                    assert_equal(found[0], call(found), case.io[found[0]])


@pytest.mark.parametrize(
    "manifest", [found for found in manifests() if found.family not in GENERATORS], ids=lambda found: found.id
)
def test_manifest(manifest: Manifest) -> None:
    """The published file loads strictly: the same keys and shapes, both ways, and as many parameters."""
    of_vae = manifest.config.get("_class_name") == "AutoencoderKL"
    family = AutoencoderKL if of_vae else FAMILIES.get(manifest.family)
    if family is None:
        pytest.skip(f"no port yet: {manifest.id}")
    if family is Trellis:
        manifest = Halves(manifest.file)
    tokenizer = build(family.reference_recipe(manifest.config), device="meta")
    ours = {key: tuple(tensor.shape) for key, tensor in tokenizer.state_dict().items()}
    converted = family.convert(manifest.state)
    theirs = {key: tuple(tensor.shape) for key, tensor in converted.items()}
    assert ours == theirs
    gains = folded_gains(manifest.state) - folded_gains(converted)
    counted = COUNTED[manifest.family](manifest) if manifest.family in COUNTED else manifest.content["params"] - gains
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == counted
    assert isinstance(family.from_reference(manifest.config, manifest.state), family)


@pytest.mark.parametrize(
    "manifest", [found for name in GENERATORS for found in manifests(name)], ids=lambda found: found.id
)
def test_generator_manifest(manifest: Manifest) -> None:
    """As `test_manifest`, for generators."""
    family = GENERATORS[manifest.family]
    generator = build_generator(family.reference_recipe(manifest.config), device="meta")
    ours = {key: tuple(tensor.shape) for key, tensor in generator.state_dict().items()}
    assert ours == {key: tuple(tensor.shape) for key, tensor in family.convert(manifest.state).items()}
    assert sum(parameter.numel() for parameter in generator.parameters()) == manifest.content["params"]
    assert isinstance(family.from_reference(manifest.config, manifest.state), family)


def test_folder_is_there() -> None:
    assert any(cases()), f"no golden cases under {ROOT}; point ZOO_GOLDEN at a folder of FAMILY/CASE/"
