"""The model `beaver_jax` of lm-evaluation-harness.

Texts become ids, are cut, and end as in its model of Hugging Face's transformers, so
that both give the same results; what is computed is computed by this package.
"""

from collections.abc import Sequence
import sys
from typing import Any

import jinja2
from lm_eval import __main__ as command_line
from lm_eval import utils
from lm_eval.api import model as models
from lm_eval.api import registry
from lm_eval.models import utils as model_utils

from beaver_jax.evaluate import language_model
from beaver_jax.rollout import sampling

SAMPLER = ('temperature', 'top_k', 'top_p', 'repetition_penalty')
LONGEST = 256  # tokens that are generated where the task does not say


@registry.register_model('beaver_jax')
class BeaverJaxLM(models.TemplateLM):
    """A language model of this package, for `lm_eval`."""

    def __init__(
        self,
        pretrained: str = '',
        batch_size: int | str = language_model.BATCH,
        max_batch_size: int = language_model.BATCH,
        max_length: int | None = None,
        dtype: str = 'auto',
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        seed: int = 0,
        device: str | None = None,
        **unknown: Any,
    ):
        """Loads a model.

        Args:
          pretrained: A stage's directory or a Hugging Face directory.
          batch_size: Rows that are scored or continued at a time, or 'auto'.
          max_batch_size: What 'auto' is.
          max_length: The most tokens that are read; None for the model's positions.
          dtype: 'float32', 'bfloat16', or 'auto': bfloat16 on accelerators.
          add_bos_token: Whether texts begin with a BOS; None for the tokenizer's way.
          prefix_token_id: What a text without a context stands behind; None for BOS.
          seed: Of the sampling.
          device: Not used, though the command line always gives one: JAX's own
            JAX_PLATFORMS chooses.
          **unknown: Nothing else is known.

        Raises:
          ValueError: The path holds no language model, or an argument is unknown or
            out of range.
        """
        super().__init__()
        if unknown:
            raise ValueError(
                f'--model_args: {", ".join(sorted(unknown))}: unknown to beaver_jax, '
                'which has pretrained, batch_size, max_batch_size, max_length, dtype, '
                'add_bos_token, prefix_token_id and seed.'
            )
        size = max_batch_size if _is_auto(batch_size) else _whole(batch_size)
        self._model = language_model.LanguageModel(
            str(pretrained),
            dtype=dtype,
            batch_size=size,
            max_length=max_length,
            add_bos=add_bos_token,
            seed=seed,
        )
        self._texts = self._model.texts
        self.tokenizer, self._dtype = self._texts.tokenizer, dtype
        self._prefix = self._texts.first_id
        if prefix_token_id is not None:
            self._prefix = int(prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """The EOS."""
        return self._texts.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context stands behind."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer is, as the name of a file."""
        return self.tokenizer.name_or_path.replace('/', '__')

    @property
    def max_length(self) -> int:
        """The most tokens that are read."""
        return self._model.max_length

    @property
    def batch_size(self) -> int:
        """Rows at a time."""
        return self._model.batch_size

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Ids of a text."""
        return self._texts.encode(string, add_special_tokens)

    def get_model_info(self) -> dict[str, Any]:
        """What the results' config tells of the model."""
        return {
            'model_num_parameters': self._model.parameters,
            'model_dtype': self._dtype,
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation's text; without system messages if the template has none."""

        def render(messages):
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        try:
            return render(chat_history)
        except jinja2.exceptions.TemplateError:
            return render([one for one in chat_history if one['role'] != 'system'])

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        **unused: Any,
    ) -> list[tuple[float, bool]]:
        said = self._model.score([(before, behind) for _, before, behind in requests])
        found = [(one.logp, one.greedy) for one in said]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:  # a window of a text is none that is asked for
                self.cache_hook.add_partial('loglikelihood', texts, answer)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, by windows of max_length tokens."""
        owners, windows = [], []
        for owner, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                owners.append(owner)
                windows.append((None, *utils.make_disjoint_window(window)))
        found = [0.0] * len(requests)
        said = self._loglikelihood_tokens(windows)
        for owner, (logp, _) in zip(owners, said, strict=True):
            found[owner] += logp
        for request, logp in zip(requests, found, strict=True):
            self.cache_hook.add_partial('loglikelihood_rolling', request.args, logp)
        return found

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """What follows each context, up to a stop string, the EOS or a limit."""
        prompts = [self._prompt(*request.args) for request in requests]
        found = []
        answers = self._model.generate(prompts)
        for request, prompt, ids in zip(requests, prompts, answers, strict=True):
            text = model_utils.postprocess_generated_text(
                self._texts.decode(ids), list(prompt.stop), None
            )
            self.cache_hook.add_partial('generate_until', request.args, text)
            found.append(text)
        return found

    def _prompt(self, context: str, asked: dict[str, Any]) -> language_model.Prompt:
        how: dict[str, Any] = dict(model_utils.normalize_gen_kwargs(asked, LONGEST))
        eos = self._texts.decode([self.eot_token_id], special=True)
        stop = model_utils.handle_stop_sequences(how.pop('until'), eos=eos)
        return language_model.Prompt(
            self.tok_encode(context) or [self.prefix_token_id],
            how.pop('max_gen_toks'),
            _sampler(how),
            tuple(one for one in stop if one),
        )


def command(argv: Sequence[str]) -> None:
    """Runs the command line of `lm_eval`."""
    sys.argv = ['lm_eval', *argv]
    command_line.cli_evaluate()


def _sampler(how: dict[str, Any]) -> sampling.Sampler:
    """The sampler of a request's settings, beside limit and stop strings."""
    samples = how.pop('do_sample')
    filters = {name: how.pop(name) for name in SAMPLER if name in how}
    if how.pop('num_beams', 1) != 1 or how:
        raise ValueError(
            f'generation_kwargs: {", ".join(how) or "num_beams"}: unknown to '
            'beaver_jax, which has until, max_gen_toks, do_sample and '
            f'{", ".join(SAMPLER)}.'
        )
    if not samples:
        filters = {'repetition_penalty': filters.get('repetition_penalty', 1.0)}
        return sampling.Sampler(temperature=0.0, **filters)
    if not filters.get('temperature', 0.0) > 0:
        raise ValueError(
            'generation_kwargs: do_sample=True without a temperature above 0; name '
            'one, or leave do_sample out for greedy decoding.'
        )
    return sampling.Sampler(**filters)


def _is_auto(batch_size: int | str) -> bool:
    return str(batch_size).partition(':')[0] == 'auto'


def _whole(batch_size: int | str) -> int:
    try:
        return int(batch_size)
    except ValueError:
        raise ValueError(
            f"batch_size={batch_size!r}; must be a whole number, or 'auto'."
        ) from None
