"""The reference: a Hugging Face directory's model in PyTorch `transformers`, float32 on CPU."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_research.errors import UserError
from lm_research.hub.cases import Case
from lm_research.hub.safetensors import listed

EXTRA = (
    "verify compares with PyTorch `transformers`, which is not here; "
    "pip install 'lm_research[verify]' brings it"
)

LOGITS = ("logits", "prediction_logits", "last_hidden_state")  # of a trunk alone, the last
PAIRS = ("seq_relationship_logits", "sop_logits", "pooler_output")


class Reference:
    """A model as `transformers` has it.

    Attributes:
      versions: of the packages that it is made with.

    Raises:
      UserError: PyTorch or `transformers` is not installed, or `transformers` does not find all
        weights in the directory.
    """

    def __init__(self, directory: Path, architecture: str):
        try:
            import torch
            import transformers
        except ImportError:
            raise UserError(EXTRA) from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        self.model, told = getattr(transformers, architecture).from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if told["missing_keys"]:
            raise UserError(
                f"transformers' {architecture} finds no {listed(sorted(told['missing_keys']))} in "
                f"{directory}, so it cannot be the reference"
            )
        self.model.eval()
        # RoBERTa and its kin count positions from behind their padding's.
        self._first = 0
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                self._first = module.padding_idx + 1 if "position" in name else self._first
                module.padding_idx = None  # it would only withhold a gradient
        self._accepts = inspect.signature(self.model.forward).parameters

    @property
    def positions(self) -> bool:
        """Whether it can be told where tokens stand."""
        return "position_ids" in self._accepts

    @property
    def context(self) -> int | None:
        """How many positions it knows; None where its config names no limit."""
        found = getattr(self.model.config, "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    @property
    def one_row(self) -> bool:
        """Whether it reads each row by itself in a batch of one only.

        A causal XLNet's mask has no axis for rows, and rotary positions that go by the length of a
        text go by the longest one of a batch.
        """
        config = self.model.config
        rope = getattr(config, "rope_parameters", None) or {}
        by_length = rope.get("rope_type") in ("dynamic", "longrope")
        return by_length or getattr(config, "attn_type", "") == "uni"

    @property
    def pads_left(self) -> bool:
        """Whether a text says the same with padding before it.

        Their Mamba-2 sets padding to zero before a product that, with a bias, gives the convolution
        something to see all the same.
        """
        config = self.model.config
        return not (config.model_type == "mamba2" and config.use_bias)

    def order(self, case: Case) -> dict[str, int]:
        """When each parameter is first used, from the tokens to the loss."""
        modules = dict(self.model.named_modules())
        calls = dict.fromkeys(name for name, _ in self.activations(case, list(modules), []))
        return {
            f"{owner}.{name}": place
            for place, owner in enumerate(calls)
            if owner in modules
            for name, _ in modules[owner].named_parameters(recurse=False)
        }

    def measured(self, case: Case, gradient: bool) -> dict[str, np.ndarray]:
        """`logits` [tokens, V], the mean `loss`, and `gradient NAME` of every parameter.

        Args:
          case: the input.
          gradient: whether gradients are wanted.
        """
        import torch

        self.model.zero_grad()
        with torch.set_grad_enabled(gradient):
            logits, pair = self._outputs(case)
            goal = case.targets % logits.shape[-1]
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), torch.tensor(goal), reduction="none"
            )
            loss = (losses * torch.tensor(case.weights)).sum() / max(1.0, case.weights.sum())
            if pair is not None and case.pairs:
                loss = loss - torch.log_softmax(pair, -1)[:, 0].mean()
        found = {"logits": case.flat(logits.detach().numpy()), "loss": loss.detach().numpy()}
        if gradient:
            loss.backward()
            found |= {f"gradient {name}": grad for name, grad in self._gradients().items()}
        return {name: np.ascontiguousarray(array) for name, array in found.items()}

    @contextlib.contextmanager
    def in_float64(self) -> Iterator[None]:
        """Computes of the same weights in float64, also where `transformers` asks for float32.

        What is made of no weight stays as it is, such as the angles of rotary positions: the tables
        of a model are a part of what it computes.
        """
        import torch

        is_of = lambda value, dtype: isinstance(value, torch.Tensor) and value.dtype == dtype

        def wide(value):
            if is_of(value, torch.float32):  # products do not promote
                return value.double()
            return torch.float64 if value is torch.float32 else value

        class Double(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, function, types, given=(), named=None):
                named = named or {}
                if given and is_of(given[0], torch.float64) and function is torch.Tensor.float:
                    return given[0]
                product = function in (torch.einsum, torch.matmul, torch.Tensor.matmul)
                if any(is_of(x, torch.float64) for x in (given if product else given[:1])):
                    given = [wide(value) for value in given]
                    named = {name: wide(value) for name, value in named.items()}
                return function(*given, **named)

        with self._replaced(lambda weight: weight.double()), Double():
            yield

    @contextlib.contextmanager
    def nudged(self, seed: int) -> Iterator[None]:
        """Computes with each weight as it is or moved by a unit in its last place, at random."""
        import torch

        draw = torch.Generator().manual_seed(seed)

        def moved(weight):
            way = torch.randint(-1, 2, weight.shape, generator=draw)
            return torch.where(way == 0, weight, torch.nextafter(weight, way * torch.inf))

        with self._replaced(moved):
            yield

    @contextlib.contextmanager
    def _replaced(self, change: Callable[[Any], Any]) -> Iterator[None]:
        """Computes with what `change` makes of every weight."""
        kept = [(weight, weight.data) for weight in self.model.parameters()]
        self.model.zero_grad()
        try:
            for weight, before in kept:
                weight.data = change(before)
            yield
        finally:
            self.model.zero_grad()
            for weight, before in kept:
                weight.data = before

    def _gradients(self) -> dict[str, np.ndarray]:
        """By tensor: under every name that a tied weight has, as in memory and as in files."""
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        grads = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in self.model.named_parameters(remove_duplicate=False)
        }
        both = {**revert_weight_conversion(self.model, grads), **grads}
        return {name: grad.numpy() for name, grad in both.items()}

    def activations(
        self, case: Case, modules: Sequence[str], first: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What each of `modules` gives, call by call in the order of computing.

        Args:
          case: the input.
          modules: names of torch modules.
          first: those whose input is wanted, too; it is told as `NAME input`.
        """
        import torch

        found: list[tuple[str, np.ndarray]] = []

        def note(name: str, value: Any) -> None:
            value = value[0] if isinstance(value, tuple) else value
            if isinstance(value, torch.Tensor):
                found.append((name, value.detach().numpy().copy()))

        known = dict(self.model.named_modules())
        handles = []
        for name in modules:
            if name in known:
                hook = lambda module, given, made, name=name: note(name, made)
                handles.append(known[name].register_forward_hook(hook))
        for name in first:
            hook = lambda module, given, named, name=name: note(
                f"{name} input", given or named.get("hidden_states")
            )
            handles.append(known[name].register_forward_pre_hook(hook, with_kwargs=True))
        with torch.no_grad():
            logits, _ = self._outputs(case)
        for handle in handles:
            handle.remove()
        yield from found
        yield "logits", logits.numpy()

    def _outputs(self, case: Case) -> tuple[Any, Any]:
        """Logits [B, T, V], and what a head for rows says [B, ...], if there is one."""
        import torch

        given = {"input_ids": case.tokens}
        if case.order is not None:
            slots = np.eye(case.tokens.shape[1], dtype=np.float32)
            given["perm_mask"] = 1 - case.allowed.astype(np.float32)
            given["target_mapping"] = np.broadcast_to(slots, case.allowed.shape)
        elif not case.bare:
            given["attention_mask"] = case.present
            if self.positions:
                given["position_ids"] = self._first + case.position
        if case.source is not None:
            given = {f"decoder_{name}": value for name, value in given.items()}
            given |= {"input_ids": case.source, "attention_mask": case.source_present}
        if case.types is not None:
            given["token_type_ids"] = case.types
        made = self.model(**{name: torch.tensor(np.array(value)) for name, value in given.items()})
        logits = next(made[name] for name in LOGITS if name in made)
        if logits.ndim == 2:  # a detector's, of the second of two classes
            logits = torch.stack([torch.zeros_like(logits), logits], -1)
        return logits, next((made[name] for name in PAIRS if made.get(name) is not None), None)
