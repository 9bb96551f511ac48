"""Sections that config files share. Every default of a run is written here or there.

A value that follows another one, such as the path of an input that follows
`config.run`, is a reference: an override of `run` moves it along.
"""

import ml_collections

# The decoder that the built-in world is learnt with, about 150,000 parameters.
TINY_DECODER = {
    'embed_dim': 64,
    'num_layers': 2,
    'num_heads': 4,
    'num_kv_heads': 4,
    'head_dim': 16,
    'mlp_dim': 192,
    'max_positions': 128,
    'tie_embeddings': False,
}


def run(stage: str, preset: str) -> ml_collections.ConfigDict:
    """What every stage has: the run, its data, mesh, logging and checkpoints."""
    config = ml_collections.ConfigDict()
    config.stage = stage
    config.preset = preset
    config.run = f'runs/{preset}'
    # The model directory that a run's SFT starts from; empty for a fresh model.
    # Of llama-7b: a local copy of huggyllama/llama-7b.
    config.base = 'models/llama-7b' if preset == 'llama-7b' else ''
    config.seed = 0
    # A stage that the same config began goes on. What another config began is refused
    # ('refuse'), goes on under this one ('resume') or is moved aside ('overwrite', each
    # time: what it began goes on without it).
    config.if_exists = 'refuse'
    config.mesh = _dict(data=-1, fsdp=1, tensor=1)
    # Of the computation of every role, and of frozen models; a role's own section, such
    # as config.actor, counts over it. What learns is kept in float32. 'auto': bfloat16
    # on accelerators, float32 on CPUs.
    config.dtype = {'tiny': 'float32', 'llama-7b': 'bfloat16'}.get(preset, 'auto')
    config.data = data(config, world=preset == 'tiny')
    # heartbeat: seconds between signs of life of each process; 0 for none.
    config.log = _dict(every=1, tensorboard=True, wandb=_maybe(str), heartbeat=10.0)
    # After every so many steps, and when so many minutes have gone by since; 0 minutes
    # leave it at the steps. SIGTERM or Ctrl-C saves as well.
    # Beside the newest `keep` stay the `best` by a metric of the step that made them,
    # as in metrics.jsonl; 'min' or 'max' of it is best.
    config.checkpoint = _dict(
        every=100, minutes=30.0, keep=2, best=0, metric='train/loss', mode='min'
    )
    # A run ends after this many non-finite updates in a row; single ones are skipped.
    config.max_bad_steps = 5
    # What becomes of a run that compiles anything after its first step: 'warn', 'error'
    # ends it, 'ignore'.
    config.late_compilation = 'warn'
    config.costs = ml_collections.ConfigDict()
    return config


def data(
    config: ml_collections.ConfigDict, *, world: bool
) -> ml_collections.ConfigDict:
    """Sources of rows by use; of the built-in world, or empty.

    Entries, separated by commas: a file or directory with an optional proportion
    (`rows.jsonl:0.5`), whose rows are told by their columns, or safe-rlhf's
    `name[:proportion[:path]]`. docs/data.md has the names.
    """

    def file(name):
        return config.get_ref('run') + f'/world/{name}.jsonl' if world else ''

    return _dict(
        world=world,  # generate the built-in world first
        sft=file('sft'),
        sft_test='',
        reward_pairs=file('pairs_train'),
        reward_pairs_test=file('pairs_test'),
        cost_pairs=file('pairs_train'),
        cost_pairs_test=file('pairs_test'),
        prompts=file('prompts_train'),
        prompts_test=file('prompts_test'),
        # Share of prompts held out where no test file is named; of one prompt all
        # rows, in every stage of the run.
        test_share=0.1,
        # Of conversations: 'beaver', the original's; 'chat', the tokenizer's own chat
        # template; '' what the model that the stage starts from has: its tokenizer's
        # chat template, or the original's without one. Saved with what is trained.
        template='',
        # A Python file whose public functions, row -> record, are names of entries.
        adapters='',
        # Columns of rows without a name: 'prompt=question,response_0=a,response_1=b'
        # and so on; docs/data.md lists the parts. '' tells formats by their columns.
        columns='',
        on_bad_row='drop',  # or 'error'
        # A pair whose safer response is labelled unsafe, the other safe: 'drop' it,
        # 'keep_ranking' without the labels, or 'error'.
        contradictions='drop',
        # Processes that tokenize beside this one; their number changes no batch.
        # docs/data.md says when they are worth their start.
        workers=0,
    )


def model(config: ml_collections.ConfigDict, init) -> ml_collections.ConfigDict:
    """A model by directory: where it starts, and how it computes."""
    dtype = config.get_ref('dtype').identity()
    # Of a frozen model, or of one under adapters: 'int8' or 'int4' kernels.
    return _dict(
        init=init,
        dtype=dtype,
        remat='none',
        # Of a language model: 0 is all tokens at once; none by the vocabulary, see
        # `scoring.CHUNK`.
        logits_chunk=_maybe(int),
        quantize='none',
    )


