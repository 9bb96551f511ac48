"""A stand-in of Google's cloud for the launcher of TPU pods, in this process.

It stands where `tpu_slice.Gcloud` does. Each command takes what is next in `script`, a
list by verb: a state, None for what is not there, or an error to raise. The last of a
list stays.
"""

from launch import tpu_slice


class Cloud:
    """A slice, and the queued request of its name."""

    dry_run = False

    def __init__(self, **script):
        """Takes lists by `verb` of the slice and by `queued_verb` of the request."""
        self.script = {verb: list(steps) for verb, steps in script.items()}
        self.calls = []

    def _next(self, command):
        kind, verb = command[3:5]
        name = f'queued_{verb}' if kind == 'queued-resources' else verb
        self.calls.append(name)
        steps = self.script.get(name, [None])
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return step

    def run(self, command):
        self._next(command)

    def read(self, command):
        state = self._next(command)
        if state is None:
            return None
        if command[3] == 'queued-resources':
            return {'state': {'state': state}}
        return {'state': state, 'networkEndpoints': [{}, {}]}

    @property
    def changes(self):
        """The commands that changed something."""
        return [x for x in self.calls if x.removeprefix('queued_') != 'describe']


def failed(text='no room'):
    return tpu_slice.PodError(text)
