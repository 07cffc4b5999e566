"""A second, simpler model of a disk without order: one flat directory, and for each name, size and byte what it may be.

It knows neither effects nor profiles. A byte that was written since the last fsync of its file may hold anything; a size may
be any that the file had since; a name may stand for any file that it stood for since the last fsync of the directory.
So it is an upper bound for every profile: what `chaos.disk` produces must lie within it.
"""

import itertools


class SimpleFile:
    def __init__(self):
        self.now = b""
        self.durable = b""
        self.dirty = set()  # byte positions written since the last fsync
        self.sizes = {0}

    def write(self, data):
        self.dirty.update(range(len(self.now), len(self.now) + len(data)))
        for size in range(len(self.now), len(self.now) + len(data) + 1):
            self.sizes.add(size)
        self.now += data

    def truncate(self, size):
        self.dirty.update(range(size, len(self.now)))
        self.now = self.now[:size]
        self.sizes.add(size)

    def sync(self):
        self.durable = self.now
        self.dirty = set()
        self.sizes = {len(self.now)}

    def allows(self, content):
        if len(content) not in self.sizes:
            return False
        return all(position in self.dirty or (self.durable[position] if position < len(self.durable) else 0) == byte
                   for position, byte in enumerate(content))


class SimpleDisk:
    def __init__(self):
        self.names = {}
        self.durable = {}
        self.maybe = {}  # name -> every file (or None) that it stood for since the directory's fsync

    def _set(self, name, file):
        self.maybe.setdefault(name, {self.durable.get(name)}).add(file)
        if file is None:
            del self.names[name]
        else:
            self.names[name] = file

    def do(self, operation, name, argument):
        if operation == "create":
            self._set(name, SimpleFile())
        elif operation == "append":
            self.names[name].write(argument)
        elif operation == "truncate":
            self.names[name].truncate(argument)
        elif operation == "sync":
            self.names[name].sync()
        elif operation == "unlink":
            self._set(name, None)
        elif operation == "rename":
            file = self.names[name]
            self._set(name, None)
            self._set(argument, file)
        else:
            assert operation == "sync_dir"
            self.durable = dict(self.names)
            self.maybe = {}

    def allows(self, files):
        """Is this a state (name -> content) in which a power cut may leave the directory?"""
        for name in itertools.chain(files, self.durable, self.maybe):
            candidates = self.maybe.get(name, {self.durable.get(name)})
            if not any((file is None and name not in files) or (file is not None and name in files and file.allows(files[name]))
                       for file in candidates):
                return False
        return True
