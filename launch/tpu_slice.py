"""A slice of TPUs, and the commands of gcloud that make it, ask of it and end it."""

import argparse
from collections.abc import Sequence
import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any

# States of a slice, and of the request in a queue that it may come from.
READY = ('READY',)
# What passes by itself, into being ready, lost or gone.
PASSING = (
    *('CREATING', 'STARTING', 'REPAIRING', 'RESTARTING', 'REIMAGING', 'DELETING'),
    *('ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'SUSPENDING'),
)
# What has ended for good. Whatever else stands still has disks that may be wanted.
LOST = ('PREEMPTED', 'TERMINATED', 'FAILED', 'SUSPENDED')

PATIENCE = 5  # readings that may fail in a row while a state is waited for


class PodError(RuntimeError):
    """What ends the launcher, and what to do."""


class Gcloud:
    """Runs gcloud, or prints what it would run."""

    def __init__(self, *, dry_run: bool):
        """Prepares nothing."""
        self.dry_run = dry_run

    def run(self, command: Sequence[str]) -> None:
        """Runs a command to its end.

        Raises:
          PodError: It failed.
        """
        say(f'$ {shlex.join(command)}')
        if self.dry_run:
            return
        code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        if code:
            raise PodError(f'{" ".join(command[:5])} failed with exit code {code}.')

    def read(self, command: Sequence[str]) -> dict[str, Any] | None:
        """What a command describes; None of what does not exist.

        Raises:
          PodError: It failed for another reason.
        """
        say(f'$ {shlex.join(command)}')
        if self.dry_run:
            return None
        found = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if found.returncode == 0:
            return json.loads(found.stdout)
        if 'NOT_FOUND' in found.stderr or 'not found' in found.stderr:
            return None
        raise PodError(f'{" ".join(command[:5])} failed: {found.stderr.strip()}')


class Slice:
    """One slice, by the name that the options give it."""

    def __init__(self, options: argparse.Namespace, gcloud: Gcloud):
        """Takes the options of the command line."""
        self._options, self._gcloud = options, gcloud
        self.dry_run = gcloud.dry_run
        # Whether deleting the request is what deletes it.
        self._requested = options.queued
        self._place = [f'--zone={options.zone}']
        if options.project:
            self._place.append(f'--project={options.project}')

    def _command(self, kind: str, verb: str, *more: str) -> list[str]:
        tpus = ['gcloud', 'compute', 'tpus', kind, verb]
        return [*tpus, *more, *self._place]

    def describe(self) -> tuple[str, int]:
        """The state of its node ('' of none) and the number of hosts."""
        found = self._read('tpu-vm')
        if found is None:
            return '', 0
        return found.get('state', 'UNKNOWN'), len(found.get('networkEndpoints', []))

    def is_ready(self) -> bool:
        """Whether its node is certainly there, ready for a command."""
        try:
            state, _ = self.describe()
        except PodError as error:
            say(str(error))
            return False
        say(f'{self._options.name} is {state or "gone"}')
        return state in READY

    def _read(self, kind: str) -> dict[str, Any] | None:
        return self._gcloud.read(
            self._command(kind, 'describe', self._options.name, '--format=json')
        )

    def _look(self) -> tuple[str, int]:
        """As `describe`; of a request that has no node yet, its own state."""
        if not self._options.queued:
            return self.describe()
        found = self._read('queued-resources')
        request = (
            '' if found is None else found.get('state', {}).get('state', 'UNKNOWN')
        )
        if request not in ('', 'ACTIVE'):
            self._requested = True
            return request, 0
        state, hosts = self.describe()
        self._requested = bool(request) or not state
        if request and not state:
            state = 'PROVISIONING'
        return state, hosts

    def ensure(self) -> int:
        """Makes the slice where it is not there; returns its number of hosts.

        Raises:
          PodError: It cannot be had.
        """
        made = False
        failures = PATIENCE  # the first reading shows whether there is a way to it
        while True:
            try:
                state, hosts = self._look()
            except PodError as error:
                failures += 1
                if failures > PATIENCE:
                    raise
                say(f'{error} It is asked again.')
                time.sleep(self._options.poll)
                continue
            failures = 0
            if state in READY and hosts:
                return hosts
            if state == 'FAILED' and made:
                raise PodError(
                    f'the request for {self._options.name} has failed; ask for another '
                    'zone or type.'
                )
            if state in LOST:
                say(f'{self._options.name} is {state}: it is made anew')
                self.delete()
                made = False
            elif state and state not in (*READY, *PASSING):
                raise PodError(
                    f'{self._options.name} is {state}, and may have disks that are '
                    'wanted: start it or have it repaired (gcloud compute tpus tpu-vm '
                    f'start), or delete it: {shlex.join(self._deletion())}'
                )
            if not made and state in ('', *LOST):
                self._create()
                made = True
            else:
                time.sleep(self._options.poll)
            if self.dry_run:
                return 1

    def _create(self) -> None:
        options = self._options
        tier = ['--spot'] if options.spot else []
        if not options.queued:
            self._gcloud.run(
                self._command(
                    'tpu-vm',
                    'create',
                    options.name,
                    f'--accelerator-type={options.type}',
                    f'--version={options.version}',
                    *tier,
                )
            )
            return
        self._gcloud.run(
            self._command(
                'queued-resources',
                'create',
                options.name,
                f'--node-id={options.name}',
                f'--accelerator-type={options.type}',
                f'--runtime-version={options.version}',
                *tier,
            )
        )

    def delete(self) -> None:
        """Deletes it, and what had asked for it."""
        self._gcloud.run(self._deletion())

    def _deletion(self) -> list[str]:
        kind, force = 'tpu-vm', []
        if self._requested:
            kind, force = 'queued-resources', ['--force']
        return self._command(kind, 'delete', self._options.name, *force, '--quiet')

    def copy(self, file: pathlib.Path) -> None:
        """Puts a file into the home directory of every host, under its name."""
        target = f'{self._options.name}:{file.name}'
        self._gcloud.run(
            self._command('tpu-vm', 'scp', str(file), target, '--worker=all')
        )

    def shell(self, command: str) -> None:
        """Runs a command on every host."""
        self._gcloud.run(self.ssh('all', command))

    def ssh(self, worker: int | str, command: str) -> list[str]:
        """The command line that runs a command on a host, or on 'all'."""
        return self._command(
            'tpu-vm',
            'ssh',
            self._options.name,
            f'--worker={worker}',
            f'--command={command}',
        )


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f'{line}\n')
    sys.stdout.flush()
