"""Peak memory of loading a sharded checkpoint onto eight devices.

    python -m benchmarks.load [--gigabytes 1] [--dtype float32] [--stored float32]
                              [--json FILE]

Makes a random LLaMA in files of a quarter of its size, then loads it in a process of
its own, on eight (fake) devices, and compares the growth of that process's resident
memory with the size of the parameters in the type that they are loaded in. What the
runtime needs whatever the model is measured beside it, by loading a model of a few
kilobytes in the same way; the ratio contains it.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import sharding
from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import hf
from beaver_jax.models import saving
from beaver_jax.models import transformer
from beaver_jax.stages import inputs

FLAGS = '--xla_force_host_platform_device_count=8'
LARGE: dict[str, Any] = {
    'vocab_size': 32_000,
    'embed_dim': 1024,
    'num_heads': 16,
    'num_kv_heads': 16,
    'head_dim': 64,
    'mlp_dim': 2816,
}
NOTHING: dict[str, Any] = {name: 8 for name in LARGE} | {'num_layers': 1}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--gigabytes', type=float, default=1.0, help='size of the parameters'
    )
    parser.add_argument('--dtype', default='float32', help='type of the parameters')
    parser.add_argument('--stored', default='float32', help='type in the files')
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    parser.add_argument('--load', help=argparse.SUPPRESS)  # the process that loads
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(arguments.load, arguments.dtype)))
        return
    width = np.dtype(jnp.dtype(arguments.dtype)).itemsize
    parameters = arguments.gigabytes * 1e9 / width
    with tempfile.TemporaryDirectory() as directory:
        write(directory, NOTHING, arguments.stored)
        constant = measured(directory, arguments.dtype)['peak_growth_bytes']
        # A layer has 4·1024² + 3·1024·2816 = 12.8 million, the rest 65.5 million.
        layers = max(1, round((parameters - 65.5e6) / 12.85e6))
        write(directory, LARGE | {'num_layers': layers}, arguments.stored)
        result = measured(directory, arguments.dtype)
    result |= {'constant_bytes': constant, 'stored': arguments.stored}
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def measured(directory: str, dtype: str) -> dict[str, Any]:
    """What a process of its own says of loading a directory."""
    command = [sys.executable, '-m', 'benchmarks.load', '--load', directory]
    output = subprocess.run(
        [*command, '--dtype', dtype],
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def write(directory: str, sizes: dict[str, Any], stored: str) -> None:
    """Writes a random model of these sizes, in four files or more."""
    config = config_lib.TransformerConfig(**sizes)
    random = np.random.default_rng(0)
    shapes = hf.abstract_params(transformer.CausalLM(config))
    params = jax.tree.map(
        lambda x: random.standard_normal(x.shape, np.float32).astype(jnp.dtype(stored)),
        shapes,
    )
    fields = families.FAMILIES['llama'].to_hf(config)
    saving.save(
        directory,
        fields | {'architectures': ['LlamaForCausalLM']},
        hf.export_names(config, params),
        shard_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(params)) // 4,
    )


def load(directory: str, dtype: str) -> dict[str, Any]:
    """Loads the model, cut eight ways, and measures."""
    mesh = sharding.make_mesh(data=1, fsdp=8)
    before = resident('VmRSS')
    begun = time.perf_counter()
    _, params = hf.load_causal_lm(
        directory, place=inputs.placer(mesh), param_dtype=dtype
    )
    jax.block_until_ready(params)
    seconds = time.perf_counter() - begun
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak = resident('VmHWM')
    return {
        'devices': jax.device_count(),
        'files': len(list(pathlib.Path(directory).glob('*.safetensors'))),
        'dtype': dtype,
        'model_bytes': size,
        'peak_growth_bytes': peak - before,
        'ratio': round((peak - before) / size, 3),
        'peak_ratio': round(peak / size, 3),
        'seconds': round(seconds, 2),
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'jax': jax.__version__,
    }


def resident(kind: str) -> int:
    """Resident bytes of this process: now (VmRSS), or the most so far (VmHWM).

    Of Linux; getrusage's maximum would count the process that started this one.
    """
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f'{kind}:'))
    return int(line.split()[1]) * 1024


if __name__ == '__main__':
    main()
