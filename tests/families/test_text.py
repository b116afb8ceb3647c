"""Text towers: hashed words here and now, CLIP and T5 through stand-ins for their packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.families import CLIPText, HashedText, T5Text
from zoo.families import text as towers
from zoo.families.text import TextTower

CAT = [-0.333333, 1.666667, -0.333333, -0.333333, -0.333333, 1.666667, 0.333333, 3.0]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Networks are kept for the process: start and end without any."""
    for cached in (towers._clip, towers._t5):
        cached.cache_clear()
    yield
    for cached in (towers._clip, towers._t5):
        cached.cache_clear()


def test_hashed_text_is_the_same_everywhere() -> None:
    features = HashedText(8, 4)(["a cat", ""])
    assert features.shape == (2, 4, 8) and features.dtype == torch.float32
    assert features[0, 1].tolist() == pytest.approx(CAT, abs=1e-5)
    assert torch.equal(features[1, 0], features[0, 2])  # the end
    assert not features[1, 1:].any() and features[1, 0].all()


def test_hashed_text_knows_words_by_their_letters() -> None:
    tower = HashedText(512, 4)
    cat, cats, rocket = tower(["cat", "Cats", "rocket"])[:, 0]
    assert torch.cosine_similarity(cat, cats, dim=0) > 0.3
    assert torch.cosine_similarity(cat, rocket, dim=0).abs() < 0.2
    assert 0.7 < cat.square().mean() < 1.4
    long = tower(["one two three four five six"])
    assert torch.equal(long[0, 3], tower([""])[0, 0])  # the end is never cut
    assert torch.equal(tower(["ein\u00e9 \udcff"]), tower(["ein\u00e9  \udcff "]))
    with pytest.raises(ValueError, match="at least 1"):
        HashedText(0)


@pytest.mark.parametrize(
    ("tower", "package"), [(CLIPText(), "open_clip"), (T5Text("google-t5/t5-small"), "transformers")]
)
def test_a_missing_package_is_named(tower: TextTower, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=rf"{package}.*tokenizer-zoo\[text\].*features"):
        tower(["a cat"])


class TinyCLIP(nn.Module):
    """The text side of a CLIP as open_clip builds it, with everything in half precision that autocast would take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Linear(1000, 1000)
        self.token_embedding = nn.Embedding(100, 6)
        self.ln_final = nn.LayerNorm(6)

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.ln_final(self.token_embedding(ids))[:, -1]


def fake_clip(monkeypatch: pytest.MonkeyPatch, net: nn.Module | Exception) -> dict[str, Any]:
    """A stand-in for open_clip; returns what its `create_model` was called with."""
    seen: dict[str, Any] = {"calls": 0}

    def create_model(name: str, **options: Any) -> nn.Module:
        seen.update(options, name=name, calls=seen["calls"] + 1)
        if isinstance(net, Exception):
            raise net
        return net

    def tokenize(captions: list[str]) -> Tensor:
        return torch.tensor([[len(caption) + place for place in range(7)] for caption in captions])

    module = ModuleType("open_clip")
    vars(module).update(
        create_model=create_model,
        get_tokenizer=lambda name: tokenize,
        list_pretrained=lambda: [("ViT-L-14-336", "openai")],
        get_pretrained_cfg=lambda name, tag: {"quick_gelu": True},
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return seen


def test_clip_gives_all_positions_after_the_last_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    net = TinyCLIP()
    seen = fake_clip(monkeypatch, net)
    tower, other = CLIPText(), CLIPText()
    with torch.autocast("cpu", torch.bfloat16):
        features = tower(["a cat", ""])
    assert features.shape == (2, 7, 6) and features.dtype == torch.float32 and not features.requires_grad
    ids = torch.tensor([[5 + place for place in range(7)], list(range(7))])
    torch.testing.assert_close(features, net.ln_final(net.token_embedding(ids)).detach())
    assert seen["name"] == "ViT-L-14-336" and seen["pretrained"] == "openai" and seen["force_quick_gelu"]
    other(["a cat"])
    assert seen["calls"] == 1 and net.visual is None and not net.ln_final._forward_hooks
    assert not list(tower.parameters()) and not tower.state_dict()


def test_clip_refuses_what_it_cannot_have(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clip(monkeypatch, RuntimeError("no network\nat all"))
    with pytest.raises(RuntimeError, match=r"cannot be loaded \(no network\); run once with a network"):
        CLIPText()(["a cat"])
    for name, tag in (("ViT-L-14-336", "/tmp/weights.pt"), ("hf-hub:someone/something", "openai")):
        with pytest.raises(RuntimeError, match="has no weights"):
            CLIPText(name, tag)(["a cat"])
    fake_clip(monkeypatch, nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="not built like CLIP"):
        CLIPText()(["a cat"])


def test_t5_gives_zeros_behind_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Linear):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
            return SimpleNamespace(last_hidden_state=super().forward(input_ids[..., None].to(self.weight.dtype)))

    def tokenize(captions: list[str], max_length: int, **options: Any) -> dict[str, Tensor]:
        assert options == {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        lengths = torch.tensor([min(len(caption) + 1, max_length) for caption in captions])
        mask = (torch.arange(max_length) < lengths[:, None]).long()
        return {"input_ids": mask * 3, "attention_mask": mask}

    torch.manual_seed(0)
    module = ModuleType("transformers")
    net = Net(1, 4).half()
    vars(module).update(
        T5EncoderModel=SimpleNamespace(from_pretrained=lambda name, revision: net),
        AutoTokenizer=SimpleNamespace(from_pretrained=lambda name, revision: tokenize),
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    features = T5Text("some/t5", length=5)(["ab", "", "abcdefgh"])
    assert features.shape == (3, 5, 4) and features.dtype == torch.float32 and not features.requires_grad
    assert [int(row.any(-1).sum()) for row in features] == [3, 1, 5]

    def absent(name: str, revision: str | None) -> Any:
        raise OSError("not in the cache")

    vars(module)["T5EncoderModel"] = SimpleNamespace(from_pretrained=absent)
    with pytest.raises(RuntimeError, match=r"other/t5 cannot be loaded \(not in the cache\)"):
        T5Text("other/t5")(["a cat"])


def test_the_real_open_clip_has_what_the_tower_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    create = open_clip.create_model

    def without_weights(name: str, **options: Any) -> Any:
        return create(name, **(options | {"pretrained": None}))

    monkeypatch.setattr(open_clip, "create_model", without_weights)
    features = CLIPText("ViT-B-32", "openai")(["a cat", ""])
    assert features.shape == (2, 77, 512)
    net = towers._clip("ViT-B-32", "openai")[0]
    ids = open_clip.get_tokenizer("ViT-B-32")(["a cat", ""])
    states = net.transformer(net.token_embedding(ids) + net.positional_embedding, attn_mask=net.attn_mask)
    torch.testing.assert_close(features, net.ln_final(states))
