"""The process that runs a model.py for the gateway: `python3 -m djl_python.worker --socket PATH [--entry-point model.py] [--handler handle]`, in the
model's directory.

It connects to the socket, is told the options, imports the entry point, calls the handler with an empty Input, and then with one request, or one batch,
after the other, until the gateway is gone. What the handler prints goes where this process's output goes. Under mpirun every rank does so, with the same
requests, and only rank 0 answers. Protocol: docs/formats/handler-protocol.md.
"""

import argparse
import asyncio
import ctypes
import importlib
import importlib.util
import inspect
import logging
import os
import pathlib
import queue
import signal
import socket
import sys
import threading
import traceback

from . import answers, environment, forms, frames
from .inputs import Input
from .outputs import Output
from .pair_list import PairList

PR_SET_PDEATHSIG = 1
ALL_ANSWERED, TRY_ALONE, ONE_FOR_MANY = 0, 1, 2  # how a call ended
IN_EVERY_CALL = ("model_dir", "device_id", "tensor_parallel_degree")  # of the options; a client's header of that name is not believed


def end_with_parent():
    """Signals of a terminal are the gateway's business; its death, or mpirun's, is ours."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # not Linux's libc; the end of the socket tells too
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # so that processes of the handler can be ended with it


def take_rank():
    """This process's rank. mpirun's variables are given the names that torch and DeepSpeed look for."""
    for theirs, ours in (("RANK", "RANK"), ("LOCAL_RANK", "LOCAL_RANK"), ("SIZE", "WORLD_SIZE")):
        value = os.environ.get("OMPI_COMM_WORLD_" + theirs)
        if value is not None:
            os.environ[ours] = value
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))


def import_entry_point(entry_point):
    """A file (model.py, absolute or in the model's directory) or a module's name."""
    if not entry_point.endswith(".py"):
        return importlib.import_module(entry_point)
    path = pathlib.Path(entry_point).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    # Under its own name, so that what it defines can be pickled and imported again by what it starts.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


class Worker:
    def __init__(self, connection, rank, entry_point, handler):
        self._connection, self._rank = connection, rank
        self._entry_point, self._handler_name = entry_point, handler
        self._handler = None
        self._calls = queue.SimpleQueue()
        self._cancelled = set()  # added to by the reading thread, looked at by the main one
        self._loop = None
        self._fixed = {}  # properties of every call

    def run(self):
        self._send(frames.HELLO, frames.u32(self._rank), frames.u32(os.getpid()))
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            kind, call = self._calls.get()
            if kind == frames.LOAD:
                self._load(call)
            else:
                self._predict(call)

    # --- the reading thread ---

    def _read(self):
        stream = self._connection.makefile("rb")
        while True:
            try:
                frame = frames.read_frame(stream)
            except (OSError, frames.FrameError) as error:
                logging.error("%s", error)
                frame = None
            if frame is None:
                os._exit(0)  # the gateway is gone; a handler at work would not notice
            kind, payload = frame
            if kind == frames.LOAD:
                self._calls.put((kind, payload.pairs()))
            elif kind == frames.PREDICT:
                self._calls.put((kind, [self._request(payload) for _ in range(payload.u32())]))
            elif kind == frames.CANCEL:
                self._cancelled.add(payload.u64())

    @staticmethod
    def _request(payload):
        number, properties, content = payload.u64(), payload.pairs(), PairList()
        for _ in range(payload.u32()):
            content.add(payload.text() or None, payload.bytes())
        return number, Input(properties, forms.unfold(properties, content))

    # --- the main thread ---

    def _load(self, options):
        self._fixed = {key: options[key] for key in IN_EVERY_CALL if key in options}
        try:
            module = import_entry_point(self._entry_point)
            self._handler = getattr(module, self._handler_name, None)
            if not callable(self._handler):
                raise AttributeError(f"{self._entry_point} has no function {self._handler_name!r}")
            output = self._call(Input(options))
            if isinstance(output, Output):
                output.execute_finalize()
                if output.code >= 300:
                    raise RuntimeError(f"the handler answered the empty first call with {output.code} {output.message}")
        except BaseException as error:  # sys.exit() at the top of a model.py included
            traceback.print_exc()
            self._send(frames.LOAD_FAILED, frames.pack_text(f"{type(error).__name__}: {error}"))
            sys.stderr.flush()
            os._exit(1)
        self._send(frames.READY)

    def _predict(self, requests):
        numbers = [number for number, _ in requests]
        inputs = [one for _, one in requests]
        for one in inputs:
            one.properties.update(self._fixed)
        result, outcome = None, ALL_ANSWERED
        self._cancelled.intersection_update(numbers)  # a cancel may have crossed the end of its request
        try:
            result = self._call(inputs[0] if len(inputs) == 1 else Input.of_batch(inputs))
            if len(inputs) > 1 and isinstance(result, Output) and result.code >= 300:
                outcome = TRY_ALONE
            else:
                parts = answers.answers_of(result, len(inputs))
        except answers.OneForMany:
            outcome = ONE_FOR_MANY
        except Exception as error:
            traceback.print_exc()
            if len(inputs) > 1:
                outcome = TRY_ALONE
            else:
                parts = answers.answers_of(answers.failure(error), 1)
        if outcome == ALL_ANSWERED:
            for number, answer in zip(numbers, parts):
                self._answer(number, answer)
        for output in result if isinstance(result, (list, tuple)) else [result]:
            self._finalize(output)
        self._send(frames.CALLED, frames.u32(outcome))

    def _call(self, inputs):
        result = self._handler(inputs)
        if inspect.isawaitable(result):
            result = self._event_loop().run_until_complete(_wait_for(result))
        return result

    def _event_loop(self):
        # One for all calls: what an async handler keeps between them belongs to its loop.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _answer(self, number, answer):
        streaming = answer.stream is not None
        head = frames.u64(number), frames.u32(answer.code), frames.u32(streaming), frames.pack_map(answer.properties)
        if not streaming:
            self._tell(frames.HEAD, *head)
            self._send_data(number, answer.body)
            self._tell(frames.DONE, frames.u64(number), frames.pack_text(""))
            return
        # A stream that fails before its first piece is an error like any other.
        begun, error = False, ""
        try:
            for chunk in answer.chunks(self._event_loop):
                if not begun:
                    self._tell(frames.HEAD, *head)
                begun = True
                self._send_data(number, chunk)
                if number in self._cancelled:
                    break
        except Exception as failure:
            traceback.print_exc()
            if not begun:
                self._answer(number, answers.answers_of(answers.failure(failure), 1)[0])
                return
            error = f"{type(failure).__name__}: {failure}"
        if not begun:
            self._tell(frames.HEAD, *head)
        self._tell(frames.DONE, frames.u64(number), frames.pack_text(error))

    def _send_data(self, number, data):
        for start in range(0, len(data), frames.MAX_DATA_BYTES):
            self._tell(frames.DATA, frames.u64(number), frames.pack_bytes(data[start : start + frames.MAX_DATA_BYTES]))

    @staticmethod
    def _finalize(output):
        if isinstance(output, Output):
            try:
                output.execute_finalize()
            except Exception:
                traceback.print_exc()  # the answer is out already

    def _tell(self, kind, *parts):
        """What only rank 0 says."""
        if self._rank == 0:
            self._send(kind, *parts)

    def _send(self, kind, *parts):
        try:
            self._connection.sendall(frames.frame(kind, *parts))
        except OSError:
            os._exit(0)  # the gateway is gone


async def _wait_for(awaitable):
    return await awaitable


def enter_environment(requirements):
    """Goes on as the interpreter of the requirements' environment, unless this is it."""
    place = environment.ensure(requirements)
    if pathlib.Path(sys.prefix).resolve() == place.resolve():
        return
    os.environ["VIRTUAL_ENV"] = str(place)
    os.environ["PATH"] = f"{place / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    sys.stdout.flush()
    os.execv(place / "bin/python", [str(place / "bin/python"), "-u", "-m", "djl_python.worker", *sys.argv[1:]])


def connect(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def main():
    parser = argparse.ArgumentParser(description="Runs a model.py for bloomery serve, which starts it.")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--entry-point", default="model.py")
    parser.add_argument("--handler", default="handle")
    arguments = parser.parse_args()
    end_with_parent()
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.INFO)
    rank = take_rank()
    requirements = pathlib.Path("requirements.txt").absolute()
    if requirements.is_file():
        try:
            enter_environment(requirements)
        except (environment.RequirementsFailed, OSError) as error:
            connection = connect(arguments.socket)
            connection.sendall(frames.frame(frames.HELLO, frames.u32(rank), frames.u32(os.getpid())))
            connection.sendall(frames.frame(frames.LOAD_FAILED, frames.pack_text(f"{requirements} cannot be installed: {error}")))
            sys.exit(1)
    Worker(connect(arguments.socket), rank, arguments.entry_point, arguments.handler).run()


if __name__ == "__main__":
    main()
