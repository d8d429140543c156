"""Small random users and models that the rooms' tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from upath import UPath

from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.model import persistence
from qanchor.model.backbone import embedded_backbone, train_tokenizer
from qanchor.model.text_encoder import NgramEncoder
from qanchor.model.towers import Towers

S3_SECRET = "nobody-may-read-this"
AS_OF = 20_000 * DAY
WORDS = [
    "coffee",
    "takeaway",
    "concert",
    "forest",
    "transfer",
    "hotel",
    "bargain",
    "sneakers",
    "hospital",
    "rent",
    "salary",
    "metro",
]


def random_profiles(
    users: int = 12, seed: int = 0, mean: int | np.ndarray = 20, modalities: tuple[str, ...] = ("bill", "mini")
) -> Profiles:
    """Users with Poisson many events of the last 90 days; the first user has none."""
    rng = np.random.default_rng(seed)
    texts = [f"{WORDS[i % 12]} at {WORDS[(5 * i + 3) % 12]} {i}" for i in range(40)]
    kind = rng.integers(0, len(modalities), len(texts))
    table = Texts(
        np.arange(len(texts), dtype=np.uint64), [modalities[k] for k in kind], [t.split()[0] for t in texts], texts
    )
    counts = rng.poisson(mean, users)
    counts[0] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)])
    events = int(offsets[-1])
    time = np.concatenate([np.sort(AS_OF - rng.integers(1, 90 * DAY, c)) for c in counts])
    text = rng.integers(0, len(texts), events)
    value = np.where(rng.random(events) < 0.5, np.nan, rng.normal(0, 50, events))
    return Profiles(
        np.array([f"u{i}" for i in range(users)], object),
        np.full(users, AS_OF),
        offsets,
        time,
        kind[text].astype(np.uint8),
        text.astype(np.int32),
        value.astype(np.float32),
        modalities,
        table,
    )


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Of the same parameters, to the rounding of sums in fp32: measured against the largest of a parameter."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, atol=2e-5 + 1e-5 * largest, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def tiny_towers(
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    seeded: bool = True,
    live: bool = True,
    named: bool = True,
    features: bool = False,
    user_token: bool = True,
    modality_tokens: bool = True,
) -> Towers:
    """A small embedded model; `live` gives its residual branches weights, which start at zero otherwise."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer([" ".join(WORDS), "will this user do it? nothing, three times"], 300)
    backbone = embedded_backbone(width, layers, len(tokenizer))
    if live:
        for layer in backbone.get_decoder().layers:
            torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.1)
            torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.1)
    encoder, coarse = NgramEncoder(32, 512), (user_token, modality_tokens)
    towers = Towers(backbone, tokenizer, encoder, ("bill", "mini"), 16, 3, seeded, named, False, features, *coarse)
    towers.settings = {
        "format": persistence.FORMAT,
        "modalities": ["bill", "mini"],
        "events": [8, 6],
        "backbone": {"kind": "embedded", "config": backbone.config.to_diff_dict()},
        "text_encoder": towers.text_encoder.settings(),
        "dim": 16,
        "prompt_tokens": 3,
        "seeded": seeded,
        "named": named,
        "hybrid": False,
        "event_features": features,
        "user_token": user_token,
        "modality_tokens": modality_tokens,
    }
    return towers.eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What another process computes on one thread is computed here in the same way: sums of more round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def profiles() -> Profiles:
    return random_profiles()


@pytest.fixture
def towers() -> Towers:
    return tiny_towers()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket of a server in this process, which starts when a test first asks for it; the environment leads there."""
    from moto.server import ThreadedMotoServer  # half a second that most tests need not wait for

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        UPath("s3://bucket").fs.mkdir("bucket")
        yield "s3://bucket"
    server.stop()
