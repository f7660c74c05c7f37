"""Which words count: five models of one text, each of which gives every word a score, and the logit is their sum.

    logit = sum_t w_t s_t,   P(positive) = sigmoid(logit)

    model             s_t, what word t says                       w_t, how much it counts
    rnn, gru          l_t - l_{t-1}: how it moves the logit        1
    token-mlp         f(x_t), each word alone                      1 / t
    weighted-mlp      f(x_t)                                       softmax_t g(x_t)
    local-attention   f(y_t), y: the words around t                softmax_t (g(y_t) + p_t)

    x  [b, t, e]  word vectors, learned      l  [b, t]  v.h_t + c, h_t: states of a recurrence; l_0 = 0
    y  [b, t, e]  x + windowed attention     f, g  two outputs of one small network, applied to each word
    p  [b, t]     place: a(words before t) + d(words after t), learned; reviewers conclude at the end

The recurrent models classify by their last state: l_t is what their scores add up to, and the first word bears the
bias c. No output has a bias that belongs to no word, so a text without words has the logit 0, and the scores leave
nothing unexplained.

Source: an exercise of a course on deep learning; attention over words as Yang et al. 2016, "Hierarchical
attention networks". What differs: the scores of the recurrent models, several heads and learned distances in the
attention, the place of a word, dropout, and word vectors that are learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.weights import length_mask, normalise, softmax
from weigher.errors import RequestError
from weigher.tokens.local_attention import LocalAttention, check_heads, window_radius
from weigher.tokens.recurrent import GRU, Elman

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Model = Literal["rnn", "gru", "token-mlp", "weighted-mlp", "local-attention"]
MODELS: tuple[Model, ...] = get_args(Model)
"""The five models, each answering "which words count?" more fully than the one before."""

_DOUBLINGS = 14  # of a distance to the ends of a text that differ: from 2^13 words on all are alike

VECTOR_SCALE = 0.3
"""Root mean square of a channel of a first word vector. A step of Adam is as long for a small number as for a large
one: vectors a third as large are turned to what few texts say of a word, those three times as large hardly move."""


@dataclass(frozen=True)
class ScorerConfig:
    """Which model, and its sizes."""

    model: Model = "local-attention"
    """rnn, gru, token-mlp, weighted-mlp or local-attention."""
    embedding: int = 100
    """Channels of a word vector."""
    hidden: int = 64
    """Channels of the state (rnn, gru)."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Hidden layers of the network that scores a word (the other three)."""
    window: int = 5
    """Words that one word looks at, itself included (local-attention); odd."""
    heads: int = 5
    """Attention heads (local-attention); they divide the embedding."""
    place: bool = True
    """Whether the weight of a word depends on how far it stands from the first and the last one, too
    (local-attention)."""
    dropout: float = 0.5
    """Share of the channels of word vectors, and of what attention finds, that are left out in training; the narrow
    layers above bear none."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise RequestError(f"model = {self.model!r}; there are {', '.join(MODELS)}")
        sizes = {"embedding": self.embedding, "hidden": self.hidden, "heads": self.heads}
        for name, value in {**sizes, **{f"layers[{i}]": size for i, size in enumerate(self.layers)}}.items():
            if value < 1:
                raise RequestError(f"{name} = {value}; at least 1 is needed")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"dropout = {self.dropout}; a share from 0 to below 1 is needed")
        window_radius(self.window)
        if self.model == "local-attention":
            check_heads(self.embedding, self.heads)

    @property
    def is_recurrent(self) -> bool:
        """Whether the model reads from the first word to the last."""
        return self.model in ("rnn", "gru")

    @property
    def is_weighted(self) -> bool:
        """Whether the model learns how much each word counts."""
        return self.model in ("weighted-mlp", "local-attention")

    @property
    def knows_place(self) -> bool:
        """Whether the weight of a word depends on where it stands."""
        return self.place and self.model == "local-attention"

    @property
    def radius(self) -> int:
        """How many words to either side bear on the score of one."""
        return window_radius(self.window) if self.model == "local-attention" else 0


@dataclass(frozen=True, eq=False, slots=True)
class TokenScores:
    """What each token says and how much it counts, both `[b, t]` and 0 where padded."""

    scores: Tensor
    weights: Tensor

    @property
    def logits(self) -> Tensor:
        """The logit of each row, `[b]`: sum_t w_t s_t."""
        return (self.weights * self.scores).sum(-1)


def logit_changes(logits: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Return by how much each token moved a running logit that began at 0; what they add up to is its last value.

        s_t = l_t - l_{t-1},   l_0 = 0

    Shapes: logits `[b, t]` (real), mask `[b, t]`, True on the first tokens of each row -> `[b, t]`.

    >>> logit_changes(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[True, True, False]])).tolist()
    [[1.0, 2.0, 0.0]]
    """
    return torch.where(mask, logits - F.pad(logits, (1, -1)), 0)


