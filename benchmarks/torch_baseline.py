"""The rival: an iteration of PPO-Lagrangian in PyTorch, as safe-rlhf does it.

    python -m benchmarks.torch_baseline --preset cpu

`transformers` models: `generate` with its KV cache, samples scored by six models, then
three backward passes with AdamW. Each line read from standard input runs one iteration;
its seconds by phase are printed as a line of JSON. So `benchmarks.iteration` measures
it in turns with ours, each in a process of its own.
"""

import argparse
import itertools
import json
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional
import transformers

from benchmarks import shapes

CLIP_RATIO, CLIP_VALUE, CLIP_SCORE = 0.2, 5.0, 50.0
KL_COEFF, GAMMA, GAE_LAMBDA, LAMBDA = 0.02, 1.0, 0.95, 1.0


def main() -> None:
    """Builds the models, then runs an iteration for each line read."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--preset', choices=sorted(shapes.PRESETS), default='cpu')
    shape = shapes.PRESETS[parser.parse_args().preset]
    trainer = Trainer(shape)
    for line in sys.stdin:
        del line
        print(json.dumps(trainer.iteration()), flush=True)


class ScoreModel(nn.Module):
    """A decoder with a linear head: scores [B, T] at every position."""

    def __init__(self, config: transformers.LlamaConfig):
        """Random weights."""
        super().__init__()
        self.model = transformers.LlamaModel(config)
        self.head = nn.Linear(config.hidden_size, 1)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores in float32, as safe-rlhf's."""
        hidden = self.model(tokens, attention_mask=mask, use_cache=False)[0]
        return self.head(hidden.to(self.head.weight.dtype)).float().squeeze(-1)


class Trainer:
    """Six models of one shape, and the optimizers of the three that learn."""

    def __init__(self, shape: shapes.Shape):
        """Random weights from one seed."""
        torch.manual_seed(0)
        self.shape = shape
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.embed_dim,
            intermediate_size=shape.mlp_dim,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            max_position_embeddings=shape.length,
            tie_word_embeddings=False,
            attention_dropout=0.0,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=0,
        )
        make = transformers.LlamaForCausalLM
        self.actor, self.reference = self._placed(make, config, 2)
        self.reward, self.cost, *self.critics = self._placed(ScoreModel, config, 4)
        self.optimizers = [
            torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
            for model in (self.actor, *self.critics)
        ]

    def _placed(self, make: Any, config: Any, count: int) -> list[Any]:
        dtype = getattr(torch, self.shape.dtype)
        return [make(config).to(self.device, dtype) for _ in range(count)]

    def iteration(self) -> dict[str, float]:
        """Seconds of generation, scoring and update."""
        shape = self.shape
        prompts = torch.randint(1, shape.vocab_size, (shape.rows, shape.prompt))
        prompts = prompts.to(self.device)
        marks = [self._now()]
        sequences = self.actor.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=shape.response,
            min_new_tokens=shape.response,
        )
        marks.append(self._now())
        experience = self._score(sequences)
        marks.append(self._now())
        self._update(sequences, *experience)
        marks.append(self._now())
        seconds = [after - before for before, after in itertools.pairwise(marks)]
        return dict(zip(shapes.PHASES, seconds, strict=True))

    def _now(self) -> float:
        if self.device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    def _logps(self, model: Any, sequences: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(sequences)
        logits = model(sequences, attention_mask=mask, use_cache=False).logits
        logps = functional.log_softmax(logits[:, :-1].float(), dim=-1)
        return logps.gather(-1, sequences[:, 1:, None]).squeeze(-1)

    @torch.no_grad()
    def _score(self, sequences: torch.Tensor) -> tuple[Any, ...]:
        """Old log-probabilities, and by stream advantages, returns and old values."""
        start = self.shape.prompt - 1
        mask = torch.ones_like(sequences)
        logps = self._logps(self.actor, sequences)[:, start:]
        ref_logps = self._logps(self.reference, sequences)[:, start:]
        kl = KL_COEFF * (logps - ref_logps)
        streams = []
        for scorer, critic, sign in zip(
            (self.reward, self.cost), self.critics, (-1.0, 1.0), strict=True
        ):
            end = scorer(sequences, mask)[:, -1]
            values = critic(sequences, mask)[:, start:-1]
            rewards = sign * kl
            rewards[:, -1] += end
            rewards = rewards.clamp(-CLIP_SCORE, CLIP_SCORE)
            advantages = torch.zeros_like(rewards)
            last = torch.zeros_like(end)
            for t in reversed(range(rewards.shape[1])):
                after = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
                delta = rewards[:, t] + GAMMA * after - values[:, t]
                last = delta + GAMMA * GAE_LAMBDA * last
                advantages[:, t] = last
            streams.append((advantages, advantages + values, values))
        return logps, streams

    def _update(self, sequences, old_logps, streams) -> None:
        start = self.shape.prompt - 1
        mask = torch.ones_like(sequences)
        (reward_advantages, *_), (cost_advantages, *_) = streams
        advantages = (reward_advantages - LAMBDA * cost_advantages) / (1 + LAMBDA)
        ratio = torch.exp(self._logps(self.actor, sequences)[:, start:] - old_logps)
        clipped = ratio.clamp(1 - CLIP_RATIO, 1 + CLIP_RATIO)
        loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        self._step(self.actor, self.optimizers[0], loss)
        for critic, optimizer, (_, returns, old) in zip(
            self.critics, self.optimizers[1:], streams, strict=True
        ):
            values = critic(sequences, mask)[:, start:-1]
            near = torch.clamp(values, old - CLIP_VALUE, old + CLIP_VALUE)
            errors = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
            self._step(critic, optimizer, 0.5 * errors.mean())

    @staticmethod
    def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == '__main__':
    main()
