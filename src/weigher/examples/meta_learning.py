"""Meta-learners: networks that learn a task from a support set, trained over many tasks to answer its queries.

    MAML          p_0 = theta,   p_{j+1} = p_j - lr d/dp L(f(x_s; p_j), y_s),   answer f(x_q; p_J)       `Maml`
    contextual    r = mean_i encoder(x_si, y_si),                               answer decoder(x_q, r)   `Contextual`
    metric        v_c = mean of embed(x_s) over label c,        answer -|embed(x_q) - v_c|^2 per class   `Metric`
    matching      a_i = softmax_i cos(embed(x_q), embed(x_si)), answer log sum of a_i over label c       `Matching`

    trained by    min_theta mean over tasks of L(answer, y_q)                                            `meta_train`

    x_s, y_s      support of one task, s examples;  x_q, y_q  its queries;  b tasks at a time
    f, L          any module that `vmap` can map, any loss (prediction, target) -> scalar mean over examples
    theta         the start that all tasks share: in MAML it is what is learned, and the inner steps are plain descent

Second order differentiates through the inner steps; first order takes their gradients as constants: p_J = theta + what
does not depend on theta. All tasks of a batch go through one `vmap`. In evaluation mode MAML takes `test_steps`.

Each learner also answers without the support of the task (`unaided`): MAML from its start, the others with a support
that tells nothing of the task, which costs a learner nothing that does not read it. `Bottleneck` wraps a learner so
that inputs reach it through a noisy channel whose nats are paid for, the earlier remedy against memorising.

Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400 (MAML); Garnelo et al. 2018, arXiv 1807.01613 (conditional neural
process); Snell, Swersky and Zemel 2017, arXiv 1703.05175 (prototypes); Vinyals et al. 2016, arXiv 1606.04080 (matching,
without its embeddings that see the whole support set); Yin et al. 2020, arXiv 1912.03820 (bottleneck, there on
activations, with the whole of MAML behind it).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from weigher.errors import RequestError, WeigherError
from weigher.examples.meta_augmentation import Augmentation, Permute, augment
from weigher.train.loop import History, LoopConfig, fit

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped

    from weigher.examples.episodes import Episodes

Params = dict[str, Tensor]
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(predictions [n, ...], targets [n, ...]) -> scalar, the mean over the n examples of one task."""


def maml_adapt(
    loss: Callable[[Params], Tensor],
    params: Mapping[str, Tensor],
    *,
    lr: float | Tensor,
    steps: int,
    first_order: bool = False,
) -> Params:
    """Return parameters after some steps of gradient descent, differentiable by all that the loss depends on.

        p_{j+1} = p_j - lr dloss/dp (p_j)

    Gradients flow to `params`, to `lr` and to what `loss` closes over (such as weights of its examples); with
    `first_order` only to `params` and `lr`, the slopes being constants. Works under `vmap`. Any number of `steps` from
    0 on; memory grows with them, unless `first_order`. Raises RequestError for steps < 0.

    >>> start = {"w": torch.tensor(1.0, requires_grad=True)}
    >>> found = maml_adapt(lambda p: p["w"] ** 2, start, lr=0.1, steps=2)["w"]
    >>> round(found.item(), 4), round(torch.autograd.grad(found, start["w"])[0].item(), 4)
    (0.64, 0.64)
    """
    if steps < 0:
        raise RequestError(f"steps = {steps}; needed is a number of inner steps, 0 or more")
    found = dict(params)
    for _ in range(steps):
        # detached before, so that no graph of the slopes is kept, and after, for what else the loss depends on
        at = {name: p.detach() for name, p in found.items()} if first_order else found
        slopes = grad(loss)(at)
        found = {name: p - lr * (slopes[name].detach() if first_order else slopes[name]) for name, p in found.items()}
    return found