def lora(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Low-rank adapters of one role, by default those of `config.lora`.

    Adapters stand on a model in the section's dtype; where actor and reference, or a
    critic and its score model, share it, in that of the actor or of the score model.
    """
    if 'lora' not in config:
        # Of all roles, and of the inputs that a chain trains first; a role's own
        # section, such as config.actor.lora, counts over it.
        config.lora = _dict(
            rank=0,  # above 0 adapters alone learn, over a frozen model
            alpha=16.0,  # adapters count alpha / rank, or alpha / √rank with rslora
            # The linear maps that are adapted: a regular expression of whole names.
            targets='layers/(attention/[qkvo]|mlp/(gate|up|down))',
            rslora=False,
        )
    section = ml_collections.ConfigDict()
    for name in config.lora:
        # identity: a reference of its own, so that changing a role leaves the others.
        section[name] = config.lora.get_ref(name).identity()
    return section


def optimizer(learning_rate: float, **changes) -> ml_collections.ConfigDict:
    """AdamW as in the original: betas 0.9 and 0.95, gradients clipped to norm 1."""
    section = _dict(
        learning_rate=learning_rate,
        schedule='cosine',
        warmup_ratio=0.03,
        weight_decay=0.0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        clip_norm=1.0,  # inf for no clipping
    )
    section.update(changes)
    return section


def supervised(
    config: ml_collections.ConfigDict, *, epochs: float, batch_size: int
) -> None:
    """Adds what SFT, reward and cost share: length, batches, passes over the rows."""
    config.max_length = 56 if config.preset == 'tiny' else 512
    config.batch_size = batch_size
    config.parts = 1  # backward passes per update; more of them need less memory
    config.epochs = float(epochs)
    config.steps = 0  # if above 0, this many steps instead of epochs


def preference(kind: str, preset: str) -> ml_collections.ConfigDict:
    """The config of a reward or cost model."""
    config = run(kind, preset)
    supervised(config, epochs=2, batch_size=64)
    # Above 1: batches of pairs of similar length, padded to one of so many lengths,
    # which are chosen from the data. A step is compiled for each of them.
    config.buckets = 1
    if kind == 'cost':
        # What the outputs of the model learn: 'harm' the labels of safety, and
        # 'harm,crime=Cybercrime|Economic Crime' also categories of harm.
        config.constraints = 'harm'
    config.model = model(config, config.get_ref('run') + '/sft')
    config.model.lora = lora(config)
    config.model.resize_vocabulary = False  # as in configs/sft.py
    # safe-rlhf keeps running statistics of the scores in the model; they are used
    # where `normalize` is true.
    config.model.head = _dict(
        score_dim=1,
        score_bias=True,
        normalize=False,
        normalizer_type='ExponentialMovingAverage',
        momentum=0.9,
    )
    config.loss = _dict(
        loss_type='sequence-wise',  # or 'token-wise'
        regularization=0.001,
        normalize=False,
    )
    config.optimizer = optimizer(2e-5, weight_decay=0.1)
    return config


def reinforcement(stage: str, preset: str) -> ml_collections.ConfigDict:
    """The config of PPO, to which costs may be added."""
    config = run(stage, preset)
    run_ref = config.get_ref('run')
    config.actor = model(config, run_ref + '/sft')
    config.actor.lora = lora(config)
    # + '': a reference of its own, so that changing one leaves the other.
    config.reference = model(config, config.actor.get_ref('init') + '')
    config.reward = model(config, run_ref + '/reward')
    config.reward.normalize = False
    config.reward.output = 0  # of the reward model's head
    config.reward.max_length = 0  # as in `cost`
    # Empty: each critic starts from the score model whose values it learns; where that
    # has another tokenizer than the actor, from config.actor.init under a fresh head.
    # A directory with the actor's tokenizer: from there, a score model or a policy.
    config.critic = model(config, '')
    config.critic.lora = lora(config)
    # With adapters: reward and cost models and their critics stand on the actor's base
    # as well, which is then in memory once. Needs score models that are adapters over
    # it: their stages, with model.lora.rank above 0, leave them; a chain sees to that.
    config.share_base = False
    # Models and optimizer states are on the devices in their own phases alone.
    config.offload = False
    config.max_prompt_length = 256
    config.max_response_length = 256
    config.iterations = 1000
    config.watch = watch()
    config.checkpoint.metric, config.checkpoint.mode = 'train/reward', 'max'
    config.rollout = _dict(
        prompts=128,  # per iteration
        samples_per_prompt=1,
        # Of sampling and of the log-probabilities alike.
        temperature=1.0,
        chunks=1,  # the samples are scored in this many parts
        # Rows that are decoded at a time. All at once (0) take the time of the longest
        # response; slots are for more rows than memory holds, or than keep a device's
        # matmuls busy: who has ended makes room for who waits.
        slots=0,
        # Above 0, models read samples in packs without their padding, of this many
        # different sizes at most; each size is a program.
        pack_sizes=0,
        prompt_buckets=1,  # lengths that prompts are padded to when they enter a slot
    )
    config.ppo = _dict(
        kl_coeff=0.02,
        clip_ratio=0.2,
        clip_score=50.0,
        clip_value=5.0,
        gamma=1.0,
        gae_lambda=0.95,
        ptx_coeff=0.0,
        epochs=1,
        minibatches=4,
        parts=1,
        truncation='terminal',  # or 'bootstrap'
        per_token_mean=False,
    )
    config.multiplier = multiplier()
    config.actor_optimizer = optimizer(1e-5, weight_decay=0.01)
    config.critic_optimizer = optimizer(5e-6, schedule='constant')
    if preset == 'tiny':
        tiny_reinforcement(config)
    if preset == 'llama-7b':
        llama_7b(config, 'actor', 'critic')
        config.ppo.kl_coeff = 0.01
        config.ppo.ptx_coeff = 16.0
        # In one part: each gathers what fsdp cuts anew (docs/scaling.md).
        config.rollout.chunks = 4
    return config


def tiny_reinforcement(config: ml_collections.ConfigDict) -> None:
    """Sizes and rates with which the built-in world is learnt in a minute or two."""
    config.max_prompt_length = 32
    config.max_response_length = 24
    config.iterations = 60
    # Without it the policy learns what the reward model overrates, such as repeated
    # steps, and becomes less helpful in truth.
    config.ppo.kl_coeff = 0.1
    config.ppo.epochs = 2
    config.ppo.minibatches = 2
    config.actor_optimizer.learning_rate = 1e-3
    config.critic_optimizer.learning_rate = 1e-3
    config.checkpoint.every = 20


def llama_7b(config: ml_collections.ConfigDict, *models: str) -> None:
    """Sets what 7B models need: recomputation where they learn, sharded states."""
    for name in models:
        config[name].remat = 'full'
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.checkpoint.every = 50


def watch() -> ml_collections.ConfigDict:
    """Signs that a policy diverges; each bound is for a mean over the window.

    Healthy runs of the built-in world stay far from all: KL below 4 nats, entropy
    above 0.1, and a reward that λ has moved down by less than a standard deviation.
    """
    return _dict(
        then='warn',  # or 'stop', 'ignore'
        # Nats of a response. Rewards that are learnt models are overrated at some tens
        # of them (arXiv 2210.10760).
        kl=50.0,
        entropy=0.01,  # nats of a token: a prompt has one response left
        # Below its best, in standard deviations of the first responses' rewards.
        reward_drop=2.0,
        window=10,  # rows of metrics.jsonl
    )


def multiplier() -> ml_collections.ConfigDict:
    """How λ moves."""
    section = _dict(
        form='projected',  # or 'log', the paper's
        learning_rate=0.1,
        max=5.0,  # inf for no bound
        delay=0,  # iterations before it moves at all
        window=128,  # episode costs whose mean is compared with the threshold
    )
    return section


def cost(
    config: ml_collections.ConfigDict,
    init,
    *,
    threshold: float | None,
    shaping: float | None = None,
) -> ml_collections.ConfigDict:
    """A cost: constrained with a threshold, or subtracted with a shaping coefficient.

    Args:
      config: That it is for.
      init: A cost model.
      threshold: d, in the cost model's units; None for no constraint.
      shaping: Fixed multiplier of reward shaping; None for none.
    """
    section = model(config, init)
    section.normalize = False
    section.output = 0  # of the cost model's head
    # Of sequences in its own ids, where its tokenizer is not the policy's; 0 is twice
    # config.max_prompt_length + config.max_response_length, as far as it has positions.
    section.max_length = 0
    section.threshold = _maybe(float, threshold)
    section.multiplier_init = 1.0
    section.shaping = _maybe(float, shaping)
    return section


def judge() -> ml_collections.ConfigDict:
    """Another model that compares answers, of any OpenAI-compatible endpoint."""
    return _dict(
        # Such as https://api.openai.com/v1, or that of a server of your own; without
        # both there is no judge.
        url='',
        model='',
        # The environment variable with the key, which is written nowhere; '' for none.
        key_variable='OPENAI_API_KEY',
        dimensions='helpfulness,harmlessness',
        pairs='baseline',  # each policy with the baseline; or 'all' of them
        temperature=0.0,  # below 0 it is not sent: some models refuse it
        max_tokens=512,  # of a reply
        max_tokens_key='max_tokens',  # newer models want 'max_completion_tokens'
        concurrency=8,  # calls at a time
        requests_per_minute=60.0,  # 0 for no limit
        timeout=60.0,  # seconds
        attempts=6,
        # Seconds before the second attempt; doubled before each later one, up to a
        # minute, and shortened by up to a half at random.
        backoff=1.0,
        # Of the run, however often it is started. Every request counts, also one that
        # fails; each comparison takes two.
        max_calls=2000,
        max_total_tokens=0,  # 0 for no bound
    )


def sampler(temperature: float) -> ml_collections.ConfigDict:
    """How text is sampled outside of training."""
    return _dict(temperature=temperature, top_k=0, top_p=1.0, repetition_penalty=1.0)


def _dict(**values) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(values)


def _maybe(kind: type, value=None):
    """A value that may be None and otherwise has a type."""
    if value is not None:
        return kind(value)
    return ml_collections.config_dict.placeholder(kind)