def place_bias(tables: Float[Tensor, "2 k"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Return what the place of a token adds to its weight before the softmax, from tables over doublings of distance.

        p_t = a(n_t) + d(m_t),   a(n) = line through a_0, a_1, ... at n = 0, 1, 3, 7, ..., 2^j - 1;   constant beyond

    n_t, m_t: tokens before and after t. Shapes: tables `[2, k]`, a and d (real), mask `[b, t]`, True on the first
    tokens of each row -> `[b, t]`; whatever stands where the mask is False means nothing.

    >>> tables = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
    >>> place_bias(tables, torch.ones(1, 4, dtype=torch.bool)).tolist()
    [[0.0, 1.0, 1.5849624872207642, 7.0]]
    """
    before = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    after = (mask.sum(1, keepdim=True) - 1 - before).clamp(min=0)
    steps = torch.stack([before, after]).add(1).log2().clamp(max=tables.shape[1] - 1)  # [2, b, t]
    knot = steps.long().clamp(max=tables.shape[1] - 2)
    left, right = (tables.gather(1, knots.flatten(1)).view(knot.shape) for knots in (knot, knot + 1))
    return torch.lerp(left, right, (steps - knot).to(tables.dtype)).sum(0)


def token_network(inputs: int, layers: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return fully connected layers with ReLU that are applied to each token alone: [*, inputs] -> [*, outputs].

    Matrices begin at He's scale, sqrt(2 / inputs of the layer), so that what comes out is as large as what goes in,
    however many layers there are. At torch's default scale three layers leave a fifteenth of it, little beside the
    biases, and with some seeds a narrow network learned hardly more than one direction.

    >>> token_network(100, (64, 32), 1)(torch.randn(2, 7, 100)).shape
    torch.Size([2, 7, 1])
    """
    parts: list[nn.Module] = []
    for before, after in pairwise((inputs, *layers)):
        parts += [nn.Linear(before, after), nn.ReLU()]
    parts.append(nn.Linear((inputs, *layers)[-1], outputs))
    for layer in parts:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*parts)


class TokenScorer(nn.Module):
    """Word vectors and one of the five models over them; a padded batch gives what its rows give alone.

    `words` known tokens have the ids 0 ... words - 1; the id `words` is any other.
    Shapes: ids `[b, t]` with t >= 1, lengths `[b]` -> `TokenScores`.

    >>> scorer = TokenScorer(words=10, config=ScorerConfig("weighted-mlp")).eval()
    >>> found = scorer(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))
    >>> found.weights[1].tolist(), bool(found.logits[1] == found.scores[1, 0])
    ([1.0, 0.0, 0.0], True)
    """

    def __init__(self, words: int, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(words + 1, config.embedding)
        nn.init.normal_(self.embedding.weight, std=VECTOR_SCALE)
        self.dropout = nn.Dropout(config.dropout)
        if config.is_recurrent:
            cell = Elman if config.model == "rnn" else GRU
            self.recurrence = cell(config.embedding, config.hidden)
            self.head = nn.Sequential(nn.Linear(config.hidden, 1))
        else:
            if config.model == "local-attention":
                self.attention = LocalAttention(config.embedding, config.window, config.heads, config.dropout)
                if config.knows_place:
                    self.place = nn.Parameter(torch.zeros(2, _DOUBLINGS))
            outputs = 2 if config.is_weighted else 1
            self.head = token_network(config.embedding, config.layers, outputs)

    def forward(self, ids: Int[Tensor, "b t"], lengths: Int[Tensor, " b"]) -> TokenScores:
        """Return the scores and weights of the tokens."""
        return self.read(self.embedding(ids), lengths)

    def read(self, x: Float[Tensor, "b t e"], lengths: Int[Tensor, " b"]) -> TokenScores:
        """Return the scores and weights of tokens that are given as vectors."""
        mask = length_mask(lengths, x.shape[1])
        x = self.dropout(torch.where(mask[..., None], x, 0))
        if self.config.is_recurrent:
            return self._weighed(self.head(self.recurrence(x)), mask)
        return self._weighed(self._outputs(x, mask), mask)

    def read_in_pieces(self, ids: Int[Tensor, "b t"], lengths: Int[Tensor, " b"], piece: int) -> TokenScores:
        """Return what `forward` returns in evaluation, holding vectors and states of about `piece` tokens at a time.

        A token is scored by the words around it, or by the state before it: what lies further off is not needed.
        """
        mask, radius = length_mask(lengths, ids.shape[1]), self.config.radius
        outputs: list[Tensor] = []
        state = None
        for begin in range(0, ids.shape[1], piece):
            first = max(0, begin - radius)
            part = slice(first, begin + piece + radius)
            x = torch.where(mask[:, part, None], self.embedding(ids[:, part]), 0)
            if self.config.is_recurrent:
                states = self.recurrence(x, state)
                state = states[:, -1]
                outputs.append(self.head(states))
            else:
                outputs.append(self._outputs(x, mask[:, part])[:, begin - first : begin - first + piece])
        return self._weighed(torch.cat(outputs, 1), mask)

    @torch.no_grad()
    def add_bias(self, bias: float) -> None:
        """Add a number to the logit of every text that has words: to each score, or to the first (rnn, gru)."""
        output = self.head[-1]
        assert isinstance(output, nn.Linear)
        output.bias[0] += bias

    def _outputs(self, x: Tensor, mask: Tensor) -> Tensor:
        """What is said of each token of x `[b, t, e]` by the words around it: f and, where weights are learned, g."""
        return self.head(self.attention(x, mask) if self.config.model == "local-attention" else x)

    def _weighed(self, outputs: Tensor, mask: Tensor) -> TokenScores:
        """Outputs `[b, t, 1 or 2]`, or running logits `[b, t, 1]`, as scores and weights of the real tokens."""
        first = outputs[..., 0]
        if self.config.is_recurrent:
            return TokenScores(logit_changes(first, mask), mask.to(first.dtype))
        if not self.config.is_weighted:
            weights = normalise(mask.to(first.dtype), 1)
        else:
            loudness = outputs[..., 1]
            if self.config.knows_place:
                loudness = loudness + place_bias(self.place, mask)
            weights = softmax(loudness, 1, mask)
        return TokenScores(torch.where(mask, first, 0), weights)