class MetaLearner(nn.Module, ABC):
    """Something that answers queries about a task after a look at its support set."""

    loss: TaskLoss
    heeds_names = True
    """Whether it makes a difference to it which label a class has; a permutation teaches it nothing otherwise."""

    @abstractmethod
    def predict(
        self,
        support_x: Shaped[Tensor, "b s *f"],
        support_y: Shaped[Tensor, "b s *d"],
        query_x: Shaped[Tensor, "b q *f"],
    ) -> Float[Tensor, "b q *o"]:
        """Answer the queries of b tasks."""

    def unaided(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Float[Tensor, "b q *o"]:
        """Answer with the support of the next task in the batch; RequestError for a batch of one.

        Its classes are numbered anew, in the i-th task by i further: tasks may share a rule, such as "1 is what stands
        upside down", that the support of any of them would tell.
        """
        if len(support_x) < 2:
            raise RequestError("one task: its support cannot be replaced by that of another; give 2 or more")
        y = support_y.roll(-1, 0)
        if y.dim() == 2 and not y.is_floating_point():
            y = (y + torch.arange(len(y), device=y.device)[:, None]) % (y.max() + 1)
        return self.predict(support_x.roll(-1, 0), y, query_x)

    def forward(self, episodes: Episodes) -> Float[Tensor, ""]:
        """Return the loss of the queries, a mean over tasks."""
        answers = self.predict(episodes.support_x, episodes.support_y, episodes.query_x)
        return vmap(self.loss)(answers, episodes.query_y).mean()


class Maml(MetaLearner):
    """Model-agnostic meta-learning: a start from which a few steps of descent on the support set solve a task.

    Dropout draws anew for every task and step; attention needs torch's math kernel (`torch.nn.attention.sdpa_kernel`).
    Raises RequestError for a module whose BatchNorm keeps statistics of its own (they would mix tasks), for torch's
    recurrent layers (it cannot map them), for rates or steps out of range; when used, for labels beyond the outputs and
    a loss that is not one number, and WeigherError for answers that are not finite.

    >>> learner = Maml(nn.Linear(3, 2), F.cross_entropy, inner_lr=0.5, inner_steps=1)
    >>> x, y = torch.randn(4, 6, 3), torch.randint(2, (4, 6))
    >>> learner.predict(x, y, x).shape
    torch.Size([4, 6, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: TaskLoss,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 3,
        test_steps: int | None = None,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < inner_lr < math.inf or inner_steps < 0 or (test_steps is not None and test_steps < 0):
            raise RequestError(
                f"inner_lr = {inner_lr}, inner_steps = {inner_steps}, test_steps = {test_steps}; needed are a rate "
                "above 0 and 0 steps or more"
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise RequestError("the model has no parameter to adapt; set requires_grad on those that are learned")
        for name, part in model.named_modules():
            if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
                raise RequestError(
                    f"{name or 'the model'} is a {type(part).__name__} that keeps running statistics, which would mix "
                    "tasks; use GroupNorm or LayerNorm, or track_running_stats=False (queries then see each other)"
                )
            if isinstance(part, (nn.RNNBase, nn.RNNCellBase)):
                raise RequestError(
                    f"{name or 'the model'} is a {type(part).__name__}, which torch cannot run for all tasks at once; "
                    "write its steps out with Linear layers, or use convolutions or attention"
                )
        self.model, self.loss, self.inner_lr, self.first_order = model, loss, inner_lr, first_order
        self.inner_steps = inner_steps
        self.test_steps = inner_steps if test_steps is None else test_steps

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Adapt to each task and answer."""
        return self.after(self.inner_steps if self.training else self.test_steps, support_x, support_y, query_x)

    def support_loss(self, answers: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return what the inner steps lower: the loss of the answers to one task's support examples x, y."""
        return self.loss(answers, y)

    def unaided(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Answer from the start, before any step."""
        return self.after(0, support_x, support_y, query_x)

    def after(self, steps: int, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Answer after so many steps of the parameters that are learned; frozen ones stay where they are."""
        start = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

        def one(x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
            def loss(params: Params) -> Tensor:
                value = self.support_loss(functional_call(self.model, params, (x,)), x, y)
                if value.dim():
                    raise RequestError(
                        f"the loss of a task's {len(x)} examples has the shape {list(value.shape)}; needed is one "
                        "number: take its mean"
                    )
                return value

            adapted = maml_adapt(loss, start, lr=self.inner_lr, steps=steps, first_order=self.first_order)
            return functional_call(self.model, adapted, (queries,))

        try:
            answers = vmap(one, randomness="different")(support_x, support_y, query_x)
        except (RuntimeError, IndexError) as error:
            if "out of bounds" not in str(error):
                raise
            raise RequestError(
                f"labels from {support_y.min().item()} to {support_y.max().item()} are more than the model has "
                "outputs; number the classes of every task anew, from 0"
            ) from error
        if not bool(answers.isfinite().all()):
            raise WeigherError(
                f"answers after {steps} inner steps are not finite; give a smaller inner_lr than {self.inner_lr}, "
                "fewer steps, or look for such values in the support set"
            )
        return answers


class Contextual(MetaLearner):
    """A conditional neural process: the support set is summed up in one vector, which goes with every query.

    encoder: `[..., e + d]` -> `[..., r]`, decoder: `[..., e + r]` -> `[..., o]`, embed: `[n, ...]` -> `[n, e]` (none:
    x itself). With `ways` labels are classes and d = ways, else real targets of d numbers (1 for y `[b, s]`).

    >>> learner = Contextual(nn.Linear(1 + 1, 8), nn.Linear(1 + 8, 1), F.mse_loss)
    >>> x = torch.randn(4, 5, 1)
    >>> learner.predict(x, x.sin(), x).shape
    torch.Size([4, 5, 1])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        loss: TaskLoss,
        *,
        embed: nn.Module | None = None,
        ways: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.loss, self.embed, self.ways = encoder, decoder, loss, embed, ways

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Sum up the support set and answer."""
        seen, asked = (_embedded(self.embed, x) for x in (support_x, query_x))
        if self.ways is not None:
            y = _one_hot(support_y, self.ways)
        else:
            y = support_y[..., None] if support_y.dim() == 2 else support_y
        context = self.encoder(torch.cat([seen, y.to(seen)], -1)).mean(1, keepdim=True)
        return self.decoder(torch.cat([asked, context.expand(-1, asked.shape[1], -1)], -1))


class Metric(MetaLearner):
    """Prototypes: a query belongs to the class whose mean embedding is nearest. Blind to which label a class has.

    >>> learner = Metric(nn.Linear(3, 8), F.cross_entropy, ways=2)
    >>> learner.predict(torch.randn(4, 2, 3), torch.tensor([[0, 1]] * 4), torch.randn(4, 5, 3)).shape
    torch.Size([4, 5, 2])
    """

    heeds_names = False

    def __init__(self, embed: nn.Module, loss: TaskLoss, *, ways: int) -> None:
        super().__init__()
        self.embed, self.loss, self.ways = embed, loss, ways

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Return minus the squared distances to the classes; -inf for a class that the support does not show."""
        seen, asked = (_embedded(self.embed, x) for x in (support_x, query_x))
        member = _one_hot(support_y, self.ways).to(seen)
        count = member.sum(1)
        prototypes = member.mT @ seen / count.clamp(min=1)[..., None]
        answers = -(asked[:, :, None] - prototypes[:, None]).square().sum(-1)
        return answers.masked_fill(count[:, None] == 0, -torch.inf)


class Matching(MetaLearner):
    """A matching network: each support example speaks for its class, the louder the nearer it is to the query.

    Blind to which label a class has, as `Metric` is.

    >>> learner = Matching(nn.Identity(), F.cross_entropy, ways=2)
    >>> x = torch.eye(2)[None]
    >>> learner.predict(x, torch.tensor([[0, 1]]), x).argmax(-1).tolist()
    [[0, 1]]
    """

    heeds_names = False

    def __init__(self, embed: nn.Module, loss: TaskLoss, *, ways: int) -> None:
        super().__init__()
        self.embed, self.loss, self.ways = embed, loss, ways

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Return the logarithms of the classes' shares; -inf for a class that the support does not show."""
        seen, asked = (F.normalize(_embedded(self.embed, x), dim=-1) for x in (support_x, query_x))
        member = _one_hot(support_y, self.ways).to(seen)
        shares = (asked @ seen.mT).softmax(-1) @ member
        return torch.where(shares > 0, torch.where(shares > 0, shares, 1).log(), -torch.inf)


class Bottleneck(MetaLearner):
    """A learner that sees inputs through a noisy channel: z ~ N(mu(x), sigma(x)^2), at a price for what passes.

        loss + price * mean over queries of KL(N(mu, sigma^2) || N(0, 1)),   z = mu in evaluation mode

    channel: `[n, ...]` -> `[n, 2 z]`, mu and log sigma; the learner takes z `[b, s, z]` for x. The channel stands
    outside the inner steps.
    """

    def __init__(self, channel: nn.Module, learner: MetaLearner, *, price: float) -> None:
        super().__init__()
        if not 0 <= price < math.inf:
            raise RequestError(f"price = {price}; needed is a finite number of 0 or more")
        self.channel, self.learner, self.price = channel, learner, price
        self.heeds_names = learner.heeds_names

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Let the learner answer on what passes the channel."""
        return self.learner.predict(self._passed(support_x)[0], support_y, self._passed(query_x)[0])

    def unaided(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Let the learner answer unaided."""
        return self.learner.unaided(self._passed(support_x)[0], support_y, self._passed(query_x)[0])

    def forward(self, episodes: Episodes) -> Tensor:
        """Return the loss of the queries and the price of what they passed."""
        z, nats = self._passed(episodes.query_x)
        answers = self.learner.predict(self._passed(episodes.support_x)[0], episodes.support_y, z)
        return vmap(self.learner.loss)(answers, episodes.query_y).mean() + self.price * nats.mean()

    def _passed(self, x: Tensor) -> tuple[Float[Tensor, "b s z"], Float[Tensor, "b s"]]:
        """Return what passes the channel, and the nats of each example."""
        mu, log_sigma = _embedded(self.channel, x).chunk(2, -1)
        sigma = log_sigma.exp()
        nats = (0.5 * (mu.square() + sigma.square() - 1) - log_sigma).sum(-1)
        return (mu + sigma * torch.randn_like(mu) if self.training else mu), nats


def _one_hot(y: Tensor, ways: int) -> Tensor:
    """Turn labels into shares; RequestError where they are no numbers 0..ways - 1."""
    if y.is_floating_point() or not 0 <= int(y.min()) <= int(y.max()) < ways:
        raise RequestError(
            f"labels from {y.min().item()} to {y.max().item()}; a learner of {ways} ways needs whole numbers 0 to "
            f"{ways - 1}: number the classes of every task anew"
        )
    return F.one_hot(y, ways)


def _embedded(embed: nn.Module | None, x: Shaped[Tensor, "b s *f"]) -> Float[Tensor, "b s e"]:
    """Embed the examples of all tasks at once."""
    return x if embed is None else embed(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def meta_train(
    learner: MetaLearner,
    draw: Callable[[np.random.Generator], Episodes],
    config: LoopConfig,
    *,
    augmentation: Augmentation | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> History:
    """Train a learner in place on tasks that `draw` makes, with labels changed by `augmentation`, anew in every step.

    Steps, rate, weight decay, clipping: `weigher.train.loop.LoopConfig`. Warns of a permutation that the learner cannot
    notice. Raises as `weigher.train.loop.fit`.

    >>> from weigher.examples.episodes import Episodes
    >>> def draw(generator):
    ...     x = torch.linspace(-1, 1, 4).expand(8, 4)[..., None]
    ...     y = x * torch.from_numpy(generator.normal(size=(8, 1, 1))).float()
    ...     return Episodes(x, y, x, y)
    >>> learner = Maml(nn.Linear(1, 1), F.mse_loss, inner_lr=0.5)
    >>> history = meta_train(learner, draw, LoopConfig(steps=100, learning_rate=0.05, warmup_steps=1))
    >>> history.train[-1]["loss"] < history.train[0]["loss"]
    True
    """
    if isinstance(augmentation, Permute) and not learner.heeds_names:
        warnings.warn(
            f"{type(learner).__name__} answers the same whatever number a class has: permuting labels has no effect",
            stacklevel=2,
        )

    def batches(_: int, generator: np.random.Generator) -> Episodes:
        episodes = draw(generator)
        return episodes if augmentation is None else augment(episodes, augmentation, generator)[0]

    def step(model: MetaLearner, episodes: Episodes) -> dict[str, Tensor]:
        return {"loss": model(episodes)}

    return fit(learner, step, batches, config, device=device, progress=progress)
