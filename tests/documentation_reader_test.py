"""What the tests of pages read of a page."""

from tests import documentation

PAGE = r"""
Text with `python -m beaver_jax.plan --json=F`.

    rows=x.jsonl,y.jsonl
    train='.venv/bin/python -m beaver_jax.train'
    $train --config=a.py \
        --config.b=1 …
    $train --config.rows=$rows
    .venv/bin/python - <<'END'
    python -m beaver_jax.none
    END

1. A list:

        TOKEN=… python -m beaver_jax.serve m --host 0.0.0.0
        cd x && make demo SEED=1  # a remark
        python3.11 -m venv .venv && .venv/bin/pip install -e '.[gpu]'

        python launch/local.py --processes=2 -- --config=a.py

    --config.c=2

    sbatch --nodes=2 launch/slurm.sbatch --config=b.py
    xpk workload --command='python -m beaver_jax.train --config=c.py'

```sh
python -m beaver_jax.chat runs/x
```
"""


def test_commands_are_found_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(documentation, 'ROOT', tmp_path)
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    found = [(one.program, one.arguments) for one in documentation.commands(page)]
    assert found == [
        ('beaver_jax.chat', ('runs/x',)),  # fenced ones come first
        ('beaver_jax.train', ('--config=a.py', '--config.b=1')),
        ('beaver_jax.train', ('--config.rows=x.jsonl,y.jsonl',)),
        ('beaver_jax.serve', ('m', '--host', '0.0.0.0')),
        ('make', ('demo', 'SEED=1')),
        ('pip', ('install', '-e', '.[gpu]')),
        ('launch/local.py', ('--processes=2', '--', '--config=a.py')),
        ('', ('--config.c=2',)),
        ('beaver_jax.train', ('--config=b.py',)),
        ('beaver_jax.train', ('--config=c.py',)),
    ]
    words = ['python', '-m', 'beaver_jax.plan', '--json=F', '--config.c=2']
    assert documentation.words(page) == words
