"""What the keys of the configs mean, for `--help`: a line each, by regular expression.

Reasons and sources of values stand beside the defaults, in `fragments.py` and in the
config files.
"""

import re

_MODEL = r'(model|actor|reference|reward|critic|policy|costs\..+)'
_OPTIMIZER = r'(\w*_)?optimizer'

# The first expression that matches a whole key tells what it is.
MEANINGS = (
    ('stage', 'what is trained or done; the file decides'),
    ('preset', 'the preset that these values are from'),
    ('run', 'directory of the run; its stages are directories in it'),
    ('base', "model directory that the run's SFT starts from; empty: a fresh model"),
    ('seed', 'of data order, sampling and fresh parameters'),
    ('if_exists', 'directory begun by another config: refuse, resume or overwrite'),
    (
        'share_base',
        "reward, cost models and critics are adapters over the actor's base",
    ),
    (
        'offload',
        "models and optimizer states wait for their phase in the host's memory",
    ),
    (
        'dtype',
        'of every role: float32, bfloat16, or auto (bfloat16 on accelerators)',
    ),
    ('max_bad_steps', 'non-finite updates in a row that end the run'),
    ('late_compilation', 'after the first step: warn, error (end the run) or ignore'),
    # Machines and logs.
    (r'mesh\.data', 'replicas that see different rows; -1: all devices that are left'),
    (r'mesh\.fsdp', 'shards of parameters, which see different rows too'),
    (r'mesh\.tensor', 'shards of single matmuls'),
    (r'log\.every', 'steps between rows of metrics.jsonl'),
    (r'log\.tensorboard', 'write TensorBoard events too'),
    (r'log\.wandb', 'Weights & Biases project; none: off'),
    (r'log\.heartbeat', 'seconds between signs of life of a process; 0: none'),
    (r'checkpoint\.every', 'steps between checkpoints'),
    (r'checkpoint\.minutes', 'one too after so many minutes without; 0: never'),
    (r'checkpoint\.keep', 'newest checkpoints that are kept'),
    (r'checkpoint\.best', 'best checkpoints that are kept beside; 0: none'),
    (r'checkpoint\.metric', 'what is best is judged by, a name in metrics.jsonl'),
    (r'checkpoint\.mode', 'what of the metric is best: min or max'),
    # Rows.
    (r'data\.world', 'generate the built-in world and use it'),
    (r'data\.sft', 'sources of responses to learn: path[:proportion],…; docs/data.md'),
    (r'data\.reward_pairs', 'sources of pairs with the more helpful response'),
    (r'data\.cost_pairs', 'sources of pairs with the safer response and safety labels'),
    (r'data\.prompts', 'sources of prompts to answer'),
    (r'data\.\w+_test', 'held-out rows of that use; empty: a share of its prompts'),
    (r'data\.adapters', 'a Python file of functions, row -> record; names of sources'),
    (r'data\.columns', 'columns of unknown formats: prompt=question,response=answer,…'),
    (
        r'data\.template',
        'of conversations: beaver, chat; empty: as the model has it',
    ),
    (r'data\.test_share', 'share of prompts held out where no test file is named'),
    (r'data\.on_bad_row', 'a row that cannot be used: drop or error'),
    (
        r'data\.contradictions',
        'a pair whose safer response alone is unsafe: drop, keep_ranking or error',
    ),
    (r'data\.workers', 'processes that tokenize rows; 0: none beside this one'),
    # Models.
    (rf'{_MODEL}\.init', 'directory of a stage or a Hugging Face model'),
    (
        rf'{_MODEL}\.dtype',
        'of the computation, and of frozen parameters: auto, float32 or bfloat16',
    ),
    (
        rf'{_MODEL}\.quantize',
        'kernels of a frozen model, or of one under adapters: none, int8 or int4',
    ),
    (
        rf'{_MODEL}\.logits_chunk',
        'tokens whose logits are in memory at a time; 0: all; none: automatic',
    ),
    (rf'{_MODEL}\.remat', 'recomputed in the backward pass: none, dots or full'),
    (
        rf'({_MODEL}\.)?lora\.rank',
        'of adapters, which alone learn; 0: all parameters do',
    ),
    (rf'({_MODEL}\.)?lora\.alpha', 'adapters count alpha / rank'),
    (rf'({_MODEL}\.)?lora\.targets', 'linear maps with adapters, a regular expression'),
    (rf'({_MODEL}\.)?lora\.rslora', 'adapters count alpha / √rank'),
    (r'model\.resize_vocabulary', 'new tokens get the mean of the old embeddings'),
    (r'model\.tokenizer', 'tokenizer directory of a fresh model'),
    (r'model\.scratch\..+', 'size of a fresh model'),
    (r'model\.head\.score_dim', 'scores of a sequence'),
    (r'model\.head\.score_bias', 'the head has a bias'),
    (r'model\.head\.normalize', 'scores are used normalized'),
    (r'model\.head\.normalizer_type', 'RunningMeanStd or ExponentialMovingAverage'),
    (r'model\.head\.momentum', 'of ExponentialMovingAverage'),
    (r'(reward|costs\..+)\.normalize', "scores go through the model's normalizer"),
    (r'(reward|costs\..+)\.output', "which output of the model's head"),
    (
        r'(reward|costs\..+)\.max_length',
        'tokens that a score model with another tokenizer reads; 0: twice the limits',
    ),
    (r'costs\..+\.threshold', 'd: the mean cost is held below it; none: no constraint'),
    (r'costs\..+\.multiplier_init', 'λ at the start'),
    (r'costs\..+\.shaping', 'fixed weight subtracted from the reward; none: off'),
    # Supervised stages.
    ('max_length', 'tokens of a row, prompt and response'),
    ('batch_size', 'rows of a step, over all devices'),
    ('buckets', 'lengths that pairs are padded to; 1: all to max_length'),
    ('constraints', "outputs of a cost model: 'harm,privacy=CATEGORY|CATEGORY'"),
    ('pack', 'several rows to a sequence, which do not see each other'),
    ('parts', 'backward passes of an update; more need less memory'),
    ('epochs', 'passes over the rows'),
    ('steps', 'if above 0, steps instead of epochs'),
    (r'loss\.loss_type', 'sequence-wise or token-wise'),
    (r'loss\.regularization', 'ρ: weight of the mean squared score'),
    (r'loss\.normalize', 'the loss sees normalized scores'),
    # Optimizers.
    (rf'{_OPTIMIZER}\.learning_rate', 'at its peak'),
    (rf'{_OPTIMIZER}\.schedule', 'cosine or constant'),
    (rf'{_OPTIMIZER}\.warmup_ratio', 'share of the steps with a rising rate'),
    (rf'{_OPTIMIZER}\.weight_decay', 'of AdamW'),
    (rf'{_OPTIMIZER}\.(b1|b2|eps)', 'of AdamW'),
    (rf'{_OPTIMIZER}\.clip_norm', 'largest norm of the gradients; inf: not clipped'),
    # Reinforcement learning.
    ('max_prompt_length', 'tokens of a prompt; longer ones are shortened inside'),
    ('max_response_length', 'tokens of a response'),
    ('iterations', 'rounds of sampling, scoring and learning'),
    (r'watch\.then', 'after a sign that the policy diverges: warn, stop or ignore'),
    (r'watch\.kl', 'largest KL of a response to the reference, in nats; 0: none'),
    (r'watch\.entropy', 'smallest entropy of a token, in nats; 0: none'),
    (
        r'watch\.reward_drop',
        "largest fall of the reward, in standard deviations of the first responses'",
    ),
    (r'watch\.window', 'rows of metrics.jsonl whose means are judged'),
    (r'rollout\.prompts', 'prompts of an iteration'),
    (r'rollout\.samples_per_prompt', 'responses to each prompt'),
    (r'rollout\.temperature', 'of sampling and of the log-probabilities'),
    (
        r'rollout\.chunks',
        'the samples are scored in so many parts; more need less memory',
    ),
    (r'rollout\.slots', 'rows decoded at a time, refilled as they end; 0: all at once'),
    (
        r'rollout\.pack_sizes',
        'sizes of packs in which samples are read without padding; 0: none',
    ),
    (r'rollout\.prompt_buckets', 'lengths that prompts are padded to; needs slots'),
    (r'ppo\.kl_coeff', 'κ: weight of the KL penalty'),
    (r'ppo\.clip_ratio', "ε of PPO's ratio"),
    (r'ppo\.clip_score', 'largest reward of a token'),
    (r'ppo\.clip_value', "ε of the critics' values"),
    (r'ppo\.gamma', 'discount of later rewards'),
    (r'ppo\.gae_lambda', 'of generalized advantage estimation'),
    (r'ppo\.ptx_coeff', 'weight of the supervised loss beside'),
    (r'ppo\.epochs', 'passes over the samples of an iteration'),
    (r'ppo\.minibatches', 'updates of a pass'),
    (r'ppo\.parts', 'backward passes of an update; more need less memory'),
    (r'ppo\.truncation', 'a response cut by length: terminal or bootstrap'),
    (r'ppo\.per_token_mean', 'one mean over all tokens, not of row means'),
    (
        r'multiplier\.form',
        'projected ascent, or log space as in the paper: projected, log',
    ),
    (r'multiplier\.learning_rate', 'η of λ'),
    (r'multiplier\.max', 'upper bound of λ; inf: none'),
    (r'multiplier\.delay', 'iterations before λ moves'),
    (r'multiplier\.window', 'episode costs whose mean is compared with the threshold'),
    # Evaluation.
    ('models', "policies, NAME=DIRECTORY,…; empty: the run's finished ones"),
    ('baseline', 'the policy that the others are compared with'),
    ('benign', 'categories of prompts that nobody should refuse, a,b; else none'),
    ('score_pairs', 'held-out pairs that score models are measured on; 0: none'),
    ('kl', 'measure KL to the baseline, which then stays in memory'),
    (r'judge\.url', 'OpenAI-compatible base URL, https://HOST/v1; empty: no judge'),
    (r'judge\.model', 'that compares answers there; empty: no judge'),
    (r'judge\.key_variable', 'environment variable that holds the key; empty: no key'),
    (r'judge\.dimensions', 'what is judged, each for itself: docs/evaluation.md'),
    (r'judge\.pairs', 'policies compared: baseline (each with it) or all'),
    (r'judge\.temperature', 'of the judge; below 0: not sent'),
    (r'judge\.max_tokens', 'of a reply'),
    (r'judge\.max_tokens_key', 'its name in requests: max_completion_tokens, …'),
    (r'judge\.concurrency', 'calls at a time'),
    (r'judge\.requests_per_minute', '0: no limit'),
    (r'judge\.timeout', 'seconds until a call is given up'),
    (r'judge\.attempts', 'calls until a question is given up'),
    (r'judge\.backoff', 'seconds before the second attempt; then doubled'),
    (r'judge\.max_calls', 'of the run, all its starts together'),
    (r'judge\.max_total_tokens', 'of the run; 0: no bound'),
    (r'sampler\.temperature', '0 is greedy'),
    (r'sampler\.top_k', 'sample of so many likeliest tokens; 0: of all'),
    (r'sampler\.top_p', 'sample of the likeliest tokens of this probability'),
    (r'sampler\.repetition_penalty', 'above 1 for fewer repetitions'),
)


def of(key: str) -> str:
    """What a dotted key means; '' of one that only its own config knows."""
    found = (text for pattern, text in MEANINGS if re.fullmatch(pattern, key))
    return next(found, '')
